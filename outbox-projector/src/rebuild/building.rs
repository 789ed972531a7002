//! From the first event to the swap.

use std::{
    future::Future,
    pin::{Pin, pin},
    time::Duration,
};

use outbox_core::error::chain;
use tokio::{
    sync::{oneshot, watch},
    time::{Instant, MissedTickBehavior, interval, interval_at},
};
use uuid::Uuid;

use super::{Generation, Rebuild, RebuildError, RebuildPhase, Stage, claim::Claim, near_end::NearEnd, stopped};
use crate::{Projector, ProjectorStatus};

/// How often the rebuild looks how far it is.
const LOOK: Duration = Duration::from_millis(200);

/// How often it says so in the log.
const TELL: Duration = Duration::from_secs(5);

impl Rebuild {
    /// Applies everything from the beginning until the end is near, and swaps while it goes on.
    pub(super) async fn build(
        &self,
        next: Generation,
        claim: &mut Claim,
        shutdown: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), RebuildError> {
        self.note(next, RebuildPhase::Building);
        let source = self.sources.open(next, Stage::Building)?;
        let projection = self.generations.projection(next, Stage::Building);
        // Last: whether the end is near has to be known soon.
        let projector = (self.settings.projector)(Projector::builder(source, projection)).lag_every(LOOK).build();
        let projected = projector.status();
        let (stop, told_to_stop) = oneshot::channel::<()>();
        let mut running = pin!(projector.run(async {
            // A sender that is gone means the same.
            let _stop = told_to_stop.await;
        }));
        let rebuild = claim.rebuild();
        let swapped = tokio::select! {
            biased;
            lost = claim.keep() => Err(lost),
            () = shutdown => Err(stopped()),
            ended = &mut running => return Err(ended.map_or_else(RebuildError::from, |()| stopped())),
            swapped = self.until_swapped(next, rebuild, projected) => swapped,
        };
        drop(stop);
        tokio::select! {
            biased;
            () = claim.is_gone() => tracing::warn!("the rebuild did not end in time; what was not committed comes again"),
            ended = running => if let Err(error) = ended {
                tracing::warn!(error = chain(&error), "the projector of the rebuild ended with an error");
            },
        }
        swapped
    }

    async fn until_swapped(
        &self,
        next: Generation,
        rebuild: Uuid,
        mut projected: watch::Receiver<ProjectorStatus>,
    ) -> Result<(), RebuildError> {
        let mut end = NearEnd::new(self.settings.swap_within);
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut tell = interval_at(Instant::now() + TELL, TELL);
        tell.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let read_model = self.generations.name();
        loop {
            tokio::select! {
                _ = look.tick() => {}
                Ok(()) = projected.changed() => {}
                _ = tell.tick() => {
                    let (applied, behind) = (projected.borrow().totals().applied, projected.borrow().lag());
                    tracing::info!(read_model, generation = %next, applied, behind, "rebuilding");
                    if self.generations.state().await.is_ok_and(|state| state.live >= next) {
                        return Ok(());
                    }
                }
            }
            let now = projected.borrow_and_update().clone();
            let is_near = end.is_reached(&now);
            self.follow(&now, end.obstacle(&now));
            if is_near {
                self.note(next, RebuildPhase::Swapping);
                self.generations.swap(next, rebuild).await?;
                tracing::info!(read_model, generation = %next, "the rebuilt one is live");
                return Ok(());
            }
        }
    }

    fn follow(&self, projected: &ProjectorStatus, obstacle: Option<String>) {
        self.status.send_modify(|status| {
            status.applied = projected.totals().applied;
            status.behind = projected.lag();
            status.dead_letters = projected.partitions.values().map(|p| p.dead_letters).sum();
            status.error = projected.problem().or(obstacle);
        });
    }
}
