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

use std::{fmt, ops::Range};

use outbox_core::{
    event::{Lane, LaneSet, LogId},
    log::{Cursor, LogError, LogErrorKind},
};
use uuid::Uuid;

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
                 the database was restored to an earlier time or moved to another server, and has to be re-anchored",
                newest.snapshot.xmax, newest.head, server.next_xid, server.head
            ));
        }
        Ok(())
    }

    /// Goes on with the open window, or opens one up to `now`.
    pub(super) fn reading(self, now: Horizon) -> Reading {
        let Self { log, done, window } = self;
        let (until, passed, fresh) = match window {
            Some(Window { until, passed }) => (until, passed, false),
            None => (now, 0, true),
        };
        let seen = |xid: &u64| until.snapshot.sees(*xid);
        let mut stragglers: Vec<u64> = done.snapshot.running.iter().copied().filter(seen).collect();
        let mut unlisted = done.snapshot.xmax..done.next_xid.min(until.snapshot.xmax);
        if unlisted.end.saturating_sub(unlisted.start) <= LISTED_SPAN {
            stragglers.extend(unlisted.clone().filter(seen));
            unlisted = 0..0;
        }
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

    /// Picks the next events out of the first `limit` rows of the scan and the first `limit` rows of all stragglers,
    /// both in the order of positions.
    pub(super) fn take<R: Row>(self, scanned: Vec<R>, late: Vec<R>, lanes: LaneSet, limit: usize) -> Taken<R> {
        // Beyond the last row of a source that was cut off, rows may be missing.
        let known = |source: &[R]| source.last().filter(|_| source.len() >= limit).map(Row::position);
        let head = self.until.head;
        let mut passed = [known(&scanned), known(&late)].into_iter().flatten().fold(head, u64::min);

        let unseen = |row: &R| row.xid() >= self.done.next_xid && self.until.snapshot.sees(row.xid());
        let scanned = scanned.into_iter().filter(unseen);
        let wanted = |row: &R| row.position() <= passed && lanes.contains(row.lane());
        let mut events: Vec<R> = scanned.chain(late).filter(wanted).collect();
        events.sort_by_key(Row::position);
        if events.len() > limit {
            events.truncate(limit);
            passed = events.last().map_or(passed, Row::position);
        }

        let finished = passed >= head;
        let Self { log, done, until, fresh, stragglers, .. } = self;
        // A reader of a log at rest stays where it is, so that its own checkpoints, which are transactions too, do not
        // give it something new to checkpoint.
        let at_rest = finished && fresh && until.head == done.head && stragglers.is_empty();
        let next = match (finished, at_rest) {
            (_, true) => Place::after(log, done),
            (true, _) => Place::after(log, until),
            (false, _) => Place { log, done, window: Some(Window { until, passed }) },
        };
        Taken { events, next, caught_up: finished && fresh, moved: !at_rest }
    }
}

/// What the reader has to know of a row.
pub(super) trait Row {
    fn xid(&self) -> u64;
    fn position(&self) -> u64;
    fn lane(&self) -> Lane;
}

/// The outcome of a page.
#[derive(Debug)]
pub(super) struct Taken<R> {
    pub(super) events: Vec<R>,
    pub(super) next: Place,
    /// The window was opened for this page, and this page ends it.
    pub(super) caught_up: bool,
    /// `next` is not where the page began.
    pub(super) moved: bool,
}

impl Horizon {
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
