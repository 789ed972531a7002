//! What the pipeline looks like now, sampled only while somebody watches.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Notify, watch},
    time::{sleep, timeout},
};

use super::{Journey, Journeys, StageView, Stages, Stop};

/// The pipeline as it moves. Cloning shares the sampling.
#[derive(Clone)]
pub(crate) struct Live(Arc<Shared>);

struct Shared {
    stages: Stages,
    journeys: Journeys,
    latest: watch::Sender<Arc<Snapshot>>,
    watched: Notify,
}

#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) stages: Vec<StageView>,
    pub(crate) journeys: Vec<Journey>,
}

/// Bursts of events are shown together.
const SHORTEST: Duration = Duration::from_millis(150);
/// What other processes do is noticed this late.
const LONGEST: Duration = Duration::from_secs(2);
/// How many may watch at once.
const WATCHERS: usize = 200;

impl Live {
    pub(crate) fn new(stages: Stages, journeys: Journeys) -> Self {
        let latest = watch::Sender::default();
        Self(Arc::new(Shared { stages, journeys, latest, watched: Notify::new() }))
    }

    /// Snapshots as they change; `None` when too many watch already.
    pub(crate) fn watch(&self) -> Option<watch::Receiver<Arc<Snapshot>>> {
        let receiver = (self.0.latest.receiver_count() < WATCHERS).then(|| self.0.latest.subscribe())?;
        self.0.watched.notify_one();
        Some(receiver)
    }

    /// One look.
    pub(crate) async fn now(&self) -> Snapshot {
        let stages = self.0.stages.view().await;
        Snapshot { stages, journeys: self.0.journeys.newest() }
    }

    /// Samples for those who watch, until the stop.
    pub(crate) async fn run(&self, mut stop: Stop) {
        tokio::select! {
            () = stop.stopped() => {}
            () = self.sample() => {}
        }
    }

    async fn sample(&self) {
        let mut moved = self.0.journeys.moved();
        loop {
            while self.0.latest.receiver_count() == 0 {
                self.0.watched.notified().await;
            }
            moved.mark_unchanged();
            self.0.latest.send_replace(Arc::new(self.now().await));
            sleep(SHORTEST).await;
            // Either something moved, or it is time to look anyway.
            let _timed_out_or_moved = timeout(LONGEST, moved.changed()).await;
        }
    }
}
