//! The suite of [`Publisher`].

mod delivery;
mod failure;
mod room;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;

pub use delivery::*;
pub use failure::*;
pub use room::*;

use super::suite::within;
use crate::{
    event::Lane,
    publisher::{Delivery, LaneStream, Message, Outcome, Publisher},
};

/// A publisher, and a topic that nobody else writes to and that is empty at first.
#[async_trait]
pub trait PublisherHarness: Send + Sync {
    /// The adapter.
    type Publisher: Publisher;

    /// The publisher under test.
    fn publisher(&self) -> &Self::Publisher;

    /// The topic.
    fn topic(&self) -> Arc<str>;

    /// What the destination holds: every message of `key` in the topic, in order, from the first up to the one whose
    /// payload is `last`. Waits for that one.
    async fn written(&self, key: &Bytes, last: &Bytes) -> Vec<Message>;

    /// How many small messages (of less than 100 bytes) a stream accepts before [`LaneStream::reserve`] has to wait.
    /// At most a few thousand, so that cases can fill it. `None`, and cases are skipped: it never waits.
    fn capacity(&self) -> Option<usize>;

    /// A message of `key` for the topic that the destination refuses for its own sake, such as one that is too long
    /// for it. `None`, and cases are skipped: it refuses none.
    fn poison(&self, key: &Bytes) -> Option<Message>;

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// Makes one test of every case of the suite of [`Publisher`]: `publisher_suite!(module_name, make_harness)`; see
/// [`testing`](crate::testing).
#[macro_export]
macro_rules! publisher_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::conformance_suite!(
            $name,
            $make_harness,
            publisher::PublisherHarness,
            [
                every_message_gets_exactly_one_outcome,
                outcomes_come_in_runs_too,
                a_delivered_message_is_written_as_it_was_sent,
                order_is_kept_per_key,
                nothing_to_send_is_nothing_to_report,
                waiting_for_outcomes_may_be_dropped,
                dropping_a_delivery_cancels_nothing,
                streams_of_different_lanes_work_side_by_side,
                shutting_down_waits_for_what_was_accepted,
                reserve_waits_for_room,
                a_waiting_reserve_may_be_dropped,
                an_unused_permit_gives_its_room_back,
                a_failure_breaks_its_key_until_the_stream_is_opened_anew,
                a_message_refused_alone_is_to_blame,
            ]
        );
    };
}

async fn open<H: PublisherHarness>(harness: &H, lane: u8) -> Box<dyn LaneStream> {
    let lane = Lane::new(lane).expect("a lane below 64");
    within("a stream", harness.publisher().open(lane)).await.expect("open")
}

fn key(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// The `n`th message of a key: its payload is the number as text.
fn message<H: PublisherHarness>(harness: &H, key: &Bytes, n: usize) -> Message {
    Message { topic: harness.topic(), key: key.clone(), payload: Some(number(n)), headers: Vec::new() }
}

fn number(n: usize) -> Bytes {
    Bytes::from(n.to_string())
}

/// Reserves room and sends.
async fn send(stream: &mut dyn LaneStream, messages: Vec<Message>) -> Box<dyn Delivery> {
    let bytes = messages.iter().map(Message::bytes).sum();
    within("a permit", stream.reserve(messages.len(), bytes)).await.expect("reserve").send(messages)
}

/// The outcome of each message in the order they were sent; fails when one has none or two.
async fn outcomes(delivery: &mut dyn Delivery, messages: usize) -> Vec<Outcome> {
    let mut slots: Vec<Option<Outcome>> = std::iter::repeat_with(|| None).take(messages).collect();
    loop {
        let reported = within("outcomes", delivery.next()).await;
        if reported.is_empty() {
            break;
        }
        for (index, outcome) in reported {
            let slot = slots.get_mut(index).unwrap_or_else(|| panic!("outcome of message {index} of {messages}"));
            assert!(slot.is_none(), "two outcomes of message {index}: {slot:?} and {outcome:?}");
            *slot = Some(outcome);
        }
    }
    let missing = slots.iter().position(Option::is_none);
    assert_eq!(missing, None, "a message without an outcome");
    slots.into_iter().flatten().collect()
}

/// Waits for the outcomes, which all have to be good.
async fn all_delivered(delivery: &mut dyn Delivery, messages: usize) {
    for (index, outcome) in outcomes(delivery, messages).await.into_iter().enumerate() {
        assert!(matches!(outcome, Outcome::Delivered), "message {index}: {outcome:?}");
    }
}

/// The payloads of a key in the topic, up to `last`.
async fn written_payloads<H: PublisherHarness>(harness: &H, key: &Bytes, last: &Bytes) -> Vec<Option<Bytes>> {
    let written = within("the last message in the topic", harness.written(key, last)).await;
    written.into_iter().map(|message| message.payload).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_case() {
        crate::testing::suite::assert_all_listed(
            include_str!("mod.rs"),
            &[include_str!("delivery.rs"), include_str!("failure.rs"), include_str!("room.rs")],
        );
    }
}
