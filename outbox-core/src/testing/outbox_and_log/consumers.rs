//! What named consumers are promised: where they begin, and that they do not meet.

use super::{
    LogHarness,
    steps::{NONE, consumer, ids, join_alone, new_ids, place, read_on, register, sorted, whole, write},
};
use crate::{
    event::NewEvent,
    log::{Claim, EventLog, LogErrorKind, MemberId, StartAt},
    testing::event::numbered,
};

/// A consumer that was never registered cannot join and has no progress: [`LogErrorKind::UnknownConsumer`].
pub async fn an_unknown_consumer_is_refused<H: LogHarness>(harness: &H) {
    let stranger = consumer("stranger");
    let joined = harness.log().join(&stranger, MemberId::random(), Claim::Share, super::steps::LONG).await;
    assert_eq!(joined.expect_err("join").kind(), LogErrorKind::UnknownConsumer);
    let progress = harness.log().progress(&stranger).await;
    assert_eq!(progress.expect_err("progress").kind(), LogErrorKind::UnknownConsumer);
}

/// Registering a known consumer changes nothing, wherever it asks to start.
pub async fn registering_again_keeps_the_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    for again in [StartAt::End, StartAt::Beginning] {
        assert_eq!(register(log, "suite", again).await.1, start, "registered again from {again:?}");
    }
    let (owner, _) = join_alone(log, &consumer).await;
    log.checkpoint(&owner.fence, &whole(log, &end).await).await.expect("checkpoint");
    assert_eq!(register(log, "suite", StartAt::Beginning).await.1, end, "registered again after a checkpoint");
}

/// A consumer registered at the end sees only what is committed later.
pub async fn starting_at_the_end_sees_only_later_events<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let (consumer, start) = register(log, "suite", StartAt::End).await;
    let later = numbered("a", 3);
    write(harness, std::slice::from_ref(&later)).await;
    assert_eq!(ids(&read_on(log, &start).await.0), [later.event().id]);
    let (_, cursor) = join_alone(log, &consumer).await;
    assert_eq!(ids(&read_on(log, &cursor).await.0), [later.event().id]);
}

/// A consumer registered at a time begins at the first position whose event was created then or later, wherever the
/// writers' clocks stood at the positions behind it.
pub async fn starting_at_a_time_leaves_out_none_created_since<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let second = |n: i64| chrono::DateTime::from_timestamp(1_700_000_000 + n, 0).expect("a time");
    let events: Vec<NewEvent> =
        [10, 30, 20, 40].iter().zip(0..).map(|(at, n)| numbered("key", n).with_created_at(second(*at))).collect();
    for event in &events {
        write(harness, std::slice::from_ref(event)).await;
    }
    let ids_of = |from: usize| new_ids(&events[from..]);
    for (name, time, expected) in [
        ("before-all", 5, ids_of(0)),
        ("at-the-first", 10, ids_of(0)),
        ("between", 25, ids_of(1)),
        ("at-the-highest-so-far", 30, ids_of(1)),
        ("at-the-last", 40, ids_of(3)),
        ("after-all", 41, ids_of(4)),
    ] {
        let (_, start) = register(log, name, StartAt::Time(second(time))).await;
        assert_eq!(ids(&read_on(log, &start).await.0), expected, "{name}");
    }
    let late = numbered("key", 9).with_created_at(second(50));
    let (_, start) = register(log, "later", StartAt::Time(second(45))).await;
    write(harness, std::slice::from_ref(&late)).await;
    assert_eq!(ids(&read_on(log, &start).await.0), [late.event().id], "committed after the registration");
}

/// Each consumer has members and checkpoints of its own.
pub async fn consumers_do_not_share_a_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events = [numbered("a", 1), numbered("b", 2)];
    write(harness, &events).await;
    let (one, start) = register(log, "one", StartAt::Beginning).await;
    let (other, _) = register(log, "other", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, _) = join_alone(log, &one).await;
    let (second, _) = join_alone(log, &other).await;
    let tracks = whole(log, &end).await;
    log.checkpoint(&first.fence, &tracks).await.expect("checkpoint");
    assert_eq!(place(log, &other).await, start, "the other consumer did not move");
    assert_eq!(sorted(ids(&read_on(log, &start).await.0)), sorted(new_ids(&events)));
    log.checkpoint(&second.fence, &tracks).await.expect("the other consumer's own fence is good");
    assert_eq!(ids(&read_on(log, &place(log, &other).await).await.0), NONE);
}
