//! A database with a log, a topic that a relay fills from it, writers, and the read model beside them.

use std::{sync::Arc, time::Duration};

use outbox_core::{
    event::{Event, NewEvent},
    log::{ConsumerName, EventLog, LogAdmin},
    outbox::Outbox,
    profile::Profile,
    relay::{Relay, RelayError, RelayStatus},
    retry::Backoff,
};
use outbox_kafka::KafkaPublisher;
use outbox_projector::{
    dead_letters::{DeadLetters, TopicDeadLetters},
    sql::{PostgresProjection, SchemaName},
};
use outbox_sqlx::PostgresLog;
use serde_json::json;
use sqlx::PgPool;
use test_services::{PostgresVersion, TestDatabase, kafka_bootstrap, unique};
use tokio::{
    sync::{oneshot, watch},
    task::{JoinHandle, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};

use crate::{
    PATIENCE,
    model::Model,
    read_model::{CHANGED, ERASED, POISONED, TABLES},
    repeats::Repeats,
    topic,
};

pub(crate) const AGGREGATES: i64 = 20;
pub(crate) const PARTITIONS: i32 = 3;
/// Changes of each aggregate that are there from the beginning.
const BACKLOG_EACH: i64 = 5;
const WRITERS: i64 = 2;
/// The load is steady, and leaves two cores room for several shops at once.
const PACE: Duration = Duration::from_millis(25);

/// Where a projector gets its events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Feed {
    Kafka,
    Log,
}

impl Feed {
    pub(crate) const ALL: [Self; 2] = [Self::Kafka, Self::Log];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Kafka => "Kafka",
            Self::Log => "the log",
        }
    }
}

pub(crate) struct Shop {
    pub(crate) feed: Feed,
    pub(crate) database: TestDatabase,
    pub(crate) brokers: String,
    pub(crate) topic: String,
    pub(crate) letters: String,
    /// Consumer group, and consumer of the log.
    pub(crate) group: String,
    log: PostgresLog,
    profile: Profile,
}

impl Shop {
    pub(crate) async fn open(feed: Feed) -> Self {
        Self::open_at(&kafka_bootstrap().await, feed).await
    }

    pub(crate) async fn open_at(brokers: &str, feed: Feed) -> Self {
        let database = TestDatabase::create(PostgresVersion::V15).await;
        let pool = database.pool();
        sqlx::raw_sql("CREATE TABLE agg (id bigint PRIMARY KEY, v bigint NOT NULL DEFAULT 0)")
            .execute(pool)
            .await
            .expect("aggregates");
        sqlx::query("INSERT INTO agg (id) SELECT generate_series(1, $1)")
            .bind(AGGREGATES)
            .execute(pool)
            .await
            .expect("aggregates");
        create_read_model(pool).await;
        let (topic, group) = (unique("projection"), unique("projector"));
        let letters = format!("{topic}.letters");
        topic::create(brokers, &topic, PARTITIONS).await;
        topic::create(brokers, &letters, 1).await;
        let route = topic.clone();
        let profile = Profile::default().with_router(move |_: &Event| route.clone());
        let log = PostgresLog::builder(pool.clone()).profile(profile.clone()).build();
        log.migrate().await.expect("log");
        let brokers = brokers.to_owned();
        Self { feed, database, brokers, topic, letters, group, log, profile }
    }

    pub(crate) fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// Changes an aggregate and tells of it, in one transaction.
    pub(crate) async fn change(&self, aggregate: i64) {
        change(self.pool(), &self.log, aggregate).await;
    }

    /// Appends this event as it is.
    pub(crate) async fn append(&self, event: NewEvent) {
        let mut tx = self.pool().begin().await.expect("begin");
        let receipt = self.log.append(&mut tx, &[event]).await.expect("append");
        tx.commit().await.expect("commit");
        receipt.committed();
    }

    /// Writers that go on until told to stop, after some events that are there from the beginning; and, where a topic is
    /// read, a relay that fills it and a writer that repeats what is there.
    pub(crate) async fn write(&self, seed: u64) -> Writing {
        for n in 0..AGGREGATES * BACKLOG_EACH {
            self.change(n % AGGREGATES + 1).await;
        }
        let (stop, stopped) = watch::channel(());
        let mut writers = JoinSet::new();
        for writer in 0..WRITERS {
            let (pool, log, mut stopped) = (self.pool().clone(), self.log.clone(), stopped.clone());
            writers.spawn(async move {
                let mut pace = interval(PACE);
                pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
                for n in 0.. {
                    tokio::select! {
                        biased;
                        _ = stopped.changed() => return,
                        _ = pace.tick() => {}
                    }
                    // In different orders, so that they meet.
                    change(&pool, &log, (n * (2 * writer + 1) + writer) % AGGREGATES + 1).await;
                }
            });
        }
        let delivery = (self.feed == Feed::Kafka)
            .then(|| Delivery { relay: self.relay(), repeats: Repeats::start(&self.brokers, &self.topic, seed) });
        Writing { stop, writers, delivery }
    }

    /// A relay from the log to the topic.
    pub(crate) fn relay(&self) -> RunningRelay {
        let publisher = KafkaPublisher::builder(&self.brokers).build().expect("publisher");
        let relay = Relay::builder(Arc::new(self.log.clone()), Arc::new(publisher), self.profile.clone())
            .poll(Duration::from_millis(50))
            .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(300)))
            .build();
        let status = relay.status();
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(async move { relay.run(async { _ = stopped.await }).await });
        RunningRelay { stop, task, status, log: self.log.clone() }
    }

    /// A place for dead letters: the topic of them.
    pub(crate) fn dead_letters(&self) -> Arc<dyn DeadLetters> {
        let publisher = KafkaPublisher::builder(&self.brokers).build().expect("publisher");
        Arc::new(TopicDeadLetters::new(Arc::new(publisher), self.letters.clone()))
    }

    /// Waits until the projectors have committed everything that is there. Nobody may write any more.
    pub(crate) async fn until_projected(&self) {
        assert!(self.try_until_projected().await, "in vain: the projectors commit everything that is there");
    }

    /// `false`: they have not in time.
    pub(crate) async fn try_until_projected(&self) -> bool {
        match self.feed {
            Feed::Kafka => topic::until_committed(&self.brokers, &self.group, &self.topic).await,
            Feed::Log => {
                let consumer = ConsumerName::parse(&self.group).expect("a name");
                timeout(PATIENCE, until_read(&self.log, &consumer)).await.is_ok()
            }
        }
    }

    pub(crate) async fn model(&self) -> Model {
        Model::of_log(self.pool()).await
    }

    pub(crate) async fn close(self) {
        topic::delete(&self.brokers, &[&self.topic, &self.letters]).await;
        self.database.drop_database().await;
    }
}

/// The tables of the read model and of the projector.
pub(crate) async fn create_read_model(pool: &PgPool) {
    sqlx::raw_sql(TABLES).execute(pool).await.expect("the read model's tables");
    PostgresProjection::migrate(pool, &SchemaName::default()).await.expect("the projector's tables");
}

async fn change(pool: &PgPool, log: &PostgresLog, aggregate: i64) {
    let mut tx = pool.begin().await.expect("begin");
    let update = "UPDATE agg SET v = v + 1 WHERE id = $1 RETURNING v";
    let v: i64 = sqlx::query_scalar(update).bind(aggregate).fetch_one(&mut *tx).await.expect("update");
    // None of the backlog is poison, so that a projector has had some effect before it meets any.
    let event_type = match (aggregate + 3 * v) % 37 {
        36 => POISONED,
        n if n % 7 == 3 => ERASED,
        _ => CHANGED,
    };
    let event = NewEvent::json("Agg", aggregate, event_type, &json!({ "v": v })).expect("event");
    let receipt = log.append(&mut tx, &[event]).await.expect("append");
    tx.commit().await.expect("commit");
    receipt.committed();
}

async fn until_read(log: &PostgresLog, consumer: &ConsumerName) {
    while is_behind(log, consumer).await {
        // A log tells nobody when a consumer commits.
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether there is anything that this consumer has not done. Positions do not tell: behind a transaction that was slow to
/// commit they are at the head, and its events are still to come.
async fn is_behind(log: &PostgresLog, consumer: &ConsumerName) -> bool {
    let places = log.progress(consumer).await.expect("progress").tracks;
    let pages = log.read(&places, 1).await.expect("read");
    places.is_empty() || pages.iter().any(|page| !page.events.is_empty() || !page.caught_up)
}

pub(crate) struct Writing {
    stop: watch::Sender<()>,
    writers: JoinSet<()>,
    delivery: Option<Delivery>,
}

struct Delivery {
    relay: RunningRelay,
    repeats: Repeats,
}

impl Writing {
    /// Stops the writers, and waits until everything is where projectors find it. Returns how many messages of the topic
    /// are copies.
    pub(crate) async fn stop(mut self) -> usize {
        drop(self.stop);
        while let Some(writer) = self.writers.join_next().await {
            writer.expect("no writer fails");
        }
        let Some(Delivery { relay, repeats }) = self.delivery else { return 0 };
        relay.finish().await;
        repeats.finish().await
    }
}

/// A relay under way.
pub(crate) struct RunningRelay {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RelayError>>,
    status: watch::Receiver<RelayStatus>,
    log: PostgresLog,
}

impl RunningRelay {
    /// Stops it when everything is published.
    pub(crate) async fn finish(mut self) {
        let consumer = ConsumerName::parse("relay").expect("a name");
        let drained = async {
            loop {
                let parked = self.log.parked(&consumer, None, 1).await.expect("parked events");
                let done = parked.is_empty() && !is_behind(&self.log, &consumer).await;
                // Each checkpoint shows as a change of the status, and so does what is taken up again.
                if done || self.status.changed().await.is_err() {
                    return;
                }
            }
        };
        let in_time = timeout(PATIENCE, drained).await.is_ok();
        assert!(in_time, "in vain: everything is published; {:?}", *self.status.borrow());
        drop(self.stop);
        timeout(PATIENCE, self.task).await.expect("stopped in time").expect("no panic").expect("no error");
    }
}
