//! Membership in a consumer group: the thread that joins, polls and leaves.

use std::{
    sync::{Arc, Weak},
    time::{Duration, Instant},
};

use futures_util::{FutureExt, StreamExt};
use outbox_core::source::{SourceError, SourceErrorKind};
use rdkafka::{
    ClientConfig, Message, TopicPartitionList,
    config::FromClientConfigAndContext,
    consumer::{Consumer, StreamConsumer},
    error::KafkaError,
};
use tokio::{runtime, sync::oneshot};

use super::{
    inbox::{Inbox, Limits, Places, Raw},
    lookback::Lookback,
    member::{Member, Verdict},
};
use crate::settings::explain;

/// How long the cluster is given to tell its id.
const ANSWER: Duration = Duration::from_secs(5);

/// After so many records in a row the thread looks after the partitions.
const RUN: usize = 200;

/// What a member joins with.
#[derive(Clone)]
pub(crate) struct Terms {
    pub(crate) config: ClientConfig,
    pub(crate) topics: Vec<String>,
    pub(crate) limits: Limits,
    pub(crate) verbose: bool,
}

/// A member of the group, as long as it lives.
pub(crate) struct Membership {
    /// The polling thread has the strong ones: dropping the last of either blocks, the consumer's leaves the group.
    consumer: Weak<StreamConsumer<Member>>,
    lookback: Weak<Lookback>,
    pub(crate) inbox: Arc<Inbox>,
    /// Its end is the signal to leave.
    presence: oneshot::Sender<()>,
    left: oneshot::Receiver<()>,
}

/// A membership that is being made; dropping it, or what comes of it, leaves the group.
pub(crate) type Joining = oneshot::Receiver<Result<Membership, SourceError>>;

impl Membership {
    /// Joins the group in a thread of its own, which then polls whatever the application does: rebalances are answered
    /// and the member stays in its group while a handler is slow, or blocks the thread it runs on. The answer comes
    /// within about five seconds.
    pub(crate) fn join(terms: Terms) -> Result<Joining, SourceError> {
        let (answer, joining) = oneshot::channel();
        let thread = std::thread::Builder::new().name("outbox-kafka-source".to_owned());
        let live = move || match enter(&terms) {
            Ok((runtime, consumer, inbox)) => stay(&terms.config, &runtime, consumer, inbox, answer),
            // Nobody waits for it any more: then nobody needs it either.
            Err(error) => drop(answer.send(Err(error))),
        };
        thread.spawn(live).map_err(|error| {
            SourceError::new(SourceErrorKind::Unavailable, "no thread could be started; try again").with_source(error)
        })?;
        Ok(joining)
    }

    /// Who asks the broker, in a blocking thread; `None` when the member has left.
    pub(crate) fn clients(&self) -> Option<(Arc<StreamConsumer<Member>>, Arc<Lookback>)> {
        self.consumer.upgrade().zip(self.lookback.upgrade())
    }

    /// Leaves the group; so does dropping the membership, in the background.
    pub(crate) async fn leave(self) {
        drop(self.presence);
        // An error says that the thread panicked, and it has left as well.
        let _left = self.left.await;
    }
}

type Entered = (runtime::Runtime, Arc<StreamConsumer<Member>>, Arc<Inbox>);

fn enter(terms: &Terms) -> Result<Entered, SourceError> {
    let Terms { config, topics, limits, verbose } = terms;
    let runtime = runtime::Builder::new_current_thread().enable_time().build().map_err(|error| {
        SourceError::new(SourceErrorKind::Unavailable, "the consumer's thread has no runtime").with_source(error)
    })?;
    let inbox = Arc::new(Inbox::new(*limits));
    let configuration = |error: KafkaError| SourceError::new(SourceErrorKind::Configuration, explain(&error));
    let member = Member::new(inbox.clone(), *verbose);
    let created = runtime.block_on(async { StreamConsumer::from_config_and_context(config, member) });
    let consumer: StreamConsumer<Member> = created.map_err(configuration)?;
    let Some(cluster) = consumer.client().fetch_cluster_id(ANSWER) else {
        let message = format!(
            "Kafka at {} did not answer within {ANSWER:?}; check the address, the network and that the broker runs",
            config.get("bootstrap.servers").unwrap_or_default()
        );
        return Err(SourceError::new(SourceErrorKind::Unavailable, message));
    };
    consumer.context().belongs_to(cluster);
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    consumer.subscribe(&topics).map_err(configuration)?;
    Ok((runtime, Arc::new(consumer), inbox))
}

fn stay(
    config: &ClientConfig,
    runtime: &runtime::Runtime,
    consumer: Arc<StreamConsumer<Member>>,
    inbox: Arc<Inbox>,
    answer: oneshot::Sender<Result<Membership, SourceError>>,
) {
    let ((presence, leaving), (gone, left)) = (oneshot::channel(), oneshot::channel());
    let lookback = Arc::new(Lookback::new(config));
    let (member, sight) = (Arc::downgrade(&consumer), Arc::downgrade(&lookback));
    let membership = Membership { consumer: member, lookback: sight, inbox: inbox.clone(), presence, left };
    if answer.send(Ok(membership)).is_ok() {
        let end = EndOnDrop(inbox.clone());
        runtime.block_on(poll(&consumer, &inbox, leaving));
        drop(end);
    }
    // The last handle leaves the group when dropped; a request that still has one runs in a blocking thread too.
    drop(consumer);
    let _nobody_waits = gone.send(());
}

/// Also a thread that panicked must not leave its application waiting.
struct EndOnDrop(Arc<Inbox>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn poll(consumer: &StreamConsumer<Member>, inbox: &Inbox, mut leaving: oneshot::Receiver<()>) {
    let mut records = consumer.stream();
    loop {
        pause_and_resume(consumer, inbox);
        let mut next = tokio::select! {
            biased;
            _ = &mut leaving => return,
            () = inbox.upkeep.notified() => continue,
            record = records.next() => record,
        };
        let mut run = 0;
        let mut lost = false;
        while let Some(received) = next.take() {
            match received.map_err(|error| consumer.context().judge(error)) {
                Ok(record) => inbox.push(record.topic(), record.partition(), Raw::of(&record), Instant::now()),
                Err(Verdict::Passes) => {}
                Err(Verdict::PositionLost) => lost = true,
                Err(Verdict::Tell(error)) => inbox.fail(error),
            }
            run += 1;
            if run < RUN {
                next = records.next().now_or_never().flatten();
            }
        }
        if lost {
            consumer.context().start_all_anew(consumer);
        }
        // The other task of this runtime wakes this one in time for `max.poll.interval.ms`.
        tokio::task::yield_now().await;
    }
}

fn pause_and_resume(consumer: &StreamConsumer<Member>, inbox: &Inbox) {
    let list = |partitions: &Places| {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for (topic, number) in partitions {
            list.add_partition(topic, *number);
        }
        list
    };
    let (pause, resume) = inbox.due();
    let paused = if pause.is_empty() { Ok(()) } else { consumer.pause(&list(&pause)) };
    let resumed = if resume.is_empty() { Ok(()) } else { consumer.resume(&list(&resume)) };
    if let Err(error) = paused.and(resumed) {
        // The partition was revoked a moment ago, which the next poll will tell.
        tracing::debug!(%error, "a partition could not be paused or resumed");
    }
    inbox.settled.notify_waiters();
}
