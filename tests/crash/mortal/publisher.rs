use std::{ops::Range, time::Duration};

use async_trait::async_trait;
use outbox_core::{
    event::Lane,
    publisher::{Delivery, LaneStream, Message, Outcome, Permit, PublishError, Publisher, PublisherCapabilities},
};

use super::{Failpoint, Fuse};

/// A publisher whose process dies when messages were handed over, or acknowledged.
pub(crate) struct MortalPublisher<P> {
    inner: P,
    fuse: Fuse,
}

impl<P: Publisher> MortalPublisher<P> {
    pub(crate) fn new(inner: P, fuse: Fuse) -> Self {
        Self { inner, fuse }
    }

    fn stream(&self, inner: Box<dyn LaneStream>) -> Box<dyn LaneStream> {
        Box::new(MortalStream { inner, fuse: self.fuse.clone() })
    }
}

#[async_trait]
impl<P: Publisher> Publisher for MortalPublisher<P> {
    fn capabilities(&self) -> PublisherCapabilities {
        self.inner.capabilities()
    }

    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(self.stream(self.inner.open(lane).await?))
    }

    async fn open_isolated(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        Ok(self.stream(self.inner.open_isolated(lane).await?))
    }

    async fn shut_down(&self, grace: Duration) -> bool {
        self.inner.shut_down(grace).await
    }
}

struct MortalStream {
    inner: Box<dyn LaneStream>,
    fuse: Fuse,
}

#[async_trait]
impl LaneStream for MortalStream {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        let inner = self.inner.reserve(messages, bytes).await?;
        Ok(Box::new(MortalPermit { inner, fuse: self.fuse.clone() }))
    }
}

struct MortalPermit {
    inner: Box<dyn Permit>,
    fuse: Fuse,
}

impl Permit for MortalPermit {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let inner = self.inner.send(messages);
        self.fuse.pass(Failpoint::AfterEnqueue);
        Box::new(MortalDelivery { inner, fuse: self.fuse })
    }
}

struct MortalDelivery {
    inner: Box<dyn Delivery>,
    fuse: Fuse,
}

impl MortalDelivery {
    fn acknowledged<I>(&self, outcomes: &[(I, Outcome)]) {
        if outcomes.iter().any(|(_, outcome)| matches!(outcome, Outcome::Delivered)) {
            self.fuse.pass(Failpoint::AfterAck);
        }
    }
}

#[async_trait]
impl Delivery for MortalDelivery {
    async fn next(&mut self) -> Vec<(usize, Outcome)> {
        let outcomes = self.inner.next().await;
        self.acknowledged(&outcomes);
        outcomes
    }

    async fn next_runs(&mut self) -> Vec<(Range<usize>, Outcome)> {
        let outcomes = self.inner.next_runs().await;
        self.acknowledged(&outcomes);
        outcomes
    }
}
