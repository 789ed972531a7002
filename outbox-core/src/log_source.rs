//! Straight from the log: a named consumer as an event source, no broker needed.

mod asked;
mod builder;
mod joining;
mod lag;
mod lease;
mod look;
mod member;
mod parts;
mod pauses;
mod place;
#[cfg(all(test, feature = "testing"))]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;

pub use builder::{LogSourceBuilder, UnnamedLogSource};

use crate::{
    log::{ConsumerName, Cursor, EventLog, LogError, LogErrorKind, LogIdentity, MemberId, Track},
    source::{EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition},
    wake::WakeListener,
};
use asked::{Asked, in_time};
use builder::Settings;
use lease::Lease;
use member::Member;
use parts::{Part, Reading};
use pauses::Pauses;
use place::Place;

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
/// A consumer that an operator paused keeps its partitions and delivers nothing until it goes on.
///
/// A position given to [`EventSource::start`] wins over the log's checkpoint: a projection that keeps its own position
/// goes on exactly there, and [`EventSource::commit`] then only lets retention move on.
///
/// New events are found when this process commits them, or by polling: after 25 ms at first, then ever later up to
/// [`LogSourceBuilder::poll`]. A partition that got none for a minute, while the log moved on, gets an empty batch, so
/// that its position stays near the end.
///
/// # Shared lanes
/// With [`LogSourceBuilder::shared`] the sources of a consumer divide its lanes among them, and **each lane is a
/// partition**, `log/{log id}/{consumer}/lane/{n}`. A source that comes gets its share within about half a lease, as the
/// others give up their highest lanes; the lanes of one that closes or is gone go to the others. A lane that is given up
/// is told as [`SourceEvent::Revoked`], and given back, where it was committed last, when `next` is called again.
///
/// * Lanes that stand at one place are read together. One that is paused stays where it is and is read by itself when it
///   goes on, until all of them have reached the end of the log. Each place costs a read of all its events, so many
///   lanes at different places in a long backlog are slower than one partition of all lanes.
/// * What is committed is written at once, or within 200 ms together with what other lanes commit; closing the source
///   writes it too.
/// * A projection that keeps a position for each partition makes one transaction a lane: share lanes when one process is
///   not enough, or to lose less time when one dies.
///
/// A projection may change from one partition to shared lanes: they start where the log's checkpoint is, and what took
/// effect since comes again as duplicates. The way back works when all lanes stand at one place, as after a stop with
/// nothing left to read; else see *Errors*.
///
/// # Lag
/// [`EventSource::lag`] is 0 when everything was handed out that the last look found, and took effect. Else it counts
/// positions of the log, from the last event handed out to the newest one: rolled back and other consumers' gaps are
/// counted too, and what was handed out and had no effect yet is not. A lane's lag is its share of them. At least 1 when
/// something is left.
///
/// # Errors
/// A log that is away, or does not answer in time (see [`LogSourceBuilder::lease`]), is
/// [`SourceErrorKind::Unavailable`]; the next try begins after a backoff with full jitter, 10 ms doubling to 2 s. When
/// the log is back and has nothing, an empty [`SourceEvent::Assigned`] says so, and likewise when another process has
/// taken the partitions over. A member is told that its lease is lost also while the log does not answer a look for
/// events. A cursor that the log does not know is [`SourceErrorKind::BadPosition`]. All else is
/// [`SourceErrorKind::Configuration`], also that the consumer's lanes stand at different places and are not shared, as
/// after a relay of the same name: a partition has one position. The log's own error is kept as source.
///
/// # Cancellation
/// What `next` asked the log goes on when `next` is dropped, and the next call takes the answer. Closing a source that
/// waits for its membership waits on, to give it back.
pub struct LogSource {
    log: Arc<dyn EventLog>,
    settings: Settings,
    member: MemberId,
    bell: WakeListener,
    state: State,
    pauses: Pauses,
    /// The caller heard last that the log is away, or that it has no partition any more.
    is_in_doubt: bool,
}

impl LogSource {
    /// A source of this log's events.
    #[must_use]
    pub fn builder(log: Arc<dyn EventLog>) -> UnnamedLogSource {
        UnnamedLogSource(log)
    }
}

enum State {
    New(Option<Asked<LogIdentity>>),
    Joining(Place, Option<Asked<Lease>>),
    Member(Box<Member>),
    /// Its lanes stand at so many places and are given back; the caller is not told yet.
    Refused(Place, usize, Asked<()>),
    /// The membership is over; the caller is not told yet that these are gone.
    Lost(Place, Vec<Partition>),
    Closed,
}

#[async_trait]
impl EventSource for LogSource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(false)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        self.pauses.pause().await;
        let result = self.advance().await;
        self.is_in_doubt = match &result {
            Err(error) => error.kind() == SourceErrorKind::Unavailable,
            Ok(SourceEvent::Revoked(_)) => !self.has_partitions(),
            Ok(_) => false,
        };
        self.settle(result)
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        let part = self.part(partition)?;
        part.reading = None;
        let cursor = after.map_or_else(|| part.done().clone(), |after| Cursor::from_text(after.as_text()));
        let track = Track { cursor: cursor.clone(), lanes: part.lanes };
        if !self.member(partition)?.is_at(&cursor) {
            // A foreign cursor is told here, where the caller knows whose it is.
            self.pauses.pause().await;
            let probe = in_time(self.settings.patience(), self.log.read(&[track], 1)).await;
            let probe = probe.map(drop).map_err(source_error);
            self.settle(probe)?;
        }
        self.part(partition)?.reading = Some(Reading::behind(cursor));
        self.member(partition)?.looks.again();
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let cursor = Cursor::from_text(position.as_text());
        let written = self.member(partition)?.commit(partition, cursor).await;
        written.map_err(|error| {
            if error.kind() == LogErrorKind::Fenced {
                self.lose();
            }
            source_error(error)
        })
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.part(partition)?.paused = true;
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.part(partition)?.paused = false;
        self.member(partition)?.looks.again();
        Ok(())
    }

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        let consumer = self.settings.consumer.clone();
        let (log, is_old) = (self.log.clone(), self.bell.has_rung() || self.is_in_doubt);
        let lag = self.member(partition)?.lag(&*log, &consumer, partition, position, is_old).await;
        lag.map_err(source_error)
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        let (written, lease) = match std::mem::replace(&mut self.state, State::Closed) {
            // Whether there is something to give back only the answer tells.
            State::Joining(_, Some(mut joining)) => (Ok(()), joining.wait().await.map_err(source_error)?),
            State::Member(mut member) => (member.write().await, member.lease),
            State::Refused(_, _, mut leaving) => return left(leaving.wait().await),
            _ => return Ok(()),
        };
        let mut leaving = joining::leave(self.log.clone(), &self.settings, lease.fence().clone());
        drop(lease);
        left(written.and(leaving.wait().await))
    }
}

impl LogSource {
    /// Every await in here may be the last one: state only changes between them, and what the log was asked goes on.
    async fn advance(&mut self) -> Result<SourceEvent, SourceError> {
        loop {
            match &mut self.state {
                State::New(asked) => {
                    let registering =
                        asked.get_or_insert_with(|| joining::register(self.log.clone(), self.settings.clone()));
                    let registered = registering.wait().await;
                    *asked = None;
                    let identity = registered.map_err(source_error)?;
                    self.pauses.reset();
                    self.state = State::Joining(Place::new(&identity, &self.settings), None);
                }
                State::Joining(place, asked) => {
                    let joining = asked
                        .get_or_insert_with(|| joining::join(self.log.clone(), self.settings.clone(), self.member));
                    let joined = joining.wait().await;
                    *asked = None;
                    let member = Member::new(place.clone(), joined.map_err(source_error)?);
                    self.pauses.reset();
                    self.state = State::Member(Box::new(member));
                }
                State::Member(member) => {
                    if let Some(places) = member.apart() {
                        let leaving = joining::leave(self.log.clone(), &self.settings, member.lease.fence().clone());
                        self.state = State::Refused(member.place.clone(), places, leaving);
                        continue;
                    }
                    if self.is_in_doubt && member.has_nothing() {
                        // Nothing else may come for long that would say that all is well.
                        return Ok(SourceEvent::Assigned(Vec::new()));
                    }
                    match member.act(&self.log, &self.settings, &mut self.bell).await {
                        Ok(Some(event)) => return Ok(event),
                        // What was only begun says nothing of the log.
                        Ok(None) if member.has_errand() => {}
                        Ok(None) => self.pauses.reset(),
                        Err(error) if error.kind() == LogErrorKind::Fenced => self.lose(),
                        Err(error) => return Err(source_error(error)),
                    }
                }
                State::Refused(place, places, leaving) => {
                    if let Err(error) = leaving.wait().await {
                        tracing::debug!(%error, "the lanes will be free when the lease ends");
                    }
                    let refusal = refusal(&self.settings.consumer, *places);
                    self.state = State::Joining(place.clone(), None);
                    return Err(refusal);
                }
                State::Lost(place, partitions) => {
                    let lost = std::mem::take(partitions);
                    self.state = State::Joining(place.clone(), None);
                    if !lost.is_empty() {
                        return Ok(SourceEvent::Revoked(lost));
                    }
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

    fn lose(&mut self) {
        if let State::Member(member) = &self.state {
            let told = member.parts.iter().filter(|part| !part.leaving).map(|part| part.partition.clone());
            self.state = State::Lost(member.place.clone(), told.collect());
        }
    }

    fn has_partitions(&self) -> bool {
        matches!(&self.state, State::Member(member) if member.parts.iter().any(|part| !part.leaving))
    }

    fn member(&mut self, partition: &Partition) -> Result<&mut Member, SourceError> {
        match &mut self.state {
            State::Member(member) if member.has(partition) => Ok(member),
            _ => Err(not_assigned(partition)),
        }
    }

    fn part(&mut self, partition: &Partition) -> Result<&mut Part, SourceError> {
        self.member(partition)?.part(partition).ok_or_else(|| not_assigned(partition))
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

fn left(answer: Result<(), LogError>) -> Result<(), SourceError> {
    match answer {
        Err(error) if error.kind() != LogErrorKind::Fenced => Err(source_error(error)),
        _ => Ok(()),
    }
}

fn refusal(consumer: &ConsumerName, places: usize) -> SourceError {
    let message = format!(
        "the lanes of consumer {consumer} stand at {places} places; a source that does not share them needs them at one: \
         share them, or use another consumer"
    );
    SourceError::new(SourceErrorKind::Configuration, message)
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
