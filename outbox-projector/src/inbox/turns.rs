//! Which event of a step is next, so that those of one key come strictly one after another.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
    future::{Future, poll_fn},
    pin::Pin,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Poll,
};

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, ProjectionError},
};

/// The events of a step by their index, shared by those who work through them side by side.
pub(super) struct Turns(Mutex<State>);

struct State {
    /// Of each event, the next one of its key.
    next: Vec<Option<usize>>,
    /// The first event of each key that nobody works on.
    ready: BTreeSet<usize>,
    applied: Applied,
    /// The first in the order of the step.
    failed: Option<(usize, ProjectionError)>,
    /// Nothing more is begun.
    stopped: bool,
}

impl Turns {
    pub(super) fn of(events: &[ReceivedEvent]) -> Self {
        let mut first: HashMap<Cow<'_, str>, usize> = HashMap::new();
        let mut next = vec![None; events.len()];
        for (index, received) in events.iter().enumerate().rev() {
            next[index] = first.insert(received.event.lane_key(), index);
        }
        let ready = first.into_values().collect();
        Self(Mutex::new(State { next, ready, applied: Applied::default(), failed: None, stopped: false }))
    }

    /// The first event whose key is free. `None` is for good: a key only becomes free by [`Turns::settle`], and whoever
    /// settled takes the next one.
    pub(super) fn take(&self) -> Option<usize> {
        let mut state = self.lock();
        if state.stopped { None } else { state.ready.pop_first() }
    }

    /// After a failure its key stays where it is. Others go on when the event is to blame, and nothing does when the
    /// store is away.
    pub(super) fn settle(&self, index: usize, outcome: Result<Applied, ProjectionError>) {
        let mut state = self.lock();
        match outcome {
            Ok(applied) => {
                state.applied += applied;
                if let Some(next) = state.next[index] {
                    state.ready.insert(next);
                }
            }
            Err(error) => {
                state.stopped |= !error.kind().blames_an_event();
                if state.failed.as_ref().is_none_or(|(first, _)| index < *first) {
                    state.failed = Some((index, error));
                }
            }
        }
    }

    pub(super) fn outcome(self) -> Result<Applied, ProjectionError> {
        let state = self.0.into_inner().unwrap_or_else(PoisonError::into_inner);
        state.failed.map_or(Ok(state.applied), |(index, error)| Err(error.at(index)))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs all of them on this task, until each has ended.
pub(super) async fn side_by_side<F: Future<Output = ()>>(futures: impl IntoIterator<Item = F>) {
    let mut running: Vec<Pin<Box<F>>> = futures.into_iter().map(Box::pin).collect();
    poll_fn(|context| {
        running.retain_mut(|future| future.as_mut().poll(context).is_pending());
        if running.is_empty() { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use outbox_core::{event::NewEvent, projection::ProjectionErrorKind};

    use super::*;

    fn events(keys: &str) -> Vec<ReceivedEvent> {
        let event = |key| NewEvent::tombstone("Tutor", key, "TutorErased").expect("event").into_event();
        keys.chars().map(|key| ReceivedEvent { origin: None, event: event(key) }).collect()
    }

    const DONE: Applied = Applied { applied: 1, duplicates: 0, ignored: 0, held: 0 };

    fn failed(kind: ProjectionErrorKind) -> Result<Applied, ProjectionError> {
        Err(ProjectionError::new(kind, "on cue"))
    }

    fn all_of(turns: &Turns) -> Vec<usize> {
        std::iter::from_fn(|| turns.take()).collect()
    }

    #[test]
    fn one_at_a_time_is_the_order_of_the_step() {
        let turns = Turns::of(&events("abacba"));
        let mut order = Vec::new();
        while let Some(index) = turns.take() {
            order.push(index);
            turns.settle(index, Ok(DONE));
        }
        assert_eq!(order, [0, 1, 2, 3, 4, 5]);
        assert_eq!(turns.outcome().expect("nothing failed").applied, 6);
    }

    #[test]
    fn a_key_is_busy_until_its_event_is_settled() {
        let turns = Turns::of(&events("aabcb"));
        assert_eq!(all_of(&turns), [0, 2, 3]);
        turns.settle(2, Ok(DONE));
        assert_eq!(all_of(&turns), [4]);
        turns.settle(0, Ok(DONE));
        assert_eq!(all_of(&turns), [1]);
    }

    #[test]
    fn behind_a_failed_event_its_key_stops_and_the_first_one_is_named() {
        let turns = Turns::of(&events("abab"));
        assert_eq!(all_of(&turns), [0, 1]);
        turns.settle(1, failed(ProjectionErrorKind::Failed));
        turns.settle(0, Ok(DONE));
        assert_eq!(all_of(&turns), [2], "the other key goes on");
        turns.settle(2, failed(ProjectionErrorKind::Rejected));
        assert_eq!(turns.take(), None);
        let error = turns.outcome().expect_err("two failed");
        assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Failed, Some(1)));
    }

    #[test]
    fn when_the_store_is_away_nothing_more_begins() {
        let turns = Turns::of(&events("abc"));
        assert_eq!(turns.take(), Some(0));
        turns.settle(0, failed(ProjectionErrorKind::Unavailable));
        assert_eq!(turns.take(), None);
        assert_eq!(turns.outcome().expect_err("failed").event(), Some(0));
    }
}
