use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use outbox_core::{error::chain, retry::Backoff};
use tokio::{
    sync::{oneshot, watch},
    time::sleep,
};

use super::{Generation, Generations, ProjectorSettings, RebuildError, RebuildErrorKind, Sources, Stage};
use crate::{Projector, ProjectorBuilder, ProjectorErrorKind, ProjectorStatus};

/// Runs the live generation of a read model, whichever that is.
pub struct LiveProjector {
    generations: Arc<dyn Generations>,
    sources: Arc<dyn Sources>,
    projector: ProjectorSettings,
    status: watch::Sender<ProjectorStatus>,
}

/// How often it looks whether a rebuild has taken the read model over, while no event comes that would say so.
const LOOK: Duration = Duration::from_secs(1);

const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

impl LiveProjector {
    /// A projector of the live generation.
    #[must_use]
    pub fn new(generations: Arc<dyn Generations>, sources: Arc<dyn Sources>) -> Self {
        let status = watch::Sender::new(ProjectorStatus::default());
        Self { generations, sources, projector: Box::new(|projector| projector), status }
    }

    /// Settings of the projector, such as its batch. Default: those of [`Projector`].
    #[must_use]
    pub fn projector(
        mut self,
        settings: impl Fn(ProjectorBuilder) -> ProjectorBuilder + Send + Sync + 'static,
    ) -> Self {
        self.projector = Box::new(settings);
        self
    }

    /// What the projector of the live generation is doing. Take it before [`LiveProjector::run`].
    #[must_use]
    pub fn status(&self) -> watch::Receiver<ProjectorStatus> {
        self.status.subscribe()
    }

    /// Runs until `shutdown` completes, as [`Projector::run`] does. After a rebuild it goes over to the new generation,
    /// within a second or with the next event. A store that is away is waited for.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Store`] when the store does not say which generation is live;
    /// [`RebuildErrorKind::Source`] for what does not pass by itself.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RebuildError> {
        let mut shutdown = pin!(shutdown);
        loop {
            let found = tokio::select! {
                found = self.find() => found,
                () = &mut shutdown => return Ok(()),
            };
            let live = found?;
            let source = self.sources.open(live, Stage::Live)?;
            let projection = self.generations.projection(live, Stage::Live);
            let projector = (self.projector)(Projector::builder(source, projection)).build();
            let mut projected = projector.status();
            let (stop, stopped) = oneshot::channel::<()>();
            let mut running = pin!(projector.run(async {
                // A sender that is gone means the same.
                let _stop = stopped.await;
            }));
            let mut stop = Some(stop);
            let mut replaced = pin!(self.replaced(live));
            let mut told_to_stop = false;
            loop {
                tokio::select! {
                    ended = &mut running => match ended {
                        Err(error) if error.kind() == ProjectorErrorKind::Retired => break,
                        // Its tables may be gone already.
                        Err(_) if self.is_replaced(live).await => break,
                        Err(error) => return Err(error.into()),
                        Ok(()) if told_to_stop => return Ok(()),
                        Ok(()) => break,
                    },
                    () = &mut shutdown, if stop.is_some() => {
                        told_to_stop = true;
                        stop = None;
                    }
                    () = &mut replaced, if stop.is_some() => stop = None,
                    Ok(()) = projected.changed() => {
                        self.status.send_replace(projected.borrow_and_update().clone());
                    }
                }
            }
            if told_to_stop {
                return Ok(());
            }
            tracing::info!(read_model = self.generations.name(), retired = %live, "going over to the rebuilt read model");
        }
    }

    /// The live generation, once the store says which it is and it is there.
    async fn find(&self) -> Result<Generation, RebuildError> {
        let mut tries = 0;
        loop {
            let found = async {
                let live = self.generations.state().await?.live;
                match self.generations.prepare(live, None).await {
                    Ok(_) => Ok(live),
                    // Replaced in between: look again.
                    Err(error) if self.is_replaced(live).await => {
                        Err(RebuildError::new(RebuildErrorKind::Unavailable, "another generation is live now")
                            .with_source(error))
                    }
                    Err(error) => Err(error),
                }
            };
            match found.await {
                Err(error) if error.kind() == RebuildErrorKind::Unavailable => {
                    let delay = RETRY.delay(tries, &mut rand::rng());
                    tries = tries.saturating_add(1);
                    tracing::warn!(read_model = self.generations.name(), error = chain(&error), "the store is away");
                    sleep(delay).await;
                }
                found => return found,
            }
        }
    }

    /// Completes when another generation than this is live.
    async fn replaced(&self, live: Generation) {
        loop {
            sleep(LOOK).await;
            if self.is_replaced(live).await {
                return;
            }
        }
    }

    async fn is_replaced(&self, live: Generation) -> bool {
        match self.generations.state().await {
            Ok(state) => state.live > live,
            Err(error) => {
                tracing::debug!(%error, "which generation is live is not known at the moment");
                false
            }
        }
    }
}
