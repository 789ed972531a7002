//! One partition: batches become steps, and a step is tried until it is done.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    error::chain,
    projection::{Applied, Projection, ProjectionError, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
};
use tokio::{
    sync::{
        mpsc::{UnboundedReceiver, UnboundedSender},
        oneshot, watch,
    },
    time::{Instant, sleep, timeout_at},
};

use super::{
    PartitionState, ProjectorError, Settings,
    guard::guarded,
    report::{Done, FromSeat, Order, Report},
    work::{Undecodable, Work},
};
use crate::dead_letters::DeadLettersError;

pub(super) struct Worker {
    pub(super) partition: Partition,
    pub(super) seat: u64,
    pub(super) projection: Arc<dyn Projection>,
    pub(super) settings: Settings,
    pub(super) orders: UnboundedReceiver<Order>,
    pub(super) reports: UnboundedSender<FromSeat>,
    /// Changes, or is dropped, when the worker has to stop.
    pub(super) stop: watch::Receiver<()>,
    /// Everything up to here took effect.
    pub(super) position: Option<SourcePosition>,
    /// How often the same failed in a row.
    pub(super) failures: u32,
}

/// Why a worker does not go on as it did.
enum Break {
    /// It has to stop.
    Stopped,
    /// The position is somebody else's doing: read it again.
    Conflict,
    /// Somebody has to act.
    Held(String),
    /// The projector has to end.
    Ends(ProjectorError),
}

impl Worker {
    /// Works until it is told to stop, once the worker before it of the same partition has ended. `ended` is dropped at
    /// the end.
    pub(super) async fn run(mut self, before: Option<oneshot::Receiver<()>>, ended: oneshot::Sender<()>) {
        if let Some(before) = before {
            // Dropped unused: that is the signal.
            let _gone = before.await;
        }
        loop {
            match self.follow().await {
                Break::Stopped => break,
                Break::Conflict => self.report(Report::Conflict),
                Break::Held(error) => {
                    self.report(Report::Held { error });
                    self.stopped().await;
                    break;
                }
                Break::Ends(error) => {
                    self.report(Report::Ends(error));
                    self.stopped().await;
                    break;
                }
            }
        }
        drop(ended);
    }

    /// From the kept position on.
    async fn follow(&mut self) -> Break {
        let Err(end) = self.try_follow().await else { return Break::Stopped };
        end
    }

    async fn try_follow(&mut self) -> Result<(), Break> {
        self.position = self.look_up().await?;
        let kept = self.position.as_ref().filter(|position| !is_beginning(position));
        self.report(Report::Ready(kept.cloned()));
        while !matches!(self.next().await?, Order::Begin) {}
        loop {
            let mut work = self.collect().await?;
            let done = self.finish(&mut work).await?;
            self.report(Report::Done(done));
            if let Some(error) = work.held {
                return Err(Break::Held(error));
            }
        }
    }

    async fn look_up(&mut self) -> Result<Option<SourcePosition>, Break> {
        loop {
            match self.projection.position(&self.partition).await {
                Ok(position) => {
                    self.failures = 0;
                    return Ok(position);
                }
                Err(error) => {
                    let error = ProjectorError::if_lasting_projection(error).map_err(Break::Ends)?;
                    self.wait(&error, None).await?;
                }
            }
        }
    }

    /// What is to be applied next, as much as may be applied together.
    async fn collect(&mut self) -> Result<Work, Break> {
        let mut work = Work::default();
        let undecodable = self.undecodable();
        let mut goes_on = match self.next().await? {
            Order::Batch(batch) => work.add(batch, undecodable),
            Order::Begin => true,
        };
        let full = Instant::now() + self.settings.batch_wait;
        while goes_on && work.records < self.settings.batch {
            let more = match self.orders.try_recv() {
                Ok(order) => Some(order),
                Err(_) if self.settings.batch_wait.is_zero() => None,
                Err(_) => timeout_at(full, self.next()).await.ok().transpose()?,
            };
            match more {
                Some(Order::Batch(batch)) => goes_on = work.add(batch, undecodable),
                Some(Order::Begin) => {}
                None => break,
            }
        }
        Ok(work)
    }

    fn undecodable(&self) -> Undecodable {
        match self.settings.undecodables {
            super::Undecodables::Skip => Undecodable::Skip,
            super::Undecodables::Hold if self.gives_up() => Undecodable::GiveUp,
            super::Undecodables::Hold => Undecodable::Hold,
        }
    }

    /// Whether there is a place for dead letters.
    fn gives_up(&self) -> bool {
        self.settings.dead_letters.is_some() || self.projection.capabilities().keeps_dead_letters
    }

    /// Applies all of it, whatever it takes.
    async fn finish(&mut self, work: &mut Work) -> Result<Done, Break> {
        let mut done = Done { undecodable: work.skipped, records: work.records, last: work.last, ..Done::default() };
        loop {
            // Before anything behind them takes effect: the watermark would tell them for duplicates from then on.
            if !self.store_dead_letters(work).await? {
                continue;
            }
            let stays = self.position.clone().unwrap_or_else(beginning);
            let (whole, nothing) = (!work.singly, work.is_nothing());
            let to = if whole { work.to.clone().unwrap_or_else(|| stays.clone()) } else { stays };
            let step = Step::new(&self.partition, self.position.as_ref(), &to, work.trial());
            let letters = work.letters();
            let step = step.with_raws(work.raws()).with_dead_letters(&letters);
            let applied = if nothing { Ok(Applied::default()) } else { guarded(self.projection.apply(step)).await };
            match applied {
                Ok(applied) => {
                    self.failures = 0;
                    done.applied += applied;
                    done.dead_letters += letters.len();
                    work.letters_are_done(letters.len());
                    if !nothing {
                        self.position = Some(to);
                    }
                    if whole {
                        done.position = work.to.take().and(self.position.clone()).filter(|p| !is_beginning(p));
                        return Ok(done);
                    }
                    work.first_is_done();
                }
                Err(error) => self.failed(work, error).await?,
            }
        }
    }

    /// `false`: not yet.
    async fn store_dead_letters(&mut self, work: &mut Work) -> Result<bool, Break> {
        let new = work.not_stored();
        let keeps = self.projection.capabilities().keeps_dead_letters;
        let Some(store) = self.settings.dead_letters.clone().filter(|_| !new.is_empty() && !keeps) else {
            return Ok(true);
        };
        match store.store(self.projection.name(), &new).await {
            Ok(()) => {
                work.all_stored();
                self.failures = 0;
                Ok(true)
            }
            Err(error) => {
                self.wait_for_letters(&error).await?;
                Ok(false)
            }
        }
    }

    async fn failed(&mut self, work: &mut Work, error: ProjectionError) -> Result<(), Break> {
        let error = ProjectorError::if_lasting_projection(error).map_err(Break::Ends)?;
        if error.kind() == ProjectionErrorKind::Conflict {
            return Err(Break::Conflict);
        }
        if !error.kind().blames_an_event() {
            return self.wait(&error, error.delay()).await;
        }
        let tried = work.trial().len();
        let Some(index) = error.event().filter(|index| *index < tried).or((tried == 1).then_some(0)) else {
            work.singly = tried > 1;
            return if tried == 0 { self.wait(&error, None).await } else { Ok(()) };
        };
        let attempts = work.blame(index);
        let last = error.kind() == ProjectionErrorKind::Rejected || attempts >= self.settings.attempts;
        if last && self.gives_up() {
            let event = &work.events[index].event;
            let (id, event_type) = (event.id, event.event_type.as_str());
            // The causes may quote the payload: they are for whoever may read the letter, not for the log.
            tracing::error!(partition = %self.partition, %id, event_type, %error, "an event becomes a dead letter");
            work.give_up(index, &self.partition, chain(&error));
            self.failures = 0;
            return Ok(());
        }
        // One by one the others get ahead, however many of them fail now and then.
        work.singly = tried > 1 || work.singly;
        self.wait(&error, error.delay()).await
    }

    async fn wait(&mut self, error: &ProjectionError, after: Option<Duration>) -> Result<(), Break> {
        let rejected = error.kind() == ProjectionErrorKind::Rejected;
        // The causes of an event's failure may quote its payload.
        let said = if error.kind().blames_an_event() { error.to_string() } else { chain(error) };
        tracing::warn!(partition = %self.partition, error = said, "the partition waits");
        self.pause(chain(error), after, rejected).await
    }

    async fn wait_for_letters(&mut self, error: &DeadLettersError) -> Result<(), Break> {
        let error_chain = chain(error);
        tracing::warn!(partition = %self.partition, error = error_chain, "the partition waits for its dead letters");
        self.pause(error_chain, None, error.kind().needs_action()).await
    }

    async fn pause(&mut self, error: String, after: Option<Duration>, needs_action: bool) -> Result<(), Break> {
        let delay = after.unwrap_or_else(|| self.settings.retry.delay(self.failures, &mut rand::rng())).max(SHORTEST);
        self.failures = self.failures.saturating_add(1);
        let failures = self.failures;
        let state = if needs_action {
            PartitionState::Rejected { failures, delay }
        } else {
            PartitionState::Retrying { failures, delay }
        };
        self.report(Report::Waits { state, error, delay });
        tokio::select! {
            () = self.stopped() => return Err(Break::Stopped),
            () = sleep(delay) => {}
        }
        Ok(())
    }

    async fn next(&mut self) -> Result<Order, Break> {
        tokio::select! {
            biased;
            _ = self.stop.changed() => Err(Break::Stopped),
            order = self.orders.recv() => order.ok_or(Break::Stopped),
        }
    }

    async fn stopped(&self) {
        // Either way it means the same.
        let _changed_or_gone = self.stop.clone().changed().await;
    }

    fn report(&self, report: Report) {
        // Nobody listens any more when the projector was dropped; then this task is about to be aborted.
        let _unheard = self.reports.send(FromSeat { partition: self.partition.clone(), seat: self.seat, report });
    }
}

/// Nobody may ask for a try without any pause: that would be a busy loop.
const SHORTEST: Duration = Duration::from_millis(1);

/// The position of a partition of which events were applied before a position was known: the source has to begin where
/// it began. No adapter has an empty position.
fn beginning() -> SourcePosition {
    SourcePosition::from_text("")
}

fn is_beginning(position: &SourcePosition) -> bool {
    position.as_text().is_empty()
}
