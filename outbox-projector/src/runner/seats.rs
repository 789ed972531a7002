//! What the projector does with each thing that happens.

use std::{collections::BTreeMap, sync::Arc};

use chrono::{DateTime, Utc};
use outbox_core::{
    error::chain,
    projection::Projection,
    source::{Batch, EventSource, Partition, SourceError, SourceErrorKind, SourceEvent},
};
use tokio::{
    sync::{
        mpsc::{self, UnboundedReceiver, UnboundedSender},
        oneshot, watch,
    },
    task::JoinSet,
    time::Instant,
};

use super::{
    LostPosition, PartitionState, PartitionStatus, Projector, ProjectorError, ProjectorStatus, Settings, Turn,
    lag::LagTurns,
    meters::Meters,
    report::{Done, FromSeat, Last, Report},
    seat::{Phase, Seat},
    worker::Worker,
};

/// The source, and a seat with a worker for each partition it gave.
pub(super) struct Seats {
    pub(super) source: Box<dyn EventSource>,
    pub(super) reports: UnboundedReceiver<FromSeat>,
    for_reports: UnboundedSender<FromSeat>,
    projection: Arc<dyn Projection>,
    pub(super) settings: Settings,
    pub(super) taken: BTreeMap<Partition, Seat>,
    /// Of partitions that were taken away: resolves when the worker has ended.
    leaving: BTreeMap<Partition, oneshot::Receiver<()>>,
    workers: JoinSet<()>,
    next_seat: u64,
    /// The source took no partition away since it said last which it gives.
    is_settled: bool,
    pub(super) lags: LagTurns,
    pub(super) status: watch::Sender<ProjectorStatus>,
    pub(super) meters: Meters,
}

impl Seats {
    pub(super) fn new(projector: Projector) -> Self {
        let Projector { source, projection, settings, status } = projector;
        let (for_reports, reports) = mpsc::unbounded_channel();
        let seats = Self {
            source,
            reports,
            for_reports,
            meters: Meters::new(projection.name()),
            projection,
            lags: LagTurns::new(settings.lag_every),
            settings,
            taken: BTreeMap::new(),
            leaving: BTreeMap::new(),
            workers: JoinSet::new(),
            next_seat: 0,
            is_settled: true,
            status,
        };
        seats.show_lag();
        seats
    }

    /// When there is something to do without anybody saying anything.
    pub(super) fn due(&self) -> Option<Instant> {
        self.taken.values().filter_map(Seat::due).min()
    }

    /// When the source is to be asked how much is to come.
    pub(super) fn lag_at(&self) -> Instant {
        self.lags.at
    }

    pub(super) async fn take(&mut self, turn: Turn) -> Result<(), ProjectorError> {
        while let Some(ended) = self.workers.try_join_next() {
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
        match turn {
            Turn::Due => self.take_due().await,
            Turn::Lag => {
                self.look_at_lag().await;
                Ok(())
            }
            Turn::Report(said) => self.hear(said).await,
            Turn::Source(Err(error)) => self.source_failed(error),
            Turn::Source(Ok(event)) => {
                self.status.send_if_modified(|status| status.source_error.take().is_some());
                self.source_said(event).await
            }
        }
    }

    async fn source_said(&mut self, event: SourceEvent) -> Result<(), ProjectorError> {
        match event {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    self.seat(partition);
                }
                self.is_settled = true;
                self.show_lag();
            }
            SourceEvent::Revoked(partitions) => partitions.iter().for_each(|partition| self.revoked(partition)),
            SourceEvent::Batch(batch) => self.batch(batch).await?,
            other => tracing::warn!(?other, "the source says something this version does not know"),
        }
        Ok(())
    }

    fn seat(&mut self, partition: Partition) {
        self.unseat(&partition);
        let (orders, for_worker) = mpsc::unbounded_channel();
        let (stop, stopped) = watch::channel(());
        let (for_end, ended) = oneshot::channel();
        self.next_seat += 1;
        let worker = Worker {
            partition: partition.clone(),
            seat: self.next_seat,
            projection: self.projection.clone(),
            settings: self.settings.clone(),
            orders: for_worker,
            reports: self.for_reports.clone(),
            stop: stopped,
            position: None,
            failures: 0,
        };
        self.workers.spawn(worker.run(self.leaving.remove(&partition), for_end));
        self.note(&partition, |status| {
            status.state = PartitionState::Starting;
            status.error = None;
            (status.lag, status.lag_asked) = (None, None);
            status.waiting_since = None;
        });
        self.taken.insert(partition, Seat::new(self.next_seat, orders, stop, ended));
    }

    /// Stops the worker of a partition after the step at hand.
    fn unseat(&mut self, partition: &Partition) -> bool {
        let Some(seat) = self.taken.remove(partition) else { return false };
        self.leaving.retain(|_, ended| matches!(ended.try_recv(), Err(oneshot::error::TryRecvError::Empty)));
        self.leaving.insert(partition.clone(), seat.ended);
        true
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), ProjectorError> {
        let partition = batch.partition.clone();
        // One that was delivered before the partition was started anew comes again.
        let Some(seat) = self.taken.get_mut(&partition).filter(|seat| seat.phase == Phase::Running) else {
            return Ok(());
        };
        seat.deliver(batch);
        let (oldest, is_full) = (seat.oldest(), seat.queued >= 2 * self.settings.batch);
        self.waits_since(&partition, oldest, None);
        if is_full { self.pause(&partition).await } else { Ok(()) }
    }

    async fn hear(&mut self, said: FromSeat) -> Result<(), ProjectorError> {
        let FromSeat { partition, seat: number, report } = said;
        let Some(seat) = self.taken.get_mut(&partition).filter(|seat| seat.number == number) else {
            if let Report::Done(done) = report {
                self.count(&partition, &done);
            }
            return Ok(());
        };
        match report {
            Report::Ready(position) => {
                seat.position = position;
                seat.phase = Phase::Starting;
                self.start(&partition).await
            }
            Report::Done(done) => self.done(&partition, done).await,
            Report::Waits { state, error, delay } => {
                self.note(&partition, |status| {
                    status.state = state;
                    status.error = Some(error);
                    status.paused_until = chrono::Duration::from_std(delay).ok().map(|delay| Utc::now() + delay);
                });
                Ok(())
            }
            Report::Conflict => {
                seat.phase = Phase::LookingUp;
                self.note(&partition, |status| status.conflicts += 1);
                self.pause(&partition).await
            }
            Report::Held { error } => {
                seat.phase = Phase::Held;
                tracing::error!(%partition, error, "the partition waits until somebody acts");
                self.note(&partition, |status| {
                    status.state = PartitionState::Undecodable;
                    status.error = Some(error);
                });
                self.pause(&partition).await
            }
            Report::Ends(error) => Err(error),
        }
    }

    /// Lets a partition deliver behind the kept position.
    async fn start(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        if seat.phase != Phase::Starting {
            return Ok(());
        }
        let position = seat.position.clone();
        seat.start_at = None;
        let started = match self.source.start(partition, position.as_ref()).await {
            Err(error) if error.kind().is_lost_position() && self.settings.lost_position == LostPosition::Rewind => {
                let why = chain(&error);
                tracing::warn!(%partition, why, "the position is lost; the partition is read from its oldest record");
                if let Some(seat) = self.taken.get_mut(partition) {
                    // How much is to come is counted from the beginning.
                    seat.position = None;
                }
                self.source.rewind(partition).await
            }
            started => started,
        };
        if let Err(error) = started {
            let error = ProjectorError::if_lasting_source(error)?;
            if error.kind() == SourceErrorKind::Revoked {
                self.revoked(partition);
            } else if let Some(seat) = self.taken.get_mut(partition) {
                let delay = self.settings.retry.delay(seat.failures, &mut rand::rng());
                seat.failures = seat.failures.saturating_add(1);
                seat.start_at = Some(Instant::now() + delay);
                let state = PartitionState::Retrying { failures: seat.failures, delay };
                self.note(partition, |status| {
                    status.state = state;
                    status.error = Some(chain(&error));
                });
            }
            return Ok(());
        }
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        seat.begin();
        self.note(partition, |status| {
            status.state = PartitionState::Running;
            status.position = position;
            status.error = None;
            status.paused_until = None;
            // Known again when the source says so.
            (status.lag, status.lag_asked) = (None, None);
            status.waiting_since = None;
        });
        self.resume(partition).await
    }

    async fn done(&mut self, partition: &Partition, done: Done) -> Result<(), ProjectorError> {
        if let Some(seat) = self.taken.get_mut(partition) {
            seat.has_done(done.records);
            let oldest = seat.oldest();
            self.waits_since(partition, oldest, done.last);
        }
        self.count(partition, &done);
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        if let Some(position) = done.position {
            seat.reached(position);
        }
        let commits = seat.wants_commit(self.projection.capabilities().keeps_position);
        if seat.queued < self.settings.batch {
            self.resume(partition).await?;
        }
        if commits { self.commit(partition).await } else { Ok(()) }
    }

    fn count(&mut self, partition: &Partition, done: &Done) {
        self.meters.done(done);
        self.note(partition, |status| {
            if status.state != PartitionState::Revoked {
                status.state = PartitionState::Running;
            }
            status.error = None;
            status.paused_until = None;
            status.position = done.position.clone().or(status.position.take());
            status.totals += done.applied;
            status.undecodable += done.undecodable;
            status.dead_letters += done.dead_letters;
            if let Some(last) = done.last {
                status.last_sequence = last.sequence.or(status.last_sequence);
                status.last_created_at = Some(last.created_at);
            }
        });
    }

    /// `oldest` of what was received waits. Where that is nothing and there is more to come, it is about as old as the
    /// `last` one that took effect. Nobody is woken: more news follows.
    fn waits_since(&self, partition: &Partition, oldest: Option<DateTime<Utc>>, last: Option<Last>) {
        self.status.send_if_modified(|status| {
            if let Some(shown) = status.partitions.get_mut(partition) {
                let more = shown.lag.is_some_and(|lag| lag > 0);
                let about = last.map(|last| last.created_at).or(shown.waiting_since).filter(|_| more);
                shown.waiting_since = oldest.or(about);
            }
            false
        });
    }

    async fn take_due(&mut self) -> Result<(), ProjectorError> {
        let now = Instant::now();
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let partitions: Vec<Partition> =
            self.taken.iter().filter(|(_, seat)| due(seat.due())).map(|(partition, _)| partition.clone()).collect();
        for partition in partitions {
            if self.taken.get(&partition).is_some_and(|seat| due(seat.start_at)) {
                self.start(&partition).await?;
            }
            if self.taken.get(&partition).is_some_and(|seat| due(seat.commit_at)) {
                self.commit(&partition).await?;
            }
        }
        Ok(())
    }

    async fn commit(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        let Some(position) = &seat.uncommitted else { return Ok(()) };
        match self.source.commit(partition, position).await {
            Ok(()) => seat.committed(),
            Err(error) => {
                let error = ProjectorError::if_lasting_source(error)?;
                tracing::debug!(%partition, error = chain(&error), "the source did not take a commit");
                if error.kind() == SourceErrorKind::Revoked {
                    self.revoked(partition);
                } else {
                    seat.commit_later();
                }
            }
        }
        Ok(())
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        if !std::mem::replace(&mut seat.paused, true) {
            let paused = self.source.pause(partition).await;
            return paused.or_else(|error| self.source_failed(error));
        }
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(seat) = self.taken.get_mut(partition) else { return Ok(()) };
        if seat.phase == Phase::Running && std::mem::replace(&mut seat.paused, false) {
            let resumed = self.source.resume(partition).await;
            return resumed.or_else(|error| self.source_failed(error));
        }
        Ok(())
    }

    fn revoked(&mut self, partition: &Partition) {
        if self.unseat(partition) {
            self.note(partition, |status| {
                status.state = PartitionState::Revoked;
                status.error = None;
                status.paused_until = None;
                (status.lag, status.lag_asked) = (None, None);
                status.waiting_since = None;
            });
            self.is_settled = false;
            self.show_lag();
        }
    }

    fn source_failed(&mut self, error: SourceError) -> Result<(), ProjectorError> {
        let error = ProjectorError::if_lasting_source(error)?;
        if error.kind() != SourceErrorKind::Revoked {
            let error = chain(&error);
            if self.status.borrow().source_error.is_none() {
                tracing::warn!(projection = self.projection.name(), error, "the source does not deliver");
            }
            self.status.send_modify(|status| status.source_error = Some(error));
            self.show_lag();
        }
        Ok(())
    }

    /// Where nothing is read, nothing lags only if that is all that the source has to say.
    fn show_lag(&self) {
        let status = self.status.borrow();
        if self.taken.is_empty() && self.is_settled && status.source_error.is_none() {
            self.meters.stands_by();
        } else {
            self.meters.lag(&status);
        }
    }

    fn note(&self, partition: &Partition, change: impl FnOnce(&mut PartitionStatus)) {
        self.status.send_modify(|status| change(status.partitions.entry(partition.clone()).or_default()));
    }

    /// Lets the workers finish their steps, commits what is not committed yet and closes the source.
    pub(super) async fn finish(&mut self) {
        self.taken.values_mut().for_each(Seat::stop);
        while self.workers.join_next().await.is_some() {}
        while let Ok(FromSeat { partition, seat: number, report }) = self.reports.try_recv() {
            let Report::Done(done) = report else { continue };
            self.count(&partition, &done);
            if let Some(position) = done.position
                && let Some(seat) = self.taken.get_mut(&partition).filter(|seat| seat.number == number)
            {
                seat.reached(position);
            }
        }
        let partitions: Vec<Partition> = self.taken.keys().cloned().collect();
        for partition in partitions {
            if let Err(error) = self.commit(&partition).await {
                tracing::warn!(%partition, error = chain(&error), "not committed; it comes again");
            }
        }
        if let Err(error) = self.source.close().await {
            tracing::warn!(error = chain(&error), "the source could not be closed; others wait for its lease to end");
        }
    }
}
