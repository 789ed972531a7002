//! What a relay does with one lane, in small: enough to see what a publisher costs the innocent.

use std::collections::{BTreeSet, VecDeque};

use outbox_core::publisher::{Message, Outcome, PublishErrorKind, Publisher};
use outbox_kafka::publisher::KafkaPublisher;

use crate::support::{lane, outcomes, send};

/// How the messages of a lane fared.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Fared {
    /// Refused as messages at fault: given up.
    pub(crate) given_up: BTreeSet<usize>,
    /// Refused together with others, and then sent alone.
    pub(crate) suspected: BTreeSet<usize>,
}

/// Sends all messages, several batches at once, and after a failure again from the first one of which it is not known
/// that it was delivered. Suspects are sent alone, when nothing else of the lane is under way.
pub(crate) async fn relay(
    publisher: &KafkaPublisher,
    number: u8,
    messages: &[Message],
    batch: usize,
    window: usize,
) -> Fared {
    let mut fared = Fared::default();
    let mut open: BTreeSet<usize> = (0..messages.len()).collect();
    while !open.is_empty() {
        let mut suspects = BTreeSet::new();
        let mut under_way = VecDeque::new();
        let mut stream = publisher.open(lane(number)).await.expect("a stream");
        let numbers: Vec<usize> = open.iter().copied().collect();
        let mut batches = numbers.chunks(batch);
        let mut failed = false;
        loop {
            while !failed && under_way.len() < window {
                let Some(numbers) = batches.next() else { break };
                let delivery = send(stream.as_mut(), numbers.iter().map(|n| messages[*n].clone()).collect()).await;
                under_way.push_back((numbers, delivery));
            }
            let Some((numbers, mut delivery)) = under_way.pop_front() else { break };
            for (index, outcome) in outcomes(delivery.as_mut()).await {
                let n = numbers[index];
                failed |= !matches!(outcome, Outcome::Delivered);
                match outcome {
                    Outcome::Delivered => _ = open.remove(&n),
                    Outcome::Aborted => {}
                    Outcome::Failed(error) => match error.kind() {
                        PublishErrorKind::Event => {
                            fared.given_up.insert(n);
                            open.remove(&n);
                        }
                        PublishErrorKind::Suspect => _ = suspects.insert(n),
                        kind => assert_eq!(kind, PublishErrorKind::Environment, "{error}"),
                    },
                }
            }
        }
        for suspect in suspects {
            fared.suspected.insert(suspect);
            if sent_alone(publisher, number, &messages[suspect], &mut fared, suspect).await {
                open.remove(&suspect);
            }
        }
    }
    fared
}

/// Whether the message is settled: delivered, or given up.
async fn sent_alone(publisher: &KafkaPublisher, number: u8, message: &Message, fared: &mut Fared, n: usize) -> bool {
    let mut stream = publisher.open_isolated(lane(number)).await.expect("a stream");
    match outcomes(send(stream.as_mut(), vec![message.clone()]).await.as_mut()).await.remove(&0) {
        Some(Outcome::Delivered) => true,
        Some(Outcome::Failed(error)) if error.kind() == PublishErrorKind::Event => fared.given_up.insert(n),
        Some(Outcome::Failed(error)) => {
            assert_eq!(error.kind(), PublishErrorKind::Environment, "{error}");
            false
        }
        other => panic!("sent alone: {other:?}"),
    }
}
