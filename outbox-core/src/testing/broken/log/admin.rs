use super::{Flaw, Harness, assert_caught, caught, suite};

caught! {
    pausing_a_stranger_is_caught:
        PausesStrangers by operators_are_told_of_an_unknown_consumer, "set_paused of a stranger";
    consumers_in_no_order_are_caught:
        ListsBackwards by consumers_are_listed_with_their_members, "by name";
    members_that_are_not_listed_are_caught:
        ListsTheLiving by consumers_are_listed_with_their_members, "it still owns";
    a_lag_that_counts_parked_events_is_caught:
        ParkedIsPending by consumers_are_listed_with_their_lag, "neither passed nor parked";
    a_pause_that_nobody_is_told_of_is_caught:
        PausesInSilence by a_pause_is_told_to_members, "paused";
    a_pause_of_everybody_is_caught:
        PausesEverybody by a_pause_is_told_to_members, "another consumer goes on";
    a_consumer_that_stays_is_caught:
        DropsNothing by dropping_a_consumer_forgets_it, "left == right";
    members_of_a_dropped_consumer_that_write_are_caught:
        SilentFence by dropping_a_consumer_forgets_it, "a member of a dropped consumer succeeded";
    members_from_before_a_drop_that_write_are_caught:
        LooksAtTheMemberOnly by dropping_a_consumer_forgets_it, "from before the drop succeeded";
    lists_of_one_page_are_caught:
        ListsTheFirstPage by parked_events_are_listed_in_pages, "left == right";
    events_published_on_sight_are_caught:
        PublishesOnSight by the_status_of_an_event_follows_its_fate, "left == right";
    a_time_of_publication_that_moves_is_caught:
        PublishedLast by the_status_of_an_event_follows_its_fate, "at the first one that passed it";
    a_status_that_ignores_lanes_is_caught:
        PublishedByPosition by the_status_of_an_event_is_that_of_its_lane, "left == right";
    a_tail_that_is_late_is_caught:
        TailsBehind by people_see_the_committed_events, "as consumers read them";
    a_request_that_lies_is_caught:
        IgnoresRequests by commands_without_effect_are_harmless, "left == right";
}
