//! Consuming: batches of events from a broker, or straight from a log.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::kinded_error, event::ReceivedEvent};

/// Delivers events in batches, partition by partition.
///
/// # Contract
/// Call [`EventSource::next`] in a loop. A partition delivers nothing before [`EventSource::start`] was called for it
/// after [`SourceEvent::Assigned`]. From there it delivers every event, or record that is none, behind the position
/// given. Positions are opaque to all but the adapter.
///
/// # Positions that fit no more
/// A position can lose its place: the partition was created again, its end was lost, or retention removed records that
/// nobody read. A source that declares [`checked_positions`](SourceCapabilities::checked_positions) never reads on from
/// the middle of such a partition in silence. [`EventSource::start`] refuses, with a kind that says what happened, see
/// [`SourceErrorKind::is_lost_position`]; and where it happens under a partition that is being read, the source takes
/// the partition away and assigns it anew, so that the caller starts it again and is told there. Then somebody, or a
/// rule, decides: fail, or [`EventSource::rewind`].
///
/// # Duplicates
/// A source may deliver an event again after a restart or a reassignment, from the position given to `start`, and the
/// relay's own duplicates at any later place. Consumers tell duplicates by [`ReceivedEvent::origin`] or the event's id.
///
/// # Ordering
/// Events of one ordering key come from one partition, their first deliveries in order.
///
/// # Concurrency
/// One task drives a source. Several sources of one consumer or group share its partitions.
///
/// # Cancellation
/// `next` may be dropped, however often: nothing is lost, and what it began, such as joining a group, goes on and is
/// taken up by the next call. A batch not committed comes again after a restart.
///
/// # Errors
/// [`SourceErrorKind::Unavailable`] passes: call `next` again; the source itself waits between its tries.
#[async_trait]
pub trait EventSource: Send {
    /// What this adapter does differently.
    fn capabilities(&self) -> SourceCapabilities;

    /// Waits for the next thing to do.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn next(&mut self) -> Result<SourceEvent, SourceError>;

    /// Begins delivery of an assigned partition behind `after`. `None`: behind the last [`EventSource::commit`], or
    /// at the configured beginning when there was none. Called again while the partition is read, it goes there.
    ///
    /// # Errors
    /// [`SourceErrorKind::BadPosition`] when `after` is not a position of this partition;
    /// [`SourceErrorKind::Recreated`], [`SourceErrorKind::Truncated`] or [`SourceErrorKind::Expired`] when `after`, or
    /// what was committed, fits no more; see the trait's *Errors*. The partition then stays assigned and delivers
    /// nothing.
    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError>;

    /// Begins delivery of an assigned partition at the oldest record it holds, whatever took effect or was committed.
    /// What took effect before comes again where it is still there. The answer to a lost position when a decision, or a
    /// rule, says so.
    ///
    /// Default: refuses, for sources that cannot go back; they do not declare [`SourceCapabilities::rewinds`].
    ///
    /// # Errors
    /// [`SourceErrorKind::Configuration`] when this source cannot; see the trait's *Errors*.
    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        let message = format!("this source cannot go back to the beginning of {partition}; read it as a new consumer");
        Err(SourceError::new(SourceErrorKind::Configuration, message))
    }

    /// Records that everything up to `position` took effect.
    ///
    /// # Errors
    /// [`SourceErrorKind::Revoked`] when the partition belongs to another consumer now; see the trait's *Errors*.
    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError>;

    /// Stops delivery of a partition until [`EventSource::resume`], keeping its assignment.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError>;

    /// Ends a pause.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError>;

    /// How many records stand behind `position` at the moment, at least about; `None` for the position means the place
    /// where the partition was started. `None` as answer: this source cannot tell.
    ///
    /// The source does nothing else meanwhile, so callers ask for one partition at a time, with a limit: the future may be
    /// dropped, nothing is lost by it. A source answers from what it knows where it can, and within a second, or is not
    /// heard.
    ///
    /// Default: cannot tell.
    ///
    /// # Errors
    /// [`SourceErrorKind::Revoked`]; see the trait's *Errors*.
    async fn lag(
        &mut self,
        _partition: &Partition,
        _position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        Ok(None)
    }

    /// Leaves: partitions are given back at once. Call it last.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn close(&mut self) -> Result<(), SourceError>;
}

#[async_trait]
impl<S: EventSource + ?Sized> EventSource for Box<S> {
    fn capabilities(&self) -> SourceCapabilities {
        (**self).capabilities()
    }

    async fn next(&mut self) -> Result<SourceEvent, SourceError> {
        (**self).next().await
    }

    async fn start(&mut self, partition: &Partition, after: Option<&SourcePosition>) -> Result<(), SourceError> {
        (**self).start(partition, after).await
    }

    async fn rewind(&mut self, partition: &Partition) -> Result<(), SourceError> {
        (**self).rewind(partition).await
    }

    async fn commit(&mut self, partition: &Partition, position: &SourcePosition) -> Result<(), SourceError> {
        (**self).commit(partition, position).await
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), SourceError> {
        (**self).pause(partition).await
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), SourceError> {
        (**self).resume(partition).await
    }

    async fn lag(
        &mut self,
        partition: &Partition,
        position: Option<&SourcePosition>,
    ) -> Result<Option<u64>, SourceError> {
        (**self).lag(partition, position).await
    }

    async fn close(&mut self) -> Result<(), SourceError> {
        (**self).close().await
    }
}

/// Where sources may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SourceCapabilities {
    /// Records can be other than events, so undecodable ones occur.
    pub foreign_records: bool,
    /// A position that fits no more is told, see *Positions that fit no more* in [`EventSource`]. A source without this
    /// tells positions of other partitions by the partition's name, and refuses what it does not know as
    /// [`SourceErrorKind::BadPosition`].
    pub checked_positions: bool,
    /// [`EventSource::rewind`] works.
    pub rewinds: bool,
}

impl SourceCapabilities {
    /// A source with or without foreign records, that neither checks positions nor rewinds.
    #[must_use]
    pub fn new(foreign_records: bool) -> Self {
        Self { foreign_records, checked_positions: false, rewinds: false }
    }

    /// Sets [`SourceCapabilities::checked_positions`].
    #[must_use]
    pub fn with_checked_positions(mut self, yes: bool) -> Self {
        self.checked_positions = yes;
        self
    }

    /// Sets [`SourceCapabilities::rewinds`].
    #[must_use]
    pub fn with_rewinds(mut self, yes: bool) -> Self {
        self.rewinds = yes;
        self
    }
}

/// What happened in a source.
#[derive(Debug)]
#[non_exhaustive]
pub enum SourceEvent {
    /// Partitions were given to this consumer, or have to be started anew; start each. Their names tell partitions of
    /// one cluster or log from those of another, so a position kept under a name never meets another cluster's records.
    /// Without partitions: nothing was given, and the source works.
    Assigned(Vec<Partition>),
    /// Partitions were taken away: whatever is not committed will be delivered to somebody else.
    Revoked(Vec<Partition>),
    /// Records.
    Batch(Batch),
}

/// Consecutive records of one partition.
#[derive(Debug, Clone)]
pub struct Batch {
    /// Which partition.
    pub partition: Partition,
    /// Its records in order. Empty when only the position moved on.
    pub records: Vec<SourceRecord>,
    /// Everything up to here is in this batch or in earlier ones.
    pub position: SourcePosition,
}

/// One record.
#[derive(Debug, Clone)]
pub enum SourceRecord {
    /// An event.
    Event {
        /// The event.
        event: ReceivedEvent,
        /// What it was decoded from; `None` where the source carries events as they are.
        raw: Option<RawRecord>,
    },
    /// A record that is not an event this consumer can decode.
    Undecodable {
        /// Why not.
        reason: String,
        /// What came.
        raw: RawRecord,
    },
}

/// A record as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawRecord {
    /// Its number in its partition.
    pub offset: u64,
    /// Its key.
    pub key: Option<Bytes>,
    /// Its body.
    pub payload: Option<Bytes>,
    /// Its headers in order.
    pub headers: Vec<(Arc<str>, Bytes)>,
}

impl SourceRecord {
    /// An event of a source that carries events as they are.
    #[must_use]
    pub fn event(event: impl Into<ReceivedEvent>) -> Self {
        Self::Event { event: event.into(), raw: None }
    }
}

impl RawRecord {
    /// Where it stands, for people: such as `tutor-events/3@1207`.
    #[must_use]
    pub fn place(&self, partition: &Partition) -> String {
        format!("{partition}@{}", self.offset)
    }
}

/// One ordered part of a source, such as a topic's partition.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition(Arc<str>);

impl Partition {
    /// For adapters: the partition's full name, including what tells it from partitions of other sources, such as
    /// cluster id, topic and number.
    #[must_use]
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place in a partition, in a form only the source understands.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SourcePosition(Arc<str>);

impl SourcePosition {
    /// For adapters, and for projections that keep positions in their own store.
    #[must_use]
    pub fn from_text(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The adapter's form.
    #[must_use]
    pub fn as_text(&self) -> &str {
        &self.0
    }
}

kinded_error! {
    /// Why a source could not serve.
    SourceError, SourceErrorKind
}

/// The kinds of [`SourceError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SourceErrorKind {
    /// The broker or database cannot be reached: call again.
    Unavailable,
    /// The partition belongs to another consumer now: nothing was recorded.
    Revoked,
    /// The position is not one of this partition.
    BadPosition,
    /// The record that the position stands behind is gone or another one: the partition was created again, restored or
    /// copied. What stands behind the position now has nothing to do with what took effect.
    Recreated,
    /// The partition ends before the position: its end was lost, or it was created again and is shorter.
    Truncated,
    /// Retention removed records behind the position: they were never delivered.
    Expired,
    /// The source cannot work as configured.
    Configuration,
}

impl SourceErrorKind {
    /// Whether a position fits no more: nothing will help but a decision where to go on, such as
    /// [`EventSource::rewind`].
    #[must_use]
    pub fn is_lost_position(self) -> bool {
        matches!(self, Self::Recreated | Self::Truncated | Self::Expired)
    }
}
