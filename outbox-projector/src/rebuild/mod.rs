//! Building a read model anew beside the one that is in use, and going over to it at once.
//!
//! A read model has *generations*: tables or indexes of the same shape with a number in their names. One is live: queries
//! go to it. [`Rebuild`] builds the next one from the beginning, while the live one is kept up to date as always; when
//! the new one has caught up it takes the live one's place in one atomic step, and the old one is dropped. Nobody ever
//! sees a half-built read model, and a rebuild that was interrupted at any point goes on where it was.
//!
//! ```text
//!              live                           building
//! writers ──► log or topic ──► generation 1 ◄── queries      generation 2 ◄── from the beginning
//!                                            swap
//!                                                  queries ──► generation 2 ◄── LiveProjector
//! ```
//!
//! [`LiveProjector`] runs the live generation, whichever that is, and goes over to the next one after a swap. Any
//! number of processes may run it. A runner that still works on the old generation after the swap has no effect any
//! more: its store answers [`Retired`](outbox_core::projection::ProjectionErrorKind::Retired).
//!
//! Where events come from is a matter of [`Sources`]: a generation has a consumer or group of its own, with the number in
//! its name. When the topic does not have all events any more, let [`Stage::Building`] read straight from the log and
//! [`Stage::Live`] from the topic: what comes twice is known by its sequence. The log's consumer of the new generation is
//! yours to drop then, as nothing reads it once the generation is live.

mod error;
mod generations;
mod live;
mod sources;
mod status;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use outbox_core::error::chain;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, interval_at},
};
use uuid::Uuid;

pub use error::{RebuildError, RebuildErrorKind};
pub use generations::{Generation, Generations, Stage, State};
pub use live::LiveProjector;
pub use sources::{LogSources, Sources};
pub use status::{RebuildPhase, RebuildStatus};

use crate::{Projector, ProjectorBuilder, ProjectorStatus};

/// Builds the next generation of a read model and makes it the live one.
///
/// # Errors
/// [`Rebuild::run`] says them all.
pub struct Rebuild {
    generations: Arc<dyn Generations>,
    sources: Arc<dyn Sources>,
    settings: Settings,
    status: watch::Sender<RebuildStatus>,
}

struct Settings {
    swap_within: u64,
    afresh: bool,
    projector: ProjectorSettings,
}

/// Further settings of a projector.
type ProjectorSettings = Box<dyn Fn(ProjectorBuilder) -> ProjectorBuilder + Send + Sync>;

/// How often the rebuild looks how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// How often it says so in the log.
const TELL: Duration = Duration::from_secs(5);

/// How long others wait for a rebuild that died. Renewed three times as often.
pub(crate) const CLAIM: Duration = Duration::from_secs(15);

impl Rebuild {
    /// A rebuild of this read model from these sources.
    #[must_use]
    pub fn new(generations: Arc<dyn Generations>, sources: Arc<dyn Sources>) -> Self {
        let settings = Settings { swap_within: 100, afresh: false, projector: Box::new(|projector| projector) };
        Self { generations, sources, settings, status: watch::Sender::new(RebuildStatus::default()) }
    }

    /// How many records the new generation may still be behind when it takes over: while writers go on, it hardly ever
    /// is at the very end. Queries may miss as many of the newest changes for a moment, until the projector of the live
    /// generation has gone over. Default: 100.
    #[must_use]
    pub fn swap_within(mut self, records: u64) -> Self {
        self.settings.swap_within = records;
        self
    }

    /// Throws away what an interrupted rebuild has built, and begins at the beginning: for when its handler was wrong too.
    /// Default: it is continued.
    #[must_use]
    pub fn afresh(mut self) -> Self {
        self.settings.afresh = true;
        self
    }

    /// Settings of the projector that builds, such as its batch. Default: those of [`Projector`].
    #[must_use]
    pub fn projector(
        mut self,
        settings: impl Fn(ProjectorBuilder) -> ProjectorBuilder + Send + Sync + 'static,
    ) -> Self {
        self.settings.projector = Box::new(settings);
        self
    }

    /// How far it is. Take it before [`Rebuild::run`].
    #[must_use]
    pub fn status(&self) -> watch::Receiver<RebuildStatus> {
        self.status.subscribe()
    }

    /// Builds, swaps and drops the old generation; returns the live one. A rebuild that was begun before, by this
    /// process or another, is continued.
    ///
    /// When `shutdown` completes first, or the future is dropped, the read model in use is untouched and the next
    /// rebuild goes on from where this one was.
    ///
    /// One rebuild of a read model runs at a time: each would see only the partitions that are its own, and swap when
    /// those are done. A second one ends at once as [`RebuildErrorKind::Busy`] where the store
    /// [keeps claims](Generations::claim), as `SqlGenerations` does; elsewhere this is up to you. One that was killed, or
    /// whose future was dropped, is in the way of the next for 15 s. One that finds that another has swapped ends.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`] when another rebuild has the read model, or has taken it from this one, which did not
    /// reach the store for 15 s: then it is left to the other.
    /// [`RebuildErrorKind::Stopped`] when `shutdown` completed before the swap; [`RebuildErrorKind::Unavailable`] and
    /// [`RebuildErrorKind::Store`] when generations cannot be looked up, created, swapped or dropped;
    /// [`RebuildErrorKind::Source`] when a source or projection says what does not pass by itself. While events are
    /// applied, what passes is waited for.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Generation, RebuildError> {
        let rebuild = Uuid::now_v7();
        self.generations.claim(rebuild, CLAIM).await?;
        let result = self.run_claimed(rebuild, shutdown).await;
        if let Err(error) = self.generations.release(rebuild).await {
            tracing::warn!(error = chain(&error), "the next rebuild has to wait for the end of this one's claim");
        }
        result
    }

    async fn run_claimed(&self, rebuild: Uuid, shutdown: impl Future<Output = ()>) -> Result<Generation, RebuildError> {
        let mut shutdown = pin!(shutdown);
        let generations = &self.generations;
        let State { live, mut building } = generations.state().await?;
        let dropped = self.drop_before(live).await?;
        if let Some(begun) = building.filter(|_| self.settings.afresh) {
            self.sources.forget(begun).await?;
            generations.discard(begun).await?;
            building = None;
        } else if building.is_none() && dropped {
            // One that was interrupted after its swap: this was all that was left of it.
            self.note(live, RebuildPhase::Done);
            return Ok(live);
        }
        let next = building.unwrap_or_else(|| live.next());
        self.note(next, RebuildPhase::Preparing);
        generations.prepare(next).await?;
        self.build(next, rebuild, shutdown.as_mut()).await?;
        self.note(next, RebuildPhase::Dropping);
        let _dropped = self.drop_before(next).await?;
        self.note(next, RebuildPhase::Done);
        Ok(next)
    }

    /// Applies everything from the beginning until the end is near, and swaps while it goes on.
    async fn build(
        &self,
        next: Generation,
        rebuild: Uuid,
        mut shutdown: impl Future<Output = ()> + Unpin,
    ) -> Result<(), RebuildError> {
        self.note(next, RebuildPhase::Building);
        let source = self.sources.open(next, Stage::Building)?;
        let projection = self.generations.projection(next, Stage::Building);
        let projector = (self.settings.projector)(Projector::builder(source, projection).lag_every(LOOK)).build();
        let mut projected = projector.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let mut running = pin!(projector.run(async {
            // A sender that is gone means the same.
            let _stop = stopped.await;
        }));
        let mut stop = Some(stop);
        let mut tell = interval_at(Instant::now() + TELL, TELL);
        let mut renew = interval_at(Instant::now() + CLAIM / 3, CLAIM / 3);
        let mut swapped = false;
        let mut lost = None;
        let stopped_by_caller = loop {
            tokio::select! {
                ended = &mut running => {
                    ended?;
                    break !swapped;
                }
                () = &mut shutdown, if stop.is_some() => stop = None,
                _ = renew.tick(), if stop.is_some() => match self.generations.claim(rebuild, CLAIM).await {
                    Ok(()) => {}
                    Err(error) if error.kind() == RebuildErrorKind::Busy => {
                        lost = Some(error);
                        stop = None;
                    }
                    Err(error) => tracing::warn!(error = chain(&error), "the claim to the read model was not renewed"),
                },
                _ = tell.tick() => {
                    let (applied, behind) = (projected.borrow().totals().applied, projected.borrow().lag());
                    tracing::info!(read_model = self.generations.name(), generation = %next, applied, behind, "rebuilding");
                    if stop.is_some() && self.generations.state().await.is_ok_and(|state| state.live >= next) {
                        swapped = true;
                        stop = None;
                    }
                }
                Ok(()) = projected.changed() => {
                    let now = projected.borrow_and_update().clone();
                    self.follow(&now);
                    if stop.is_some() && is_near_the_end(&now, self.settings.swap_within) {
                        self.note(next, RebuildPhase::Swapping);
                        self.generations.swap(next).await?;
                        tracing::info!(read_model = self.generations.name(), generation = %next, "the rebuilt one is live");
                        swapped = true;
                        stop = None;
                    }
                }
            }
        };
        if let Some(lost) = lost {
            return Err(lost);
        }
        if stopped_by_caller {
            return Err(RebuildError::new(
                RebuildErrorKind::Stopped,
                "the rebuild was stopped before its end; run it again to go on",
            ));
        }
        Ok(())
    }

    /// Removes generations that were live before, also those that an interrupted rebuild left.
    /// Whether there were any.
    async fn drop_before(&self, live: Generation) -> Result<bool, RebuildError> {
        let olds = self.generations.before(live).await?;
        for old in &olds {
            // In this order: once a generation is dropped nobody asks for its consumer again, which would keep
            // retention back for ever.
            self.sources.forget(*old).await?;
            self.generations.discard(*old).await?;
        }
        Ok(!olds.is_empty())
    }

    fn note(&self, generation: Generation, phase: RebuildPhase) {
        self.status.send_modify(|status| {
            status.generation = Some(generation);
            status.phase = phase;
        });
    }

    fn follow(&self, projected: &ProjectorStatus) {
        self.status.send_modify(|status| {
            status.applied = projected.totals().applied;
            status.behind = projected.lag();
            status.dead_letters = projected.partitions.values().map(|p| p.dead_letters).sum();
            status.error = projected.problem();
        });
    }
}

/// Every partition is read, and hardly anything is left.
fn is_near_the_end(status: &ProjectorStatus, within: u64) -> bool {
    !status.partitions.is_empty() && status.lag().is_some_and(|lag| lag <= within) && status.problem().is_none()
}
