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
//! its name, which is not used again. When the topic does not have all events any more, let [`Stage::Building`] read straight
//! from the log and [`Stage::Live`] from the topic: what comes twice is known by its sequence. The log's consumer of the new
//! generation is yours to drop then, as nothing reads it once the generation is live.

mod building;
mod claim;
mod error;
mod generations;
mod live;
mod near_end;
mod sources;
mod status;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
};

use outbox_core::error::chain;
use tokio::sync::watch;
use uuid::Uuid;

#[cfg(any(feature = "postgres", feature = "sqlite"))]
pub(crate) use claim::CLAIM;
pub use error::{RebuildError, RebuildErrorKind};
pub use generations::{Generation, Generations, Stage, State};
pub use live::LiveProjector;
pub use sources::{LogSources, Sources};
pub use status::{RebuildPhase, RebuildStatus};

use crate::ProjectorBuilder;
use claim::Claim;

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

impl Rebuild {
    /// A rebuild of this read model from these sources.
    #[must_use]
    pub fn new(generations: Arc<dyn Generations>, sources: Arc<dyn Sources>) -> Self {
        let settings = Settings { swap_within: 100, afresh: false, projector: Box::new(|projector| projector) };
        Self { generations, sources, settings, status: watch::Sender::new(RebuildStatus::default()) }
    }

    /// How many records the new generation may still be behind when it takes over: while writers go on, it hardly ever
    /// is at the very end. Queries may miss as many of the newest changes for a moment, until the projector of the live
    /// generation has gone over. The source is asked for one partition after the other, for at most a tenth of the time;
    /// an answer counts for 15 s, or until all others were asked once more where that takes longer: 200 s with 40
    /// partitions and half a second an answer. Default: 100.
    #[must_use]
    pub fn swap_within(mut self, records: u64) -> Self {
        self.settings.swap_within = records;
        self
    }

    /// Throws away what an interrupted rebuild has built, and begins at the beginning: for when its handler was wrong too.
    /// It builds a generation with a number of its own, so that nothing which that one's source remembers, such as the
    /// offsets of its consumer group, is gone on from. Default: it is continued.
    #[must_use]
    pub fn afresh(mut self) -> Self {
        self.settings.afresh = true;
        self
    }

    /// Settings of the projector that builds, such as its batch. Default: those of [`Projector`](crate::Projector).
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
    /// rebuild goes on from where this one was. After `shutdown` it takes the projector's
    /// [grace](ProjectorBuilder::grace), and 5 s more where the store does not answer, at most.
    ///
    /// The new generation goes live when every partition that was ever given is read, the source has said of each within
    /// the last 15 s how much is still to come, or since it was asked for all of them once where that takes longer, and no
    /// partition has come or gone for 3 s: so a rebuild takes at least that long. What keeps it from the end stands in
    /// [`RebuildStatus::error`].
    ///
    /// One rebuild of a read model runs at a time: each would see only the partitions that are its own, and swap when
    /// those are done. A second one ends at once as [`RebuildErrorKind::Busy`] where the store
    /// [keeps claims](Generations::claim), as `SqlGenerations` does; elsewhere this is up to you. A claim is for 15 s and
    /// renewed every 3 s, for as long as the rebuild does anything. One that was killed, or whose future was dropped, is
    /// in the way of the next until its claim ends. One whose claim was not renewed for 10 s while it builds gives its
    /// partitions back before anybody else can have it, and ends; while it only creates or drops generations, as a store
    /// with one writer may do for longer than that, it goes on unless another has claimed. One that finds that another
    /// has swapped ends too.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`] when another rebuild has the read model, or took it from this one while it was frozen:
    /// then it is left to the other. [`RebuildErrorKind::Lapsed`] when the store did not renew the claim in time.
    /// [`RebuildErrorKind::Stopped`] when `shutdown` completed before the end.
    /// [`RebuildErrorKind::Unavailable`] and [`RebuildErrorKind::Store`] when the store does not answer the first claim
    /// within 5 s, or generations cannot be looked up, created, swapped or dropped; [`RebuildErrorKind::Source`] when a
    /// source or projection says what does not pass by itself. While events are applied, what passes is waited for; but
    /// a store of claims that is away for 10 s ends the rebuild, which then has to be run again.
    ///
    /// After the swap the new generation stays live whatever ends the rebuild; when it is run again it only drops what
    /// is left. Another that claims the read model then does that, so it is no error here.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Generation, RebuildError> {
        let mut shutdown = pin!(shutdown);
        let mut claim = tokio::select! {
            biased;
            () = &mut shutdown => return Err(stopped()),
            claim = Claim::take(&self.generations) => claim?,
        };
        let result = self.run_claimed(&mut claim, shutdown).await;
        claim.release().await;
        result
    }

    async fn run_claimed(
        &self,
        claim: &mut Claim,
        mut shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<Generation, RebuildError> {
        let rebuild = claim.rebuild();
        let begun = tokio::select! {
            biased;
            () = &mut shutdown => Err(stopped()),
            begun = self.begin(claim) => begun,
        };
        let next = match begun? {
            Prepared::Finished(live) => return Ok(live),
            Prepared::Begun(next) => next,
        };
        self.build(next, claim, shutdown.as_mut()).await?;
        self.note(next, RebuildPhase::Dropping);
        let dropped = tokio::select! {
            biased;
            () = shutdown => Err(stopped()),
            dropped = claim.keep_during(self.drop_before(next, rebuild)) => dropped,
        };
        match dropped {
            Ok(_) => self.note(next, RebuildPhase::Done),
            Err(error) if error.kind() == RebuildErrorKind::Busy => {
                tracing::warn!(error = chain(&error), "the retired generation is left to another rebuild");
            }
            Err(error) => return Err(error),
        }
        Ok(next)
    }

    async fn begin(&self, claim: &mut Claim) -> Result<Prepared, RebuildError> {
        let rebuild = claim.rebuild();
        let prepared = claim.keep_during(self.prepare(rebuild)).await?;
        if let Prepared::Begun(_) = prepared {
            // Also hears whether another has built, swapped or dropped since the last renewal.
            claim.freshen().await?;
        }
        Ok(prepared)
    }

    /// Finds out which generation to build, and creates it.
    async fn prepare(&self, rebuild: Uuid) -> Result<Prepared, RebuildError> {
        let State { live, building, next } = self.generations.state().await?;
        let dropped = self.drop_before(live, rebuild).await?;
        if building.is_none() && dropped {
            // One that was interrupted after its swap: this was all that was left of it.
            return Ok(self.finished(live));
        }
        let prepared = self.create(building.unwrap_or(next), rebuild).await?;
        let (Prepared::Begun(begun), true) = (&prepared, building.is_some() && self.settings.afresh) else {
            return Ok(prepared);
        };
        // First of all: it retires the one that was begun, which then cannot go live any more, whoever has the claim. Were
        // this rebuild to end before the old one is dropped, that is done after the swap.
        let anew = self.create(next, rebuild).await?;
        if let Prepared::Begun(_) = anew {
            self.drop_retired(*begun, rebuild).await?;
        }
        Ok(anew)
    }

    /// Creates a generation, or finds it live: since the state was looked at, by a swap that began while another had the
    /// claim.
    async fn create(&self, generation: Generation, rebuild: Uuid) -> Result<Prepared, RebuildError> {
        self.note(generation, RebuildPhase::Preparing);
        if self.generations.prepare(generation, Some(rebuild)).await? == Stage::Live {
            self.drop_before(generation, rebuild).await?;
            return Ok(self.finished(generation));
        }
        Ok(Prepared::Begun(generation))
    }

    fn finished(&self, live: Generation) -> Prepared {
        self.note(live, RebuildPhase::Done);
        Prepared::Finished(live)
    }

    /// Removes generations that are older than the live one, also those that an interrupted rebuild left.
    /// Whether there were any.
    async fn drop_before(&self, live: Generation, rebuild: Uuid) -> Result<bool, RebuildError> {
        let olds = self.generations.before(live).await?;
        for old in &olds {
            self.drop_retired(*old, rebuild).await?;
        }
        Ok(!olds.is_empty())
    }

    /// The generation never goes live again, so nobody needs its consumer, whoever has the claim by now.
    async fn drop_retired(&self, retired: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        // In this order: once a generation is dropped nobody asks for its consumer again, which would keep retention back
        // for ever.
        self.sources.forget(retired).await?;
        self.generations.discard(retired, rebuild).await
    }

    fn note(&self, generation: Generation, phase: RebuildPhase) {
        self.status.send_modify(|status| {
            status.generation = Some(generation);
            status.phase = phase;
        });
    }
}

/// What there is to build.
enum Prepared {
    /// Nothing: this one is live, and what was left of those before is dropped.
    Finished(Generation),
    Begun(Generation),
}

fn stopped() -> RebuildError {
    RebuildError::new(RebuildErrorKind::Stopped, "the rebuild was stopped before its end; run it again to go on")
}
