//! What is promised when the destination refuses a message.

use bytes::Bytes;

use super::{PublisherHarness, all_delivered, key, message, number, open, outcomes, send, written_payloads};
use crate::{
    publisher::{Message, Outcome, PublishErrorKind, Publisher},
    testing::suite::{skip, within},
};

/// After a failure everything later of that key that was already accepted is aborted and never written, also in a
/// later batch; what is sent afterwards is written. Other keys keep their own order.
pub async fn a_failure_aborts_what_follows_of_its_key<H: PublisherHarness>(harness: &H) {
    let case = "a_failure_aborts_what_follows_of_its_key";
    let (bad, good) = (key("bad"), key("good"));
    let Some(poison) = poison(harness, &bad, case) else { return };
    if !harness.publisher().capabilities().keeps_order_after_failure {
        skip(case, "the publisher declares that it does not keep order after a failure");
        return;
    }
    let mut stream = open(harness, 0).await;
    let of = |key: &Bytes, n| message(harness, key, n);
    let batches = [vec![of(&bad, 0), poison, of(&bad, 2), of(&good, 3)], vec![of(&bad, 4), of(&good, 5)]];

    let mut permits = Vec::new();
    for batch in &batches {
        let bytes = batch.iter().map(Message::bytes).sum();
        permits.push(within("a permit", stream.reserve(batch.len(), bytes)).await.expect("reserve"));
    }
    // Both are accepted before any outcome is seen.
    let deliveries: Vec<_> = permits.into_iter().zip(batches.clone()).map(|(p, batch)| p.send(batch)).collect();
    let mut fates: Vec<(Message, Outcome)> = Vec::new();
    for (mut delivery, batch) in deliveries.into_iter().zip(batches) {
        let outcomes = outcomes(delivery.as_mut(), batch.len()).await;
        fates.extend(batch.into_iter().zip(outcomes));
    }
    let failed = fates.iter().filter(|(m, o)| m.key == bad && is_blamed(o)).count();
    assert_eq!(failed, 1, "one message of the key fails, the rest is aborted: {fates:?}");
    assert!(!matches!(fates[1].1, Outcome::Delivered), "the poison was delivered");

    for (key, marker) in [(bad, 6), (good, 7)] {
        let fates: Vec<_> = fates.iter().filter(|(m, _)| m.key == key).collect();
        assert_prefix_then_aborted(&fates);
        let mut delivery = send(stream.as_mut(), vec![of(&key, marker)]).await;
        all_delivered(delivery.as_mut(), 1).await;
        let written = written_payloads(harness, &key, &number(marker)).await;
        let mut expected: Vec<_> = fates.iter().filter(|(_, o)| matches!(o, Outcome::Delivered)).collect();
        // A message reported as failed may have been written all the same; an aborted one may not.
        expected.extend(fates.iter().filter(|(m, o)| is_blamed(o) && written.contains(&m.payload)));
        let mut expected: Vec<_> = expected.into_iter().map(|(m, _)| m.payload.clone()).collect();
        expected.push(Some(number(marker)));
        assert_eq!(written, expected, "what key {key:?} holds");
    }
}

/// A message that is refused without others beside it is blamed itself, not the environment.
pub async fn a_message_refused_alone_is_to_blame<H: PublisherHarness>(harness: &H) {
    let key = key("bad");
    let Some(poison) = poison(harness, &key, "a_message_refused_alone_is_to_blame") else { return };
    let mut stream = open(harness, 0).await;
    let mut delivery = send(stream.as_mut(), vec![poison]).await;
    let fate = outcomes(delivery.as_mut(), 1).await.remove(0);
    assert!(is_blamed(&fate), "{fate:?}");
    let mut delivery = send(stream.as_mut(), vec![message(harness, &key, 1)]).await;
    all_delivered(delivery.as_mut(), 1).await;
}

/// Whether it failed for a reason that lies with messages.
fn is_blamed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(error) => matches!(error.kind(), PublishErrorKind::Suspect | PublishErrorKind::Event),
        Outcome::Delivered | Outcome::Aborted => false,
    }
}

/// Delivered ones, then at most one failure, then only aborted ones.
fn assert_prefix_then_aborted(fates: &[&(Message, Outcome)]) {
    let good = fates.iter().take_while(|(_, outcome)| matches!(outcome, Outcome::Delivered)).count();
    let rest = &fates[good..];
    assert!(rest.first().is_none_or(|(_, outcome)| is_blamed(outcome)), "aborted without a failure: {fates:?}");
    let after = rest.iter().skip(1);
    assert!(after.clone().all(|(_, outcome)| matches!(outcome, Outcome::Aborted)), "not aborted: {fates:?}");
}

fn poison<H: PublisherHarness>(harness: &H, key: &Bytes, case: &str) -> Option<Message> {
    let poison = harness.poison(key);
    if poison.is_none() {
        skip(case, "the harness declares that its destination refuses nothing");
    }
    poison
}
