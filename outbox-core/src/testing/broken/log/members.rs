use super::{Flaw, Harness, assert_caught, caught, suite};

#[tokio::test]
async fn a_fence_that_is_ignored_is_caught() {
    let harness = Harness::with(Flaw::SilentFence);
    assert_caught(suite::a_former_member_cannot_checkpoint(&harness), "a former member's checkpoint succeeded").await;
    let harness = Harness::with(Flaw::LateFence);
    assert_caught(suite::a_former_member_cannot_checkpoint(&harness), "changed something").await;
}

#[tokio::test]
async fn a_lease_that_is_ignored_is_caught() {
    let harness = Harness::with(Flaw::IgnoresLeases);
    assert_caught(suite::a_live_member_keeps_its_lanes(&harness), "left == right").await;
    let harness = Harness::with(Flaw::IgnoresLeases);
    assert_caught(suite::renewing_keeps_the_lanes(&harness), "the renewed lease holds").await;
}

#[tokio::test]
async fn a_log_that_forgets_places_is_caught() {
    let harness = Harness::with(Flaw::ForgetsCheckpoints);
    assert_caught(suite::the_successor_starts_at_the_checkpoint(&harness), "comes again").await;
    let harness = Harness::with(Flaw::RestartsOnRegister);
    assert_caught(suite::registering_again_keeps_the_place(&harness), "registered again from End").await;
}

caught! {
    lagging_lanes_that_are_forgotten_are_caught:
        ForgetsLaggingLanes by a_checkpoint_keeps_the_places_of_lagging_lanes, "progress tells of each lane";
    lanes_that_jump_with_a_later_checkpoint_are_caught:
        ForgetsLaggingLanes by a_later_checkpoint_replaces_all_places, "the places of the last checkpoint";
    released_places_that_are_forgotten_are_caught:
        ForgetsReleasedPlaces by a_released_lane_is_handed_over_at_its_place, "the places they were released at";
    a_hand_over_at_the_wrong_place_is_caught:
        ForgetsCheckpoints by leaving_hands_over_at_once, "at the last checkpoint";
    a_take_over_at_the_wrong_place_is_caught:
        ForgetsCheckpoints by an_expired_member_is_expelled, "at the last checkpoint";
    lanes_gained_at_the_wrong_place_are_caught:
        ForgetsCheckpoints by gained_lanes_start_at_the_checkpoint, "at its checkpoint";
    owners_whose_places_are_mixed_up_are_caught:
        ForgetsCheckpoints by lanes_of_several_owners_keep_their_places, "did not move";
    fences_without_epochs_are_caught:
        LooksAtTheMemberOnly by a_member_may_join_again, "as before joining again succeeded";
    leases_that_never_end_are_caught:
        LeasesNeverEnd by an_expired_member_is_expelled, "a lone member owns every lane";
    leases_without_lanes_that_never_end_are_caught:
        LeasesNeverEnd by a_member_without_lanes_has_a_lease_too, "the only live member";
    renewals_in_vain_are_caught:
        ForgetsRenewals by renewing_keeps_the_lanes, "the renewed lease holds";
    a_take_over_by_halves_is_caught:
        TakesOverByHalves by an_expired_member_loses_every_lane_at_once, "the lanes of the first member";
    a_progress_that_stands_still_is_caught:
        ForgetsCheckpoints by progress_follows_the_checkpoint, "left == right";
    former_members_that_release_are_caught:
        SilentFence by a_former_member_cannot_release, "release succeeded";
    former_members_that_renew_are_caught:
        SilentFence by a_former_member_cannot_renew, "renewal succeeded";
    former_members_that_leave_are_caught:
        SilentFence by a_former_member_cannot_leave, "leaving succeeded";
    former_members_that_park_are_caught:
        SilentFence by a_former_member_cannot_park, "parking succeeded";
    former_members_that_redrive_are_caught:
        SilentFence by a_former_member_cannot_redrive, "redrive succeeded";
    checkpoints_of_other_lanes_are_caught:
        TakesAnyLanes by a_checkpoint_names_exactly_the_members_lanes, "another member's lanes succeeded";
    writes_in_other_lanes_are_caught:
        TakesAnyLanes by a_member_cannot_write_in_lanes_of_others, "everybody's lanes succeeded";
    lanes_that_are_never_shared_are_caught:
        NeverSurplus by lanes_are_shared_evenly, "lanes for one of 2";
    a_share_of_everything_is_caught:
        GivesAllOrNothing by a_member_takes_no_more_than_its_share, "beyond its share";
    free_lanes_that_nobody_gets_are_caught:
        GivesAllOrNothing by free_lanes_go_to_whoever_joins, "what was free";
    a_share_for_who_claims_all_is_caught:
        SharesWithWhoClaimsAll by who_claims_all_waits_for_every_lane, "who waits for all takes no share";
    sharing_with_who_claims_all_is_caught:
        SharesWithWhoClaimsAll by who_claims_all_keeps_the_others_out, "it keeps what it has";
    random_histories_find_a_place_that_is_forgotten:
        ForgetsReleasedPlaces by random_histories_agree_with_the_model, "places after";
    random_histories_find_members_that_write_too_much:
        TakesAnyLanes by random_histories_agree_with_the_model, "succeeded though it is fenced";
    random_histories_find_a_lease_that_never_ends:
        LeasesNeverEnd by random_histories_agree_with_the_model, "minimal failing input";
}
