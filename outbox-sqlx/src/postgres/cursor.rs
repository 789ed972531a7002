//! Which rows come next: the pure half of the reader, without a database.
//!
//! A reader works in *windows*. A window holds what is visible in a new snapshot, `until`, and was not visible in the
//! snapshot of the last finished window, `done`; its rows are handed out in the order of their positions. Two kinds of
//! rows can be in it, told apart by the transaction id (xid) that wrote them:
//!
//! * Xids that had not been issued at `done`. Their rows have positions above [`Horizon::head`] of `done`, because a
//!   transaction has its xid before it draws a position, and the head was read before the next xid was. So they are
//!   found by scanning positions from there.
//! * *Stragglers*: xids that were running at `done`, or were issued by then and not yet listed. Their rows may have any
//!   position; they are looked up by xid, and only when the transaction has ended.
//!
//! Every other row was visible at `done`.

mod seen;

use std::{fmt, ops::Range};

use outbox_core::{
    event::LogId,
    log::{Cursor, LogError, LogErrorKind},
};
use uuid::Uuid;

pub(super) use seen::{Drawn, Seen};

/// Up to so many xids of a span are simply listed; of a wider one the reader asks which of them wrote events.
const LISTED_SPAN: u64 = 256;

/// How far a consumer is: what a [`Cursor`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    log: LogId,
    done: Horizon,
    window: Option<Window>,
}

/// What was known of the server at one moment. Its three facts are read in this order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Horizon {
    /// Which transactions had ended.
    pub(super) snapshot: Snapshot,
    /// The highest position issued. At least that of every row visible in the snapshot.
    pub(super) head: u64,
    /// The next xid. Whoever drew a position up to `head` has a smaller one.
    pub(super) next_xid: u64,
}

/// A window of which the rows up to `passed` were handed out.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Window {
    until: Horizon,
    passed: u64,
}

impl Place {
    /// Before the first event.
    pub(super) fn beginning(log: LogId) -> Self {
        let snapshot = Snapshot { xmin: 1, xmax: 1, running: Box::default() };
        Self::after(log, Horizon { snapshot, head: 0, next_xid: 1 })
    }

    /// After everything that had been committed then.
    pub(super) fn after(log: LogId, done: Horizon) -> Self {
        Self { log, done, window: None }
    }

    /// # Errors
    /// [`LogErrorKind::BadCursor`] when the text is not what [`Place::to_cursor`] makes.
    pub(super) fn parse(cursor: &Cursor) -> Result<Self, LogError> {
        Self::parse_text(cursor.as_text()).ok_or_else(|| {
            let message =
                format!("{:?} is no cursor of a PostgreSQL log; use one that this log gave", cursor.as_text());
            LogError::new(LogErrorKind::BadCursor, message)
        })
    }

    fn parse_text(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        if words.next()? != VERSION {
            return None;
        }
        let log = LogId(Uuid::try_parse(words.next()?).ok()?);
        let done = Horizon::parse(&mut words)?;
        let window = match words.next() {
            None => None,
            Some(passed) => Some(Window { passed: passed.parse().ok()?, until: Horizon::parse(&mut words)? }),
        };
        words.next().is_none().then_some(Self { log, done, window })
    }

    /// As text, for keeping.
    pub(super) fn to_cursor(&self) -> Cursor {
        let mut text = format!("{VERSION} {} {}", self.log.0.as_simple(), self.done);
        if let Some(Window { until, passed }) = &self.window {
            use fmt::Write as _;
            let _infallible = write!(text, " {passed} {until}");
        }
        Cursor::from_text(text)
    }

    /// After the events up to `passed`, whoever wrote them, and before all others: those of transactions that are open
    /// `now` come when they have committed, whatever their positions.
    pub(super) fn after_position(log: LogId, now: Horizon, passed: u64) -> Self {
        let mut place = Self::beginning(log);
        place.window = Some(Window { until: now, passed });
        place
    }

    /// Of which log it is.
    pub(super) fn log(&self) -> LogId {
        self.log
    }

    /// The transaction id that the server had reached when this place was made.
    pub(super) fn reached_xid(&self) -> u64 {
        self.window.as_ref().map_or(&self.done, |w| &w.until).snapshot.xmax
    }

    /// The highest position passed, for showing lag.
    pub(super) fn position(&self) -> u64 {
        self.done.head.max(self.window.as_ref().map_or(0, |w| w.passed))
    }

    /// Whether this place can be of this log and this server.
    ///
    /// The comparison is with `xmax`, not with the next xid: a crash takes back the xids of running transactions, which
    /// are stragglers here and are looked up all the same, but not those that had ended, for the reader waits until
    /// their WAL is flushed before it hands out a place that counts on them. The same goes for the head.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`] when it is another log's, or lies beyond what the server knows.
    pub(super) fn check(&self, log: LogId, server: &Horizon) -> Result<(), LogError> {
        let refuse = |message: String| Err(LogError::new(LogErrorKind::BadCursor, message));
        if self.log != log {
            return refuse(format!("the cursor is of log {}, this is log {log}", self.log));
        }
        let newest = self.window.as_ref().map_or(&self.done, |w| &w.until);
        if newest.snapshot.xmax > server.next_xid || newest.head > server.head {
            return refuse(format!(
                "the cursor knows transactions before {} and positions up to {}, but the server is only at {} and {}: \
                 the database was restored to an earlier time or moved to another server; stop the writers and call `reanchor`",
                newest.snapshot.xmax, newest.head, server.next_xid, server.head
            ));
        }
        Ok(())
    }

    /// The possible stragglers of the next window, as far as they are listed. With a window still open there are none:
    /// nothing would be known from looking for their rows before that one is finished.
    pub(super) fn awaited(&self) -> Vec<u64> {
        match self.window {
            Some(_) => Vec::new(),
            None => self.done.unended(),
        }
    }

    /// Goes on with the open window, or opens one up to `now`. `late` says whether any of [`Place::awaited`] has rows
    /// that are visible now; a caller who does not know says yes.
    pub(super) fn reading(self, now: Horizon, late: bool) -> Reading {
        let Self { log, done, window } = self;
        let (until, passed, fresh) = match window {
            Some(Window { until, passed }) => (until, passed, false),
            None => (now, 0, true),
        };
        let mut stragglers = if late || !fresh { done.unended() } else { Vec::new() };
        stragglers.retain(|xid| until.snapshot.sees(*xid));
        let unlisted =
            if done.is_listed() { 0..0 } else { done.unlisted().start..done.next_xid.min(until.snapshot.xmax) };
        Reading { log, done, until, passed, fresh, stragglers, unlisted }
    }
}

const VERSION: &str = "pg1";

/// One page in the making.
#[derive(Debug)]
pub(super) struct Reading {
    log: LogId,
    done: Horizon,
    until: Horizon,
    passed: u64,
    fresh: bool,
    stragglers: Vec<u64>,
    unlisted: Range<u64>,
}

impl Reading {
    /// Xids that were unlisted at the last window, when they are too many to look each of them up. The caller finds
    /// those that wrote events and calls [`Reading::found`].
    pub(super) fn unlisted(&self) -> Option<Range<u64>> {
        (!self.unlisted.is_empty()).then(|| self.unlisted.clone())
    }

    /// The xids of [`Reading::unlisted`] that wrote events.
    pub(super) fn found(&mut self, xids: impl IntoIterator<Item = u64>) {
        self.stragglers.extend(xids.into_iter().filter(|xid| self.until.snapshot.sees(*xid)));
    }

    /// The rows of these xids with positions above [`Reading::passed`] are wanted.
    pub(super) fn stragglers(&self) -> &[u64] {
        &self.stragglers
    }

    pub(super) fn passed(&self) -> u64 {
        self.passed
    }

    /// All rows with positions above the start and up to the end are wanted.
    pub(super) fn scan(&self) -> Option<(u64, u64)> {
        let start = self.passed.max(self.done.head);
        (start < self.until.head).then_some((start, self.until.head))
    }

    /// How many positions are ahead, if they are all that has to be looked at.
    pub(super) fn backlog(&self) -> u64 {
        if self.stragglers.is_empty() { self.scan().map_or(0, |(start, end)| end - start) } else { 0 }
    }

    /// No row has to be looked for.
    pub(super) fn is_empty(&self) -> bool {
        self.scan().is_none() && self.stragglers.is_empty() && self.unlisted.is_empty()
    }

    /// The outcome when nothing has to be looked for.
    pub(super) fn nothing<E: Positioned>(self) -> Taken<E> {
        self.take(Source::new(), Source::new(), usize::MAX)
    }

    /// Whether the row of the scan that this transaction wrote belongs to the window.
    pub(super) fn has(&self, xid: u64) -> bool {
        xid >= self.done.next_xid && self.until.snapshot.sees(xid)
    }

    /// Picks the next events out of the first `limit` rows of the scan and the first `limit` rows of all stragglers.
    pub(super) fn take<E: Positioned>(self, scanned: Source<E>, late: Source<E>, limit: usize) -> Taken<E> {
        let head = self.until.head;
        let mut passed = head.min(scanned.complete_to(limit)).min(late.complete_to(limit));

        let mut events = scanned.events;
        if !late.events.is_empty() {
            events.extend(late.events);
            events.sort_by_key(Positioned::position);
        }
        events.truncate(events.partition_point(|event| event.position() <= passed));
        if events.len() > limit {
            events.truncate(limit);
            passed = events.last().map_or(passed, Positioned::position);
        }

        let finished = passed >= head;
        let Self { log, done, until, fresh, stragglers, .. } = self;
        // A reader of a log at rest stays where it is, so that its own checkpoints, which are transactions too, do not
        // give it something new to checkpoint. Unless it would have to ask each time which of very many transactions
        // wrote events.
        let at_rest = finished && fresh && until.head == done.head && stragglers.is_empty() && done.is_listed();
        let next = match (finished, at_rest) {
            (_, true) => Place::after(log, done),
            (true, _) => Place::after(log, until),
            (false, _) => Place { log, done, window: Some(Window { until, passed }) },
        };
        Taken { events, next, caught_up: finished && fresh, moved: !at_rest }
    }
}

/// Rows of a page that came from one place, in the order of positions.
#[derive(Debug)]
pub(super) struct Source<E> {
    events: Vec<E>,
    rows: usize,
    last: u64,
}

impl<E> Source<E> {
    pub(super) fn new() -> Self {
        Self { events: Vec::new(), rows: 0, last: 0 }
    }

    /// The next row: its position, and its event when that belongs to the page.
    pub(super) fn push(&mut self, position: u64, event: Option<E>) {
        self.rows += 1;
        self.last = position;
        self.events.extend(event);
    }

    /// Beyond the last row of a source that was cut off, rows may be missing.
    fn complete_to(&self, limit: usize) -> u64 {
        if self.rows < limit { u64::MAX } else { self.last }
    }
}

/// What stands at a position.
pub(super) trait Positioned {
    fn position(&self) -> u64;
}

/// The outcome of a page.
#[derive(Debug)]
pub(super) struct Taken<E> {
    pub(super) events: Vec<E>,
    pub(super) next: Place,
    /// The window was opened for this page, and this page ends it.
    pub(super) caught_up: bool,
    /// `next` is not where the page began.
    pub(super) moved: bool,
}

/// Brings those pages to one place that reached the end of the log together, so that their tracks become one.
///
/// Where one of them found something, that is the end of their common window. Where none did, no row became visible
/// between any of their places and now: each of these places is as good as every other, and one that was handed out
/// before costs no new checkpoint.
pub(super) fn meet<E>(pages: &mut [Taken<E>]) {
    let ends = || pages.iter().filter(|page| page.caught_up);
    let moved = ends().find(|page| page.moved);
    let newest = || ends().max_by_key(|page| (page.next.done.next_xid, page.next.done.snapshot.xmax));
    let Some(place) = moved.or_else(newest).map(|page| page.next.clone()) else { return };
    for page in pages.iter_mut().filter(|page| page.caught_up && page.next != place) {
        page.next = place.clone();
        page.moved = true;
    }
}

impl Horizon {
    /// The xids that were issued and had not ended, or only those known to be running when the others are too many.
    fn unended(&self) -> Vec<u64> {
        let unlisted = if self.is_listed() { self.unlisted() } else { 0..0 };
        self.snapshot.running.iter().copied().chain(unlisted).collect()
    }

    /// The xids that were issued and are not mentioned by the snapshot.
    fn unlisted(&self) -> Range<u64> {
        self.snapshot.xmax..self.next_xid
    }

    fn is_listed(&self) -> bool {
        self.next_xid - self.snapshot.xmax <= LISTED_SPAN
    }

    fn parse<'t>(words: &mut impl Iterator<Item = &'t str>) -> Option<Self> {
        let snapshot = Snapshot::parse(words.next()?)?;
        let head = words.next()?.parse().ok()?;
        let next_xid = words.next()?.parse().ok()?;
        (next_xid >= snapshot.xmax).then_some(Self { snapshot, head, next_xid })
    }
}

impl fmt::Display for Horizon {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.snapshot, self.head, self.next_xid)
    }
}

/// PostgreSQL's `pg_snapshot`: every xid below `xmin` had ended, none from `xmax` on, and in between all but `running`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Snapshot {
    xmin: u64,
    xmax: u64,
    running: Box<[u64]>,
}

impl Snapshot {
    /// Reads PostgreSQL's text form, `xmin:xmax:xid,xid,…`.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.splitn(3, ':');
        let xmin = parts.next()?.parse().ok()?;
        let xmax = parts.next()?.parse().ok()?;
        let running = match parts.next()? {
            "" => Box::default(),
            list => list.split(',').map(|xid| xid.parse().ok()).collect::<Option<Box<[u64]>>>()?,
        };
        let sound = xmin <= xmax
            && running.is_sorted_by(|a, b| a < b)
            && running.first().is_none_or(|first| *first >= xmin)
            && running.last().is_none_or(|last| *last < xmax);
        sound.then_some(Self { xmin, xmax, running })
    }

    /// All xids below it had ended.
    pub(super) fn xmin(&self) -> u64 {
        self.xmin
    }

    /// Whether the transaction had ended.
    pub(super) fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (n, xid) in self.running.iter().enumerate() {
            write!(f, "{}{xid}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "cursor_tests.rs"]
mod tests;
