use super::{Flaw, Harness, assert_caught, caught, suite};

caught! {
    retention_that_ignores_consumers_is_caught:
        PrunesEverything by pruning_stays_behind_every_consumer, "more was removed";
    retention_that_does_not_say_who_holds_back_is_caught:
        HidesWhoHoldsBack by pruning_stays_behind_every_consumer, "the slow consumer keeps the rest";
    retention_that_ignores_lagging_lanes_is_caught:
        PrunesBehindTheFastestLane by pruning_stays_behind_a_lagging_lane, "the lagging lane";
    retention_that_removes_what_commits_late_is_caught:
        PrunesWhatCommitsLate by pruning_spares_what_commits_late, "removed before anybody read it";
    retention_without_consumers_is_caught:
        PrunesWithoutConsumers by pruning_without_consumers_removes_nothing, "left == right";
    retention_without_a_policy_is_caught:
        IgnoresPolicy by the_policy_keeps_the_newest_events, "all are younger";
    retention_in_one_step_is_caught:
        PrunesInOneStep by pruning_goes_in_steps, "one step of some thousand";
    retention_that_never_says_that_there_is_more_is_caught:
        PrunesWithoutSaying by pruning_goes_in_steps, "it says that there is more";
    positions_that_come_again_are_caught:
        ReusesPositions by positions_are_never_given_out_again, "after";
    cursors_that_get_too_old_are_caught:
        RefusesOldCursors by reading_begins_at_the_first_event_left, "BadCursor";
    parked_events_that_are_removed_are_caught:
        PrunesParked by parked_events_survive_retention, "as they were parked";
    a_generation_that_stays_is_caught:
        KeepsTheGeneration by reanchoring_raises_the_generation_of_new_events, "left == right";
    old_events_that_are_renamed_are_caught:
        RaisesOldEvents by reanchoring_raises_the_generation_of_new_events, "an old event keeps its sequence";
    members_that_outlive_reanchoring_are_caught:
        SilentFence by reanchoring_fences_members, "renewing after re-anchoring succeeded";
    members_from_before_reanchoring_that_write_are_caught:
        LooksAtTheMemberOnly by reanchoring_fences_members, "as before re-anchoring succeeded";
    events_that_are_skipped_when_reanchoring_are_caught:
        SkipsWhenReanchored by nothing_is_missed_when_the_log_is_reanchored, "not passed is missed";
    consumers_that_are_forgotten_when_reanchoring_are_caught:
        ForgetsConsumersWhenReanchored by idle_consumers_survive_reanchoring, "from the beginning";
}
