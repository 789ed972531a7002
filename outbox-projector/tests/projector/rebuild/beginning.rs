//! What was begun before is continued, thrown away, or found live: also where that takes longer than a claim.

use std::{sync::Arc, time::Duration};

use outbox_projector::rebuild::{Generation, Rebuild, RebuildErrorKind, RebuildPhase};

use super::scene::{Fault, Running, Script};

const SECOND: Duration = Duration::from_secs(1);
const FIRST: Generation = Generation::FIRST;

fn second() -> Generation {
    FIRST.next()
}

fn third() -> Generation {
    second().next()
}

/// A read model whose second generation was begun, and a source at its end.
fn begun() -> Arc<Script> {
    let script = Arc::new(Script::default());
    script.set_lag(0, Duration::ZERO, 0);
    script.is_begun();
    script
}

/// What was begun takes a minute to drop, and the claim is not renewed meanwhile.
fn begun_and_out_of_reach() -> Arc<Script> {
    let script = begun();
    script.grant(1);
    script.set("claim", Fault::Hangs);
    script.set("discard", Fault::Takes(60 * SECOND));
    script
}

fn afresh(script: &Arc<Script>) -> Running {
    let running = Running::start_as(script.clone(), Rebuild::afresh);
    running.assign(0..1);
    running
}

/// A store with one writer renews nothing while it drops a large table.
#[tokio::test(start_paused = true)]
async fn a_discard_may_take_longer_than_the_claim() {
    let script = begun_and_out_of_reach();
    let running = afresh(&script);
    running.at(50).await;
    script.mend("claim");
    let (ended, after) = running.end().await;
    assert_eq!(ended, Ok(third()), "no number is used twice");
    assert!(after >= 60 * SECOND, "{after:?}");
    let gone = [("consumer", second()), ("generation", second()), ("consumer", FIRST), ("generation", FIRST)];
    assert_eq!(script.gone(), gone);
    assert_eq!(script.calls("swap").len(), 1);
}

/// Whoever renews it at last hears whether another was there in the gap: nobody was, and nothing is done again.
#[tokio::test(start_paused = true)]
async fn a_gap_in_which_nobody_came_is_none() {
    let script = begun_and_out_of_reach();
    let running = afresh(&script);
    running.at(59).await;
    script.mend("claim");
    script.mend("discard");
    let granted = running.began + 60 * SECOND;
    assert_eq!(running.end().await.0, Ok(third()));
    assert!(script.calls("claim").contains(&granted));
    assert_eq!((script.calls("state").len(), script.calls("prepare").len()), (1, 2));
    assert_eq!(script.calls("first claim").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_built_after_a_gap_in_which_another_came() {
    let script = begun_and_out_of_reach();
    let running = afresh(&script);
    running.at(59).await;
    script.set("claim", Fault::Fails(RebuildErrorKind::Busy));
    assert_eq!(running.end().await, (Err(RebuildErrorKind::Busy), 60 * SECOND));
    assert!(script.calls("close").is_empty() && script.calls("swap").is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_built_when_a_claim_does_not_come_back() {
    let script = begun_and_out_of_reach();
    let running = afresh(&script);
    assert_eq!(running.end().await, (Err(RebuildErrorKind::Lapsed), 65 * SECOND));
    assert!(script.calls("close").is_empty() && script.calls("swap").is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_discard_ends_when_another_has_the_claim() {
    let script = begun();
    script.grant(1);
    script.set("claim", Fault::Fails(RebuildErrorKind::Busy));
    script.set("discard", Fault::Takes(60 * SECOND));
    assert_eq!(afresh(&script).end().await, (Err(RebuildErrorKind::Busy), 3 * SECOND));
}

/// The swap of a rebuild that was taken for dead: it is live, however this one was to begin.
#[tokio::test(start_paused = true)]
async fn a_generation_that_went_live_meanwhile_is_neither_built_nor_dropped() {
    for is_afresh in [false, true] {
        let script = begun();
        script.swap_is_under_way();
        let running = if is_afresh { afresh(&script) } else { Running::start(script.clone()) };
        let status = running.status.clone();
        assert_eq!(running.end().await, (Ok(second()), Duration::ZERO), "afresh: {is_afresh}");
        assert_eq!(status.borrow().phase, RebuildPhase::Done);
        assert_eq!(script.gone(), [("consumer", FIRST), ("generation", FIRST)], "afresh: {is_afresh}");
        assert!(script.calls("swap").is_empty());
    }
}
