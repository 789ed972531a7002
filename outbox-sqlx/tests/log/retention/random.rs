//! Writers, consumers and pruners in random order: nothing goes unseen, and nothing stays for ever.

use std::{collections::BTreeSet, time::Duration};

use outbox_core::{
    log::{Cursor, EventLog as _, LogAdmin as _, RetentionPolicy, Track},
    outbox::Outbox as _,
};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{Relay, left, prune_down_to};
use crate::support::{Bed, changed, consumer, join, moved, on_postgres, only, read};

on_postgres! {
    async fn nothing_goes_unseen_and_nothing_stays(bed: &Bed) {
        let seed = std::env::var("OUTBOX_TEST_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed: u64 = seed.unwrap_or_else(|| StdRng::from_rng(&mut rand::rng()).random());
        println!("OUTBOX_TEST_SEED={seed} runs the same choices again");
        Play::begin(bed, seed).await.run(1_500).await;
    }

    /// Tasks that run at the same time instead of one after the other.
    async fn many_at_once(bed: &Bed) {
        const WRITERS: i64 = 4;
        const EACH: i64 = 150;
        let fast = Relay::begin(&bed.log, "fast").await;
        let slow = Relay::begin(&bed.log, "slow").await;
        let mut writers = tokio::task::JoinSet::new();
        for writer in 1..=WRITERS {
            let (log, pool) = (bed.log.clone(), bed.pool.clone());
            writers.spawn(async move {
                for n in 1..=EACH {
                    let mut tx = pool.begin().await.expect("begin");
                    let _receipt = log.append(&mut tx, &[changed(writer, n)]).await.expect("append");
                    tx.commit().await.expect("commit");
                }
            });
        }
        let (stop, stopped) = tokio::sync::watch::channel(false);
        let mut pruners = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let (log, stopped) = (bed.log.clone(), stopped.clone());
            pruners.spawn(async move {
                let mut removed = 0;
                while !*stopped.borrow() {
                    removed += log.prune(&RetentionPolicy::default().steps(2)).await.expect("prune").removed;
                }
                removed
            });
        }
        let reader = async |relay: &Relay, limit: usize| {
            let mut seen = BTreeSet::new();
            while seen.len() < (WRITERS * EACH) as usize {
                for event in relay.one_page(limit).await.events {
                    assert!(seen.insert(event.event.id), "an event came twice");
                }
            }
        };
        let reading = async { tokio::join!(reader(&fast, 1_000), reader(&slow, 7)) };
        tokio::time::timeout(Duration::from_mins(2), reading).await.expect("an event was removed before it was read");
        writers.join_all().await;
        let before = left(bed).await;
        stop.send(true).expect("pruners");
        let removed: u64 = pruners.join_all().await.into_iter().sum();
        assert!(removed > 0 && before < WRITERS * EACH, "pruned while written: {removed} removed, {before} left");
        prune_down_to(bed, 0).await;
    }
}

struct Play<'b> {
    bed: &'b Bed,
    rng: StdRng,
    open: Vec<(Transaction<'static, Postgres>, Vec<Uuid>)>,
    committed: BTreeSet<Uuid>,
    consumers: Vec<Consumer>,
    next: i64,
}

struct Consumer {
    fence: outbox_core::log::Fence,
    /// Two, so that a lane may lag.
    tracks: Vec<Track>,
    seen: BTreeSet<Uuid>,
}

impl<'b> Play<'b> {
    async fn begin(bed: &'b Bed, seed: u64) -> Self {
        let rng = StdRng::seed_from_u64(seed);
        let mut play = Self { bed, rng, open: Vec::new(), committed: BTreeSet::new(), consumers: Vec::new(), next: 0 };
        for name in ["a", "b", "c"] {
            let name = consumer(&bed.log, name).await;
            let assignment = join(&bed.log, &name).await;
            let Track { cursor, lanes } = only(&assignment.tracks);
            let low = lanes.iter().take(lanes.len() as usize / 2).collect();
            let tracks = [low, lanes.difference(low)].map(|lanes| Track { cursor: cursor.clone(), lanes }).to_vec();
            play.consumers.push(Consumer { fence: assignment.fence, tracks, seen: BTreeSet::new() });
        }
        play
    }

    async fn run(mut self, steps: usize) {
        for _ in 0..steps {
            match self.rng.random_range(0..10) {
                0 if self.open.len() < 6 => self.open.push((self.bed.begin().await, Vec::new())),
                1..=3 => self.append().await,
                4 | 5 => self.end().await,
                6..=8 => self.consume().await,
                _ => {
                    let policy = RetentionPolicy::default().steps(self.rng.random_range(1..4));
                    self.bed.log.prune(&policy).await.expect("prune");
                }
            }
        }
        while !self.open.is_empty() {
            self.end().await;
        }
        for n in 0..self.consumers.len() {
            for track in 0..2 {
                while !self.page(n, track, 100).await {}
            }
            assert_eq!(self.consumers[n].seen, self.committed, "consumer {n}: what it saw is not what was committed");
        }
        assert!(self.committed.len() > 100, "only {} events", self.committed.len());
        prune_down_to(self.bed, 0).await;
    }

    async fn append(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.open.len());
        self.next += 1;
        // A key for each event: nobody waits for anybody.
        let event = changed(self.next, 1);
        let (tx, ids) = &mut self.open[which];
        let _receipt = self.bed.log.append(tx, std::slice::from_ref(&event)).await.expect("append");
        ids.push(event.event().id);
    }

    async fn end(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.open.len());
        let (tx, ids) = self.open.swap_remove(which);
        if self.rng.random_bool(0.8) {
            tx.commit().await.expect("commit");
            self.committed.extend(ids);
        } else {
            tx.rollback().await.expect("rollback");
        }
    }

    async fn consume(&mut self) {
        let (consumer, track) = (self.rng.random_range(0..self.consumers.len()), self.rng.random_range(0..2));
        let limit = self.rng.random_range(1..20);
        self.page(consumer, track, limit).await;
    }

    /// Reads a page and records it; says whether it was the last one.
    async fn page(&mut self, consumer: usize, track: usize, limit: usize) -> bool {
        let consumer = &mut self.consumers[consumer];
        let page = read(&self.bed.log, &consumer.tracks[track], limit).await;
        for event in page.events {
            assert!(consumer.seen.insert(event.event.id), "an event came twice");
        }
        let next: Cursor = page.next;
        consumer.tracks[track] = only(&moved(&consumer.tracks[track], &next));
        self.bed.log.checkpoint(&consumer.fence, &consumer.tracks).await.expect("checkpoint");
        page.caught_up
    }
}
