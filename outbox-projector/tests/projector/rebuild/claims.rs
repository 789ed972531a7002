//! The claim is held for as long as the rebuild does anything, or it ends.

use std::{sync::Arc, time::Duration};

use outbox_projector::rebuild::{Generation, RebuildErrorKind, RebuildPhase};
use tokio::time::Instant;

use super::scene::{Fault, Running, Script};

const SECOND: Duration = Duration::from_secs(1);
const CLAIM: Duration = Duration::from_secs(15);
/// How long the store may take for a claim.
const ANSWER: Duration = Duration::from_secs(5);

fn second() -> Generation {
    Generation::FIRST.next()
}

/// A read model whose only partition is at its end, or not.
fn script(behind: u64) -> Arc<Script> {
    let script = Arc::new(Script::default());
    script.set_lag(0, Duration::ZERO, behind);
    script
}

fn start(script: Arc<Script>) -> Running {
    let running = Running::start(script);
    running.assign(0..1);
    running
}

fn longest_pause(calls: &[Instant], end: Instant) -> Duration {
    let ends = calls.iter().skip(1).copied().chain([end]);
    calls.iter().zip(ends).map(|(from, to)| to - *from).max().expect("it was claimed")
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_that_is_refused_touches_nothing() {
    let script = script(0);
    script.set("claim", Fault::Fails(RebuildErrorKind::Busy));
    let running = start(script.clone());
    assert_eq!(running.end().await, (Err(RebuildErrorKind::Busy), Duration::ZERO));
    for method in ["state", "prepare", "swap", "discard", "release"] {
        assert!(script.calls(method).is_empty(), "{method}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_rebuild_ends_when_another_has_its_claim() {
    let script = script(1);
    script.grant(4);
    script.set("claim", Fault::Fails(RebuildErrorKind::Busy));
    assert_eq!(start(script.clone()).end().await, (Err(RebuildErrorKind::Busy), 12 * SECOND));
    assert_eq!((script.calls("swap").len(), script.calls("close").len()), (0, 1));
}

/// Whatever a renewal does, and though the end is near by then and the source takes its time to close: when another can
/// claim the read model, this one has swapped nothing and given back what it read.
#[tokio::test(start_paused = true)]
async fn a_rebuild_that_cannot_renew_its_claim_is_gone_before_it_ends() {
    for fault in [Fault::Fails(RebuildErrorKind::Unavailable), Fault::Fails(RebuildErrorKind::Store), Fault::Hangs] {
        for close in [Fault::Takes(SECOND), Fault::Hangs] {
            let script = script(1);
            script.grant(3);
            script.set("claim", fault);
            script.set("close", close);
            let running = start(script.clone());
            let granted = running.began + 6 * SECOND;
            let ended = running.end().await;
            assert_eq!(ended.0, Err(RebuildErrorKind::Lapsed), "{fault:?}, {close:?}");
            assert_eq!(script.calls("claim")[2], granted);
            let closed = script.calls("close")[0];
            assert_eq!(closed, granted + 10 * SECOND, "{fault:?}, {close:?}");
            let gone = script.calls("gone")[0];
            assert!(gone < granted + CLAIM, "{fault:?}, {close:?}: {:?}", gone - granted);
            assert_eq!(script.calls("swap").len(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_renewal_that_fails_is_tried_again() {
    let script = script(1);
    script.grant(2);
    script.set("claim", Fault::Fails(RebuildErrorKind::Unavailable));
    let running = start(script.clone());
    running.at(8).await;
    script.mend("claim");
    running.at(48).await;
    script.set_lag(0, Duration::ZERO, 0);
    assert_eq!(running.end().await.0, Ok(second()));
}

/// The clock jumps while the end is near: the process was frozen, and does nothing more when it wakes.
#[tokio::test(start_paused = true)]
async fn a_rebuild_that_was_frozen_past_its_claim_does_nothing_more() {
    let script = script(1);
    let mut running = start(script.clone());
    running.until("it builds", |status| status.behind == Some(1)).await;
    running.at(4).await;
    let before = script.calls("claim").len();
    script.set_lag(0, Duration::ZERO, 0);
    tokio::time::advance(2 * CLAIM).await;
    assert_eq!(running.end().await.0, Err(RebuildErrorKind::Lapsed));
    assert_eq!((script.calls("claim").len(), script.calls("swap").len()), (before, 0));
}

/// However long each part of a rebuild takes, the claim is renewed all the time.
#[tokio::test(start_paused = true)]
async fn a_claim_is_renewed_in_everything_that_a_rebuild_does() {
    let script = script(0);
    for method in ["state", "prepare", "swap", "discard"] {
        script.set(method, Fault::Takes(60 * SECOND));
    }
    script.set("close", Fault::Takes(9 * SECOND));
    let running = start(script.clone());
    let (ended, after) = running.end().await;
    assert_eq!(ended, Ok(second()));
    assert!(after >= 240 * SECOND, "{after:?}");
    assert_eq!((script.calls("swap").len(), script.calls("discard").len()), (1, 1));
    assert_eq!(script.calls("first claim").len(), 1, "all others are renewals, which pass over nobody");
    let pause = longest_pause(&script.calls("claim"), script.calls("release")[0]);
    assert!(pause <= 4 * SECOND, "{pause:?}");
}

/// The read model is rebuilt: what is left to drop is left to the other.
#[tokio::test(start_paused = true)]
async fn a_claim_that_is_lost_after_the_swap_is_no_error() {
    let script = script(0);
    script.set("close", Fault::Takes(9 * SECOND));
    script.set("discard", Fault::Fails(RebuildErrorKind::Busy));
    let mut running = start(script.clone());
    running.until("it swapped", |status| status.phase == RebuildPhase::Swapping).await;
    script.set("claim", Fault::Fails(RebuildErrorKind::Busy));
    let status = running.status.clone();
    assert_eq!(running.end().await.0, Ok(second()));
    assert_eq!(status.borrow().phase, RebuildPhase::Dropping, "not done");
}

/// A store that drops for so long that it does not even renew gets to its end.
#[tokio::test(start_paused = true)]
async fn what_is_retired_is_dropped_though_the_claim_lapses() {
    let script = script(0);
    script.set("discard", Fault::Takes(60 * SECOND));
    let mut running = start(script.clone());
    running.until("it drops", |status| status.phase == RebuildPhase::Dropping).await;
    script.set("claim", Fault::Hangs);
    assert_eq!(running.end().await.0, Ok(second()));
}

#[tokio::test(start_paused = true)]
async fn a_first_claim_without_an_answer_is_given_up() {
    let script = script(0);
    script.set("claim", Fault::Hangs);
    let running = start(script.clone());
    assert_eq!(running.end().await, (Err(RebuildErrorKind::Unavailable), ANSWER));
    let running = start(script.clone());
    running.at(1).await;
    assert_eq!(running.stop().await, (Err(RebuildErrorKind::Stopped), Duration::ZERO));
}

/// Whatever hangs, a shutdown ends it: at once, but for a source that does not close and a claim that is not released.
#[tokio::test(start_paused = true)]
async fn a_shutdown_ends_a_rebuild_whatever_hangs() {
    const GRACE: Duration = Duration::from_secs(10);
    for (method, behind, at, longest) in [
        ("state", 0, 6, Duration::ZERO),
        ("prepare", 0, 6, Duration::ZERO),
        ("claim", 1, 5, Duration::ZERO),
        ("close", 1, 5, GRACE),
        ("swap", 0, 6, Duration::ZERO),
        ("discard", 0, 6, Duration::ZERO),
        ("release", 1, 6, ANSWER),
    ] {
        let script = script(behind);
        script.grant(1);
        script.set(method, Fault::Hangs);
        let running = start(script.clone());
        running.at(at).await;
        let (ended, after) = running.stop().await;
        assert_eq!((ended, after), (Err(RebuildErrorKind::Stopped), longest), "{method}");
        assert!(!script.calls(method).is_empty(), "{method} was called");
    }
}
