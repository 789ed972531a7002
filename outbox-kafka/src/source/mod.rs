//! Events from Kafka, as a member of a consumer group.

mod builder;
mod group;
mod inbox;
mod lookback;
mod member;
mod place;
mod position;

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use outbox_core::{
    profile::Decoder,
    source::{
        Batch, EventSource, Partition, SourceCapabilities, SourceError, SourceErrorKind, SourceEvent, SourcePosition,
        SourceRecord,
    },
};
use tokio::task::{JoinError, spawn_blocking};

pub use self::builder::KafkaSourceBuilder;
use self::{
    builder::Reset,
    group::{Joining, Membership, Terms},
    inbox::{Assignment, Raw, Taken},
    place::{Place, decode},
    position::Position,
};

/// Reads events from topics, sharing their partitions with the other members of a consumer group.
///
/// Partitions are named `cluster id/topic/number`. A [`SourcePosition`] is **the offset of the next record to read**,
/// decimal, as Kafka commits it: the position of a batch is its last record's offset plus one. Behind a colon it says
/// which record that last one was: `1207:` and its event's id. The offset alone is a position too, to set one by hand;
/// then nothing tells whether the topic is still the same.
///
/// # What it does
/// * It joins its group with the first [`EventSource::next`] and then polls in a thread of its own: a slow handler does
///   not cost the membership, also one that blocks its runtime, and up to eight batches or 8 MiB per partition are
///   received ahead, roughly.
/// * After [`SourceEvent::Revoked`] nothing more of these partitions is delivered; they may belong to another member
///   already.
/// * [`EventSource::commit`] waits for the broker's answer. What it was told and could not settle, as in the middle of
///   a rebalance, is committed when the partition is given up.
///
/// # Another topic, another cluster
/// Kafka's offsets say nothing about which topic they belong to. So [`EventSource::start`] reads the record before the
/// position back and compares it, also for what the group committed: the record's id is in the commit's metadata. A topic
/// that was created again or restored is [`SourceErrorKind::Recreated`], one that ends before the position
/// [`SourceErrorKind::Truncated`], and retention that passed the position [`SourceErrorKind::Expired`]. While a partition
/// is read, the same is looked at whenever a record comes after a silence of more than a second, which costs that
/// record one small fetch. Another cluster has other partitions, by their names.
///
/// A record that a compacted topic removed cannot be compared and counts as the same; to know that a topic is
/// compacted takes the permission to describe its configuration.
///
/// # While no broker can be reached
/// `next` fails with [`SourceErrorKind::Unavailable`] until the cluster was heard of for the first time, after up to
/// five seconds each. Later it waits: librdkafka reconnects by itself, and says so in the log.
///
/// Dropping a source leaves the group in the background; [`EventSource::close`] waits for it. Must be used within a
/// tokio runtime with time enabled.
pub struct KafkaSource {
    terms: Terms,
    decoder: Arc<dyn Decoder>,
    reset: Reset,
    joining: Option<Joining>,
    membership: Option<Membership>,
}

impl KafkaSource {
    /// A source that reads `topics` as a member of `group`, from the cluster that these brokers belong to: `host:port`,
    /// several with commas between.
    #[must_use]
    pub fn builder<T: Into<String>>(
        servers: impl Into<String>,
        group: impl Into<String>,
        topics: impl IntoIterator<Item = T>,
    ) -> KafkaSourceBuilder {
        let topics = topics.into_iter().map(Into::into).collect();
        KafkaSourceBuilder::new(&servers.into(), &group.into(), topics)
    }

    /// Joins the group if that is still to be done, and again after the polling thread ended. Cancel safe: whoever asks
    /// next goes on waiting for the same attempt.
    async fn joined(&mut self) -> Result<&Membership, SourceError> {
        if self.membership.as_ref().is_some_and(|membership| membership.inbox.is_over()) {
            self.leave().await;
        }
        if let Some(membership) = self.membership.take() {
            return Ok(self.membership.insert(membership));
        }
        if self.joining.is_none() {
            self.joining = Some(Membership::join(self.terms.clone())?);
        }
        let Some(joining) = &mut self.joining else { return Err(ended()) };
        let joined = joining.await;
        self.joining = None;
        Ok(self.membership.insert(joined.unwrap_or_else(|_panicked| Err(ended()))?))
    }

    fn member(&self) -> Result<&Membership, SourceError> {
        self.membership.as_ref().ok_or_else(|| {
            SourceError::new(SourceErrorKind::Revoked, "the source is not a member of its group; call next first")
        })
    }

    /// Leaves the group, also when this future is dropped.
    async fn leave(&mut self) {
        if let Some(joining) = self.joining.take() {
            self.membership = joining.await.ok().and_then(Result::ok);
        }
        if let Some(membership) = self.membership.take() {
            membership.leave().await;
        }
    }

    fn place(&self, is: Assignment) -> Result<Place, SourceError> {
        let (consumer, lookback) = self.member()?.clients().ok_or_else(|| inbox::revoked(&is.partition))?;
        Ok(Place { is, consumer, lookback, decoder: self.decoder.clone() })
    }

    /// Begins delivery where `find` says, with nothing of what was on its way.
    async fn begin(
        &self,
        partition: &Partition,
        find: impl FnOnce(&Place) -> Result<Position, SourceError> + Send + 'static,
    ) -> Result<(), SourceError> {
        let inbox = self.member()?.inbox.clone();
        let assignment = inbox.stop(partition)?;
        // Only a paused partition has no record on its way that would end up behind the seek.
        loop {
            let settled = inbox.settled.notified();
            tokio::pin!(settled);
            settled.as_mut().enable();
            if inbox.is_paused(&assignment)? {
                break;
            }
            settled.await;
        }
        let (place, assigned) = (self.place(assignment.clone())?, inbox.clone());
        let position = blocking(move || {
            let position = find(&place)?;
            place.seek(position.next, || assigned.is_paused(&place.is).map(drop))?;
            Ok(position)
        })
        .await?;
        inbox.start(&assignment, position, Instant::now())
    }

    /// Finds out in the background whether a partition is still the one that was read; other partitions go on.
    fn look_back(&self, is: Assignment, position: Position) -> Result<(), SourceError> {
        let inbox = self.member()?.inbox.clone();
        let place = self.place(is)?;
        // The answer is for the inbox; nobody waits for the thread.
        drop(spawn_blocking(move || {
            let same = match place.check(&position) {
                Ok(()) => Some(true),
                Err(error) if error.kind().is_lost_position() => {
                    tracing::warn!(%error, "the partition has to be started anew");
                    Some(false)
                }
                Err(error) => {
                    tracing::debug!(%error, "whether the partition is still the same is not known yet");
                    std::thread::sleep(AGAIN);
                    None
                }
            };
            inbox.checked(&place.is, same);
        }));
        Ok(())
    }

    fn batch(&self, inbox: &inbox::Inbox, of: &Assignment, raws: Vec<Raw>) -> Option<Batch> {
        let last = raws.last()?.offset;
        let records: Vec<SourceRecord> = raws.into_iter().map(|raw| decode(&*self.decoder, raw)).collect();
        let position = Position::behind(last, records.last()?);
        let batch = Batch { partition: of.partition.clone(), records, position: (&position).into() };
        inbox.delivered(of, position);
        Some(batch)
    }
}

/// How long to wait before the broker is asked again what it could not answer.
const AGAIN: Duration = Duration::from_millis(200);

impl fmt::Debug for KafkaSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSource")
            .field("topics", &self.terms.topics)
            .field("limits", &self.terms.limits)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl EventSource for KafkaSource {
    fn capabilities(&self) -> SourceCapabilities {
        SourceCapabilities::new(true).with_checked_positions(true).with_rewinds(true)
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        let inbox = self.joined().await?.inbox.clone();
        loop {
            match inbox.take(Instant::now()) {
                Taken::Event(event) => return Ok(event),
                Taken::Failed(error) => return Err(error),
                Taken::Records(of, raws) => {
                    if let Some(batch) = self.batch(&inbox, &of, raws) {
                        return Ok(SourceEvent::Batch(batch));
                    }
                }
                Taken::Check(of, position) => self.look_back(of, position)?,
                Taken::Nothing(_) if inbox.is_over() => return Err(ended()),
                Taken::Nothing(None) => inbox.news.notified().await,
                Taken::Nothing(Some(until)) => {
                    let due = tokio::time::sleep_until(until.into());
                    tokio::select! {
                        () = inbox.news.notified() => {}
                        () = due => {}
                    }
                }
            }
        }
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        // One that is not ours is told before anything about the position.
        self.member()?.inbox.find(partition)?;
        let after = after.map(|position| Position::parse(partition, position)).transpose()?;
        let reset = self.reset;
        self.begin(partition, move |place| place.beginning(after, reset)).await
    }

    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.begin(partition, Place::oldest).await
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        let inbox = self.member()?.inbox.clone();
        inbox.find(partition)?;
        let position = Position::parse(partition, position)?;
        let place = self.place(inbox.told(partition, &position)?)?;
        blocking(move || {
            place.commit(&position)?;
            inbox.acknowledged(&place.is, &position);
            Ok(())
        })
        .await
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.member()?.inbox.hold(partition, true)
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        self.member()?.inbox.hold(partition, false)
    }

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        let (is, started) = self.member()?.inbox.started(partition)?;
        let next = match position {
            Some(position) => Some(Position::parse(partition, position)?.next),
            None => started,
        };
        let Some(next) = next else { return Ok(None) };
        let place = self.place(is)?;
        blocking(move || place.behind(next)).await.map(Some)
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        self.leave().await;
        Ok(())
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, SourceError> + Send + 'static,
) -> Result<T, SourceError> {
    spawn_blocking(work).await.unwrap_or_else(|error| Err(interrupted(error)))
}

fn interrupted(error: JoinError) -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, "the request was interrupted; try again").with_source(error)
}

fn ended() -> SourceError {
    SourceError::new(SourceErrorKind::Unavailable, "the consumer ended unexpectedly; call next again")
}
