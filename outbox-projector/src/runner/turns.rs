//! What the projector does with each thing that happens.

use std::time::Duration;

use outbox_core::{
    error::chain,
    projection::{Applied, ProjectionError, ProjectionErrorKind, Step},
    source::{Batch, Partition, SourceError, SourceErrorKind, SourceEvent},
};
use tokio::time::Instant;

use super::{
    PartitionState, PartitionStatus, Projector, ProjectorError, Turn,
    work::{End, Work},
    worker::{Phase, Worker, beginning, is_beginning},
};

impl Projector {
    pub(super) async fn take(&mut self, turn: Turn) -> Result<(), ProjectorError> {
        let event = match turn {
            Turn::Due => return self.take_due().await,
            Turn::Source(Ok(event)) => event,
            Turn::Source(Err(error)) => return self.source_failed(error),
        };
        self.status.send_if_modified(|status| status.source_error.take().is_some());
        match event {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    self.workers.insert(partition.clone(), Worker::default());
                    self.start(&partition).await?;
                }
            }
            SourceEvent::Revoked(partitions) => partitions.iter().for_each(|partition| self.revoked(partition)),
            SourceEvent::Batch(batch) => self.batch(batch).await?,
            other => tracing::warn!(?other, "the source says something this version does not know"),
        }
        Ok(())
    }

    async fn take_due(&mut self) -> Result<(), ProjectorError> {
        let now = Instant::now();
        let due: Vec<Partition> = self
            .workers
            .iter()
            .filter(|(_, w)| w.due().is_some_and(|due| due <= now))
            .map(|(p, _)| p.clone())
            .collect();
        for partition in due {
            let Some(worker) = self.workers.get_mut(&partition) else { continue };
            if worker.retry_at.take_if(|at| *at <= now).is_some() {
                match worker.phase {
                    Phase::Starting => self.start(&partition).await?,
                    Phase::Running | Phase::Held => self.process(&partition).await?,
                }
            }
            if self.workers.get(&partition).is_some_and(|w| w.commit_at.is_some_and(|at| at <= now)) {
                self.commit(&partition).await?;
            }
        }
        Ok(())
    }

    /// Lets a partition deliver behind the kept position.
    async fn start(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let position = match self.projection.position(partition).await {
            Ok(position) => position,
            Err(error) => return self.step_failed(partition, error).await,
        };
        let after = position.as_ref().filter(|position| !is_beginning(position));
        if let Err(error) = self.source.start(partition, after).await {
            let error = ProjectorError::if_lasting_source(error)?;
            if error.kind() == SourceErrorKind::Revoked {
                self.revoked(partition);
            } else {
                self.wait(partition, chain(&error), |failures, delay| PartitionState::Retrying { failures, delay });
            }
            return Ok(());
        }
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        worker.phase = Phase::Running;
        let shown = after.cloned();
        worker.position = position;
        self.note(partition, |status| {
            status.state = PartitionState::Running;
            status.position = shown;
            status.error = None;
        });
        self.resume(partition).await
    }

    async fn batch(&mut self, batch: Batch) -> Result<(), ProjectorError> {
        let partition = batch.partition.clone();
        let Some(worker) = self.workers.get_mut(&partition) else { return Ok(()) };
        if worker.phase != Phase::Running {
            // Delivered before the partition was paused: it comes again behind the position of the next start.
            return Ok(());
        }
        worker.waiting.push_back(Work::of(batch, self.settings.undecodables));
        if worker.retry_at.is_some() {
            return Ok(());
        }
        self.process(&partition).await
    }

    /// Applies what waits, until it is done or fails.
    async fn process(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        while let Some(worker) = self.workers.get_mut(partition)
            && let Some(work) = worker.waiting.front()
        {
            let from = worker.position.as_ref();
            let stays = from.cloned().unwrap_or_else(beginning);
            let to = match &work.end {
                End::Position(position) => position,
                // Between two records of a batch there is no position: the effects are made, the position stays, and
                // they come again as duplicates.
                End::Hold(_) => &stays,
            };
            let step = Step { partition, from, to, events: &work.events };
            let applied = if work.is_nothing() { Ok(Applied::default()) } else { self.projection.apply(step).await };
            match applied {
                Ok(applied) => self.step_done(partition, applied).await?,
                Err(error) => return self.step_failed(partition, error).await,
            }
        }
        self.resume(partition).await
    }

    async fn step_done(&mut self, partition: &Partition, applied: Applied) -> Result<(), ProjectorError> {
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        let Some(work) = worker.waiting.pop_front() else { return Ok(()) };
        for record in &work.skipped {
            let (place, reason) = (&record.place, &record.reason);
            tracing::warn!(%partition, place, reason, "an undecodable record was passed over");
        }
        worker.failures = 0;
        let last_sequence = work.events.iter().rev().find_map(|e| e.origin).map(|origin| origin.sequence);
        let (state, error) = match work.end {
            End::Position(position) => {
                worker.done_up_to(position);
                (PartitionState::Running, None)
            }
            End::Hold(record) => {
                worker.hold(!work.events.is_empty());
                let error = format!("{} cannot be decoded: {}", record.place, record.reason);
                tracing::error!(%partition, error, "the partition waits until somebody acts");
                (PartitionState::Undecodable, Some(error))
            }
        };
        let held = worker.phase == Phase::Held;
        let commit = worker.wants_commit(self.projection.capabilities().keeps_position);
        let position = worker.position.as_ref().filter(|position| !is_beginning(position)).cloned();
        self.note(partition, |status| {
            status.state = state;
            status.position = position;
            status.totals += applied;
            status.undecodable += work.skipped.len();
            status.last_sequence = last_sequence.or(status.last_sequence);
            status.error = error;
        });
        if held {
            self.pause(partition).await?;
        }
        if commit { self.commit(partition).await } else { Ok(()) }
    }

    async fn step_failed(&mut self, partition: &Partition, error: ProjectionError) -> Result<(), ProjectorError> {
        let error = ProjectorError::if_lasting_projection(error)?;
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        if error.kind() == ProjectionErrorKind::Conflict {
            worker.phase = Phase::Starting;
            worker.waiting.clear();
            self.note(partition, |status| status.conflicts += 1);
        }
        let rejected = error.kind() == ProjectionErrorKind::Rejected;
        self.wait(partition, chain(&error), |failures, delay| {
            if rejected {
                PartitionState::Rejected { failures, delay }
            } else {
                PartitionState::Retrying { failures, delay }
            }
        });
        self.pause(partition).await
    }

    fn wait(&mut self, partition: &Partition, error: String, state: impl FnOnce(u32, Duration) -> PartitionState) {
        let Some(worker) = self.workers.get_mut(partition) else { return };
        let delay = self.settings.retry.delay(worker.failures, &mut rand::rng());
        worker.failures = worker.failures.saturating_add(1);
        worker.retry_at = Some(Instant::now() + delay);
        let state = state(worker.failures, delay);
        tracing::warn!(projection = self.projection.name(), %partition, ?state, error, "the partition waits");
        self.note(partition, |status| {
            status.state = state;
            status.error = Some(error);
        });
    }

    async fn commit(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        let Some(position) = &worker.uncommitted else { return Ok(()) };
        match self.source.commit(partition, position).await {
            Ok(()) => worker.committed(),
            Err(error) => {
                let error = ProjectorError::if_lasting_source(error)?;
                tracing::debug!(%partition, error = chain(&error), "the source did not take a commit");
                if error.kind() == SourceErrorKind::Revoked {
                    self.revoked(partition);
                } else {
                    worker.commit_later();
                }
            }
        }
        Ok(())
    }

    async fn pause(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        if !std::mem::replace(&mut worker.paused, true) {
            let paused = self.source.pause(partition).await;
            return paused.or_else(|error| self.source_failed(error));
        }
        Ok(())
    }

    async fn resume(&mut self, partition: &Partition) -> Result<(), ProjectorError> {
        let Some(worker) = self.workers.get_mut(partition) else { return Ok(()) };
        if worker.phase == Phase::Running && std::mem::replace(&mut worker.paused, false) {
            let resumed = self.source.resume(partition).await;
            return resumed.or_else(|error| self.source_failed(error));
        }
        Ok(())
    }

    fn revoked(&mut self, partition: &Partition) {
        self.workers.remove(partition);
        self.note(partition, |status| {
            status.state = PartitionState::Revoked;
            status.error = None;
        });
    }

    fn source_failed(&mut self, error: SourceError) -> Result<(), ProjectorError> {
        let error = ProjectorError::if_lasting_source(error)?;
        if error.kind() != SourceErrorKind::Revoked {
            let error = chain(&error);
            if self.status.borrow().source_error.is_none() {
                tracing::warn!(projection = self.projection.name(), error, "the source does not deliver");
            }
            self.status.send_modify(|status| status.source_error = Some(error));
        }
        Ok(())
    }

    fn note(&self, partition: &Partition, change: impl FnOnce(&mut PartitionStatus)) {
        self.status.send_modify(|status| change(status.partitions.entry(partition.clone()).or_default()));
    }

    /// Commits what is not committed yet and closes the source.
    pub(super) async fn finish(&mut self) {
        let partitions: Vec<Partition> = self.workers.keys().cloned().collect();
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
