//! Projecting: effects of events in a store, applied once.

mod dead_letter;
mod error;

use async_trait::async_trait;

pub use dead_letter::{DeadLetter, DeadLetterCause};
pub use error::{ProjectionError, ProjectionErrorKind};

use crate::{
    event::ReceivedEvent,
    source::{Partition, RawRecord, SourcePosition},
};

/// A read model, an index, a side effect: whatever events are turned into.
///
/// Applications rarely implement this trait: `outbox-projector` does, around a handler of theirs. Stores that keep the
/// position with their own commit, such as an embedded search index, implement it directly.
///
/// # Contract
/// `apply` makes the effects of the events durable, in order, together with the position where
/// [`ProjectionCapabilities::keeps_position`] says so: after a crash either both are there or neither.
///
/// # Duplicates
/// An event may come again, later, behind newer events of its key. Its effect must not happen twice, and an older
/// event must not overwrite a newer one: skip an event whose sequence is not above the last one applied of its
/// aggregate type and [lane key](crate::event::Event::lane_key), or write with the sequence as version. Not of its
/// message key: an aggregate `7` and an ordering key `7` share that, but their writers do not wait for each other.
///
/// # Ordering
/// Events of one key come in order but for such duplicates.
///
/// # Concurrency
/// Two processes may believe that they own a partition. A projection that keeps the position refuses to move it from
/// anywhere but `from`: [`ProjectionErrorKind::Conflict`], and no effect. Partitions may be applied side by side.
///
/// # Cancellation
/// Dropping `apply` leaves all of its effect or none, where the position is kept; elsewhere the batch comes again.
///
/// # Errors
/// After [`ProjectionErrorKind::Unavailable`] the same step is tried again, for ever. After
/// [`ProjectionErrorKind::Failed`] and [`ProjectionErrorKind::Rejected`] an event is at fault:
/// [`ProjectionError::at`] names it, or the caller tries the events one by one to find it. It is then given up as a
/// [`DeadLetter`], if the caller has a place for those, and the step is applied without it; or the partition waits.
///
/// # Dead letters
/// [`Step::dead_letters`] are records that the step passes over. A projection that
/// [keeps](ProjectionCapabilities::keeps_dead_letters) them writes them down in the commit of the step. Others need not
/// look: the caller has written them down elsewhere before.
#[async_trait]
pub trait Projection: Send + Sync {
    /// A stable name: positions are kept under it.
    fn name(&self) -> &str;

    /// What this projection does differently.
    fn capabilities(&self) -> ProjectionCapabilities;

    /// The kept position of a partition; `None` when there is none, or the projection keeps none.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError>;

    /// Applies events of one partition and moves its position from `step.from` to `step.to`.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError>;
}

/// Some consecutive events of a partition, and the move of its position that belongs to them.
#[derive(Debug, Clone, Copy)]
pub struct Step<'a> {
    /// The partition.
    pub partition: &'a Partition,
    /// Where the position stands, as far as the caller knows; `None`: nowhere yet.
    pub from: Option<&'a SourcePosition>,
    /// Where it stands afterwards.
    pub to: &'a SourcePosition,
    /// The events in between. May be empty, when only the position moves.
    pub events: &'a [ReceivedEvent],
    /// What each of the events was decoded from, in their order, so that a projection which sets one aside keeps it as it
    /// came. Empty where nobody knows; see [`Step::raw`].
    pub raws: &'a [Option<RawRecord>],
    /// Records in between that are given up, in their order.
    pub dead_letters: &'a [DeadLetter],
}

impl<'a> Step<'a> {
    /// A step that gives nothing up, of events whose records nobody knows.
    #[must_use]
    pub fn new(
        partition: &'a Partition,
        from: Option<&'a SourcePosition>,
        to: &'a SourcePosition,
        events: &'a [ReceivedEvent],
    ) -> Self {
        Self { partition, from, to, events, raws: &[], dead_letters: &[] }
    }

    /// Sets [`Step::raws`].
    #[must_use]
    pub fn with_raws(self, raws: &'a [Option<RawRecord>]) -> Self {
        Self { raws, ..self }
    }

    /// What the event at `index` was decoded from; `None` where the source carries events as they are, and where nobody
    /// knows: also when there are more or fewer [`Step::raws`] than events, as behind a wrapper that only picked events.
    #[must_use]
    pub fn raw(&self, index: usize) -> Option<&'a RawRecord> {
        self.raws.get(index).filter(|_| self.raws.len() == self.events.len())?.as_ref()
    }

    /// Sets [`Step::dead_letters`].
    #[must_use]
    pub fn with_dead_letters(self, dead_letters: &'a [DeadLetter]) -> Self {
        Self { dead_letters, ..self }
    }
}

/// Where projections may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ProjectionCapabilities {
    /// The position is kept in the same commit as the effects. Where it is not, the source's own commit counts, and
    /// repeated events have to be harmless by their version.
    pub keeps_position: bool,
    /// [`Step::dead_letters`] are written down in the commit of the step.
    pub keeps_dead_letters: bool,
}

impl ProjectionCapabilities {
    /// A projection that does or does not keep its position, and keeps no dead letters.
    #[must_use]
    pub fn new(keeps_position: bool) -> Self {
        Self { keeps_position, keeps_dead_letters: false }
    }

    /// Sets [`ProjectionCapabilities::keeps_dead_letters`].
    #[must_use]
    pub fn with_keeps_dead_letters(mut self, yes: bool) -> Self {
        self.keeps_dead_letters = yes;
        self
    }
}

/// What a step did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Applied {
    /// Events whose effect was made.
    pub applied: usize,
    /// Events that were there already, or older than what was.
    pub duplicates: usize,
    /// Events of types this projection does not know.
    pub ignored: usize,
    /// Events set aside because an earlier one of their key is a dead letter: they are dead letters themselves now.
    pub held: usize,
}

impl std::ops::AddAssign for Applied {
    fn add_assign(&mut self, more: Self) {
        self.applied += more.applied;
        self.duplicates += more.duplicates;
        self.ignored += more.ignored;
        self.held += more.held;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    #[test]
    fn the_records_of_other_events_are_nobodys() {
        let event = |n: u8| ReceivedEvent {
            origin: None,
            event: NewEvent::json("Suite", "a", "Counted", &n).expect("event").into_event(),
        };
        let raw = |offset| RawRecord { offset, key: None, payload: None, headers: Vec::new() };
        let (events, raws) = ([event(0), event(1)], [None, Some(raw(7))]);
        let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
        let step = Step::new(&partition, None, &to, &events).with_raws(&raws);
        assert_eq!([0, 1, 2].map(|index| step.raw(index)), [None, Some(&raw(7)), None]);
        for (events, raws) in [(&events[1..], &raws[..]), (&events[..], &raws[1..]), (&events[..], &[])] {
            let step = Step { events, raws, ..step };
            assert_eq!([0, 1].map(|index| step.raw(index)), [None, None]);
        }
    }
}
