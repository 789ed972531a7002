//! What is promised while the destination accepts everything.

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};

use super::{PublisherHarness, all_delivered, key, message, number, open, outcomes, send, written_payloads};
use crate::{
    publisher::{Message, Outcome, Publisher},
    testing::suite::{PATIENCE, within},
};

/// Every message of a permit gets exactly one outcome, and then there are no more, however often one asks.
pub async fn every_message_gets_exactly_one_outcome<H: PublisherHarness>(harness: &H) {
    let mut stream = open(harness, 0).await;
    for batch in [1, 2, 50] {
        let messages = (0..batch).map(|n| message(harness, &key(&format!("key-{}", n % 3)), n)).collect();
        let mut delivery = send(stream.as_mut(), messages).await;
        assert_eq!(outcomes(delivery.as_mut(), batch).await.len(), batch);
        assert!(within("the end of a delivery", delivery.next()).await.is_empty(), "an outcome after the last one");
    }
}

/// Outcomes taken as runs are the same as one by one: each message has exactly one, whichever way it is asked for.
pub async fn outcomes_come_in_runs_too<H: PublisherHarness>(harness: &H) {
    const COUNT: usize = 50;
    let mut stream = open(harness, 0).await;
    for one_by_one_first in [false, true] {
        let messages = (0..COUNT).map(|n| message(harness, &key(&format!("key-{}", n % 7)), n)).collect();
        let mut delivery = send(stream.as_mut(), messages).await;
        let mut reported = vec![0; COUNT];
        if one_by_one_first {
            within("outcomes", delivery.next()).await.into_iter().for_each(|(index, _)| reported[index] += 1);
        }
        loop {
            let runs = within("outcomes", delivery.next_runs()).await;
            if runs.is_empty() {
                break;
            }
            for (run, outcome) in runs {
                assert!(matches!(outcome, Outcome::Delivered), "{run:?}: {outcome:?}");
                assert!(!run.is_empty(), "an outcome of no message");
                reported[run].iter_mut().for_each(|times| *times += 1);
            }
        }
        assert_eq!(reported, [1; COUNT], "how often each message was reported");
        assert!(within("the end of a delivery", delivery.next()).await.is_empty(), "an outcome after the last one");
    }
}

/// A message reaches the destination with its key, body, tombstone and headers, byte by byte.
pub async fn a_delivered_message_is_written_as_it_was_sent<H: PublisherHarness>(harness: &H) {
    let binary = key("\u{7f}ключ/1");
    let plain = message(harness, &binary, 1);
    let headers = [("one", &b"1"[..]), ("one", b"2"), ("binary", &[0, 0xff, 0x0a]), ("empty", b"")];
    let headers = headers.map(|(name, value)| (name.into(), Bytes::from_static(value))).to_vec();
    let sent = vec![
        Message { headers, payload: Some(Bytes::from_static(&[0xff, 0, b'{'])), ..plain.clone() },
        Message { payload: Some(Bytes::new()), ..plain.clone() },
        Message { payload: None, ..plain.clone() },
        plain,
    ];
    let mut delivery = send(open(harness, 0).await.as_mut(), sent.clone()).await;
    all_delivered(delivery.as_mut(), sent.len()).await;
    let written = within("the last message in the topic", harness.written(&binary, &number(1))).await;
    assert_eq!(written, sent);
}

/// Messages of a key are written in the order of acceptance, though further batches are sent before earlier ones are
/// acknowledged.
pub async fn order_is_kept_per_key<H: PublisherHarness>(harness: &H) {
    const KEYS: usize = 3;
    let batch = harness.capacity().unwrap_or(30).clamp(1, 30);
    let keys: Vec<Bytes> = (0..KEYS).map(|k| key(&format!("key-{k}"))).collect();
    let mut stream = open(harness, 0).await;
    let numbers: Vec<usize> = (0..300).collect();
    let mut deliveries: Vec<(Box<dyn crate::publisher::Delivery>, usize)> = Vec::new();
    for chunk in numbers.chunks(batch) {
        let messages: Vec<Message> = chunk.iter().map(|n| message(harness, &keys[n % KEYS], *n)).collect();
        let (bytes, count) = (messages.iter().map(Message::bytes).sum(), messages.len());
        // Room may come back only when outcomes are taken: take the oldest ones while waiting.
        let permit = loop {
            if let Some(permit) = stream.reserve(count, bytes).now_or_never() {
                break permit.expect("reserve");
            }
            if deliveries.is_empty() {
                break within("a permit", stream.reserve(count, bytes)).await.expect("reserve");
            }
            let (mut oldest, count) = deliveries.remove(0);
            all_delivered(oldest.as_mut(), count).await;
        };
        deliveries.push((permit.send(messages), count));
    }
    for (mut delivery, count) in deliveries {
        all_delivered(delivery.as_mut(), count).await;
    }
    for (k, key) in keys.iter().enumerate() {
        let expected: Vec<_> = numbers.iter().filter(|n| *n % KEYS == k).map(|n| Some(number(*n))).collect();
        let last = expected.last().cloned().flatten().expect("a last message");
        assert_eq!(written_payloads(harness, key, &last).await, expected, "order within key {k}");
    }
}

/// Sending nothing is allowed, and reports nothing.
pub async fn nothing_to_send_is_nothing_to_report<H: PublisherHarness>(harness: &H) {
    let mut stream = open(harness, 0).await;
    let permit = within("a permit", stream.reserve(1, 10)).await.expect("reserve");
    let mut delivery = permit.send(Vec::new());
    assert!(within("an empty delivery", delivery.next()).await.is_empty());
}

/// A wait for outcomes that is dropped loses none of them.
pub async fn waiting_for_outcomes_may_be_dropped<H: PublisherHarness>(harness: &H) {
    let key = key("key");
    let mut delivery = send(open(harness, 0).await.as_mut(), (0..5).map(|n| message(harness, &key, n)).collect()).await;
    let mut reported = Vec::new();
    let collecting = async {
        while reported.len() < 5 {
            // Polled once, dropped, and asked again: only what was handed out is gone.
            match delivery.next().now_or_never() {
                Some(outcomes) => reported.extend(outcomes.into_iter().map(|(index, _)| index)),
                None => tokio::task::yield_now().await,
            }
        }
    };
    within("every outcome", collecting).await;
    reported.sort_unstable();
    assert_eq!(reported, [0, 1, 2, 3, 4]);
}

/// Messages stay accepted when nobody waits for their outcome.
pub async fn dropping_a_delivery_cancels_nothing<H: PublisherHarness>(harness: &H) {
    let key = key("key");
    let mut stream = open(harness, 0).await;
    drop(send(stream.as_mut(), vec![message(harness, &key, 0), message(harness, &key, 1)]).await);
    let mut delivery = send(stream.as_mut(), vec![message(harness, &key, 2)]).await;
    all_delivered(delivery.as_mut(), 1).await;
    let written = written_payloads(harness, &key, &number(2)).await;
    assert_eq!(written, [0, 1, 2].map(|n| Some(number(n))));
}

/// Streams of different lanes deliver at the same time, each in its own order.
pub async fn streams_of_different_lanes_work_side_by_side<H: PublisherHarness>(harness: &H) {
    let lanes = (0..4).map(|lane| async move {
        let key = key(&format!("lane-{lane}"));
        let mut stream = open(harness, lane).await;
        for n in 0..10 {
            let mut delivery = send(stream.as_mut(), vec![message(harness, &key, n)]).await;
            all_delivered(delivery.as_mut(), 1).await;
        }
        let written = written_payloads(harness, &key, &number(9)).await;
        assert_eq!(written, (0..10).map(|n| Some(number(n))).collect::<Vec<_>>());
    });
    within("four lanes", join_all(lanes)).await;
}

/// Shutting down within a sufficient time delivers and reports everything accepted.
pub async fn shutting_down_waits_for_what_was_accepted<H: PublisherHarness>(harness: &H) {
    let key = key("key");
    let mut stream = open(harness, 0).await;
    let mut delivery = send(stream.as_mut(), (0..5).map(|n| message(harness, &key, n)).collect()).await;
    let in_time = within("the shut-down", harness.publisher().shut_down(PATIENCE / 2)).await;
    assert!(in_time, "not everything was reported in time");
    let reported = outcomes(delivery.as_mut(), 5).await;
    assert!(reported.iter().all(|outcome| matches!(outcome, Outcome::Delivered)), "{reported:?}");
    assert_eq!(written_payloads(harness, &key, &number(4)).await.len(), 5);
}
