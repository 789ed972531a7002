//! The position: where the projection keeps it, it moves with the effects or not at all.

use super::{ProjectionHarness, Runner, position};
use crate::{
    event::NewEvent,
    projection::ProjectionErrorKind,
    testing::{event::SUITE_TYPE, suite::skip},
};

/// After a step its effects are there and the position is where the step ended; before the first there is none.
pub async fn effects_and_position_move_together<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    assert_eq!(runner.kept().await, None);
    let mut applied = Vec::new();
    for step in 0..3 {
        let events = [runner.event("key", 2 * step), runner.event("key", 2 * step + 1)];
        assert_eq!(runner.apply(&events).await.applied, 2);
        applied.extend([2 * step, 2 * step + 1]);
        runner.assert_at_last_step().await;
        runner.assert_effects("key", &applied).await;
    }
}

/// When an event is rejected, nothing of its step took effect, and the step without it can be applied.
pub async fn a_rejected_step_changes_nothing<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let first = runner.event("key", 1);
    runner.apply(&[first]).await;

    let good = runner.event("key", 2);
    let without_number = NewEvent::json(SUITE_TYPE, "key", "Counted", "no number").expect("event");
    let bad = runner.receive(without_number);
    let rejected = runner.try_apply(&[good.clone(), bad]).await.expect_err("an event without a number");
    assert_eq!(rejected.kind(), ProjectionErrorKind::Rejected, "{rejected}");
    runner.assert_at_last_step().await;
    if runner.keeps_position() {
        runner.assert_effects("key", &[1]).await;
    } else {
        skip("that a rejected step has no effect", "the projection declares that it keeps no position");
    }
    runner.apply(&[good]).await;
    runner.assert_effects("key", &[1, 2]).await;
}

/// A step that begins anywhere but at the kept position is a
/// [`Conflict`](ProjectionErrorKind::Conflict) and has no effect.
pub async fn a_step_from_elsewhere_is_a_conflict<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    if !runner.keeps_position() {
        skip("a_step_from_elsewhere_is_a_conflict", "the projection declares that it keeps no position");
        return;
    }
    let early = runner.event("key", 0);
    let nowhere = position(1_000);
    let conflict = runner.apply_between(Some(&nowhere), &position(1), &[early]).await;
    assert_eq!(conflict.expect_err("from a position never reached").kind(), ProjectionErrorKind::Conflict);
    assert_eq!(runner.kept().await, None);

    let first = runner.event("key", 1);
    runner.apply(&[first]).await;
    let second = [runner.event("key", 2)];
    for from in [None, Some(&nowhere)] {
        let conflict = runner.apply_between(from, &position(2_000), &second).await;
        assert_eq!(conflict.expect_err("from elsewhere").kind(), ProjectionErrorKind::Conflict, "from {from:?}");
    }
    runner.assert_at_last_step().await;
    runner.assert_effects("key", &[1]).await;
    runner.apply(&second).await;
    runner.assert_effects("key", &[1, 2]).await;
}

/// Of two processes that apply a step from the same position at once, one succeeds; the other has a conflict, or an
/// outcome that passes, and no effect.
pub async fn of_two_that_apply_one_step_one_wins<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    if !runner.keeps_position() {
        skip("of_two_that_apply_one_step_one_wins", "the projection declares that it keeps no position");
        return;
    }
    for round in 0..5 {
        let events = [runner.event("key", round)];
        let (from, to) = (runner.at.clone(), position(100 + round));
        let (one, other) = tokio::join!(
            runner.apply_between(from.as_ref(), &to, &events),
            runner.apply_between(from.as_ref(), &to, &events),
        );
        let losers: Vec<_> = [one, other].into_iter().filter_map(Result::err).collect();
        assert_eq!(losers.len(), 1, "round {round}: one of two succeeds");
        let kind = losers[0].kind();
        assert!(matches!(kind, ProjectionErrorKind::Conflict | ProjectionErrorKind::Unavailable), "{losers:?}");
        runner.at = Some(to);
        runner.assert_at_last_step().await;
        runner.assert_effects("key", &(0..=round).collect::<Vec<_>>()).await;
    }
}

/// A step without events moves the position.
pub async fn an_empty_step_moves_the_position<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    for _ in 0..2 {
        assert_eq!(runner.apply(&[]).await, crate::projection::Applied::default());
        runner.assert_at_last_step().await;
    }
    let event = runner.event("key", 1);
    runner.apply(&[event]).await;
    runner.assert_effects("key", &[1]).await;
}

/// The position of one partition says nothing about another.
pub async fn partitions_have_positions_of_their_own<H: ProjectionHarness>(harness: &H) {
    let mut one = Runner::new(harness, "topic/1");
    let event = one.event("one", 1);
    one.apply(&[event]).await;
    let mut other = Runner::new(harness, "topic/2");
    assert_eq!(other.kept().await, None);
    let event = one.event("other", 2);
    other.apply(&[event]).await;
    one.apply(&[]).await;
    one.assert_at_last_step().await;
    other.assert_at_last_step().await;
    one.assert_effects("one", &[1]).await;
    one.assert_effects("other", &[2]).await;
}

/// Events of a type that the projection does not know have no effect and hold nothing up.
pub async fn unknown_events_are_ignored<H: ProjectionHarness>(harness: &H) {
    let mut runner = Runner::new(harness, "p");
    let unknown = NewEvent::json(SUITE_TYPE, "key", "Unheard", "of").expect("event");
    let events = [runner.event("key", 1), runner.receive(unknown), runner.event("key", 2)];
    let applied = runner.apply(&events).await;
    assert_eq!((applied.applied, applied.ignored), (2, 1));
    runner.assert_at_last_step().await;
    runner.assert_effects("key", &[1, 2]).await;
}
