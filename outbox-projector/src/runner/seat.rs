use std::{collections::VecDeque, time::Duration};

use chrono::{DateTime, Utc};
use outbox_core::source::{Batch, SourcePosition, SourceRecord};
use tokio::{
    sync::{mpsc::UnboundedSender, oneshot, watch},
    time::Instant,
};

use super::report::Order;

/// What is known of one assigned partition, beside its worker.
pub(super) struct Seat {
    pub(super) number: u64,
    pub(super) phase: Phase,
    pub(super) start_at: Option<Instant>,
    /// How often the start failed in a row.
    pub(super) failures: u32,
    /// Records that the worker has not done yet.
    pub(super) queued: usize,
    /// The batches that these are of.
    batches: VecDeque<Queued>,
    pub(super) paused: bool,
    /// Everything up to here took effect.
    pub(super) position: Option<SourcePosition>,
    pub(super) uncommitted: Option<SourcePosition>,
    pub(super) commit_at: Option<Instant>,
    steps_uncommitted: u32,
    orders: UnboundedSender<Order>,
    /// Resolves when the worker ended.
    pub(super) ended: oneshot::Receiver<()>,
    /// Dropping it stops the worker.
    stop: Option<watch::Sender<()>>,
}

struct Queued {
    records: usize,
    /// When the writer made the first event among them.
    created_at: Option<DateTime<Utc>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// The worker looks its position up.
    LookingUp,
    /// The source is to be started behind the seat's position, or where it thinks best when there is none.
    Starting,
    Running,
    /// A record waits for somebody to act.
    Held,
}

/// How long, and for how many steps, a commit that only serves retention may wait.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
const COMMIT_STEPS: u32 = 100;

impl Seat {
    pub(super) fn new(
        number: u64,
        orders: UnboundedSender<Order>,
        stop: watch::Sender<()>,
        ended: oneshot::Receiver<()>,
    ) -> Self {
        Self {
            number,
            phase: Phase::LookingUp,
            start_at: None,
            failures: 0,
            queued: 0,
            batches: VecDeque::new(),
            paused: false,
            position: None,
            uncommitted: None,
            commit_at: None,
            steps_uncommitted: 0,
            orders,
            ended,
            stop: Some(stop),
        }
    }

    /// When there is something to do without anybody saying anything.
    pub(super) fn due(&self) -> Option<Instant> {
        [self.start_at, self.commit_at].into_iter().flatten().min()
    }

    /// Stops the worker after the step at hand.
    pub(super) fn stop(&mut self) {
        self.stop = None;
    }

    /// The source delivers from the worker's position on.
    pub(super) fn begin(&mut self) {
        self.phase = Phase::Running;
        self.queued = 0;
        self.batches.clear();
        self.failures = 0;
        // A crash may have come between a step's effect and its commit, and no other step may follow for long.
        if let Some(kept) = self.position.clone() {
            self.reached(kept);
        }
        self.tell(Order::Begin);
    }

    pub(super) fn deliver(&mut self, batch: Batch) {
        let records = batch.records.len();
        if records > 0 {
            let created_at = batch.records.iter().find_map(|record| match record {
                SourceRecord::Event { event, .. } => Some(event.event.created_at),
                SourceRecord::Undecodable { .. } => None,
            });
            self.batches.push_back(Queued { records, created_at });
            self.queued += records;
        }
        self.tell(Order::Batch(batch));
    }

    /// The worker has done so many records; it takes batches whole.
    pub(super) fn has_done(&mut self, records: usize) {
        self.queued = self.queued.saturating_sub(records);
        let mut left = records;
        while let Some(done) = self.batches.pop_front_if(|batch| batch.records <= left) {
            left -= done.records;
        }
    }

    /// When the writer made the oldest event that the worker has not done.
    pub(super) fn oldest(&self) -> Option<DateTime<Utc>> {
        self.batches.iter().find_map(|batch| batch.created_at)
    }

    fn tell(&self, order: Order) {
        // A worker that ended by itself has said why; nothing more is for it.
        let _unheard = self.orders.send(order);
    }

    pub(super) fn reached(&mut self, position: SourcePosition) {
        self.position = Some(position.clone());
        self.uncommitted = Some(position);
        self.steps_uncommitted += 1;
        self.commit_at.get_or_insert_with(|| Instant::now() + COMMIT_EVERY);
    }

    pub(super) fn wants_commit(&self, keeps_position: bool) -> bool {
        self.uncommitted.is_some() && (!keeps_position || self.steps_uncommitted >= COMMIT_STEPS)
    }

    pub(super) fn committed(&mut self) {
        self.uncommitted = None;
        self.commit_at = None;
        self.steps_uncommitted = 0;
    }

    pub(super) fn commit_later(&mut self) {
        self.commit_at = Some(Instant::now() + COMMIT_EVERY);
        self.steps_uncommitted = 0;
    }
}
