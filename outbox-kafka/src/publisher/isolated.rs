//! A lane's way to Kafka for messages of which one may be at fault: each alone, the next when the last is reported.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::publisher::{Delivery, LaneStream, Message, Outcome, Permit, PublishError};
use tokio::{runtime::Handle, sync::oneshot};

use super::{
    delivery::{Batch, Body, Broken, KafkaDelivery, lock},
    failure,
    shared::Shared,
};

pub(crate) struct IsolatedStream {
    shared: Arc<Shared>,
    broken: Arc<Broken>,
    last: Arc<std::sync::Mutex<Option<oneshot::Receiver<()>>>>,
}

impl IsolatedStream {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, broken: Arc::default(), last: Arc::default() }
    }
}

#[async_trait]
impl LaneStream for IsolatedStream {
    async fn reserve(&mut self, _messages: usize, _bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
        self.shared.reserve_isolated().await?;
        Ok(Box::new(IsolatedPermit {
            shared: self.shared.clone(),
            broken: self.broken.clone(),
            last: self.last.clone(),
            runtime: Handle::current(),
        }))
    }
}

struct IsolatedPermit {
    shared: Arc<Shared>,
    broken: Arc<Broken>,
    last: Arc<std::sync::Mutex<Option<oneshot::Receiver<()>>>>,
    runtime: Handle,
}

impl Permit for IsolatedPermit {
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
        let Self { shared, broken, last, runtime } = *self;
        let (batch, bodies) = Batch::new(messages, broken, None);
        let Ok(accepted) = shared.isolating.clone().try_acquire_owned() else {
            batch.fail(0..bodies.len(), || failure::environment("the publisher is being shut down"));
            return Box::new(KafkaDelivery(batch));
        };
        let (done, next) = oneshot::channel();
        let earlier = lock(&last).replace(next);
        let delivery = KafkaDelivery(batch.clone());
        runtime.spawn(async move {
            if let Some(earlier) = earlier {
                // Also when that task is gone.
                let _reported = earlier.await;
            }
            for (index, Body { payload, headers }) in bodies.into_iter().enumerate() {
                let outcome = if batch.is_broken(index) {
                    Outcome::Aborted
                } else {
                    let (topic, key) = batch.line(index).place();
                    match shared.send_isolated(Message { topic, key, payload, headers }).await {
                        Ok(mut delivery) => only_outcome(&mut delivery).await,
                        Err(error) => Outcome::Failed(error),
                    }
                };
                batch.resolve(index, outcome);
            }
            drop((accepted, done));
        });
        Box::new(delivery)
    }
}

async fn only_outcome(delivery: &mut KafkaDelivery) -> Outcome {
    let outcome = delivery.next().await.pop().map(|(_, outcome)| outcome);
    outcome.unwrap_or_else(|| Outcome::Failed(failure::environment("no outcome was reported")))
}
