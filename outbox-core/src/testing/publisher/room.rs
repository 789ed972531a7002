//! Back-pressure: what [`LaneStream::reserve`](crate::publisher::LaneStream::reserve) promises.

use super::{PublisherHarness, all_delivered, key, message, open};
use crate::testing::suite::{skip, soon, within};

const BYTES: usize = 100;

/// When everything is reserved, the next reservation waits until messages were sent and their outcomes taken.
pub async fn reserve_waits_for_room<H: PublisherHarness>(harness: &H) {
    let Some(capacity) = capacity(harness, "reserve_waits_for_room") else { return };
    let mut stream = open(harness, 0).await;
    let permit = within("all the room", stream.reserve(capacity, capacity * BYTES)).await.expect("reserve");
    let mut waiting = Box::pin(stream.reserve(1, BYTES));
    assert!(soon(&mut waiting).await.is_none(), "more was reserved than there is room for");

    let mut delivery = permit.send((0..capacity).map(|n| message(harness, &key("key"), n)).collect());
    all_delivered(delivery.as_mut(), capacity).await;
    let permit = within("room after the outcomes", waiting).await.expect("reserve");
    let mut delivery = permit.send(vec![message(harness, &key("key"), capacity)]);
    all_delivered(delivery.as_mut(), 1).await;
}

/// A reservation that is dropped while it waits takes no room with it.
pub async fn a_waiting_reserve_may_be_dropped<H: PublisherHarness>(harness: &H) {
    let Some(capacity) = capacity(harness, "a_waiting_reserve_may_be_dropped") else { return };
    let mut stream = open(harness, 0).await;
    for _ in 0..3 {
        let permit = within("all the room", stream.reserve(capacity, capacity * BYTES)).await.expect("reserve");
        assert!(soon(stream.reserve(capacity, capacity * BYTES)).await.is_none(), "reserved twice");
        drop(permit);
    }
}

/// A permit that is dropped unused gives its room back.
pub async fn an_unused_permit_gives_its_room_back<H: PublisherHarness>(harness: &H) {
    let Some(capacity) = capacity(harness, "an_unused_permit_gives_its_room_back") else { return };
    let mut stream = open(harness, 0).await;
    for _ in 0..10 {
        drop(within("all the room", stream.reserve(capacity, capacity * BYTES)).await.expect("reserve"));
    }
}

fn capacity<H: PublisherHarness>(harness: &H, case: &str) -> Option<usize> {
    let capacity = harness.capacity();
    if capacity.is_none() {
        skip(case, "the harness declares no capacity");
    }
    capacity
}
