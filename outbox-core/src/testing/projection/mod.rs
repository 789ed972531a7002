//! The suite of [`Projection`].

mod duplicates;
mod position;
mod random;

use async_trait::async_trait;

pub use duplicates::*;
pub use position::*;
pub use random::*;

use super::event::{SUITE_TYPE, Sequencer, numbered};
use crate::{
    event::{NewEvent, ReceivedEvent},
    projection::{Applied, Projection, ProjectionError, Step},
    source::{Partition, SourcePosition},
};

/// A projection over an empty store, which does with the suite's events what [`Effect`] says, and a way to see it.
///
/// * `Counted` events carry a number, [`number_of`](super::number_of). One without a number has to be
///   [`Rejected`](crate::projection::ProjectionErrorKind::Rejected).
/// * Events of any other type are ignored.
/// * Effects belong to the event's aggregate type and [message key](crate::event::Event::message_key).
#[async_trait]
pub trait ProjectionHarness: Send + Sync {
    /// The projection.
    type Projection: Projection;

    /// The projection under test.
    fn projection(&self) -> &Self::Projection;

    /// What the projection makes of an event. [`Effect::Append`] catches more mistakes: choose it where you can.
    fn effect(&self) -> Effect {
        Effect::Append
    }

    /// What is in the store for this aggregate type and message key: the numbers appended, in order, or the one
    /// that was stored last.
    async fn effects(&self, aggregate_type: &str, key: &str) -> Vec<u64>;

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// What a projection makes of the suite's events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// Appends the number to a list: done twice or out of order, it shows.
    Append,
    /// Stores the number in place of the one before, as an index of documents does. Of the events of a key in a step it
    /// may look at the newest alone: then an old one counts as what became of that one, be it a duplicate or not.
    Overwrite,
}

/// Makes one test of every case of the suite of [`Projection`]: `projection_suite!(module_name, make_harness)`; see
/// [`testing`](crate::testing).
#[macro_export]
macro_rules! projection_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::conformance_suite!(
            $name,
            $make_harness,
            projection::ProjectionHarness,
            [
                effects_and_position_move_together,
                a_rejected_step_changes_nothing,
                a_step_from_elsewhere_is_a_conflict,
                of_two_that_apply_one_step_one_wins,
                an_empty_step_moves_the_position,
                partitions_have_positions_of_their_own,
                unknown_events_are_ignored,
                the_same_events_again_change_nothing,
                a_duplicate_within_a_step_changes_nothing,
                an_older_duplicate_behind_newer_events_changes_nothing,
                keys_do_not_hide_each_other,
                an_ordering_key_decides_what_is_old,
                sequences_of_different_logs_are_not_compared,
                random_duplicates_change_nothing,
            ]
        );
    };
}

/// Applies steps to a partition and follows its position, as a runner does.
struct Runner<'h, H> {
    harness: &'h H,
    sequencer: Sequencer,
    partition: Partition,
    at: Option<SourcePosition>,
    steps: u64,
}

impl<'h, H: ProjectionHarness> Runner<'h, H> {
    fn new(harness: &'h H, partition: &str) -> Self {
        Self { harness, sequencer: Sequencer::default(), partition: Partition::new(partition), at: None, steps: 0 }
    }

    /// The `n`th event of a key, at the log's next place.
    fn event(&self, key: &str, n: u64) -> ReceivedEvent {
        self.receive(numbered(key, n))
    }

    fn receive(&self, event: NewEvent) -> ReceivedEvent {
        self.sequencer.receive(event)
    }

    /// Applies a step that has to succeed.
    async fn apply(&mut self, events: &[ReceivedEvent]) -> Applied {
        self.try_apply(events).await.expect("apply")
    }

    /// Applies a step; on success the position moves.
    async fn try_apply(&mut self, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
        self.steps += 1;
        let to = position(self.steps);
        let applied = self.apply_between(self.at.as_ref(), &to, events).await?;
        assert_eq!(
            applied.applied + applied.duplicates + applied.ignored + applied.held,
            events.len(),
            "every event is counted"
        );
        self.at = Some(to);
        Ok(applied)
    }

    async fn apply_between(
        &self,
        from: Option<&SourcePosition>,
        to: &SourcePosition,
        events: &[ReceivedEvent],
    ) -> Result<Applied, ProjectionError> {
        self.harness.projection().apply(Step::new(&self.partition, from, to, events)).await
    }

    /// The position that the projection keeps, where it keeps one.
    async fn kept(&self) -> Option<SourcePosition> {
        self.harness.projection().position(&self.partition).await.expect("position")
    }

    fn keeps_position(&self) -> bool {
        self.harness.projection().capabilities().keeps_position
    }

    /// The kept position is where the last step ended; a projection that keeps none has none.
    async fn assert_at_last_step(&self) {
        let expected = if self.keeps_position() { self.at.clone() } else { None };
        assert_eq!(self.kept().await, expected);
    }

    /// What the store holds for a key of the suite's own aggregate type, against all numbers applied to it.
    async fn assert_effects(&self, key: &str, applied: &[u64]) {
        assert_eq!(self.harness.effects(SUITE_TYPE, key).await, self.expected(applied), "effects of key {key}");
    }

    fn expected(&self, applied: &[u64]) -> Vec<u64> {
        match self.harness.effect() {
            Effect::Append => applied.to_vec(),
            Effect::Overwrite => applied.last().copied().into_iter().collect(),
        }
    }
}

fn position(n: u64) -> SourcePosition {
    SourcePosition::from_text(format!("suite-{n}"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_case() {
        crate::testing::suite::assert_all_listed(
            include_str!("mod.rs"),
            &[include_str!("position.rs"), include_str!("duplicates.rs"), include_str!("random.rs")],
        );
    }
}
