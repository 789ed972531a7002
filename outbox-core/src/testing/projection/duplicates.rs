//! Duplicates: an event may come again at any later place.

use super::{Effect, ProjectionHarness, Runner};
use crate::{
    event::NewEvent,
    testing::{
        Sequencer,
        event::{SUITE_TYPE, numbered},
        suite::skip,
    },
};

/// Events that come again in a later step, as after a restart, have no second effect.
pub async fn the_same_events_again_change_nothing<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let events = [runner.event("a", 1), runner.event("b", 2), runner.event("a", 3)];
    assert_eq!(runner.apply(&events).await.applied, 3);
    for _ in 0..2 {
        let again = runner.apply(&events).await;
        assert_eq!((again.applied, again.duplicates), (0, 3));
    }
    runner.assert_at_last_step().await;
    runner.assert_effects("a", &[1, 3]).await;
    runner.assert_effects("b", &[2]).await;
}

/// An event that comes twice in one step has one effect.
pub async fn a_duplicate_within_a_step_changes_nothing<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let (one, two) = (runner.event("key", 1), runner.event("key", 2));
    let applied = runner.apply(&[one.clone(), one.clone(), two, one]).await;
    assert_eq!((applied.applied, applied.duplicates), (2, 2));
    runner.assert_effects("key", &[1, 2]).await;
}

/// A duplicate that arrives behind newer events of its key, as a fenced relay's last message does, does not undo them.
pub async fn an_older_duplicate_behind_newer_events_changes_nothing<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let events: Vec<_> = (0..4).map(|n| runner.event("key", n)).collect();
    runner.apply(&events).await;
    let late = runner.apply(&events[1..2]).await;
    assert_eq!((late.applied, late.duplicates), (0, 1));
    let newest = runner.event("key", 4);
    let mixed = runner.apply(&[events[0].clone(), newest, events[3].clone()]).await;
    match harness.effect() {
        Effect::Append => assert_eq!((mixed.applied, mixed.duplicates), (1, 2)),
        Effect::Overwrite => assert!(mixed.applied >= 1, "{mixed:?}"),
    }
    runner.assert_effects("key", &[0, 1, 2, 3, 4]).await;
}

/// What is old is decided key by key: an event with a lower sequence than another key's, or than the same id's of
/// another aggregate type, is not taken for a duplicate.
pub async fn keys_do_not_hide_each_other<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let low = runner.event("low", 1);
    let other_type = NewEvent::json("SuiteOther", "high", "Counted", &serde_json::json!({"n": 2})).expect("event");
    let low_other_type = runner.receive(other_type);
    let high = runner.event("high", 3);
    for event in [high, low, low_other_type] {
        assert_eq!(runner.apply(&[event]).await.applied, 1);
    }
    runner.assert_effects("high", &[3]).await;
    runner.assert_effects("low", &[1]).await;
    assert_eq!(harness.effects("SuiteOther", "high").await, [2]);
}

/// Where events carry an ordering key, it and not the aggregate decides what is old.
pub async fn an_ordering_key_decides_what_is_old<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let in_room = |id: &str, n| numbered(id, n).with_ordering_key("room").expect("ordering key");
    let events = [runner.receive(in_room("a", 1)), runner.receive(in_room("b", 2)), runner.receive(in_room("a", 3))];
    assert_eq!(runner.apply(&events).await.applied, 3);
    let late = runner.apply(&events[1..2]).await;
    assert_eq!((late.applied, late.duplicates), (0, 1));
    let effects = harness.effects(SUITE_TYPE, "room").await;
    assert_eq!(effects, runner.expected(&[1, 2, 3]));
}

/// Sequences of different logs cannot be compared: an event of another log is not old because its sequence is lower.
pub async fn sequences_of_different_logs_are_not_compared<H: ProjectionHarness>(harness: &H) {
    if harness.effect() == Effect::Overwrite {
        skip("sequences_of_different_logs_are_not_compared", "the harness declares that later effects overwrite");
        return;
    }
    let mut runner = Runner::new(harness, "p");
    let events: Vec<_> = (0..3).map(|n| runner.event("key", n)).collect();
    runner.apply(&events).await;
    let of_another_log = [Sequencer::default().receive(numbered("key", 3))];
    assert_eq!(runner.apply(&of_another_log).await.applied, 1);
    assert_eq!(runner.apply(&of_another_log).await.duplicates, 1);
    assert_eq!(runner.apply(&events).await.duplicates, 3, "the first log's watermark stays");
    runner.assert_effects("key", &[0, 1, 2, 3]).await;
}
