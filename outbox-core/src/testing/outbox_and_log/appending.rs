//! What a writer is promised.

use bytes::Bytes;

use super::{
    LogHarness,
    steps::{NONE, ids, new_ids, of_key, read_all, sorted, write},
};
use crate::{
    event::{ContentType, Field, NewEvent},
    log::EventLog,
    outbox::{AppendErrorKind, Outbox},
    testing::{event::numbered, suite::within},
};

/// A committed event is read exactly once along a path of cursors.
pub async fn committed_events_are_read_once<H: LogHarness>(harness: &H) {
    let events: Vec<NewEvent> = (0..10).map(|n| numbered(&format!("key-{n}"), n)).collect();
    for event in &events {
        write(harness, std::slice::from_ref(event)).await;
    }
    assert_eq!(sorted(ids(&read_all(harness.log()).await)), sorted(new_ids(&events)));
}

/// An event of a transaction that rolled back is never read, whatever commits around it.
pub async fn rolled_back_events_are_never_read<H: LogHarness>(harness: &H) {
    let kept = [numbered("before", 1), numbered("after", 2)];
    write(harness, &kept[..1]).await;

    let mut tx = harness.begin().await;
    let lost = [numbered("before", 3), numbered("lost", 4)];
    let _receipt = harness.log().append(&mut tx, &lost).await.expect("append");
    harness.rollback(tx).await;

    write(harness, &kept[1..]).await;
    assert_eq!(sorted(ids(&read_all(harness.log()).await)), sorted(new_ids(&kept)));
}

/// Appending no event succeeds, and commits nothing.
pub async fn an_empty_append_does_nothing<H: LogHarness>(harness: &H) {
    write(harness, &[]).await;
    assert_eq!(ids(&read_all(harness.log()).await), NONE);
}

/// Several appends into one transaction are all there after its commit, those of one key in the order of the calls.
pub async fn several_appends_are_one_transaction<H: LogHarness>(harness: &H) {
    let events: Vec<NewEvent> = (0..6).map(|n| numbered("one", n)).collect();
    let mut tx = harness.begin().await;
    for chunk in events.chunks(2) {
        let receipt = harness.log().append(&mut tx, chunk).await.expect("append");
        assert_eq!(receipt.events(), 2);
    }
    harness.commit(tx).await;
    assert_eq!(ids(&read_all(harness.log()).await), new_ids(&events));
}

/// An event that cannot be published is refused by the name of its field, and the transaction can go on and commit.
pub async fn a_refused_event_leaves_the_transaction_usable<H: LogHarness>(harness: &H) {
    let events = [numbered("key", 1), numbered("key", 2)];
    let mut tx = harness.begin().await;
    let _receipt = harness.log().append(&mut tx, &events[..1]).await.expect("append");

    let refused = harness.log().append(&mut tx, &[too_long()]).await.expect_err("a payload of 2 MiB is refused");
    assert_eq!(refused.kind(), AppendErrorKind::Invalid);
    assert_eq!(refused.invalid().map(crate::event::InvalidEvent::field), Some(Field::Payload));

    let _receipt = harness.log().append(&mut tx, &events[1..]).await.expect("append after the refusal");
    harness.commit(tx).await;
    assert_eq!(ids(&read_all(harness.log()).await), new_ids(&events));
}

/// When one event of an append is refused, none of that append is added.
pub async fn one_refused_event_refuses_the_whole_append<H: LogHarness>(harness: &H) {
    let kept = numbered("key", 2);
    let mut tx = harness.begin().await;
    let mixed = [numbered("key", 1), too_long()];
    let refused = harness.log().append(&mut tx, &mixed).await.expect_err("a payload of 2 MiB is refused");
    assert_eq!(refused.kind(), AppendErrorKind::Invalid);
    let _receipt = harness.log().append(&mut tx, std::slice::from_ref(&kept)).await.expect("append");
    harness.commit(tx).await;
    assert_eq!(ids(&read_all(harness.log()).await), [kept.event().id]);
}

/// An event cannot be unordered and have an ordering key; the transaction stays usable.
pub async fn an_unordered_event_with_a_key_is_refused<H: LogHarness>(harness: &H) {
    let torn = numbered("key", 1).with_ordering_key("other").expect("event").unordered();
    let whole = numbered("key", 2).unordered();
    let mut tx = harness.begin().await;
    let refused = harness.log().append(&mut tx, &[torn]).await.expect_err("ordered or not");
    assert_eq!(refused.kind(), AppendErrorKind::Invalid);
    assert_eq!(refused.invalid().map(crate::event::InvalidEvent::field), Some(Field::OrderingKey));
    let _receipt = harness.log().append(&mut tx, std::slice::from_ref(&whole)).await.expect("append");
    harness.commit(tx).await;
    assert_eq!(ids(&read_all(harness.log()).await), [whole.event().id]);
}

/// Events of one append come out in the order of the slice, per key.
pub async fn events_of_one_append_keep_their_order<H: LogHarness>(harness: &H) {
    let keys = ["a", "b", "c"];
    let events: Vec<NewEvent> = (0..60).map(|n| numbered(keys[n % 3], n as u64)).collect();
    write(harness, &events).await;
    let read = read_all(harness.log()).await;
    assert_eq!(read.len(), events.len());
    for key in keys {
        let expected = events.iter().filter(|e| e.event().aggregate_id.as_str() == key).map(|e| e.event().id);
        let lane_key = format!("Suite/{key}");
        assert!(of_key(&read, &lane_key).map(|r| r.event.id).eq(expected), "order within key {key}");
    }
}

/// An event comes out of the log as it went in: every field, every byte.
pub async fn every_field_survives<H: LogHarness>(harness: &H) {
    let odd_json = Bytes::from_static(b"{\"z\" : \"\\u0000\",\t\"a\": 1.00, \"a\": \"\xd0\x96\"}");
    let json_dialect = ContentType::parse("application/vnd.suite+json; charset=utf-8").expect("content type");
    let events = [
        numbered("plain", 1),
        NewEvent::bytes("Suite", "raw", "Written", ContentType::json(), odd_json).expect("event"),
        NewEvent::bytes("Suite", "dialect", "Written", json_dialect, "[]").expect("event"),
        NewEvent::tombstone("Suite", "gone", "Erased").expect("event"),
        numbered("loose", 2).unordered(),
        NewEvent::json("Suite", "Жанна d'Arc \"%_\\", "Имя ✓", &())
            .and_then(|e| e.with_ordering_key("кімната/1"))
            .and_then(|e| e.with_header("binary", Bytes::from_static(&[0, 0xff, b'\n', 0x80])))
            .and_then(|e| e.with_header("repeated", "1"))
            .and_then(|e| e.with_header("repeated", "2"))
            .and_then(|e| e.with_header("empty", ""))
            .expect("event")
            .with_id(uuid::Uuid::from_u128(0xfeed_0000_0000_4000_8000_0000_0000_0001))
            .with_created_at("1999-12-31T23:59:59.999999Z".parse().expect("time")),
    ];
    write(harness, &events).await;
    let read = read_all(harness.log()).await;
    assert_eq!(read.len(), events.len());
    for new in &events {
        let recorded = read.iter().find(|r| r.event.id == new.event().id).expect("an event with this id");
        assert_eq!(&recorded.event, new.event());
    }
}

/// [`Receipt::committed`](crate::outbox::Receipt::committed) wakes readers of this log in this process, unless
/// nothing was appended.
pub async fn commit_rings_the_bell<H: LogHarness>(harness: &H) {
    use futures_util::FutureExt;
    let mut listener = harness.log().wake().listen();
    listener.arm();
    write(harness, &[]).await;
    assert!(listener.rung().now_or_never().is_none(), "rung though nothing was appended");
    write(harness, &[numbered("key", 1)]).await;
    within("the bell after a commit", listener.rung()).await;
}

/// Over the default limit of 1 MiB.
fn too_long() -> NewEvent {
    NewEvent::json("Suite", "key", "Counted", &"x".repeat(2 * 1024 * 1024)).expect("event")
}
