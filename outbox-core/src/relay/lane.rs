//! The task of one lane: encodes, waits for room, hands over, and passes the outcomes on.

use std::{
    ops::Range,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::Instant,
};

use super::{events::Events, machine::Report};
use crate::{
    error::{BoxError, chain},
    event::Lane,
    profile::Profile,
    publisher::{Delivery, LaneStream, Outcome, PublishError, PublishErrorKind, Publisher},
};

/// Events handed to a lane's task.
pub(super) struct LaneBatch {
    pub(super) batch: u64,
    /// When it was decided to send them.
    pub(super) since: Instant,
    /// How many there are.
    pub(super) events: usize,
    /// In order, by the pages they are in.
    pub(super) pages: Vec<(Events, Vec<u32>)>,
}

/// What a lane's task says of one batch.
pub(super) struct Reports {
    pub(super) lane: Lane,
    pub(super) batch: u64,
    /// When it was decided to send them.
    pub(super) since: Instant,
    /// Of neighbours together.
    pub(super) outcomes: Vec<(Range<usize>, Report)>,
    pub(super) error: Option<PublishError>,
}

/// One open stream of a lane. Dropping it aborts the task; what was handed over may still be published.
pub(super) struct LaneTask {
    batches: mpsc::UnboundedSender<LaneBatch>,
    task: AbortHandle,
    pub(super) isolated: bool,
}

impl LaneTask {
    pub(super) fn spawn(
        lane: Lane,
        isolated: bool,
        publisher: Arc<dyn Publisher>,
        profile: Profile,
        reports: mpsc::UnboundedSender<Reports>,
    ) -> Self {
        let (batches, inbox) = mpsc::unbounded_channel();
        let run = Run { lane, isolated, publisher, profile, reports };
        let task = tokio::spawn(run.run(inbox)).abort_handle();
        Self { batches, task, isolated }
    }

    /// The machine bounds what is under way in a lane, so this queue is bounded too.
    pub(super) fn send(&self, batch: LaneBatch) {
        let _the_task_lives_as_long_as_we_do = self.batches.send(batch);
    }
}

impl Drop for LaneTask {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Run {
    lane: Lane,
    /// Whether messages are written each by itself.
    isolated: bool,
    publisher: Arc<dyn Publisher>,
    profile: Profile,
    reports: mpsc::UnboundedSender<Reports>,
}

impl Run {
    async fn run(self, mut inbox: mpsc::UnboundedReceiver<LaneBatch>) {
        let mut stream = None;
        let mut broken = false;
        let mut deliveries = JoinSet::new();
        while let Some(LaneBatch { batch, since, events: count, pages }) = inbox.recv().await {
            while deliveries.try_join_next().is_some() {}
            // After a failure the stream stays broken: a later batch that got through would overtake the failed one.
            if broken {
                self.abort((batch, since), 0..count, None);
                continue;
            }
            match self.hand_over(&mut stream, count, pages).await {
                Ok((handed, delivery, refused)) => {
                    deliveries.spawn(forward(self.lane, (batch, since), delivery, self.reports.clone()));
                    if let Some(error) = refused {
                        broken = true;
                        self.abort((batch, since), handed..count, Some(error));
                    }
                }
                Err(error) => {
                    broken = true;
                    self.abort((batch, since), 0..count, Some(error));
                }
            }
        }
    }

    /// Hands over the longest prefix that encodes; says how long it was and why it ended early.
    async fn hand_over(
        &self,
        stream: &mut Option<Box<dyn LaneStream>>,
        count: usize,
        pages: Vec<(Events, Vec<u32>)>,
    ) -> Result<(usize, Box<dyn Delivery>, Option<PublishError>), PublishError> {
        let mut messages = Vec::with_capacity(count);
        let mut refused = None;
        let events = pages.iter().flat_map(|(page, indices)| indices.iter().filter_map(|index| page.get(*index)));
        for recorded in events {
            let refuse = |why: BoxError| {
                let message = format!("event {} cannot be encoded", recorded.event.id);
                PublishError::new(PublishErrorKind::Event, message).with_source(why)
            };
            // Routers and encoders are other people's code: a panic must not end the lane without a word.
            match catch_unwind(AssertUnwindSafe(|| self.profile.message(recorded))) {
                Ok(Ok(message)) => messages.push(message),
                Ok(Err(error)) => {
                    refused = Some(refuse(error.into()));
                    break;
                }
                Err(_panic) => {
                    refused = Some(refuse("the router or encoder panicked".into()));
                    break;
                }
            }
        }
        let stream = match stream {
            Some(stream) => stream,
            None if self.isolated => stream.insert(self.publisher.open_isolated(self.lane).await?),
            None => stream.insert(self.publisher.open(self.lane).await?),
        };
        let bytes = messages.iter().map(crate::publisher::Message::bytes).sum();
        let permit = stream.reserve(messages.len(), bytes).await?;
        Ok((messages.len(), permit.send(messages), refused))
    }

    /// Reports the events of `range` as not sent, the first of them as failed when there is an error.
    fn abort(&self, (batch, since): (u64, Instant), range: Range<usize>, error: Option<PublishError>) {
        let first = range.start;
        let outcomes = match error.as_ref().map(report_of) {
            Some(failure) => vec![(first..first + 1, failure), (first + 1..range.end, Report::Aborted)],
            None => vec![(range, Report::Aborted)],
        };
        let _gone_with_the_relay = self.reports.send(Reports { lane: self.lane, batch, since, outcomes, error });
    }
}

async fn forward(
    lane: Lane,
    (batch, since): (u64, Instant),
    mut delivery: Box<dyn Delivery>,
    reports: mpsc::UnboundedSender<Reports>,
) {
    loop {
        let outcomes = delivery.next_runs().await;
        if outcomes.is_empty() {
            return;
        }
        let mut error: Option<PublishError> = None;
        let mut reported = Vec::with_capacity(outcomes.len());
        for (run, outcome) in outcomes {
            let report = match outcome {
                Outcome::Delivered => Report::Delivered,
                Outcome::Aborted => Report::Aborted,
                Outcome::Failed(e) => {
                    let report = report_of(&e);
                    // Of several the one that ends the relay must not get lost.
                    if error.is_none() || e.kind() == PublishErrorKind::Configuration {
                        error = Some(e);
                    }
                    report
                }
            };
            reported.push((run, report));
        }
        if reports.send(Reports { lane, batch, since, outcomes: reported, error }).is_err() {
            return;
        }
    }
}

/// Whose fault it is decides what becomes of the event.
fn report_of(error: &PublishError) -> Report {
    match error.kind() {
        PublishErrorKind::Event => Report::Refused(chain(error).into()),
        PublishErrorKind::Suspect => Report::Suspect,
        PublishErrorKind::Environment | PublishErrorKind::Configuration => Report::Failed,
    }
}
