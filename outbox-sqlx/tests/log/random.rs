//! Writers of every kind and a reader that dies at random: nothing is lost and first deliveries are in order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use outbox_core::log::EventLog as _;
use outbox_sqlx::PostgresLog;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::{Acquire as _, AssertSqlSafe, PgPool};
use std::collections::BTreeSet;

use crate::support::{
    Bed, assert_first_deliveries_in_order, bump, consumer, expired_member, moved, on_postgres, only, read,
    write_elsewhere,
};

const WRITERS: u64 = 6;
const TRANSACTIONS: usize = 400;
const AGGREGATES: i64 = 8;

on_postgres! {
    async fn nothing_is_lost_and_first_deliveries_are_in_order(bed: &Bed) {
        let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| StdRng::from_rng(&mut rand::rng()).random());
        println!("OUTBOX_TEST_SEED={seed} runs the same choices again");

        let ended = Arc::new(AtomicUsize::new(0));
        let mut writers = tokio::task::JoinSet::new();
        for n in 0..WRITERS {
            let writer = Writer {
                log: bed.log.clone(),
                pool: bed.pool.clone(),
                rng: StdRng::seed_from_u64(seed ^ (n + 1)),
                name: format!("{}-{n}", bed.database.name()),
            };
            let ended = ended.clone();
            writers.spawn(async move {
                writer.write().await;
                ended.fetch_add(1, Ordering::Release);
            });
        }
        let deliveries = read_and_die(bed, StdRng::seed_from_u64(seed), &ended).await;
        writers.join_all().await;

        let delivered: BTreeSet<_> = deliveries.iter().map(|event| event.event.id).collect();
        let committed = bed.committed().await;
        println!("{} events, {} deliveries", committed.len(), deliveries.len());
        assert!(committed.len() > 1_500, "only {} events", committed.len());
        assert_eq!(committed.difference(&delivered).count(), 0, "events are missing");
        assert_eq!(delivered.difference(&committed).count(), 0, "events that were never committed");
        assert_first_deliveries_in_order(&deliveries);
    }
}

/// Mostly the one that does not fail when others were faster.
const LEVELS: [&str; 5] = ["READ COMMITTED", "READ COMMITTED", "READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"];

struct Writer {
    log: PostgresLog,
    pool: PgPool,
    rng: StdRng,
    name: String,
}

impl Writer {
    async fn write(mut self) {
        for n in 0..TRANSACTIONS {
            // Deadlocks and serialization failures are part of the game: such a transaction is rolled back.
            let _rolled_back = self.transaction(n).await;
        }
    }

    async fn transaction(&mut self, n: usize) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let level = LEVELS[self.rng.random_range(0..LEVELS.len())];
        let mut tx = self.pool.begin_with(AssertSqlSafe(format!("BEGIN ISOLATION LEVEL {level}"))).await?;
        if self.rng.random_bool(0.7) {
            sqlx::query("SET LOCAL synchronous_commit = off").execute(&mut *tx).await?;
        }
        if self.rng.random_bool(0.3) {
            write_elsewhere(&mut tx).await;
            self.delay().await;
        }
        let mut aggregates: Vec<i64> =
            (0..self.rng.random_range(1..4)).map(|_| self.rng.random_range(1..=AGGREGATES)).collect();
        aggregates.sort_unstable();
        for aggregate in aggregates {
            if self.rng.random_bool(0.25) {
                let mut savepoint = tx.begin().await?;
                if self.rng.random_bool(0.5) {
                    sqlx::query("INSERT INTO elsewhere VALUES ('sub')").execute(&mut *savepoint).await?;
                }
                let v: i64 = sqlx::query_scalar("UPDATE agg SET v = v + 1 WHERE id = $1 RETURNING v")
                    .bind(aggregate)
                    .fetch_one(&mut *savepoint)
                    .await?;
                let event = crate::support::changed(aggregate, v);
                let _receipt = outbox_core::outbox::Outbox::append(&self.log, &mut savepoint, &[event]).await?;
                if self.rng.random_bool(0.3) { savepoint.rollback().await? } else { savepoint.commit().await? }
            } else {
                bump(&self.log, &mut tx, aggregate).await?;
            }
            self.delay().await;
        }
        match self.rng.random_range(0..10) {
            0 => tx.rollback().await?,
            1 => {
                let gid = format!("{}-{n}", self.name);
                sqlx::query(AssertSqlSafe(format!("PREPARE TRANSACTION '{gid}'"))).execute(&mut *tx).await?;
                // Nothing is left for this to commit; the session is free for others.
                tx.commit().await?;
                self.delay().await;
                let verb = if self.rng.random_bool(0.8) { "COMMIT" } else { "ROLLBACK" };
                sqlx::query(AssertSqlSafe(format!("{verb} PREPARED '{gid}'"))).execute(&self.pool).await?;
            }
            2 => {
                // An old transaction, with nothing that others wait for but its own aggregates.
                for _ in 0..5 {
                    self.delay().await;
                }
                tx.commit().await?;
            }
            _ => tx.commit().await?,
        }
        Ok(())
    }

    /// Lets others overtake. Not a wait for anything: any length, also none, is right.
    async fn delay(&mut self) {
        match self.rng.random_range(0..3) {
            0 => {}
            1 => tokio::task::yield_now().await,
            _ => tokio::time::sleep(Duration::from_micros(self.rng.random_range(0..3_000))).await,
        }
    }
}

/// Everything that was delivered, by one reader after the other: each dies without a word after a random number of pages,
/// and the next one begins at the last checkpoint.
async fn read_and_die(bed: &Bed, mut rng: StdRng, ended: &AtomicUsize) -> Vec<outbox_core::event::RecordedEvent> {
    let name = consumer(&bed.log, "relay").await;
    let mut deliveries = Vec::new();
    let mut deaths = 0;
    loop {
        // A lease that is over at once: the next reader need not wait for it.
        let member = expired_member(&bed.log, &name).await;
        let mut track = only(&member.tracks);
        let pages = rng.random_range(1..12);
        for _ in 0..pages {
            let over = ended.load(Ordering::Acquire) == WRITERS as usize;
            let page = read(&bed.log, &track, rng.random_range(1..40)).await;
            deliveries.extend(page.events);
            track = moved(&track, &page.next).remove(0);
            if rng.random_bool(0.3) {
                bed.log.checkpoint(&member.fence, std::slice::from_ref(&track)).await.expect("checkpoint");
            }
            if over && page.caught_up {
                println!("{deaths} readers died");
                return deliveries;
            }
        }
        deaths += 1;
    }
}
