use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const LOG: LogId = LogId(Uuid::from_u128(7));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written {
    xid: u64,
    position: u64,
}

impl Positioned for Written {
    fn position(&self) -> u64 {
        self.position
    }
}

/// As much of PostgreSQL as the reader sees.
#[derive(Debug)]
struct Server {
    next_xid: u64,
    next_position: u64,
    last_ended: u64,
    /// Open transactions and whether they commit.
    open: BTreeMap<u64, Vec<u64>>,
    committed: Vec<Written>,
}

impl Server {
    fn new() -> Self {
        Self { next_xid: 700, next_position: 1, last_ended: 699, open: BTreeMap::new(), committed: Vec::new() }
    }

    fn begin(&mut self) {
        self.open.insert(self.next_xid, Vec::new());
        self.next_xid += 1;
    }

    fn append(&mut self, which: usize) {
        if let Some(positions) = self.nth(which).and_then(|xid| self.open.get_mut(&xid)) {
            positions.push(self.next_position);
            self.next_position += 1;
        }
    }

    fn end(&mut self, which: usize, commit: bool) {
        if let Some((xid, positions)) = self.nth(which).and_then(|xid| self.open.remove_entry(&xid)) {
            self.last_ended = self.last_ended.max(xid);
            if commit {
                self.committed.extend(positions.into_iter().map(|position| Written { xid, position }));
            }
        }
    }

    fn nth(&self, which: usize) -> Option<u64> {
        self.open.keys().nth(which % self.open.len().max(1)).copied()
    }

    fn horizon(&self) -> Horizon {
        let xmax = self.last_ended + 1;
        let running: Box<[u64]> = self.open.keys().copied().filter(|xid| *xid < xmax).collect();
        let xmin = running.first().copied().unwrap_or(xmax);
        Horizon { snapshot: Snapshot { xmin, xmax, running }, head: self.next_position - 1, next_xid: self.next_xid }
    }

    fn rows(&self, wanted: impl Fn(&Written) -> bool, limit: usize) -> Vec<Written> {
        let mut rows: Vec<_> = self.committed.iter().copied().filter(wanted).collect();
        rows.sort_by_key(|row| row.position);
        rows.truncate(limit);
        rows
    }

    fn read(&self, cursor: &Cursor, limit: usize) -> Taken<Written> {
        self.read_all(std::slice::from_ref(cursor), limit).remove(0)
    }

    /// As the reader does it, for tracks that each want every lane.
    fn read_all(&self, cursors: &[Cursor], limit: usize) -> Vec<Taken<Written>> {
        let places: Vec<_> = cursors.iter().map(|cursor| Place::parse(cursor).expect("a cursor of our own")).collect();
        let awaited: Vec<u64> = places.iter().flat_map(Place::awaited).collect();
        let late = self.committed.iter().any(|row| awaited.contains(&row.xid));
        let mut pages: Vec<_> = places.into_iter().map(|place| self.page(place, late, limit)).collect();
        meet(&mut pages);
        pages
    }

    fn page(&self, place: Place, late: bool, limit: usize) -> Taken<Written> {
        place.check(LOG, &self.horizon()).expect("a cursor of this server");
        let mut reading = place.reading(self.horizon(), late);
        if let Some(span) = reading.unlisted() {
            let wrote: Vec<u64> = self.committed.iter().map(|row| row.xid).filter(|xid| span.contains(xid)).collect();
            reading.found(wrote);
        }
        if reading.is_empty() {
            return reading.nothing();
        }
        let (mut scanned, mut found) = (Source::new(), Source::new());
        let scan = reading.scan().map(|(lo, hi)| self.rows(|row| row.position > lo && row.position <= hi, limit));
        for row in scan.unwrap_or_default() {
            scanned.push(row.position, reading.has(row.xid).then_some(row));
        }
        for row in self.rows(|r| reading.stragglers().contains(&r.xid) && r.position > reading.passed(), limit) {
            found.push(row.position, Some(row));
        }
        reading.take(scanned, found, limit)
    }
}

#[derive(Debug, Clone)]
enum Step {
    Begin,
    Append(usize),
    End(usize, bool),
    Read(usize),
    Checkpoint,
    Crash,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Begin),
        6 => (0..8usize).prop_map(Step::Append),
        3 => (0..8usize, prop::bool::weighted(0.8)).prop_map(|(which, commit)| Step::End(which, commit)),
        3 => (1..5usize).prop_map(Step::Read),
        2 => Just(Step::Checkpoint),
        1 => Just(Step::Crash),
    ];
    prop::collection::vec(step, 0..120)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Along one path every committed row comes once, in the order of positions within a window; a path that begins
    /// again at a checkpoint gives again what came after it, and nothing is missing in the end.
    #[test]
    fn every_committed_row_comes_exactly_once_along_a_path(steps in steps()) {
        let mut server = Server::new();
        let start = Place::beginning(LOG).to_cursor();
        let (mut path, mut cursor) = (Vec::new(), start.clone());
        let (mut kept_path, mut kept) = (Vec::new(), start);
        for step in steps {
            match step {
                Step::Begin => server.begin(),
                Step::Append(which) => server.append(which),
                Step::End(which, commit) => server.end(which, commit),
                Step::Read(limit) => {
                    let taken = server.read(&cursor, limit);
                    prop_assert!(taken.events.len() <= limit);
                    prop_assert!(taken.moved || taken.events.is_empty());
                    prop_assert_eq!(taken.moved, taken.next.to_cursor() != cursor);
                    path.extend(taken.events);
                    cursor = taken.next.to_cursor();
                }
                Step::Checkpoint => (kept_path, kept) = (path.clone(), cursor.clone()),
                Step::Crash => (path, cursor) = (kept_path.clone(), kept.clone()),
            }
        }
        for _ in 0..server.open.len() {
            server.end(0, true);
        }
        loop {
            let taken = server.read(&cursor, 3);
            path.extend(taken.events);
            cursor = taken.next.to_cursor();
            if taken.caught_up {
                break;
            }
        }
        let mut read: Vec<_> = path.iter().map(|row| row.position).collect();
        read.sort_unstable();
        let mut committed: Vec<_> = server.committed.iter().map(|row| row.position).collect();
        committed.sort_unstable();
        prop_assert_eq!(read, committed);
    }

    #[test]
    fn a_cursor_reads_back(steps in steps(), limit in 1..4usize) {
        let mut server = Server::new();
        let mut place = Place::beginning(LOG);
        for step in steps {
            match step {
                Step::Begin => server.begin(),
                Step::Append(which) => server.append(which),
                Step::End(which, commit) => server.end(which, commit),
                Step::Read(_) | Step::Checkpoint | Step::Crash => place = server.read(&place.to_cursor(), limit).next,
            }
            prop_assert_eq!(Place::parse(&place.to_cursor()).expect("reads back"), place.clone());
        }
    }
}

#[test]
fn text_that_is_no_cursor_is_refused() {
    let log = LOG.0.as_simple();
    for bad in [
        String::new(),
        "pg1".into(),
        "pg2 x".into(),
        format!("pg1 {log} 5:4: 0 9"),
        format!("pg1 {log} 5:9:7,6 0 9"),
        format!("pg1 {log} 5:9:4 0 9"),
        format!("pg1 {log} 5:9:6,7 0 8"),
        format!("pg1 {log} 5:9: 0 9 3"),
        format!("pg1 {log} 5:9: 0 9 3 5:9: 0 9 more"),
        format!("s1 {log} 12"),
    ] {
        let refused = Place::parse(&Cursor::from_text(bad.clone())).expect_err(&bad);
        assert_eq!(refused.kind(), LogErrorKind::BadCursor, "{bad}");
    }
}

#[test]
fn a_server_that_went_back_is_noticed() {
    let mut server = Server::new();
    server.begin();
    server.append(0);
    server.end(0, true);
    let place = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    let restored = Server::new().horizon();
    let refused = place.check(LOG, &restored).expect_err("beyond the server");
    assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    let refused = place.check(LogId(Uuid::from_u128(8)), &server.horizon()).expect_err("another log");
    assert_eq!(refused.kind(), LogErrorKind::BadCursor);
}

#[test]
fn xids_of_running_transactions_may_be_taken_back_by_a_crash() {
    let mut server = Server::new();
    let committed = |server: &mut Server| {
        server.begin();
        server.append(0);
        server.end(0, true);
    };
    committed(&mut server);
    server.begin();
    let place = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    assert_eq!(place.done.next_xid, 702);
    // The crash forgets the running transaction, and its xid is issued again.
    let mut restarted = Server::new();
    committed(&mut restarted);
    place.check(LOG, &restarted.horizon()).expect("nothing that had ended was lost");
    committed(&mut restarted);
    assert_eq!(restarted.read(&place.to_cursor(), 10).events, [Written { xid: 701, position: 2 }]);
}

#[test]
fn a_wide_span_is_asked_for_instead_of_listed() {
    let mut server = Server::new();
    let place = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    assert!(place.window.is_none());
    for _ in 0..1_000 {
        server.begin();
    }
    server.append(10);
    let place = server.read(&place.to_cursor(), 10).next;
    server.append(10);
    server.end(10, true);
    server.end(998, false);
    let mut reading = place.reading(server.horizon(), true);
    assert_eq!(reading.stragglers(), [0u64; 0]);
    assert_eq!(reading.unlisted(), Some(700..1_700));
    reading.found([700, 710]);
    assert_eq!(reading.stragglers(), [710]);
}

#[test]
fn a_log_at_rest_keeps_its_reader_where_it_is() {
    let mut server = Server::new();
    server.begin();
    server.append(0);
    server.end(0, true);
    let first = server.read(&Place::beginning(LOG).to_cursor(), 10);
    assert!(first.caught_up && first.moved);
    // Another transaction, such as the checkpoint of this very reader.
    server.begin();
    server.end(0, true);
    let second = server.read(&first.next.to_cursor(), 10);
    assert!(second.caught_up && !second.moved);
    assert_eq!(second.next, first.next);
}

#[test]
fn transactions_that_wrote_no_event_do_not_move_a_reader() {
    let mut server = Server::new();
    server.begin();
    server.begin();
    server.append(0);
    server.end(0, true);
    let place = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    assert_eq!(place.awaited(), [701], "it was running");
    server.end(0, true);
    let second = server.read(&place.to_cursor(), 10);
    assert!(second.caught_up && !second.moved);
    assert_eq!(second.next, place);
}

#[test]
fn a_reader_does_not_stay_where_it_would_have_to_ask_each_time() {
    let mut server = Server::new();
    for _ in 0..1_000 {
        server.begin();
    }
    let place = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    assert!(place.done.next_xid == 1, "nothing to move for yet");
    server.append(999);
    server.end(999, true);
    for _ in 0..300 {
        server.begin();
    }
    let place = server.read(&place.to_cursor(), 10).next;
    assert!(!place.done.is_listed());
    for _ in 0..300 {
        server.end(999, false);
    }
    let moved = server.read(&place.to_cursor(), 10);
    assert!(moved.caught_up && moved.moved && moved.events.is_empty());
    assert!(moved.next.done.is_listed());
}

#[test]
fn tracks_that_find_nothing_meet_at_the_newest_of_their_places() {
    let mut server = Server::new();
    let commit = |server: &mut Server| {
        server.begin();
        server.append(0);
        server.end(0, true);
    };
    commit(&mut server);
    let first = server.read(&Place::beginning(LOG).to_cursor(), 10).next;
    // A window that a straggler opened: the head stays where it is.
    server.begin();
    server.begin();
    server.append(1);
    server.end(0, false);
    let second = server.read(&first.to_cursor(), 10).next;
    server.end(0, false);
    assert_ne!(first, second);
    let third = server.read(&second.to_cursor(), 10);
    assert!(!third.moved);
    let same_head = Place::after(LOG, Horizon { head: second.done.head, ..first.done.clone() });
    let pages = server.read_all(&[same_head.to_cursor(), second.to_cursor()], 10);
    assert!(pages.iter().all(|page| page.next == second && page.caught_up));
    assert!(pages[0].moved && !pages[1].moved);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// Two tracks on paths of their own, read in one call or alone: neither misses or repeats a row, and those that
    /// reach the end together stand at one place.
    #[test]
    fn tracks_read_together_each_see_every_row_once(steps in steps(), apart in prop::collection::vec(any::<bool>(), 120)) {
        let mut server = Server::new();
        let mut cursors = [Place::beginning(LOG).to_cursor(), Place::beginning(LOG).to_cursor()];
        let mut paths = [Vec::new(), Vec::new()];
        let mut steps = steps.into_iter().zip(apart);
        let mut ended = false;
        while !ended {
            let (limit, apart) = match steps.next() {
                Some((Step::Begin, _)) => { server.begin(); continue }
                Some((Step::Append(which), _)) => { server.append(which); continue }
                Some((Step::End(which, commit), _)) => { server.end(which, commit); continue }
                Some((Step::Read(limit), apart)) => (limit, apart),
                Some((Step::Checkpoint | Step::Crash, _)) => continue,
                None => {
                    for _ in 0..server.open.len() {
                        server.end(0, true);
                    }
                    (3, false)
                }
            };
            let which = if apart { 0..1 } else { 0..2 };
            let pages = server.read_all(&cursors[which], limit);
            let ends: Vec<_> = pages.iter().filter(|page| page.caught_up).map(|page| &page.next).collect();
            prop_assert!(ends.windows(2).all(|pair| pair[0] == pair[1]));
            ended = steps.len() == 0 && ends.len() == 2;
            for (page, (cursor, path)) in pages.into_iter().zip(cursors.iter_mut().zip(&mut paths)) {
                prop_assert_eq!(page.moved, page.next.to_cursor() != *cursor);
                *cursor = page.next.to_cursor();
                path.extend(page.events.into_iter().map(|row| row.position));
            }
        }
        let mut committed: Vec<_> = server.committed.iter().map(|row| row.position).collect();
        committed.sort_unstable();
        for mut path in paths {
            path.sort_unstable();
            prop_assert_eq!(&path, &committed);
        }
    }
}
