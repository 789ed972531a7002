//! Different keys side by side, the events of one key never.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    testing::{Sequencer, number_of},
};
use outbox_projector::sql::{Handled, Handler, HandlerError};
use sqlx::Transaction;
use tokio::sync::Barrier;

use super::{Bed, Database, apply, effects, on_every_database};
use crate::{
    sql::model::{key_of, received},
    support::within,
};

on_every_database!(one_at_a_time_by_default, one_key_is_never_handled_side_by_side);

/// Writes down what begins and ends.
#[derive(Clone, Default)]
struct Witness {
    seen: Arc<Mutex<Seen>>,
    /// At the first event of each key, as many have to come together.
    meeting: Option<Arc<Barrier>>,
    fails_at: Option<i64>,
}

#[derive(Default)]
struct Seen {
    running: HashSet<String>,
    most: usize,
    order: HashMap<String, Vec<i64>>,
    all: Vec<i64>,
}

impl Witness {
    async fn see(&self, received: &ReceivedEvent) -> Result<Handled, HandlerError> {
        let (key, number) = (key_of(received), number_of(&received.event).expect("a number") as i64);
        let first = {
            let mut seen = self.seen.lock().unwrap();
            assert!(seen.running.insert(key.clone()), "{key} is handled twice at a time");
            seen.most = seen.most.max(seen.running.len());
            seen.all.push(number);
            let order = seen.order.entry(key.clone()).or_default();
            order.push(number);
            order.len() == 1
        };
        match &self.meeting {
            Some(meeting) if first => {
                meeting.wait().await;
            }
            // Whoever else may go on does so now.
            _ => tokio::task::yield_now().await,
        }
        self.seen.lock().unwrap().running.remove(&key);
        if self.fails_at == Some(number) { Err(HandlerError::reject("on cue")) } else { Ok(Handled::Done) }
    }
}

#[async_trait]
impl<DB: sqlx::Database> Handler<DB> for Witness {
    async fn handle(&self, _: &mut Transaction<'_, DB>, received: &ReceivedEvent) -> Result<Handled, HandlerError> {
        self.see(received).await
    }
}

fn events(keys: i64, each: i64) -> Vec<ReceivedEvent> {
    let log = Sequencer::default();
    (0..keys * each).map(|n| received(&log, &format!("key-{}", n % keys), n)).collect()
}

async fn one_at_a_time_by_default<DB: Bed>(database: &Database<DB>) {
    let witness = Witness::default();
    let name = outbox_projector::sql::ProjectionName::parse("effects").expect("name");
    let projection =
        outbox_projector::inbox::InboxProjection::builder(database.pool.clone(), name, witness.clone()).build();
    assert_eq!(apply(&projection, &events(3, 4)).await.expect("apply").applied, 12);
    let seen = witness.seen.lock().unwrap();
    assert_eq!((seen.most, &seen.all), (1, &(0..12).collect()), "in the order of the step");
}

async fn one_key_is_never_handled_side_by_side<DB: Bed>(database: &Database<DB>) {
    let witness = Witness { fails_at: Some(13), ..Witness::default() };
    let error = apply(&effects(database, witness.clone(), 4), &events(6, 5)).await.expect_err("one fails");
    assert_eq!(error.event(), Some(13));
    let seen = witness.seen.lock().unwrap();
    assert!(seen.most <= 4, "{} at a time", seen.most);
    for key in 0..6 {
        let until = if key == 1 { 13 } else { 29 };
        let expected: Vec<i64> = (0..=until).filter(|n| n % 6 == key).collect();
        assert_eq!(seen.order[&format!("Suite/key-{key}")], expected, "key {key}");
    }
}

/// Four keys wait for each other: side by side they come together, otherwise they wait for ever.
#[cfg(feature = "postgres")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn different_keys_are_handled_side_by_side() {
    let database = super::fresh::<sqlx::Postgres>().await;
    let witness = Witness { meeting: Some(Arc::new(Barrier::new(4))), ..Witness::default() };
    let projection = effects(&database, witness.clone(), 4);
    let applied = within("four keys meet", apply(&projection, &events(4, 3))).await.expect("apply");
    assert_eq!((applied.applied, witness.seen.lock().unwrap().most), (12, 4));
    database.tear_down().await;
}
