//! What operators do to a log: never fenced, safe at any time, beside running members.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::{ConsumerName, EventLog, LogError, MemberId, ParkedEvent};
use crate::event::{LaneSet, LogId, RecordedEvent, Sequence};

/// The operators' side of a log: who consumes it, what is parked, what may be removed.
///
/// # Contract
/// No method publishes anything, and none makes a consumer lose or overtake an event but those that say so:
/// [`LogAdmin::drop_consumer`] and [`LogAdmin::discard`].
///
/// # Duplicates
/// Repeating a method is harmless.
///
/// # Ordering
/// Redriven events are published in the order of their key by the member that owns the lane.
///
/// # Concurrency
/// Any number of operators beside any number of members.
///
/// # Cancellation
/// Every method may be dropped at any await: either all of its effect happens or none, except that
/// [`LogAdmin::prune`] works in steps, each of which is whole.
///
/// # Errors
/// As [`EventLog`]; [`LogErrorKind::UnknownConsumer`](super::LogErrorKind::UnknownConsumer) where a consumer is named
/// that was never registered.
#[async_trait]
pub trait LogAdmin: EventLog {
    /// All consumers by name, with their members.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError>;

    /// Makes the members of a consumer stop reading and publishing, or go on. They learn it with the next renewal of
    /// their lease: a relay within a third of it, a log source within two fifths. They keep their lanes, and retention
    /// stays behind the consumer.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn set_paused(&self, consumer: &ConsumerName, paused: bool) -> Result<(), LogError>;

    /// Forgets a consumer: its place, its members (which find themselves fenced; a relay then ends with
    /// [`LogErrorKind::UnknownConsumer`](super::LogErrorKind::UnknownConsumer)), its parked events and its history. What
    /// it had not consumed it will never get; registered again, it starts where it then asks to. Retention no
    /// longer waits for it. Look at [`LogAdmin::consumers`] first: it says what would be lost.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn drop_consumer(&self, consumer: &ConsumerName) -> Result<(), LogError>;

    /// Parked events of a consumer in the order of their sequences, at most `limit`, those after `after`.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn parked(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<ParkedEvent>, LogError>;

    /// Asks the owners of the lanes to publish parked events again, whole keys at a time, in order: in an attempt that
    /// begins after this call, so that one under way may fail and another one follows. Returns how many keys were asked
    /// for; 0 when nothing of the selection is parked.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn redrive(&self, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError>;

    /// Gives a parked event up: it will not be published to this consumer. It is kept with `reason`, see
    /// [`LogAdmin::discarded`], and the events behind it are redriven. One that is being redriven at this moment may be
    /// published all the same. Returns whether it was parked.
    ///
    /// # Errors
    /// [`LogErrorKind::BadName`](super::LogErrorKind::BadName) when the reason is blank; see the trait's *Errors*.
    async fn discard(&self, consumer: &ConsumerName, sequence: Sequence, reason: &str) -> Result<bool, LogError>;

    /// Discarded events of a consumer in the order of their sequences, at most `limit`, those after `after`.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn discarded(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<DiscardedEvent>, LogError>;

    /// What a consumer did with an event; `None` when the log has no such event (any more). The time of publication is
    /// that of the first checkpoint behind it, and unknown when the history does not go back so far.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn event_status(&self, consumer: &ConsumerName, sequence: Sequence) -> Result<Option<EventStatus>, LogError>;

    /// Events for people to look at: those above `after` in the order of positions, at most `limit`, of all committed
    /// ones. A follower may miss events that commit late; consumers use [`EventLog::read`].
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn tail(&self, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError>;

    /// Removes events that every registered consumer has passed and the policy does not keep. Works in steps of some
    /// thousand events and stops after `policy.steps` of them. Never blocks a writer. With no consumer registered it
    /// removes nothing.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn prune(&self, policy: &RetentionPolicy) -> Result<Pruned, LogError>;

    /// After a restore to an earlier time, a fail-over that lost transactions, or a move by dump and restore: raises the
    /// generation, so that positions issued again are new to consumers, and makes every consumer's place one of this
    /// server. Members are fenced. Consumers may see some events again, and miss none. Stop the writers first: they are
    /// kept waiting while it runs.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn reanchor(&self) -> Result<Reanchored, LogError>;
}

/// A consumer and how it is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerInfo {
    /// Its name.
    pub name: ConsumerName,
    /// When it was registered.
    pub created_at: DateTime<Utc>,
    /// Whether an operator paused it.
    pub paused: bool,
    /// Those who joined and did not leave, live or not.
    pub members: Vec<MemberInfo>,
    /// Lanes that no member owns.
    pub free_lanes: LaneSet,
    /// The lowest position that any of its lanes has passed.
    pub position: u64,
    /// When it last wrote a checkpoint.
    pub checkpoint_at: Option<DateTime<Utc>>,
    /// Events parked, behind others included.
    pub parked: u64,
    /// Keys blocked by them.
    pub blocked_keys: u64,
    /// When the oldest event that is neither passed nor parked was created.
    pub oldest_pending: Option<DateTime<Utc>>,
    /// The highest position issued, committed or not; 0 when none was.
    pub head: u64,
}

/// A member of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberInfo {
    /// Who.
    pub member: MemberId,
    /// Since which joining.
    pub epoch: u64,
    /// What it owns.
    pub lanes: LaneSet,
    /// When its lease ends or ended.
    pub expires: DateTime<Utc>,
    /// Whether its lease runs, by the database's clock.
    pub live: bool,
}

/// Which parked events to publish again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redrive {
    /// All.
    All,
    /// The key of this event.
    Event(Sequence),
    /// Every key of this aggregate.
    Aggregate {
        /// Its type.
        aggregate_type: String,
        /// Its id.
        aggregate_id: String,
    },
}

/// An event that an operator gave up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiscardedEvent {
    /// The event as it was parked.
    pub parked: ParkedEvent,
    /// Why it was given up.
    pub discard_reason: String,
    /// When.
    pub discarded_at: DateTime<Utc>,
}

/// What a consumer did with an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum EventStatus {
    /// Nothing recorded yet.
    Pending,
    /// Published, at the latest at this time; `None`: before the history begins.
    Published(Option<DateTime<Utc>>),
    /// Set aside.
    Parked(super::ParkState),
    /// Given up by an operator.
    Discarded,
}

/// Which events to keep though every consumer has passed them. Default: none, 100 steps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetentionPolicy {
    /// Those created within this time, by the writers' clocks.
    pub keep_for: Option<Duration>,
    /// About so many of the newest positions.
    pub keep_events: Option<u64>,
    /// The most steps of one call; at least 1.
    pub steps: u32,
}

impl Default for RetentionPolicy {
    fn default() -> Self {
        Self { keep_for: None, keep_events: None, steps: 100 }
    }
}

impl RetentionPolicy {
    /// Keeps events created within `age`.
    #[must_use]
    pub fn keep_for(mut self, age: Duration) -> Self {
        self.keep_for = Some(age);
        self
    }

    /// Keeps about the `events` newest ones.
    #[must_use]
    pub fn keep_events(mut self, events: u64) -> Self {
        self.keep_events = Some(events);
        self
    }

    /// Stops after so many steps; at least 1.
    #[must_use]
    pub fn steps(mut self, steps: u32) -> Self {
        self.steps = steps.max(1);
        self
    }
}

/// What [`LogAdmin::prune`] did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Events removed.
    pub removed: u64,
    /// There is more to remove now: call again.
    pub more: bool,
    /// The consumer that keeps the oldest event the policy would let go, if one does.
    pub held_back_by: Option<ConsumerName>,
}

/// What [`LogAdmin::reanchor`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reanchored {
    /// Which log.
    pub log: LogId,
    /// Its generation from now on.
    pub generation: u16,
    /// The first position of that generation.
    pub from_position: u64,
}
