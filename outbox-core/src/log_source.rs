//! Straight from the log: a named consumer as an event source, no broker needed.

mod builder;
mod lease;
mod pauses;
#[cfg(all(test, feature = "testing"))]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

pub use builder::{LogSourceBuilder, UnnamedLogSource};

use crate::{
    event::{LaneSet, ReceivedEvent},
    log::{Claim, Cursor, EventLog, Fence, LogError, LogErrorKind, MemberId, Page, Track},
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
    wake::WakeListener,
};
use builder::Settings;
use lease::Lease;
use pauses::Pauses;

/// An [`EventSource`] over a log, as one of its named consumers.
///
/// ```
/// # use std::sync::Arc;
/// # use outbox_core::{log::{ConsumerName, EventLog, LogError, StartAt}, log_source::LogSource};
/// # fn main() -> Result<(), LogError> {
/// # fn source(log: Arc<dyn EventLog>) -> Result<LogSource, LogError> {
/// let source = LogSource::builder(log).consumer(ConsumerName::parse("tutor-search")?).start_at(StartAt::End).build();
/// # Ok(source) }
/// # Ok(()) }
/// ```
///
/// The consumer is registered at the first [`EventSource::next`]. It has one partition, `log/{log id}/{consumer}`, whose
/// positions are the log's cursors. One process owns it at a time; further ones ask for it again about every second
/// ([`LogSourceBuilder::poll`]) and get it when the owner closes, or when its lease ended and it is gone. An owner that
/// lost it says [`SourceEvent::Revoked`] and asks again. The lease is renewed by a task of its own, so a slow handler
/// does not lose it; dropping the source ends that task, and closing it gives the partition back at once. Must be used
/// within a tokio runtime.
///
/// A consumer that an operator paused keeps its partition and delivers nothing until it goes on.
///
/// A position given to [`EventSource::start`] wins over the log's checkpoint: a projection that keeps its own position
/// goes on exactly there, and [`EventSource::commit`] then only lets retention move on.
///
/// New events are found when this process commits them, or by polling: after 25 ms at first, then ever later up to
/// [`LogSourceBuilder::poll`].
///
/// # Errors
/// A log that is away is [`SourceErrorKind::Unavailable`]; the next try begins after a backoff with full jitter, 10 ms
/// doubling to 2 s. A cursor that the log does not know is [`SourceErrorKind::BadPosition`]. All else is
/// [`SourceErrorKind::Configuration`], also that the consumer's lanes stand at different places, as after a relay of the
/// same name: a source has one position. The log's own error is kept as source.
pub struct LogSource {
    log: Arc<dyn EventLog>,
    settings: Settings,
    member: MemberId,
    bell: WakeListener,
    state: State,
    pauses: Pauses,
}

impl LogSource {
    /// A source of this log's events.
    #[must_use]
    pub fn builder(log: Arc<dyn EventLog>) -> UnnamedLogSource {
        UnnamedLogSource(log)
    }
}

enum State {
    New,
    Joining(Place),
    Member(Membership),
    /// Somebody took over; the caller is not told yet.
    Lost(Place),
    Closed,
}

/// What the log's identity means to this source.
#[derive(Clone)]
struct Place {
    partition: Partition,
    lanes: LaneSet,
}

struct Membership {
    place: Place,
    fence: Fence,
    lease: Lease,
    /// `None`: the lanes are somebody else's, or the caller is not told yet that they are ours.
    owned: Option<Owned>,
}

struct Owned {
    checkpoint: Cursor,
    reading: Option<Reading>,
    paused: bool,
}

struct Reading {
    cursor: Cursor,
    /// The end of the last batch handed out, until it is committed.
    unsettled: Option<Cursor>,
    /// When the cursor that moved on without events was last worth a write.
    quiet_since: Instant,
    /// The pause before the next look.
    idle: Duration,
}

#[async_trait]
impl EventSource for LogSource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(false)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        self.pauses.pause().await;
        let result = self.advance().await;
        self.settle(result)
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let (place, _, owned) = self.owned(partition)?;
        owned.reading = None;
        let cursor = after.map_or_else(|| owned.checkpoint.clone(), |after| Cursor::from_text(after.as_text()));
        if cursor != owned.checkpoint {
            let track = place.track(&cursor);
            // A foreign cursor is told here, where the caller knows whose it is.
            self.pauses.pause().await;
            let probe = self.log.read(&[track], 1).await.map(drop).map_err(source_error);
            self.settle(probe)?;
        }
        let (_, _, owned) = self.owned(partition)?;
        owned.reading = Some(Reading::behind(cursor));
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let log = self.log.clone();
        let (place, fence, owned) = self.owned(partition)?;
        let cursor = Cursor::from_text(position.as_text());
        match log.checkpoint(fence, &[place.track(&cursor)]).await {
            Ok(()) => {
                // A second `start` without a position goes on behind the last commit, as the trait says.
                owned.checkpoint = cursor.clone();
                if let Some(reading) = &mut owned.reading
                    && reading.unsettled.as_ref() == Some(&cursor)
                {
                    reading.unsettled = None;
                }
                Ok(())
            }
            Err(error) => {
                if error.kind() == LogErrorKind::Fenced {
                    self.state = State::Lost(place.clone());
                }
                Err(source_error(error))
            }
        }
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.owned(partition)?.2.paused = true;
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.owned(partition)?.2.paused = false;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let State::Member(member) = std::mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        drop(member.lease);
        match self.log.leave(&member.fence).await {
            Err(error) if error.kind() != LogErrorKind::Fenced => Err(source_error(error)),
            _ => Ok(()),
        }
    }
}

impl LogSource {
    /// Every await in here may be the last one: state only changes between them.
    async fn advance(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            match &mut self.state {
                State::New => {
                    let identity = self.log.identity().await.map_err(source_error)?;
                    let Settings { consumer, start_at, .. } = &self.settings;
                    self.log.register(consumer, *start_at).await.map_err(source_error)?;
                    self.pauses.reset();
                    let partition = Partition::new(format!("log/{}/{consumer}", identity.id));
                    self.state = State::Joining(Place { partition, lanes: LaneSet::all(identity.lanes) });
                }
                State::Joining(place) => {
                    let place = place.clone();
                    let Settings { consumer, lease, poll, .. } = &self.settings;
                    let joined = self.log.join(consumer, self.member, Claim::All, *lease).await;
                    let assignment = joined.map_err(source_error)?;
                    self.pauses.reset();
                    let fence = assignment.fence.clone();
                    let lease = Lease::keep(self.log.clone(), assignment, *lease, *poll);
                    self.state = State::Member(Membership { place, fence, lease, owned: None });
                }
                State::Member(member) => {
                    let standing = member.lease.standing();
                    if standing.lost {
                        let place = member.place.clone();
                        self.state = if member.owned.is_some() { State::Lost(place) } else { State::Joining(place) };
                    } else if member.owned.is_some() {
                        if let Some(batch) = self.read(standing.paused).await? {
                            return Ok(SourceEvent::Batch(batch));
                        }
                    } else if standing.tracks.is_empty() {
                        member.lease.changed().await;
                    } else {
                        return self.own(&standing.tracks).await;
                    }
                }
                State::Lost(place) => {
                    let partition = place.partition.clone();
                    self.state = State::Joining(place.clone());
                    return Ok(SourceEvent::Revoked(vec![partition]));
                }
                State::Closed => {
                    return Err(SourceError::new(
                        SourceErrorKind::Configuration,
                        "the source was closed; build another",
                    ));
                }
            }
        }
    }

    /// The log gave us these lanes.
    async fn own(&mut self, tracks: &[Track]) -> Result<SourceEvent, SourceError> {
        if let (State::Member(member), [Track { cursor, lanes }]) = (&mut self.state, tracks)
            && *lanes == member.place.lanes
        {
            member.owned = Some(Owned { checkpoint: cursor.clone(), reading: None, paused: false });
            return Ok(SourceEvent::Assigned(vec![member.place.partition.clone()]));
        }
        if let State::Member(Membership { place, fence, .. }) = &mut self.state {
            let fence = fence.clone();
            self.state = State::Joining(place.clone());
            if let Err(error) = self.log.leave(&fence).await {
                tracing::debug!(%error, "the lanes will be free when the lease ends");
            }
        }
        // Positions are kept by partition, one for all lanes: with another the events between the two would be skipped.
        let message = format!(
            "the lanes of consumer {} stand at {} places; a log source needs them at one: use another consumer",
            self.settings.consumer,
            tracks.len()
        );
        Err(SourceError::new(SourceErrorKind::Configuration, message))
    }

    /// One look for events. `None`: there were none for now, or the partition does not deliver.
    async fn read(&mut self, consumer_paused: bool) -> Result<Option<Batch>, SourceError> {
        let State::Member(Membership { place, fence, lease, owned: Some(owned) }) = &mut self.state else {
            return Ok(None);
        };
        let Owned { checkpoint, reading, paused } = owned;
        let Some(active) = reading.as_mut().filter(|_| !*paused && !consumer_paused) else {
            lease.changed().await;
            return Ok(None);
        };
        self.bell.arm();
        let page = match self.log.read(&[place.track(&active.cursor)], self.settings.batch).await.and_then(one_page) {
            Ok(page) => page,
            Err(error) => {
                if !error.kind().passes() {
                    // The same answer would come for ever: deliver nothing until somebody starts elsewhere.
                    *reading = None;
                }
                return Err(source_error(error));
            }
        };
        self.pauses.reset();
        let moved = page.next != active.cursor;
        active.cursor = page.next;
        if !page.events.is_empty() {
            active.unsettled = Some(active.cursor.clone());
            active.idle = FIRST_IDLE;
            active.quiet_since = Instant::now();
            let position = SourcePosition::from_text(active.cursor.as_text());
            let records = page.events.into_iter().map(|e| SourceRecord::Event(ReceivedEvent::from(e))).collect();
            return Ok(Some(Batch { partition: place.partition.clone(), records, position }));
        }
        if !page.caught_up {
            return Ok(None);
        }
        if moved && active.unsettled.is_none() && active.quiet_since.elapsed() >= QUIET_COMMIT {
            active.quiet_since = Instant::now();
            match self.log.checkpoint(fence, &[place.track(&active.cursor)]).await {
                Ok(()) => *checkpoint = active.cursor.clone(),
                // Either is met again, and told, by the renewal or the next read.
                Err(error) => tracing::debug!(%error, "a checkpoint without events failed"),
            }
        }
        let idle = active.idle.min(self.settings.poll);
        tokio::select! {
            () = self.bell.rung() => active.idle = FIRST_IDLE,
            () = sleep(idle) => active.idle = (idle * 2).min(self.settings.poll),
            () = lease.changed() => {}
        }
        Ok(None)
    }

    fn owned(&mut self, partition: &Partition) -> Result<(&Place, &Fence, &mut Owned), SourceError> {
        match &mut self.state {
            State::Member(Membership { place, fence, owned: Some(owned), .. }) if place.partition == *partition => {
                Ok((place, fence, owned))
            }
            _ => Err(not_assigned(partition)),
        }
    }

    fn settle<T>(&mut self, result: Result<T, SourceError>) -> Result<T, SourceError> {
        match &result {
            Err(error) if error.kind() == SourceErrorKind::Unavailable => self.pauses.grow(),
            Err(_) => {}
            Ok(_) => self.pauses.reset(),
        }
        result
    }
}

impl Place {
    fn track(&self, cursor: &Cursor) -> Track {
        Track { cursor: cursor.clone(), lanes: self.lanes }
    }
}

impl Reading {
    fn behind(cursor: Cursor) -> Self {
        Self { cursor, unsettled: None, quiet_since: Instant::now(), idle: FIRST_IDLE }
    }
}

/// The first pause after a look that found nothing.
const FIRST_IDLE: Duration = Duration::from_millis(25);

/// A cursor moves also when other clients of the database are busy; once in a while is enough to keep it fresh.
const QUIET_COMMIT: Duration = Duration::from_mins(1);

fn one_page(pages: Vec<Page>) -> Result<Page, LogError> {
    let none = || LogError::new(LogErrorKind::Incompatible, "the log answered without a page");
    pages.into_iter().next().ok_or_else(none)
}

fn not_assigned(partition: &Partition) -> SourceError {
    let message = format!("partition {partition} is not assigned to this source");
    SourceError::new(SourceErrorKind::Revoked, message)
}

fn source_error(error: LogError) -> SourceError {
    let (kind, message) = match error.kind() {
        LogErrorKind::Unavailable => (SourceErrorKind::Unavailable, "the log cannot be reached"),
        LogErrorKind::Fenced => (SourceErrorKind::Revoked, "another process took the consumer over"),
        LogErrorKind::BadCursor => (SourceErrorKind::BadPosition, "the position is not one of this log"),
        _ => (SourceErrorKind::Configuration, "the log cannot be read"),
    };
    SourceError::new(kind, message).with_source(error)
}
