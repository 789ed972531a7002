//! What a place has behind it: the side of the cursor that retention asks.

use super::{Horizon, Place, Snapshot};

/// Rows that a reader, or each of several readers, will not ask for again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::postgres) struct Seen {
    /// A row is seen when its transaction had ended here …
    snapshot: Snapshot,
    /// … and its position is not above this one.
    upto: u64,
    /// What is known of the positions drawn, from the horizons of the places.
    drawn: Vec<Drawn>,
}

/// A fact that stays true: whoever drew a position up to `position` has an xid below `next_xid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::postgres) struct Drawn {
    pub(in crate::postgres) position: u64,
    pub(in crate::postgres) next_xid: u64,
}

impl Place {
    /// The rows that were handed out up to this place, or not wanted.
    pub(in crate::postgres) fn seen(&self) -> Seen {
        match &self.window {
            // Rows visible in `done` were visible in `until` too, so this is all of them, unless the window has not
            // come as far as the one before.
            Some(window) if window.passed >= self.done.head => Seen {
                snapshot: window.until.snapshot.clone(),
                upto: window.passed,
                drawn: vec![Drawn::at(&self.done), Drawn::at(&window.until)],
            },
            _ => Seen::before(&self.done),
        }
    }
}

impl Seen {
    /// All that is visible at a moment.
    pub(in crate::postgres) fn before(horizon: &Horizon) -> Self {
        Self { snapshot: horizon.snapshot.clone(), upto: horizon.head, drawn: vec![Drawn::at(horizon)] }
    }

    /// What both have seen.
    pub(in crate::postgres) fn and(mut self, other: &Self) -> Self {
        self.drawn.extend(other.drawn.iter().filter(|drawn| !self.drawn.contains(drawn)).copied().collect::<Vec<_>>());
        Self { snapshot: self.snapshot.and(&other.snapshot), upto: self.upto.min(other.upto), drawn: self.drawn }
    }

    pub(in crate::postgres) fn contains(&self, xid: u64, position: u64) -> bool {
        position <= self.upto && self.snapshot.sees(xid)
    }

    /// Above it nothing is seen.
    pub(in crate::postgres) fn upto(&self) -> u64 {
        self.upto
    }

    pub(in crate::postgres) fn snapshot(&self) -> &Snapshot {
        &self.snapshot
    }

    /// Up to there nothing can be added any more: every transaction that drew such a position has ended. `known` is one
    /// more fact to conclude from.
    pub(in crate::postgres) fn settled(&self, known: Drawn, now: &Snapshot) -> u64 {
        let drawn = self.drawn.iter().chain([&known]).filter(|drawn| drawn.next_xid <= now.xmin);
        drawn.map(|drawn| drawn.position).max().unwrap_or(0)
    }
}

impl Drawn {
    pub(in crate::postgres) fn at(horizon: &Horizon) -> Self {
        Self { position: horizon.head, next_xid: horizon.next_xid }
    }
}

impl Snapshot {
    /// Sees what both see.
    fn and(&self, other: &Self) -> Self {
        let xmax = self.xmax.min(other.xmax);
        let mut running: Vec<u64> = self.running.iter().chain(&other.running).copied().filter(|x| *x < xmax).collect();
        running.sort_unstable();
        running.dedup();
        Self { xmin: self.xmin.min(other.xmin), xmax, running: running.into() }
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::event::LogId;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::super::Window;
    use super::*;

    const LOG: LogId = LogId(Uuid::from_u128(7));

    fn horizon(snapshot: &str, head: u64, next_xid: u64) -> Horizon {
        Horizon { snapshot: Snapshot::parse(snapshot).expect("a snapshot"), head, next_xid }
    }

    fn place(done: Horizon, window: Option<(Horizon, u64)>) -> Seen {
        Place { log: LOG, done, window: window.map(|(until, passed)| Window { until, passed }) }.seen()
    }

    #[test]
    fn a_place_at_rest_has_seen_what_was_visible() {
        let seen = place(horizon("10:20:12", 100, 25), None);
        assert!(seen.contains(9, 100) && seen.contains(13, 1));
        assert!(!seen.contains(12, 1), "was running");
        assert!(!seen.contains(20, 1), "had not ended");
        assert!(!seen.contains(9, 101));
    }

    #[test]
    fn an_open_window_counts_as_far_as_it_was_passed() {
        let (done, until) = (horizon("10:20:12", 100, 25), horizon("30:30:", 200, 30));
        let begun = place(done.clone(), Some((until.clone(), 40)));
        assert!(begun.contains(9, 100) && !begun.contains(12, 30), "no less than before the window");
        let further = place(done, Some((until, 150)));
        assert!(further.contains(12, 150) && !further.contains(12, 151));
    }

    #[test]
    fn a_reader_from_the_beginning_has_seen_nothing() {
        let seen = Place::beginning(LOG).seen();
        assert!(!seen.contains(3, 1));
        assert_eq!(seen.upto(), 0);
    }

    #[test]
    fn a_position_settles_when_all_who_may_have_drawn_it_have_ended() {
        let seen = place(horizon("10:20:12", 100, 25), None);
        let known = Drawn { position: 70, next_xid: 22 };
        let settled = |now: &str| seen.settled(known, &Snapshot::parse(now).expect("a snapshot"));
        assert_eq!(settled("21:30:21"), 0);
        assert_eq!(settled("22:30:22"), 70);
        assert_eq!(settled("24:30:24"), 70);
        assert_eq!(settled("25:30:25"), 100, "concluded from the place");
    }

    proptest! {
        /// The snapshot of several sees exactly what each of them sees.
        #[test]
        fn several_have_seen_what_each_has_seen(
            sets in prop::collection::vec((1..30u64, 0..30u64, prop::collection::btree_set(0..60u64, 0..8), 0..50u64), 1..5),
            xid in 1..70u64,
            position in 1..60u64,
        ) {
            let seen: Vec<Seen> = sets.into_iter().map(|(xmin, more, running, head)| {
                let xmax = xmin + more;
                let running = running.into_iter().filter(|x| *x >= xmin && *x < xmax).collect();
                let horizon = Horizon { snapshot: Snapshot { xmin, xmax, running }, head, next_xid: xmax };
                Seen::before(&horizon)
            }).collect();
            let all = seen[1..].iter().fold(seen[0].clone(), Seen::and);
            prop_assert_eq!(all.contains(xid, position), seen.iter().all(|one| one.contains(xid, position)));
            let again = Snapshot::parse(&all.snapshot().to_string());
            prop_assert_eq!(again.as_ref(), Some(all.snapshot()));
        }
    }
}
