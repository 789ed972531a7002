//! One time of membership: reads, publishes, parks, records and renews side by side, as the machine decides.

mod lease;
mod membership;
mod parking;
mod reading;
mod showing;
mod streams;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use self::{
    lease::Lease,
    membership::MembershipAnswer,
    parking::ParkingAnswer,
    reading::{ReadAnswer, Reading},
    showing::Showing,
    streams::Streams,
};
use super::{
    Relay, RelayError, RelayErrorKind, RelayStatus,
    driver::note,
    events::Events,
    lane::Reports,
    machine::{Machine, Report, Rules},
    meters::Meters,
};
use crate::{
    error::chain,
    event::LaneCount,
    log::{Assignment, Fence, LogError, LogErrorKind},
    publisher::PublishErrorKind,
};

/// How long the last checkpoint and the hand-over may take when the deadline of a stop has passed.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a cursor that passed no event may wait: retention profits, nobody else.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(30);

/// A call that is under way, or none.
type Job<'a, T> = Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// Why it ended early.
pub(super) enum Halt {
    Fenced,
    Failed(RelayError),
}

/// One time of membership.
pub(super) struct Tenure<'a> {
    relay: &'a Relay,
    fence: Fence,
    lane_count: LaneCount,
    machine: Machine<Events>,
    streams: Streams,
    inbox: mpsc::UnboundedReceiver<Reports>,
    reading: Reading,
    lease: Lease,
    /// An operator paused the consumer.
    paused: bool,
    showing: Showing,
    meters: &'a mut Meters,
    stop_at: Option<Instant>,
    /// Failed calls to the log in a row.
    log_failures: u32,
    /// No call but renewals before this moment.
    log_pause: Option<Instant>,
}

impl<'a> Tenure<'a> {
    /// Begins with what the member was given by a call that was made at `asked`.
    pub(super) fn new(
        relay: &'a Relay,
        lane_count: LaneCount,
        assignment: Assignment,
        asked: Instant,
        meters: &'a mut Meters,
    ) -> Self {
        let Relay { settings, publisher, profile, .. } = relay;
        let rules = Rules {
            window: settings.window,
            window_bytes: settings.window_bytes,
            lane_in_flight: settings.lane_in_flight,
            keeps_order_after_failure: publisher.capabilities().keeps_order_after_failure,
            backoff: settings.backoff,
            retry: settings.retry,
            checkpoint_every: settings.checkpoint_every,
            checkpoint_events: settings.checkpoint_events,
            idle_checkpoint_every: IDLE_CHECKPOINT,
        };
        let mut machine = Machine::new(rules, rand::random());
        machine.gain(assignment.tracks);
        let (reports, inbox) = mpsc::unbounded_channel();
        relay.status.send_modify(|status| status.last_error = None);
        Self {
            relay,
            fence: assignment.fence,
            lane_count,
            machine,
            streams: Streams::new(Arc::clone(publisher), profile.clone(), reports),
            inbox,
            reading: Reading::new(settings.poll),
            lease: Lease::new(settings.lease, asked),
            paused: assignment.paused,
            showing: Showing::new(&relay.status.borrow()),
            meters,
            stop_at: None,
            log_failures: 0,
            log_pause: None,
        }
    }

    /// Until `shutdown` completes or the membership is over.
    pub(super) async fn run(mut self, shutdown: Pin<&mut (impl Future<Output = ()> + Send)>) -> Result<(), Halt> {
        match self.work(shutdown).await {
            Ok(deadline) => {
                self.leave(deadline).await;
                Ok(())
            }
            Err(Halt::Fenced) if self.stop_at.is_some() => Ok(()),
            Err(halt) => Err(halt),
        }
    }

    /// Until what is under way is finished after `shutdown` completed. Returns by when to have left.
    async fn work(&mut self, mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>) -> Result<Instant, Halt> {
        let relay = self.relay;
        let mut bell = relay.log.wake().listen();
        let mut read: Job<'_, ReadAnswer> = None;
        let mut membership: Job<'_, MembershipAnswer> = None;
        let mut parking: Job<'_, ParkingAnswer> = None;
        let mut arrived = Vec::new();

        loop {
            let now = Instant::now();
            self.machine.tick(now);
            if self.is_working(now) {
                self.streams.send(&mut self.machine, self.meters, now);
            }
            if membership.is_none() {
                membership = self.next_membership(now);
            }
            if parking.is_none() {
                parking = self.next_parking(now);
            }
            if read.is_none() {
                read = self.next_read(&mut bell, now);
            }
            self.show(now);
            if self.stop_at.is_some_and(|at| at <= now || self.machine.is_settled()) {
                break;
            }
            let busy = Busy { read: read.is_some(), membership: membership.is_some(), parking: parking.is_some() };
            let wake_at = self.wake_at(busy, now);
            tokio::select! {
                // Outcomes first: they make room for everything else.
                biased;
                _ = self.inbox.recv_many(&mut arrived, 256) => {
                    self.reported(arrived.drain(..)).map_err(Halt::Failed)?;
                }
                answer = answer_of(&mut read) => {
                    read = None;
                    self.read(answer)?;
                }
                answer = answer_of(&mut membership) => {
                    membership = None;
                    self.membership(answer)?;
                }
                answer = answer_of(&mut parking) => {
                    parking = None;
                    self.parking(answer)?;
                }
                () = shutdown.as_mut(), if self.stop_at.is_none() => {
                    self.stop_at = Some(Instant::now() + relay.settings.stop_within);
                }
                () = bell.rung(), if self.stop_at.is_none() && read.is_none() => {
                    // The read may have to wait for room or for the database; until then one ring is enough.
                    bell.arm();
                    self.reading.rung(now);
                }
                () = sleep_until(wake_at) => {}
            }
        }
        drop(read);
        let deadline = self.stop_at.unwrap_or_else(Instant::now).max(Instant::now() + LAST_WORDS);
        // Dropping them could leave open what the log knows, and the last checkpoint would then be refused.
        if let Some(pending) = parking
            && let Ok(answer) = timeout_at(deadline, pending).await
        {
            self.parking(answer)?;
        }
        if let Some(pending) = membership
            && let Ok(answer) = timeout_at(deadline, pending).await
        {
            self.membership(answer)?;
        }
        Ok(deadline)
    }

    /// Whether new work may be begun. A member whose lease ran out by its own clock may have been expelled, and what it
    /// published then would come twice.
    fn is_working(&self, now: Instant) -> bool {
        self.stop_at.is_none() && !self.paused && self.lease.runs(now)
    }

    fn log_is_open(&self, now: Instant) -> bool {
        self.log_pause.is_none_or(|until| until <= now)
    }

    fn reported(&mut self, arrived: impl Iterator<Item = Reports>) -> Result<(), RelayError> {
        let now = Instant::now();
        let (mut published, mut failed) = (0, 0);
        for Reports { lane, batch, since, outcomes, error } in arrived {
            self.meters.answered(now - since);
            let before = published;
            for (run, report) in &outcomes {
                match report {
                    Report::Delivered => published += run.len() as u64,
                    Report::Failed | Report::Suspect | Report::Refused(_) => failed += run.len() as u64,
                    Report::Aborted => {}
                }
            }
            self.machine.reports(lane, batch, outcomes, now);
            if published > before && !self.machine.is_paused(lane) {
                self.showing.flows(lane);
            }
            if let Some(error) = error {
                self.showing.failed(lane, &error);
                if error.kind() == PublishErrorKind::Configuration {
                    let message = "the relay cannot use its publisher";
                    return Err(RelayError::new(RelayErrorKind::Publisher, message).with_source(error));
                }
                note(self.relay, &error);
            }
        }
        self.relay.status.send_modify(|status| {
            status.published += published;
            status.failed += failed;
            if failed == 0 && published > 0 && self.machine.paused().is_empty() {
                status.last_error = None;
            }
        });
        Ok(())
    }

    fn log_failed(&mut self, error: LogError) -> Result<(), Halt> {
        if error.kind() == LogErrorKind::Fenced {
            return Err(Halt::Fenced);
        }
        if !error.kind().passes() {
            return Err(Halt::Failed(error.into()));
        }
        note(self.relay, &error);
        let pause = self.relay.settings.backoff.delay(self.log_failures, &mut rand::rng());
        self.log_pause = Some(Instant::now() + pause);
        self.log_failures = self.log_failures.saturating_add(1);
        Ok(())
    }

    fn log_recovered(&mut self) {
        if std::mem::take(&mut self.log_failures) > 0 {
            self.log_pause = None;
            self.relay.status.send_modify(|status| status.last_error = None);
        }
    }

    /// When to go on though nothing came in.
    fn wake_at(&self, busy: Busy, now: Instant) -> Instant {
        let working = self.is_working(now);
        let read = (working && !busy.read && self.machine.can_read(now)).then(|| self.reading.next());
        let checkpoint = if busy.membership { None } else { self.machine.checkpoint_at() };
        let due = if working && !busy.parking { self.machine.due_at() } else { None };
        let log = [read, checkpoint, due].into_iter().flatten().min();
        let log = log.map(|at| self.log_pause.map_or(at, |pause| at.max(pause)));
        // What waits for the end of the pause without a time of its own, such as a call to be made again.
        let reopened = self.log_pause.filter(|until| *until > now);
        let renew = (!busy.membership).then(|| self.lease.renew_at());
        let resume = if working { self.machine.resume_at() } else { None };
        let earliest = [log, reopened, renew, resume, self.stop_at].into_iter().flatten().min();
        earliest.unwrap_or_else(|| now + self.relay.settings.poll)
    }

    /// Records what is done and gives the lanes back. Best effort: the lease ends by itself.
    async fn leave(mut self, deadline: Instant) {
        let left = self.machine.in_flight();
        if left > 0 {
            tracing::warn!(left, "stopped at the deadline; the next owner publishes what was under way again");
        }
        let last = self.machine.take_last_checkpoint();
        let goodbye = async {
            let mut recorded = None;
            if let Some(due) = &last {
                match self.relay.log.checkpoint(&self.fence, &due.tracks).await {
                    Ok(()) => recorded = Some(due),
                    // Others need not wait for the lease all the same.
                    Err(error) => tracing::warn!(error = %chain(&error), "the last checkpoint was not recorded"),
                }
            }
            self.relay.log.leave(&self.fence).await.map(|()| recorded)
        };
        match timeout_at(deadline, goodbye).await {
            Ok(Ok(recorded)) => {
                if let Some(due) = recorded {
                    self.checkpointed(due);
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the lanes will be free when the lease ends"),
            Err(_) => tracing::warn!("the log did not answer; the lanes will be free when the lease ends"),
        }
        self.relay.status.send_modify(RelayStatus::lose_lanes);
    }
}

/// Which calls to the log are under way.
#[derive(Debug, Clone, Copy)]
struct Busy {
    read: bool,
    membership: bool,
    parking: bool,
}

/// The answer of a call, or for ever nothing.
async fn answer_of<T>(job: &mut Job<'_, T>) -> T {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}
