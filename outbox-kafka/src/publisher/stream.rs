//! A lane's way to Kafka. Lanes share the producer; what a lane has of its own is which of its keys are broken.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::publisher::{Delivery, LaneStream, Message, Permit, PublishError};

use super::{
    capacity::Held,
    delivery::{Batch, Broken, KafkaDelivery},
    shared::Shared,
};

pub(crate) struct KafkaStream {
    shared: Arc<Shared>,
    broken: Arc<Broken>,
}

impl KafkaStream {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, broken: Arc::default() }
    }
}

#[async_trait]
impl LaneStream for KafkaStream {
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        let held = self.shared.reserve(messages, bytes).await?;
        Ok(Box::new(KafkaPermit { shared: self.shared.clone(), broken: self.broken.clone(), held }))
    }
}

struct KafkaPermit {
    shared: Arc<Shared>,
    broken: Arc<Broken>,
    held: Held,
}

impl Permit for KafkaPermit {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let (batch, bodies) = Batch::new(messages, self.broken, Some(self.held));
        self.shared.send(&batch, bodies);
        Box::new(KafkaDelivery(batch))
    }
}
