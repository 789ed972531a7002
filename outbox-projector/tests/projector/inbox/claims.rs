//! Claims in transactions of the test's own.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use outbox_projector::inbox::{Claimed, TryClaimed};
use outbox_projector::sql::Handler;
use uuid::Uuid;

use super::{Bed, Database, ReadModel, inbox, on_every_database};
use crate::support::within;

on_every_database!(
    an_event_is_new_once_for_each_consumer,
    a_rollback_gives_the_claim_back,
    a_second_claim_is_answered_when_the_first_has_ended,
    of_many_at_once_one_is_new,
    old_claims_are_removed_in_bounds,
);

async fn an_event_is_new_once_for_each_consumer<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (mails, invoices, id) = (inbox(database, "mails"), inbox(database, "invoices"), Uuid::now_v7());
    let mut tx = DB::open(&database.pool).await;
    assert_eq!(mails.claim(&mut tx, id).await.expect("claim"), Claimed::New);
    assert_eq!(mails.claim(&mut tx, id).await.expect("claim"), Claimed::Seen, "by itself");
    assert_eq!(mails.try_claim(&mut tx, id).await.expect("claim"), TryClaimed::Seen, "by itself");
    tx.commit().await.expect("commit");

    let mut tx = DB::open(&database.pool).await;
    assert_eq!(mails.claim(&mut tx, id).await.expect("claim"), Claimed::Seen);
    assert_eq!(mails.try_claim(&mut tx, id).await.expect("claim"), TryClaimed::Seen);
    assert_eq!(mails.try_claim(&mut tx, Uuid::now_v7()).await.expect("claim"), TryClaimed::New);
    assert_eq!(invoices.claim(&mut tx, id).await.expect("claim"), Claimed::New);
    tx.commit().await.expect("commit");
    assert_eq!(database.count("projector_inbox").await, 3);
}

async fn a_rollback_gives_the_claim_back<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (inbox, id) = (inbox(database, "mails"), Uuid::now_v7());
    for _ in 0..2 {
        let mut tx = DB::open(&database.pool).await;
        assert_eq!(inbox.claim(&mut tx, id).await.expect("claim"), Claimed::New);
        tx.rollback().await.expect("rollback");
        let mut tx = DB::open(&database.pool).await;
        assert_eq!(inbox.try_claim(&mut tx, id).await.expect("claim"), TryClaimed::New);
        drop(tx);
    }
    assert_eq!(database.count("projector_inbox").await, 0);
}

/// Where only one transaction can write, the second one waits to begin.
async fn a_second_claim_is_answered_when_the_first_has_ended<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    for (commits, expected) in [(true, Claimed::Seen), (false, Claimed::New)] {
        let (inbox, id, ends) = (inbox(database, "mails"), Uuid::now_v7(), Arc::new(AtomicBool::new(false)));
        let mut first = DB::open(&database.pool).await;
        assert_eq!(inbox.claim(&mut first, id).await.expect("claim"), Claimed::New);
        let second = tokio::spawn({
            let (inbox, pool, ends) = (inbox.clone(), database.pool.clone(), ends.clone());
            async move {
                let mut tx = DB::open(&pool).await;
                let claimed = inbox.claim(&mut tx, id).await.expect("claim");
                (claimed, ends.load(Ordering::SeqCst))
            }
        });
        // On its way, and most often waiting.
        tokio::task::yield_now().await;
        ends.store(true, Ordering::SeqCst);
        if commits {
            first.commit().await.expect("commit");
        } else {
            first.rollback().await.expect("rollback");
        }
        assert_eq!(within("the second's answer", second).await.expect("no panic"), (expected, true));
    }
}

async fn of_many_at_once_one_is_new<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    for _ in 0..10 {
        let id = Uuid::now_v7();
        let claims = (0..4).map(|_| {
            let (inbox, pool) = (inbox(database, "mails"), database.pool.clone());
            tokio::spawn(async move {
                let mut tx = DB::open(&pool).await;
                let claimed = inbox.claim(&mut tx, id).await.expect("claim");
                tx.commit().await.expect("commit");
                claimed
            })
        });
        let mut new = 0;
        for claim in claims.collect::<Vec<_>>() {
            new += usize::from(claim.await.expect("no panic") == Claimed::New);
        }
        assert_eq!(new, 1);
    }
}

async fn old_claims_are_removed_in_bounds<DB: Bed>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (mails, invoices) = (inbox(database, "mails"), inbox(database, "invoices"));
    let ids: Vec<Uuid> = (0..6).map(|_| Uuid::now_v7()).collect();
    let mut tx = DB::open(&database.pool).await;
    for id in &ids[..5] {
        mails.claim(&mut tx, *id).await.expect("claim");
    }
    invoices.claim(&mut tx, ids[5]).await.expect("claim");
    tx.commit().await.expect("commit");
    for (id, hours) in ids.iter().zip([9, 5, 7, 1, 6, 9]) {
        DB::age(&database.pool, *id, hours).await;
    }
    let four_hours = Duration::from_hours(4);
    assert_eq!(mails.prune(four_hours, 2).await.expect("prune"), 2, "no more than asked for");
    let mut tx = DB::open(&database.pool).await;
    assert_eq!(mails.claim(&mut tx, ids[0]).await.expect("claim"), Claimed::New, "the oldest first");
    assert_eq!(mails.claim(&mut tx, ids[1]).await.expect("claim"), Claimed::Seen);
    tx.rollback().await.expect("rollback");
    assert_eq!(mails.prune(four_hours, 100).await.expect("prune"), 2, "what is younger stays");
    assert_eq!(mails.prune(Duration::MAX, 100).await.expect("prune"), 0, "no age is too long");
    assert_eq!(database.count("projector_inbox").await, 2, "another consumer's stay");
}
