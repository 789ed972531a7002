//! A handler that takes longer than a consumer may stay away from its broker.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use outbox_core::{
    event::{NewEvent, ReceivedEvent},
    source::Partition,
};
use outbox_projector::{
    PartitionState,
    sql::{Handled, Handler, HandlerError, PostgresProjection, ProjectionName},
};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use tokio::time::timeout;

use crate::{
    PATIENCE,
    model::{Difference, Kind},
    program::SESSION,
    read_model::{CHANGED, ListAndCount},
    running::{Running, projector, source},
    shop::{Feed, PARTITIONS, Shop},
};

/// `max.poll.interval.ms` must not be below the session, and that not below what the broker allows.
const LONGEST_AWAY: Duration = SESSION;
const SLEEP: Duration = Duration::from_secs(8);

/// Writes, and then sleeps: every other event so that it blocks its thread.
#[derive(Clone)]
struct Sleeper {
    calls: Arc<AtomicUsize>,
}

#[async_trait]
impl Handler<Postgres> for Sleeper {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let handled = ListAndCount::default().handle(tx, event).await?;
        // Not a wait: it is the slow handler that the test is about.
        if self.calls.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) {
            std::thread::sleep(SLEEP);
        } else {
            tokio::time::sleep(SLEEP).await;
        }
        Ok(handled)
    }
}

/// Another member of the group stands ready all the while to take over whatever is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_handler_slower_than_the_longest_poll_interval_keeps_its_partition_and_repeats_nothing() {
    let shop = Shop::open(Feed::Kafka).await;
    let calls = Arc::new(AtomicUsize::new(0));
    let start = || {
        let name = ProjectionName::parse("model").expect("a name");
        let handler = Sleeper { calls: calls.clone() };
        let projection = PostgresProjection::builder(shop.pool().clone(), name, handler).build();
        let longest = LONGEST_AWAY.as_millis().to_string();
        let source = source(&shop).setting("max.poll.interval.ms", longest).build().expect("a source");
        Running::start(projector(source, Arc::new(projection)))
    };
    let (mut first, mut second) = (start(), start());
    timeout(PATIENCE, until_shared_out(&mut first, &mut second)).await.expect("each partition has one owner");
    let before = (owned(&first), owned(&second));

    let relay = shop.relay();
    for key in ["a", "b", "c", "d"] {
        shop.append(NewEvent::json("Agg", key, CHANGED, &json!({ "v": 1 })).expect("event")).await;
    }
    relay.finish().await;
    shop.until_projected().await;
    assert_eq!((owned(&first), owned(&second)), before, "nobody lost a partition");
    first.stop().await;
    second.stop().await;
    assert_eq!(shop.model().await.compare(Kind::Sql, shop.pool()).await, Difference::default());
    assert_eq!(calls.load(Ordering::Relaxed), 4, "each event once");
    shop.close().await;
}

async fn until_shared_out(first: &mut Running, second: &mut Running) {
    while owned(first).is_empty()
        || owned(second).is_empty()
        || owned(first).len() + owned(second).len() != PARTITIONS as usize
    {
        tokio::select! {
            changed = first.status.changed() => changed.expect("it runs"),
            changed = second.status.changed() => changed.expect("it runs"),
        }
    }
}

fn owned(running: &Running) -> BTreeSet<Partition> {
    let status = running.status.borrow();
    let owned = status.partitions.iter().filter(|(_, p)| p.state != PartitionState::Revoked);
    owned.map(|(partition, _)| partition.clone()).collect()
}
