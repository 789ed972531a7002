use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use outbox_core::projection::Projection;
use uuid::Uuid;

use super::RebuildError;

/// The number of a generation, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Generation(u32);

impl Generation {
    /// The one that a read model begins with: 1.
    pub const FIRST: Self = Self(1);

    /// The generation of this number; `None` for 0.
    #[must_use]
    pub fn new(number: u32) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }

    /// The one after it.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// `base` for the first generation, and `base.g2` and so on for later ones: names of projections, consumers and
    /// groups. So a read model that was never rebuilt keeps the names it has.
    #[must_use]
    pub fn name(self, base: &str) -> String {
        if self == Self::FIRST { base.to_owned() } else { format!("{base}.g{}", self.0) }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a projection or a source is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Stage {
    /// To be filled from the beginning, unseen: effects outside of the read model, such as a message to somebody, are
    /// to be left out. Those of events that come while it is built can be left out by both generations, so a read model
    /// that is rebuilt had better have none.
    Building,
    /// In use.
    Live,
}

/// Which generations a read model has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// Queries go there.
    pub live: Generation,
    /// Is being filled.
    pub building: Option<Generation>,
    /// What the next one would be: higher than every number that was ever used, also by a generation that never went live
    /// and of which nothing is left. What reads under the name of a number, such as a consumer group, may remember where
    /// it was.
    pub next: Generation,
}

/// A read model that can be there several times.
///
/// # Contract
/// The state survives the process. Queries see the live generation only. [`Generations::swap`] is atomic: a query sees
/// the old generation or the new one, whole. After it a projection of an older generation has no effect that anybody
/// sees; it answers [`Retired`](outbox_core::projection::ProjectionErrorKind::Retired) where the store can tell.
///
/// # Duplicates
/// Every method may be called again, with the same outcome: `prepare` keeps what is there, `swap` to the live generation
/// and `discard` of what is gone do nothing.
///
/// # Ordering
/// Generations are numbered in the order in which they were begun, and no number is used twice. One that is retired never
/// goes live, nor is it built again.
///
/// # Concurrency
/// Any number of processes may call any method at any time. A rebuild [claims](Generations::claim) the read model first,
/// and says which rebuild it is with everything that it changes.
///
/// # Cancellation
/// A dropped call is done or not done, and is made again; a `prepare` that was not done may have used its number up, so
/// that the next one is for what the state says then.
///
/// # Errors
/// [`RebuildErrorKind::Unavailable`](super::RebuildErrorKind::Unavailable) when the same may succeed later, and else
/// [`RebuildErrorKind::Store`](super::RebuildErrorKind::Store). A rebuild ends with either and can be run again.
#[async_trait]
pub trait Generations: Send + Sync {
    /// The name of the read model, without a generation.
    fn name(&self) -> &str;

    /// Which generations there are. A read model that was never rebuilt has [`Generation::FIRST`].
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn state(&self) -> Result<State, RebuildError>;

    /// Generations older than this one of which something is left.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError>;

    /// Lets this rebuild, and no other, have the read model for so long from now on. A store that keeps claims looks in
    /// [`Generations::prepare`], [`Generations::swap`] and [`Generations::discard`], in one step with what they do, whether
    /// the rebuild still is the one that claimed last.
    ///
    /// The answer should not wait for what another rebuild is doing.
    ///
    /// Default: everybody may. Then it is up to operators to run one rebuild at a time.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`](super::RebuildErrorKind::Busy) when another has it; see the trait's *Errors*.
    async fn claim(&self, _rebuild: Uuid, _lease: Duration) -> Result<(), RebuildError> {
        Ok(())
    }

    /// Extends the claim of this rebuild to so long from now on, also one that has ended: as long as nobody else has
    /// claimed the read model since, nobody else has changed anything. Whoever has lost it does not get it back, though
    /// the other has released it by now.
    ///
    /// The answer should not wait for what another rebuild is doing. Default: claims again, which is right where everybody
    /// may; a store that keeps claims has to tell the two apart.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`](super::RebuildErrorKind::Busy) when another has claimed the read model since, or this
    /// one released it; see the trait's *Errors*.
    async fn renew(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.claim(rebuild, lease).await
    }

    /// Ends a claim before its time. Does nothing when another has it by now. Default: nothing.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn release(&self, _rebuild: Uuid) -> Result<(), RebuildError> {
        Ok(())
    }

    /// Creates what a generation needs, empty, and remembers that a rebuild builds it; whatever was being built before it
    /// is retired. `None` for the live one, by whoever runs that: then only [`Generation::FIRST`] may still be missing.
    ///
    /// Says what the generation is now. [`Stage::Live`] is news to a rebuild: a swap that was under way when it claimed
    /// the read model is done. So a store waits here for the end of such a swap.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`](super::RebuildErrorKind::Busy) when the rebuild does not have the claim;
    /// [`RebuildErrorKind::Unavailable`](super::RebuildErrorKind::Unavailable) when another has retired the generation
    /// since the state was looked at; see the trait's *Errors*.
    async fn prepare(&self, generation: Generation, rebuild: Option<Uuid>) -> Result<Stage, RebuildError>;

    /// The projection into a generation, under a name of its own.
    fn projection(&self, generation: Generation, stage: Stage) -> Arc<dyn Projection>;

    /// Makes a generation the live one and retires all before it.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`](super::RebuildErrorKind::Busy) when the rebuild does not have the claim; see the
    /// trait's *Errors*.
    async fn swap(&self, to: Generation, rebuild: Uuid) -> Result<(), RebuildError>;

    /// Removes all that is left of a generation that is retired, but that it is, or of one that is being built. The live
    /// one is not to be discarded.
    ///
    /// May take as long as it needs, also where that keeps [`Generations::renew`] waiting. When it is dropped or fails
    /// half-way the generation is retired, and the next `discard` removes what is left.
    ///
    /// # Errors
    /// [`RebuildErrorKind::Busy`](super::RebuildErrorKind::Busy) when the rebuild does not have the claim; see the
    /// trait's *Errors*.
    async fn discard(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError>;
}
