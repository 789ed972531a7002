//! Wrappers that note which events passed, and change nothing.

use std::sync::Arc;

use async_trait::async_trait;
use outbox_core::{
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    source::{Partition, SourcePosition},
};

use super::Journeys;

/// A projection whose applied events are noted.
pub(crate) struct ObservedProjection {
    pub(crate) inner: Arc<dyn Projection>,
    pub(crate) journeys: Journeys,
}

#[async_trait]
impl Projection for ObservedProjection {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        self.inner.capabilities()
    }

    async fn position(&self, partition: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        self.inner.position(partition).await
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let applied = self.inner.apply(step).await?;
        self.journeys.indexed(step.events.iter().map(|received| received.event.clone()));
        Ok(applied)
    }
}

#[cfg(feature = "production")]
pub(crate) use generations::ObservedGenerations;
#[cfg(feature = "production")]
pub(crate) use publishing::ObservedPublisher;

#[cfg(feature = "production")]
mod generations {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use outbox_core::projection::Projection;
    use outbox_projector::rebuild::{Generation, Generations, RebuildError, Stage, State};
    use uuid::Uuid;

    use super::{Journeys, ObservedProjection};

    /// A read model whose live generation's events are noted.
    pub(crate) struct ObservedGenerations {
        pub(crate) inner: Arc<dyn Generations>,
        pub(crate) journeys: Journeys,
    }

    #[async_trait]
    impl Generations for ObservedGenerations {
        fn name(&self) -> &str {
            self.inner.name()
        }

        async fn state(&self) -> Result<State, RebuildError> {
            self.inner.state().await
        }

        async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError> {
            self.inner.before(generation).await
        }

        async fn claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
            self.inner.claim(rebuild, lease).await
        }

        async fn renew(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
            self.inner.renew(rebuild, lease).await
        }

        async fn release(&self, rebuild: Uuid) -> Result<(), RebuildError> {
            self.inner.release(rebuild).await
        }

        async fn prepare(&self, generation: Generation, rebuild: Option<Uuid>) -> Result<Stage, RebuildError> {
            self.inner.prepare(generation, rebuild).await
        }

        fn projection(&self, generation: Generation, stage: Stage) -> Arc<dyn Projection> {
            let inner = self.inner.projection(generation, stage);
            match stage {
                Stage::Building => inner,
                Stage::Live => Arc::new(ObservedProjection { inner, journeys: self.journeys.clone() }),
            }
        }

        async fn swap(&self, to: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
            self.inner.swap(to, rebuild).await
        }

        async fn discard(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
            self.inner.discard(generation, rebuild).await
        }
    }
}

#[cfg(feature = "production")]
mod publishing {
    use std::{sync::Arc, time::Duration};

    use async_trait::async_trait;
    use outbox_core::{
        event::Lane,
        profile::header,
        publisher::{Delivery, LaneStream, Message, Outcome, Permit, PublishError, Publisher, PublisherCapabilities},
    };
    use uuid::Uuid;

    use super::Journeys;

    /// A publisher whose acknowledged events are noted.
    pub(crate) struct ObservedPublisher {
        pub(crate) inner: Arc<dyn Publisher>,
        pub(crate) journeys: Journeys,
    }

    struct Stream {
        inner: Box<dyn LaneStream>,
        journeys: Journeys,
    }

    struct Room {
        inner: Box<dyn Permit>,
        journeys: Journeys,
    }

    struct UnderWay {
        inner: Box<dyn Delivery>,
        journeys: Journeys,
        ids: Vec<Option<Uuid>>,
    }

    #[async_trait]
    impl Publisher for ObservedPublisher {
        fn capabilities(&self) -> PublisherCapabilities {
            self.inner.capabilities()
        }

        async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
            Ok(Box::new(Stream { inner: self.inner.open(lane).await?, journeys: self.journeys.clone() }))
        }

        async fn shut_down(&self, grace: Duration) -> bool {
            self.inner.shut_down(grace).await
        }
    }

    #[async_trait]
    impl LaneStream for Stream {
        async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError> {
            let inner = self.inner.reserve(messages, bytes).await?;
            Ok(Box::new(Room { inner, journeys: self.journeys.clone() }))
        }
    }

    impl Permit for Room {
        fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery> {
            let Self { inner, journeys } = *self;
            let ids = messages.iter().map(event_id).collect();
            Box::new(UnderWay { inner: inner.send(messages), journeys, ids })
        }
    }

    #[async_trait]
    impl Delivery for UnderWay {
        async fn next(&mut self) -> Vec<(usize, Outcome)> {
            let outcomes = self.inner.next().await;
            for (index, outcome) in &outcomes {
                if let (Outcome::Delivered, Some(Some(id))) = (outcome, self.ids.get(*index)) {
                    self.journeys.relayed(*id);
                }
            }
            outcomes
        }
    }

    fn event_id(message: &Message) -> Option<Uuid> {
        let (_, value) = message.headers.iter().find(|(name, _)| &**name == header::ID)?;
        std::str::from_utf8(value).ok()?.parse().ok()
    }
}
