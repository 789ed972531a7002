use super::{Flaw, Harness, assert_caught, caught, suite};

#[tokio::test]
async fn a_log_in_the_wrong_order_is_caught() {
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::events_of_one_append_keep_their_order(&harness), "order within key a").await;
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::sequences_increase_per_key(&harness), "sequences of Suite/a").await;
    let harness = Harness::with(Flaw::Backwards);
    assert_caught(suite::order_survives_many_writers(&harness), "sequences go back").await;
}

#[tokio::test]
async fn a_log_that_shows_rolled_back_events_is_caught() {
    let harness = Harness::with(Flaw::Dirty);
    assert_caught(suite::rolled_back_events_are_never_read(&harness), "left == right").await;
    let harness = Harness::with(Flaw::Dirty);
    assert_caught(suite::order_survives_many_writers(&harness), "read but never committed").await;
}

#[tokio::test]
async fn a_reader_that_remembers_only_a_position_is_caught() {
    let harness = Harness::with(Flaw::RemembersOnlyAPosition);
    assert_caught(suite::a_late_commit_is_not_lost(&harness), "the late event and only it").await;
    let harness = Harness::with(Flaw::RemembersOnlyAPosition);
    assert_caught(suite::order_survives_many_writers(&harness), "every committed event is read").await;
}

#[tokio::test]
async fn a_log_that_loses_an_event_at_the_end_of_a_page_is_caught() {
    let harness = Harness::with(Flaw::LosesAtPageEnd);
    assert_caught(suite::pages_respect_the_limit_and_reach_the_end(&harness), "in pages of 1").await;
}

#[tokio::test]
async fn a_log_that_ignores_lanes_is_caught() {
    let harness = Harness::with(Flaw::IgnoresLanes);
    assert_caught(suite::lanes_divide_the_log(&harness), "only the lanes asked for").await;
}

#[tokio::test]
async fn a_log_that_forgets_headers_is_caught() {
    let harness = Harness::with(Flaw::ForgetsHeaders);
    assert_caught(suite::every_field_survives(&harness), "left == right").await;
}

#[tokio::test(start_paused = true)]
async fn a_log_that_wakes_nobody_is_caught() {
    let harness = Harness::with(Flaw::Mute);
    assert_caught(suite::commit_rings_the_bell(&harness), "the bell after a commit").await;
}

#[tokio::test(start_paused = true)]
async fn writers_that_wait_for_each_other_are_caught() {
    let harness = Harness::with(Flaw::OneWriter);
    let complaint = "writers and readers beside an open transaction";
    assert_caught(suite::an_open_transaction_holds_nobody_else_back(&harness), complaint).await;
    let harness = Harness::with(Flaw::OneWriter);
    let complaint = "an unordered event beside an open transaction";
    assert_caught(suite::unordered_events_wait_for_nobody(&harness), complaint).await;
}

caught! {
    an_append_of_nothing_that_fails_is_caught:
        RefusesNothing by an_empty_append_does_nothing, "append";
    appends_that_replace_each_other_are_caught:
        KeepsTheLastAppend by several_appends_are_one_transaction, "left == right";
    a_refusal_that_ends_the_transaction_is_caught:
        RefusesEverAfter by a_refused_event_leaves_the_transaction_usable, "append after the refusal";
    an_append_by_halves_is_caught:
        AppendsByHalves by one_refused_event_refuses_the_whole_append, "left == right";
    an_event_that_is_both_ordered_and_not_is_caught:
        TakesTornEvents by an_unordered_event_with_a_key_is_refused, "ordered or not";
    events_that_come_twice_are_caught:
        Twice by committed_events_are_read_once, "left == right";
    events_that_come_only_once_are_caught:
        Once by reading_again_yields_the_same, "left == right";
    the_order_of_appends_is_caught:
        InOrderOfAppend by commit_order_is_kept_between_two_writers_of_a_key, "second writer committed first: true";
    wrong_lanes_are_caught:
        LanesFromOne by lanes_follow_the_key, "lane of key";
    a_log_without_an_end_is_caught:
        NeverAtTheEnd by an_empty_log_is_caught_up, "not caught up";
    cursors_of_anything_are_caught:
        TakesAnyCursor by a_foreign_cursor_is_refused, "a foreign cursor";
    handles_that_do_not_meet_are_caught:
        HandlesApart by another_handle_sees_the_same_log, "left == right";
    a_stranger_that_may_join_is_caught:
        RegistersStrangers by an_unknown_consumer_is_refused, "join";
    a_start_at_the_wrong_end_is_caught:
        StartsAtTheBeginning by starting_at_the_end_sees_only_later_events, "left == right";
    a_checkpoint_by_halves_is_caught:
        ChecksByHalves by dropped_calls_have_all_or_no_effect, "all lanes stand at one place";
    an_unordered_event_that_comes_back_ordered_is_caught:
        ForgetsThatNothingOrders by every_field_survives, "left == right";
    tracks_in_the_wrong_order_are_caught:
        MixesTracks by each_track_is_read_from_its_own_place, "only the lanes of the track";
    tracks_that_never_meet_are_caught:
        KeepsTracksApart by tracks_that_reach_the_end_together_meet, "stand at one place";
    a_start_behind_younger_events_is_caught:
        StartsBehindTheLastOlderEvent by starting_at_a_time_leaves_out_none_created_since, "between";
    places_shared_by_consumers_are_caught:
        SharesPlaces by consumers_do_not_share_a_place, "the other consumer did not move";
}
