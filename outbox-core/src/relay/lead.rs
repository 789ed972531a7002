//! One time of owning lanes: reads, publishes, checkpoints and renews side by side, as the machine decides.

use std::{
    collections::{HashMap, VecDeque, hash_map::DefaultHasher},
    future::Future,
    hash::{Hash, Hasher},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Relay, RelayError, RelayErrorKind, RelayState,
    driver::{bounded, note},
    lane::{LaneBatch, LaneTask, Reports},
    machine::{Arrival, Due, Machine, Report, Rules},
};
use crate::{
    error::chain,
    event::{Lane, RecordedEvent},
    log::{Assignment, Cursor, LogError, LogErrorKind, Page},
    publisher::PublishErrorKind,
    wake::WakeListener,
};

/// About so many bytes are read at a time, whatever the configured number of events.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The first page tells how large events are; it should not be large itself.
const FIRST_PAGE: usize = 100;
/// The first pause of an idle reader; it doubles up to the configured poll.
const FIRST_IDLE: Duration = Duration::from_millis(20);
/// How long the last checkpoint and the hand-over may take when the deadline of a stop has passed.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long a cursor that passed no event may wait: retention profits, nobody else.
const IDLE_CHECKPOINT: Duration = Duration::from_secs(30);

type Job<'a, T> = Option<Pin<Box<dyn Future<Output = T> + Send + 'a>>>;

/// How it ended.
pub(super) enum Ended {
    Stopped,
    Fenced,
}

/// One time of owning lanes.
pub(super) struct Lead<'a> {
    relay: &'a Relay,
    assignment: Assignment,
    machine: Machine,
    /// Pages that the machine may still refer to; the first has the number `first_page`.
    pages: VecDeque<Arc<Vec<RecordedEvent>>>,
    first_page: u64,
    lanes: HashMap<Lane, LaneTask>,
    reports: mpsc::UnboundedSender<Reports>,
    cursor: Cursor,
    next_read: Instant,
    idle: Duration,
    renew_at: Instant,
    /// How many events of the last page's average size make a page of [`PAGE_BYTES`].
    page_events: usize,
    /// Failed reads, checkpoints and renewals in a row.
    log_failures: u32,
    /// No log call before this moment.
    log_pause: Option<Instant>,
}

impl<'a> Lead<'a> {
    pub(super) fn new(relay: &'a Relay, assignment: Assignment) -> Self {
        let settings = &relay.settings;
        let rules = Rules {
            window: settings.window,
            window_bytes: settings.window_bytes,
            lane_in_flight: settings.lane_in_flight,
            keeps_order_after_failure: relay.publisher.capabilities().keeps_order_after_failure,
            backoff: settings.backoff,
            checkpoint_every: settings.checkpoint_every,
            checkpoint_events: settings.checkpoint_events,
            idle_checkpoint_every: IDLE_CHECKPOINT,
        };
        let now = Instant::now();
        relay.status.send_modify(|status| {
            status.state = RelayState::Active;
            status.lanes = assignment.lanes;
            status.last_error = None;
        });
        Self {
            relay,
            cursor: assignment.cursor.clone(),
            assignment,
            machine: Machine::new(rules, rand::random()),
            pages: VecDeque::new(),
            first_page: 0,
            lanes: HashMap::new(),
            // Replaced when the run begins; it needs the receiving end beside it.
            reports: mpsc::unbounded_channel().0,
            next_read: now,
            idle: FIRST_IDLE,
            renew_at: now + settings.lease / 3,
            page_events: FIRST_PAGE,
            log_failures: 0,
            log_pause: None,
        }
    }

    /// Until `shutdown` completes or another member takes over.
    pub(super) async fn run(
        mut self,
        mut shutdown: Pin<&mut (impl Future<Output = ()> + Send)>,
    ) -> Result<Ended, RelayError> {
        let relay = self.relay;
        let fence = self.assignment.fence.clone();
        let (reports, mut inbox) = mpsc::unbounded_channel();
        self.reports = reports;
        let mut bell = relay.log.wake().listen();
        let mut read: Job<'_, Result<Page, LogError>> = None;
        let mut checkpoint: Job<'_, (Due, Result<(), LogError>)> = None;
        let mut renew: Job<'_, Result<(), LogError>> = None;
        let mut arrived = Vec::new();
        let mut stop_at: Option<Instant> = None;

        loop {
            let now = Instant::now();
            let stopping = stop_at.is_some();
            if !stopping {
                self.send(now);
            }
            let log_open = self.log_pause.is_none_or(|until| until <= now);
            if !stopping && log_open && read.is_none() && self.next_read <= now && self.machine.wants_page() {
                read = Some(self.read(&mut bell));
            }
            if log_open
                && checkpoint.is_none()
                && let Some(due) = self.machine.take_checkpoint(now)
            {
                let fence = fence.clone();
                checkpoint = Some(Box::pin(async move {
                    let done = bounded(relay, relay.log.checkpoint(&fence, &due.cursor)).await;
                    (due, done)
                }));
            }
            if log_open && renew.is_none() && self.renew_at <= now {
                let fence = fence.clone();
                renew =
                    Some(Box::pin(async move { bounded(relay, relay.log.renew(&fence, relay.settings.lease)).await }));
            }
            self.show();
            if stopping && (self.machine.in_flight() == 0 || stop_at.is_some_and(|at| at <= now)) {
                break;
            }

            let busy = Busy { read: read.is_some(), checkpoint: checkpoint.is_some(), renew: renew.is_some() };
            let wake_at = self.wake_at(busy, stop_at);
            tokio::select! {
                // Outcomes first: they make room for everything else.
                biased;
                _ = inbox.recv_many(&mut arrived, 256) => {
                    for reports in arrived.drain(..) {
                        self.reported(reports)?;
                    }
                }
                done = job(&mut read) => {
                    read = None;
                    match done {
                        Ok(page) => self.page(page),
                        Err(error) => self.log_failed(error)?,
                    }
                }
                (due, done) = job(&mut checkpoint) => {
                    checkpoint = None;
                    match done {
                        Ok(()) => self.recorded(&due),
                        Err(error) if error.kind() == LogErrorKind::Fenced => return Ok(Ended::Fenced),
                        Err(error) => {
                            self.machine.return_checkpoint(due, Instant::now());
                            self.log_failed(error)?;
                        }
                    }
                }
                done = job(&mut renew) => {
                    renew = None;
                    match done {
                        Ok(()) => {
                            self.log_recovered();
                            self.renew_at = Instant::now() + relay.settings.lease / 3;
                        }
                        Err(error) if error.kind() == LogErrorKind::Fenced => return Ok(Ended::Fenced),
                        Err(error) => self.log_failed(error)?,
                    }
                }
                () = shutdown.as_mut(), if !stopping => {
                    stop_at = Some(Instant::now() + relay.settings.stop_within);
                    relay.status.send_modify(|status| status.state = RelayState::Stopping);
                }
                () = bell.rung(), if !stopping && read.is_none() => {
                    // The read may have to wait for room or for the database; until then one ring is enough.
                    bell.arm();
                    self.next_read = now;
                    self.idle = FIRST_IDLE;
                }
                () = sleep_until(wake_at) => self.machine.tick(Instant::now()),
            }
        }
        drop((read, renew));
        // Dropping it could lose the record of what was acknowledged, which the next owner would then repeat.
        let deadline = stop_at.unwrap_or_else(Instant::now).max(Instant::now() + LAST_WORDS);
        if let Some(pending) = checkpoint
            && let Ok((due, Err(_))) = timeout_at(deadline, pending).await
        {
            self.machine.return_checkpoint(due, Instant::now());
        }
        self.leave(deadline).await;
        Ok(Ended::Stopped)
    }

    fn read(&self, bell: &mut WakeListener) -> Pin<Box<dyn Future<Output = Result<Page, LogError>> + Send + 'a>> {
        bell.arm();
        let relay = self.relay;
        let (cursor, lanes) = (self.cursor.clone(), self.assignment.lanes);
        let limit = relay.settings.batch.min(self.page_events);
        Box::pin(async move { bounded(relay, relay.log.read(&cursor, lanes, limit)).await })
    }

    fn page(&mut self, page: Page) {
        self.log_recovered();
        let now = Instant::now();
        if page.caught_up {
            if page.events.is_empty() {
                self.idle = (self.idle * 2).min(self.relay.settings.poll);
            } else {
                self.idle = FIRST_IDLE.min(self.relay.settings.poll);
            }
            self.next_read = now + self.idle;
        } else {
            self.next_read = now;
        }
        if page.events.is_empty() && page.next == self.cursor {
            return;
        }
        self.cursor = page.next.clone();
        let read = page.events.len() as u64;
        if let Some(average) = page.events.iter().map(bytes_of).sum::<usize>().checked_div(page.events.len()) {
            self.page_events = (PAGE_BYTES / average.max(1)).max(1);
        }
        let arrivals = page.events.iter().map(|recorded| {
            let mut key = DefaultHasher::new();
            match &recorded.event.ordering_key {
                Some(ordering_key) => ordering_key.hash(&mut key),
                None => (&recorded.event.aggregate_type, &recorded.event.aggregate_id).hash(&mut key),
            }
            let position = recorded.origin.sequence.position();
            Arrival { lane: recorded.lane, key: key.finish(), position, bytes: bytes_of(recorded) }
        });
        let highest = page.events.iter().map(|e| e.origin.sequence.position()).max();
        self.machine.page(arrivals, page.next, now);
        self.pages.push_back(Arc::new(page.events));
        self.forget_done();
        self.relay.status.send_modify(|status| {
            status.read += read;
            status.read_position = status.read_position.max(highest.unwrap_or_default());
        });
    }

    /// Hands everything that may be sent to the lanes' tasks.
    fn send(&mut self, now: Instant) {
        while let Some(send) = self.machine.next_send(now) {
            if send.reopen {
                self.lanes.remove(&send.lane);
            }
            let events = send
                .events
                .iter()
                .map(|event| (self.pages[(event.page - self.first_page) as usize].clone(), event.index))
                .collect();
            let task = self.lanes.entry(send.lane).or_insert_with(|| {
                let Relay { publisher, profile, .. } = self.relay;
                LaneTask::spawn(send.lane, publisher.clone(), profile.clone(), self.reports.clone())
            });
            task.send(LaneBatch { batch: send.batch, events });
        }
    }

    fn reported(&mut self, reports: Reports) -> Result<(), RelayError> {
        let Reports { lane, batch, outcomes, error } = reports;
        let now = Instant::now();
        let count = |wanted| outcomes.iter().filter(|(_, report)| *report == wanted).count() as u64;
        let (published, failed) = (count(Report::Delivered), count(Report::Failed));
        for (index, report) in outcomes {
            self.machine.report(lane, batch, index, report, now);
        }
        self.forget_done();
        if let Some(error) = error {
            if error.kind() == PublishErrorKind::Configuration {
                let message = "the relay cannot use its publisher";
                return Err(RelayError::new(RelayErrorKind::Publisher, message).with_source(error));
            }
            note(self.relay, &error);
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

    fn forget_done(&mut self) {
        while self.first_page < self.machine.oldest_page() {
            self.pages.pop_front();
            self.first_page += 1;
        }
    }

    fn recorded(&mut self, due: &Due) {
        self.log_recovered();
        self.relay.status.send_modify(|status| {
            status.checkpoints += 1;
            status.checkpoint_position = status.checkpoint_position.max(due.position);
        });
    }

    fn log_failed(&mut self, error: LogError) -> Result<(), RelayError> {
        if !error.kind().passes() {
            return Err(error.into());
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
    fn wake_at(&self, busy: Busy, stop_at: Option<Instant>) -> Instant {
        let stopping = stop_at.is_some();
        let read = (!stopping && !busy.read && self.machine.wants_page()).then_some(self.next_read);
        let checkpoint = if busy.checkpoint { None } else { self.machine.checkpoint_at() };
        let renew = (!busy.renew).then_some(self.renew_at);
        let log = [read, checkpoint, renew].into_iter().flatten().min();
        let log = log.map(|at| self.log_pause.map_or(at, |pause| at.max(pause)));
        let resume = if stopping { None } else { self.machine.resume_at() };
        let earliest = [log, resume, stop_at].into_iter().flatten().min();
        earliest.unwrap_or_else(|| Instant::now() + self.relay.settings.poll)
    }

    fn show(&self) {
        let (in_flight, paused) = (self.machine.in_flight(), self.machine.paused());
        self.relay.status.send_if_modified(|status| {
            let changed = status.in_flight != in_flight || status.paused != paused;
            status.in_flight = in_flight;
            status.paused = paused;
            changed
        });
    }

    /// Records what is done and gives the lanes back. Best effort: the lease ends by itself.
    async fn leave(mut self, deadline: Instant) {
        if self.machine.in_flight() > 0 {
            let left = self.machine.in_flight();
            tracing::warn!(left, "stopped at the deadline; the next owner publishes what was under way again");
        }
        let last = self.machine.take_last_checkpoint();
        let fence = &self.assignment.fence;
        let goodbye = async {
            if let Some(due) = &last {
                self.relay.log.checkpoint(fence, &due.cursor).await?;
            }
            self.relay.log.leave(fence).await
        };
        match timeout_at(deadline, goodbye).await {
            Ok(Ok(())) => {
                if let Some(due) = &last {
                    self.recorded(due);
                }
            }
            Ok(Err(error)) => tracing::warn!(error = %chain(&error), "the lanes will be free when the lease ends"),
            Err(_) => tracing::warn!("the log did not answer; the lanes will be free when the lease ends"),
        }
    }
}

/// What an event takes in memory, about.
fn bytes_of(recorded: &RecordedEvent) -> usize {
    const FRAME: usize = 256;
    let event = &recorded.event;
    FRAME + event.payload.as_ref().map_or(0, bytes::Bytes::len) + event.headers.bytes()
}

/// Which calls to the log are under way.
#[derive(Debug, Clone, Copy)]
struct Busy {
    read: bool,
    checkpoint: bool,
    renew: bool,
}

/// The pending job, or for ever nothing.
async fn job<T>(job: &mut Job<'_, T>) -> T {
    match job {
        Some(job) => job.await,
        None => std::future::pending().await,
    }
}
