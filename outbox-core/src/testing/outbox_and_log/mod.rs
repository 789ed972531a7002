//! The suite of [`Outbox`], [`EventLog`] and [`LogAdmin`]: one harness serves all, since none can be seen without the
//! others.

mod admin;
mod appending;
mod balance;
mod concurrency;
mod consumers;
mod fences;
mod generations;
mod histories;
mod members;
mod model;
mod parking;
mod reading;
mod redriving;
mod retention;
mod steps;
mod tracks;

use async_trait::async_trait;

pub use admin::*;
pub use appending::*;
pub use balance::*;
pub use concurrency::*;
pub use consumers::*;
pub use fences::*;
pub use generations::*;
pub use histories::*;
pub use members::*;
pub use parking::*;
pub use reading::*;
pub use redriving::*;
pub use retention::*;
pub use tracks::*;

use crate::{
    log::{EventLog, LogAdmin},
    outbox::Outbox,
};

/// A fresh, empty log with [`Profile::default`](crate::profile::Profile::default) and 64 lanes, and its transactions.
///
/// Cases hold up to six transactions open at once and read beside them: give a pool at least eight connections.
#[async_trait]
pub trait LogHarness: Send + Sync {
    /// The adapter.
    type Log: Outbox + EventLog + LogAdmin;

    /// The log under test.
    fn log(&self) -> &Self::Log;

    /// A second handle on the same log, opened as another process would.
    async fn open_again(&self) -> Self::Log;

    /// Begins a transaction.
    async fn begin(&self) -> <Self::Log as Outbox>::Tx<'static>;

    /// Commits it.
    async fn commit(&self, tx: <Self::Log as Outbox>::Tx<'static>);

    /// Rolls it back.
    async fn rollback(&self, tx: <Self::Log as Outbox>::Tx<'static>);

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// Makes one test of every case of the suite of [`Outbox`], [`EventLog`] and [`LogAdmin`]:
/// `outbox_log_suite!(module_name, make_harness)`; see [`testing`](crate::testing).
#[macro_export]
macro_rules! outbox_log_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::conformance_suite!(
            $name,
            $make_harness,
            outbox_and_log::LogHarness,
            [
                committed_events_are_read_once,
                rolled_back_events_are_never_read,
                an_empty_append_does_nothing,
                several_appends_are_one_transaction,
                a_refused_event_leaves_the_transaction_usable,
                one_refused_event_refuses_the_whole_append,
                an_unordered_event_with_a_key_is_refused,
                events_of_one_append_keep_their_order,
                every_field_survives,
                commit_rings_the_bell,
                lanes_follow_the_key,
                lanes_divide_the_log,
                reading_again_yields_the_same,
                pages_respect_the_limit_and_reach_the_end,
                sequences_increase_per_key,
                an_empty_log_is_caught_up,
                a_foreign_cursor_is_refused,
                another_handle_sees_the_same_log,
                each_track_is_read_from_its_own_place,
                tracks_that_reach_the_end_together_meet,
                a_checkpoint_keeps_the_places_of_lagging_lanes,
                a_later_checkpoint_replaces_all_places,
                lanes_of_several_owners_keep_their_places,
                a_released_lane_is_handed_over_at_its_place,
                a_late_commit_is_not_lost,
                an_open_transaction_holds_nobody_else_back,
                commit_order_is_kept_between_two_writers_of_a_key,
                unordered_events_wait_for_nobody,
                order_survives_many_writers,
                an_unknown_consumer_is_refused,
                registering_again_keeps_the_place,
                starting_at_the_end_sees_only_later_events,
                starting_at_a_time_leaves_out_none_created_since,
                consumers_do_not_share_a_place,
                a_live_member_keeps_its_lanes,
                a_member_may_join_again,
                leaving_hands_over_at_once,
                an_expired_member_is_expelled,
                an_expired_member_loses_every_lane_at_once,
                renewing_keeps_the_lanes,
                the_successor_starts_at_the_checkpoint,
                progress_follows_the_checkpoint,
                dropped_calls_have_all_or_no_effect,
                lanes_are_shared_evenly,
                a_member_takes_no_more_than_its_share,
                free_lanes_go_to_whoever_joins,
                who_claims_all_waits_for_every_lane,
                who_claims_all_keeps_the_others_out,
                a_member_without_lanes_has_a_lease_too,
                gained_lanes_start_at_the_checkpoint,
                a_former_member_cannot_checkpoint,
                a_former_member_cannot_release,
                a_former_member_cannot_renew,
                a_former_member_cannot_leave,
                a_former_member_cannot_park,
                a_former_member_cannot_redrive,
                a_checkpoint_names_exactly_the_members_lanes,
                a_member_cannot_write_in_lanes_of_others,
                a_failed_event_is_set_aside_and_blocks_its_key,
                later_events_of_a_blocked_key_are_set_aside,
                one_call_parks_an_event_and_those_behind_it,
                parking_again_keeps_the_event_and_its_time,
                any_reason_can_be_kept,
                an_unknown_event_cannot_be_parked,
                parked_events_belong_to_one_consumer,
                parked_events_go_with_their_lanes,
                a_checkpoint_passes_parked_events,
                an_unordered_event_blocks_nothing_else,
                a_retry_is_due_when_its_time_has_come,
                a_request_makes_keys_due,
                due_events_come_in_the_order_of_their_key,
                the_last_republished_event_frees_the_key,
                failing_again_ends_the_request,
                a_request_outlives_an_attempt_that_began_before_it,
                a_discard_keeps_the_event_and_the_reason,
                a_discard_lets_those_behind_go,
                discarding_the_last_event_frees_the_key,
                operators_are_told_of_an_unknown_consumer,
                consumers_are_listed_with_their_members,
                consumers_are_listed_with_their_lag,
                a_pause_is_told_to_members,
                dropping_a_consumer_forgets_it,
                parked_events_are_listed_in_pages,
                the_status_of_an_event_follows_its_fate,
                the_status_of_an_event_is_that_of_its_lane,
                people_see_the_committed_events,
                commands_without_effect_are_harmless,
                pruning_stays_behind_every_consumer,
                pruning_stays_behind_a_lagging_lane,
                pruning_spares_what_commits_late,
                pruning_without_consumers_removes_nothing,
                the_policy_keeps_the_newest_events,
                pruning_goes_in_steps,
                positions_are_never_given_out_again,
                reading_begins_at_the_first_event_left,
                parked_events_survive_retention,
                reanchoring_raises_the_generation_of_new_events,
                reanchoring_fences_members,
                nothing_is_missed_when_the_log_is_reanchored,
                idle_consumers_survive_reanchoring,
                random_histories_agree_with_the_model,
            ]
        );
    };
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_case() {
        crate::testing::suite::assert_all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("admin.rs"),
                include_str!("appending.rs"),
                include_str!("balance.rs"),
                include_str!("concurrency.rs"),
                include_str!("consumers.rs"),
                include_str!("fences.rs"),
                include_str!("generations.rs"),
                include_str!("histories.rs"),
                include_str!("members.rs"),
                include_str!("parking.rs"),
                include_str!("reading.rs"),
                include_str!("redriving.rs"),
                include_str!("retention.rs"),
                include_str!("tracks.rs"),
            ],
        );
    }

    #[test]
    fn the_guide_names_every_case() {
        let guide = include_str!("../../../../docs/writing-an-adapter.md");
        crate::testing::suite::assert_all_named(include_str!("mod.rs"), &[guide]);
    }
}
