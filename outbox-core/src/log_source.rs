//! Straight from the log: a named consumer as an event source, no broker needed.

mod lease;
mod pauses;
#[cfg(all(test, feature = "testing"))]
mod tests;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::time::{Instant, sleep};

use crate::{
    event::{LaneSet, ReceivedEvent},
    log::{Assignment, ConsumerName, Cursor, EventLog, LogError, LogErrorKind, MemberId, StartAt},
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
    wake::WakeListener,
};
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
/// A position given to [`EventSource::start`] wins over the log's checkpoint: a projection that keeps its own position
/// goes on exactly there, and [`EventSource::commit`] then only lets retention move on.
///
/// New events are found when this process commits them, or by polling: after 25 ms at first, then ever later up to
/// [`LogSourceBuilder::poll`].
///
/// # Errors
/// A log that is away is [`SourceErrorKind::Unavailable`]; the next try begins after a backoff with full jitter, 10 ms
/// doubling to 2 s. A cursor that the log does not know is [`SourceErrorKind::BadPosition`]. All else is
/// [`SourceErrorKind::Configuration`]. The log's own error is kept as source.
pub struct LogSource {
    log: Arc<dyn EventLog>,
    settings: Settings,
    member: MemberId,
    bell: WakeListener,
    state: State,
    pauses: Pauses,
}

/// A [`LogSource`] that still needs its consumer's name.
pub struct UnnamedLogSource(Arc<dyn EventLog>);

/// Settings of a [`LogSource`].
pub struct LogSourceBuilder {
    log: Arc<dyn EventLog>,
    settings: Settings,
}

struct Settings {
    consumer: ConsumerName,
    start_at: StartAt,
    batch: usize,
    lease: Duration,
    poll: Duration,
}

impl LogSource {
    /// A source of this log's events.
    #[must_use]
    pub fn builder(log: Arc<dyn EventLog>) -> UnnamedLogSource {
        UnnamedLogSource(log)
    }
}

impl UnnamedLogSource {
    /// Reads as this consumer. Sources of the same consumer share its progress, those of others do not meet.
    #[must_use]
    pub fn consumer(self, consumer: ConsumerName) -> LogSourceBuilder {
        let settings = Settings {
            consumer,
            start_at: StartAt::default(),
            batch: 500,
            lease: Duration::from_secs(12),
            poll: Duration::from_secs(1),
        };
        LogSourceBuilder { log: self.0, settings }
    }
}

impl LogSourceBuilder {
    /// Where a consumer begins that the log does not know yet. Default: [`StartAt::Beginning`].
    #[must_use]
    pub fn start_at(mut self, start_at: StartAt) -> Self {
        self.settings.start_at = start_at;
        self
    }

    /// The most events in one batch; at least 1, 500 by default.
    #[must_use]
    pub fn batch(mut self, events: usize) -> Self {
        self.settings.batch = events.max(1);
        self
    }

    /// For how long after this process died the others wait; at least 10 ms, 12 s by default. Renewed every 2/5 of it.
    #[must_use]
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_millis(10));
        self
    }

    /// The longest pause between two looks for new events; at least 1 ms, 1 s by default.
    #[must_use]
    pub fn poll(mut self, longest: Duration) -> Self {
        self.settings.poll = longest.max(Duration::from_millis(1));
        self
    }

    /// The source. Nothing is sent to the log yet.
    #[must_use]
    pub fn build(self) -> LogSource {
        LogSource {
            bell: self.log.wake().listen(),
            log: self.log,
            settings: self.settings,
            member: MemberId::random(),
            state: State::New,
            pauses: Pauses::default(),
        }
    }
}

enum State {
    New,
    Joining(Place),
    Owning(Ownership),
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

struct Ownership {
    place: Place,
    assignment: Assignment,
    lease: Lease,
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
        let owned = self.owned(partition)?;
        let checkpoint = owned.assignment.cursor.clone();
        let lanes = owned.assignment.lanes;
        owned.reading = None;
        let cursor = after.map_or_else(|| checkpoint.clone(), |after| Cursor::from_text(after.as_text()));
        if cursor != checkpoint {
            // A foreign cursor is told here, where the caller knows whose it is.
            self.pauses.pause().await;
            let probe = self.log.read(&cursor, lanes, 1).await.map(drop).map_err(source_error);
            self.settle(probe)?;
        }
        self.owned(partition)?.reading = Some(Reading::behind(cursor));
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let log = self.log.clone();
        let owned = self.owned(partition)?;
        let cursor = Cursor::from_text(position.as_text());
        match log.checkpoint(&owned.assignment.fence, &cursor).await {
            Ok(()) => {
                // A second `start` without a position goes on behind the last commit, as the trait says.
                owned.assignment.cursor = cursor.clone();
                if let Some(reading) = &mut owned.reading
                    && reading.unsettled.as_ref() == Some(&cursor)
                {
                    reading.unsettled = None;
                }
                Ok(())
            }
            Err(error) if error.kind() == LogErrorKind::Fenced => {
                self.state = State::Lost(owned.place.clone());
                Err(source_error(error))
            }
            Err(error) => Err(source_error(error)),
        }
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.owned(partition)?.paused = true;
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.owned(partition)?.paused = false;
        Ok(())
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let State::Owning(owned) = std::mem::replace(&mut self.state, State::Closed) else { return Ok(()) };
        drop(owned.lease);
        match self.log.leave(&owned.assignment.fence).await {
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
                    if let Some(event) = self.join(place).await? {
                        return Ok(event);
                    }
                }
                State::Owning(owned) => {
                    if owned.lease.is_lost() {
                        self.state = State::Lost(owned.place.clone());
                    } else if let Some(batch) = self.read().await? {
                        return Ok(SourceEvent::Batch(batch));
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

    async fn join(&mut self, place: Place) -> Result<Option<SourceEvent>, SourceError> {
        let Settings { consumer, lease, poll, .. } = &self.settings;
        let joined = self.log.join(consumer, self.member, *lease).await.map_err(source_error)?;
        self.pauses.reset();
        let Some(assignment) = joined else {
            sleep(poll.mul_f64(rand::random_range(0.75..1.25))).await;
            return Ok(None);
        };
        if assignment.lanes != place.lanes {
            // Positions are kept by partition: one that covers other lanes tomorrow would skip their events.
            let message = format!(
                "consumer {consumer} was given {} of {} lanes; a log source needs all: let nothing else join as it",
                assignment.lanes.len(),
                place.lanes.len()
            );
            return Err(SourceError::new(SourceErrorKind::Configuration, message));
        }
        let lease = Lease::keep(self.log.clone(), assignment.fence.clone(), *lease);
        let partition = place.partition.clone();
        self.state = State::Owning(Ownership { place, assignment, lease, reading: None, paused: false });
        Ok(Some(SourceEvent::Assigned(vec![partition])))
    }

    /// One look for events. `None`: there were none for now, or the partition does not deliver.
    async fn read(&mut self) -> Result<Option<Batch>, SourceError> {
        let State::Owning(owned) = &mut self.state else { return Ok(None) };
        let Ownership { place, assignment, lease, reading: Some(reading), paused: false } = owned else {
            owned.lease.lost().await;
            return Ok(None);
        };
        self.bell.arm();
        let page = match self.log.read(&reading.cursor, assignment.lanes, self.settings.batch).await {
            Ok(page) => page,
            Err(error) => {
                if !error.kind().passes() {
                    // The same answer would come for ever: deliver nothing until somebody starts elsewhere.
                    owned.reading = None;
                }
                return Err(source_error(error));
            }
        };
        self.pauses.reset();
        let moved = page.next != reading.cursor;
        reading.cursor = page.next;
        if !page.events.is_empty() {
            reading.unsettled = Some(reading.cursor.clone());
            reading.idle = FIRST_IDLE;
            reading.quiet_since = Instant::now();
            let position = SourcePosition::from_text(reading.cursor.as_text());
            let records = page.events.into_iter().map(|e| SourceRecord::Event(ReceivedEvent::from(e))).collect();
            return Ok(Some(Batch { partition: place.partition.clone(), records, position }));
        }
        if !page.caught_up {
            return Ok(None);
        }
        if moved && reading.unsettled.is_none() && reading.quiet_since.elapsed() >= QUIET_COMMIT {
            reading.quiet_since = Instant::now();
            match self.log.checkpoint(&assignment.fence, &reading.cursor).await {
                Ok(()) => assignment.cursor = reading.cursor.clone(),
                // Either is met again, and told, by the renewal or the next read.
                Err(error) => tracing::debug!(%error, "a checkpoint without events failed"),
            }
        }
        let idle = reading.idle.min(self.settings.poll);
        tokio::select! {
            () = self.bell.rung() => reading.idle = FIRST_IDLE,
            () = sleep(idle) => reading.idle = (idle * 2).min(self.settings.poll),
            () = lease.lost() => {}
        }
        Ok(None)
    }

    fn owned(&mut self, partition: &Partition) -> Result<&mut Ownership, SourceError> {
        match &mut self.state {
            State::Owning(owned) if owned.place.partition == *partition => Ok(owned),
            _ => {
                let message = format!("partition {partition} is not assigned to this source");
                Err(SourceError::new(SourceErrorKind::Revoked, message))
            }
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

impl Reading {
    fn behind(cursor: Cursor) -> Self {
        Self { cursor, unsettled: None, quiet_since: Instant::now(), idle: FIRST_IDLE }
    }
}

/// The first pause after a look that found nothing.
const FIRST_IDLE: Duration = Duration::from_millis(25);

/// A cursor moves also when other clients of the database are busy; once in a while is enough to keep it fresh.
const QUIET_COMMIT: Duration = Duration::from_mins(1);

fn source_error(error: LogError) -> SourceError {
    let (kind, message) = match error.kind() {
        LogErrorKind::Unavailable => (SourceErrorKind::Unavailable, "the log cannot be reached"),
        LogErrorKind::Fenced => (SourceErrorKind::Revoked, "another process took the consumer over"),
        LogErrorKind::BadCursor => (SourceErrorKind::BadPosition, "the position is not one of this log"),
        _ => (SourceErrorKind::Configuration, "the log cannot be read"),
    };
    SourceError::new(kind, message).with_source(error)
}
