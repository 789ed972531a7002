//! What is promised when the destination refuses a message.

use bytes::Bytes;

use super::{PublisherHarness, all_delivered, key, message, number, open, outcomes, send, written_payloads};
use crate::{
    publisher::{Message, Outcome, PublishErrorKind, Publisher},
    testing::suite::{skip, within},
};

/// Once a message failed, everything later of its key that the stream accepted, before or after the failure was seen,
/// is aborted and never written. A stream opened anew writes again, behind all that the old one wrote.
pub async fn a_failure_breaks_its_key_until_the_stream_is_opened_anew<H: PublisherHarness>(harness: &H) {
    let case = "a_failure_breaks_its_key_until_the_stream_is_opened_anew";
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
    assert_eq!(failed, 1, "one message of the key fails, what follows is aborted: {fates:?}");
    assert!(!matches!(fates[1].1, Outcome::Delivered), "the poison was delivered");

    // The failure is known by now, and the old stream still may not write: a stream may also refuse to reserve.
    let after = of(&bad, 6);
    if let Ok(permit) = within("a permit or a refusal", stream.reserve(1, after.bytes())).await {
        let fate = outcomes(permit.send(vec![after.clone()]).as_mut(), 1).await.remove(0);
        assert!(matches!(fate, Outcome::Aborted), "accepted by a broken stream: {fate:?}");
        fates.push((after, fate));
    }
    drop(stream);

    let mut stream = open(harness, 0).await;
    for (key, marker) in [(bad, 7), (good, 8)] {
        let fates: Vec<_> = fates.iter().filter(|(m, _)| m.key == key).collect();
        assert_prefix_only(&fates);
        let mut delivery = send(stream.as_mut(), vec![of(&key, marker)]).await;
        all_delivered(delivery.as_mut(), 1).await;
        let written = written_payloads(harness, &key, &number(marker)).await;
        // A message reported as failed may have been written all the same; an aborted one may not.
        let may_stand = |(m, o): &&&(Message, Outcome)| match o {
            Outcome::Delivered => true,
            Outcome::Failed(_) => written.contains(&m.payload),
            Outcome::Aborted => false,
        };
        let mut expected: Vec<_> = fates.iter().filter(may_stand).map(|(m, _)| m.payload.clone()).collect();
        expected.push(Some(number(marker)));
        assert_eq!(written, expected, "what key {key:?} holds");
    }
}

/// A message that is refused without others beside it is blamed itself, not the environment.
pub async fn a_message_refused_alone_is_to_blame<H: PublisherHarness>(harness: &H) {
    let key = key("bad");
    let Some(poison) = poison(harness, &key, "a_message_refused_alone_is_to_blame") else { return };
    let mut delivery = send(open(harness, 0).await.as_mut(), vec![poison]).await;
    let fate = outcomes(delivery.as_mut(), 1).await.remove(0);
    assert!(is_blamed(&fate), "{fate:?}");
    let mut delivery = send(open(harness, 0).await.as_mut(), vec![message(harness, &key, 1)]).await;
    all_delivered(delivery.as_mut(), 1).await;
}

/// Whether it failed for a reason that lies with messages.
fn is_blamed(outcome: &Outcome) -> bool {
    match outcome {
        Outcome::Failed(error) => matches!(error.kind(), PublishErrorKind::Suspect | PublishErrorKind::Event),
        Outcome::Delivered | Outcome::Aborted => false,
    }
}

/// Delivered ones, then perhaps one that failed, then only aborted ones.
fn assert_prefix_only(fates: &[&(Message, Outcome)]) {
    let good = fates.iter().take_while(|(_, outcome)| matches!(outcome, Outcome::Delivered)).count();
    let rest = &fates[good..];
    // Another key's failure may abort this one's messages, so that none of its own need fail.
    let aborted = rest.iter().skip_while(|(_, outcome)| is_blamed(outcome));
    assert!(aborted.clone().count() + 1 >= rest.len(), "failed after a failure: {fates:?}");
    assert!(aborted.clone().all(|(_, outcome)| matches!(outcome, Outcome::Aborted)), "not aborted: {fates:?}");
}

fn poison<H: PublisherHarness>(harness: &H, key: &Bytes, case: &str) -> Option<Message> {
    let poison = harness.poison(key);
    if poison.is_none() {
        skip(case, "the harness declares that its destination refuses nothing");
    }
    poison
}
