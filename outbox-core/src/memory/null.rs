//! A publisher that publishes nothing.

use std::{ops::Range, time::Duration};

use async_trait::async_trait;

use crate::{
    event::Lane,
    publisher::{Delivery, LaneStream, Message, Outcome, Permit, PublishError, Publisher, PublisherCapabilities},
};

/// Acknowledges every message at once and drops it: what remains is the cost of everything else. For measuring.
#[derive(Debug, Clone, Copy, Default)]
pub struct NullPublisher;

#[async_trait]
impl Publisher for NullPublisher {
    fn capabilities(&self) -> PublisherCapabilities {
        PublisherCapabilities::full()
    }

    async fn open(&self, _lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(Box::new(Self))
    }

    async fn shut_down(&self, _grace: Duration) -> bool {
        true
    }
}

#[async_trait]
impl LaneStream for NullPublisher {
    async fn reserve(&mut self, _messages: usize, _bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        Ok(Box::new(Self))
    }
}

impl Permit for NullPublisher {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        Box::new(NullDelivery { unreported: messages.len() })
    }
}

struct NullDelivery {
    unreported: usize,
}

#[async_trait]
impl Delivery for NullDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let count = std::mem::take(&mut self.unreported);
        (0..count).map(|index| (index, Outcome::Delivered)).collect()
    }

    async fn next_runs(&mut self) -> Vec<(Range<usize>, Outcome)> {
        match std::mem::take(&mut self.unreported) {
            0 => Vec::new(),
            count => vec![(0..count, Outcome::Delivered)],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_message_is_acknowledged_once() {
        let mut stream = NullPublisher.open(Lane::new(0).expect("lane 0")).await.expect("open");
        let message = Message { topic: "t".into(), key: "k".into(), payload: None, headers: Vec::new() };
        let mut delivery = stream.reserve(2, 0).await.expect("permit").send(vec![message.clone(), message]);
        let outcomes = delivery.next().await;
        assert!(matches!(outcomes[..], [(0, Outcome::Delivered), (1, Outcome::Delivered)]));
        assert!(delivery.next().await.is_empty());
    }

    #[tokio::test]
    async fn a_batch_is_one_run() {
        let mut delivery = NullDelivery { unreported: 3 };
        assert!(matches!(&delivery.next_runs().await[..], [(run, Outcome::Delivered)] if *run == (0..3)));
        assert!(delivery.next_runs().await.is_empty());
    }
}
