use super::{Flaw, Harness, assert_caught, caught, suite};
use crate::{
    event::RecordedEvent,
    log::{Park, ParkFailure, Republished},
};

caught! {
    a_failure_that_blocks_nothing_is_caught:
        BlocksNothing by later_events_of_a_blocked_key_are_set_aside, "left == right";
    a_key_that_is_blocked_unasked_is_caught:
        BlocksEverything by later_events_of_a_blocked_key_are_set_aside, "nothing failed yet";
    events_that_overtake_within_a_call_are_caught:
        ParksBehindFirst by one_call_parks_an_event_and_those_behind_it, "the key that failed in this call";
    parking_by_halves_is_caught:
        ParksByHalves by an_unknown_event_cannot_be_parked, "all or none";
    parking_anew_is_caught:
        ParksAnew by parking_again_keeps_the_event_and_its_time, "parked since";
    a_failure_that_is_not_updated_is_caught:
        KeepsTheFirstFailure by parking_again_keeps_the_event_and_its_time, "the new failure";
    reasons_without_end_are_caught:
        KeepsLongReasons by any_reason_can_be_kept, "characters kept of a long reason";
    keys_of_other_lanes_are_caught:
        TellsOfAllLanes by parked_events_go_with_their_lanes, "of the lanes kept";
    keys_of_other_consumers_are_caught:
        TellsOfAllLanes by parked_events_belong_to_one_consumer, "left == right";
    an_unordered_event_that_blocks_its_aggregate_is_caught:
        BlocksTheAggregate by an_unordered_event_blocks_nothing_else, "its own id is its key";
    keys_written_otherwise_are_caught:
        BlocksTheAggregate by a_failed_event_is_set_aside_and_blocks_its_key, "as lane keys are written";
    a_checkpoint_behind_parked_events_that_is_lost_is_caught:
        ForgetsCheckpoints by a_checkpoint_passes_parked_events, "left == right";
    retries_before_their_time_are_caught:
        EverythingIsDue by a_retry_is_due_when_its_time_has_come, "its time has not come";
    a_renewal_that_tells_nothing_is_caught:
        RenewsInSilence by a_retry_is_due_when_its_time_has_come, "something is due";
    redriving_unasked_is_caught:
        EverythingIsDue by a_request_makes_keys_due, "nobody asked";
    requests_in_vain_are_caught:
        IgnoresRequests by a_request_makes_keys_due, "left == right";
    a_wrong_count_of_keys_is_caught:
        CountsEvents by a_request_makes_keys_due, "every key";
    due_events_in_the_wrong_order_are_caught:
        DueBackwards by due_events_come_in_the_order_of_their_key, "in order";
    a_key_that_is_never_freed_is_caught:
        NeverFrees by the_last_republished_event_frees_the_key, "each key is empty";
    a_key_that_is_freed_too_early_is_caught:
        FreesAtOnce by the_last_republished_event_frees_the_key, "two are left";
    events_that_are_forgotten_behind_another_are_caught:
        ForgetsThoseBehind by the_last_republished_event_frees_the_key, "two are left";
    requests_that_never_end_are_caught:
        RequestsForEver by failing_again_ends_the_request, "it waits again";
    requests_that_end_with_an_older_attempt_are_caught:
        ForgetsNewRequests by a_request_outlives_an_attempt_that_began_before_it, "since the attempt began";
    a_discard_without_a_reason_is_caught:
        DiscardsWithoutReason by a_discard_keeps_the_event_and_the_reason, "a blank reason";
    a_discard_without_a_trace_is_caught:
        DiscardsWithoutTrace by a_discard_keeps_the_event_and_the_reason, "[]";
    events_that_wait_behind_a_discarded_one_are_caught:
        DiscardsOnlyTheFirst by a_discard_lets_those_behind_go, "those behind it";
    a_key_that_a_discard_does_not_free_is_caught:
        RemembersBlockedKeys by discarding_the_last_event_frees_the_key, "the key is free";
    random_histories_find_a_key_that_is_never_free:
        NeverFrees by random_histories_agree_with_the_model, "minimal failing input";
}

/// A failure that nobody asked for.
pub(super) fn a_failure() -> ParkFailure {
    ParkFailure { reason: "unasked".to_owned(), attempts: 1, retry_in: None }
}

pub(super) fn failing(recorded: &RecordedEvent) -> Park {
    Park { sequence: recorded.origin.sequence, lane: recorded.lane, failure: Some(a_failure()) }
}

pub(super) fn published(recorded: &RecordedEvent) -> Republished {
    let lane_key = recorded.event.lane_key().into_owned();
    Republished { sequence: recorded.origin.sequence, lane: recorded.lane, lane_key }
}
