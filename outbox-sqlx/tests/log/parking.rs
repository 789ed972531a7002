//! Parking against whatever goes on at the same key: nothing is stuck, and nothing overtakes.

use std::time::Duration;

use outbox_core::{
    event::RecordedEvent,
    log::{
        Assignment, ConsumerName, DUE_OF_A_KEY, EventLog as _, LogAdmin as _, LogError, LogErrorKind, Park,
        ParkFailure, ParkState, Parked, Redrive, Redriven, Republished,
    },
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use crate::support::{Bed, LEASE, blocks_touched, consumer, join, on_postgres, only, read, waiting_for_locks};

on_postgres! {
    /// The last parked event is discarded, and not yet committed, when the next event of its key looks whether it has to
    /// wait.
    async fn an_event_that_waits_for_an_unblocking_is_published(bed: &Bed) {
        for how in [Unblocking::Discard, Unblocking::Redriven] {
            let (name, member, events) = blocked_key(bed, 2).await;
            let mut tx = bed.begin().await;
            how.run(&mut tx, &name, &member, &events[0]).await;
            let parking = park_in_background(&bed.log, &member, behind(&events[1]));
            waiting_for_locks(&bed.pool, 1).await;
            tx.commit().await.expect("commit");
            assert_eq!(parking.await.expect("park"), [Parked::NotBlocked], "{how:?}");
            assert_eq!(parked(bed, &name).await, [] as [i64; 0], "{how:?}");
            assert!(bed.log.blocked_keys(&member.fence).await.expect("keys").is_empty(), "{how:?}");
        }
    }

    /// An event that was parked is settled, and not yet committed, when a call that knows nothing of it parks it again.
    async fn an_event_that_is_settled_meanwhile_is_not_parked_again(bed: &Bed) {
        for how in [Unblocking::Discard, Unblocking::Redriven] {
            for fails in [false, true] {
                let (name, member, events) = blocked_key(bed, 2).await;
                let mut tx = bed.begin().await;
                how.run(&mut tx, &name, &member, &events[0]).await;
                let again = Park { failure: fails.then(|| failure(2, None)), ..behind(&events[0]) };
                let (log, fence) = (bed.log.clone(), member.fence.clone());
                let parks = [again, behind(&events[1])];
                let parking = tokio::spawn(async move { log.park(&fence, &parks).await.expect("park") });
                waiting_for_locks(&bed.pool, 1).await;
                tx.commit().await.expect("commit");
                let answers = parking.await.expect("park");
                assert_eq!(answers, [Parked::Yes, Parked::NotBlocked], "{how:?}, {fails}");
                assert_eq!(parked(bed, &name).await, [] as [i64; 0], "{how:?}, {fails}");
                assert_eq!(blocked_rows(bed, &name).await, 0, "{how:?}, {fails}");
            }
        }
    }

    /// The other way round: the event is parked first, so the key stays blocked, and what is left is due.
    async fn an_unblocking_sees_the_event_that_was_parked_meanwhile(bed: &Bed) {
        for how in [Unblocking::Discard, Unblocking::Redriven] {
            let (name, member, events) = blocked_key(bed, 2).await;
            let mut tx = bed.begin().await;
            park_in(&mut tx, &name, &member, &events[1]).await;
            let (pool, other) = (bed.pool.clone(), (name.clone(), member.clone(), events[0].clone()));
            let unblocking = tokio::spawn(async move {
                let mut tx = pool.begin().await.expect("begin");
                how.run(&mut tx, &other.0, &other.1, &other.2).await;
                tx.commit().await.expect("commit");
            });
            waiting_for_locks(&bed.pool, 1).await;
            tx.commit().await.expect("commit");
            unblocking.await.expect("unblocking");
            assert_eq!(parked(bed, &name).await, [position(&events[1])], "{how:?}");
            assert_eq!(bed.log.blocked_keys(&member.fence).await.expect("keys").len(), 1, "{how:?}");
            assert!(bed.log.renew(&member.fence, LEASE).await.expect("renew").redrive, "{how:?}");
            let due = bed.log.due_parked(&member.fence, 10).await.expect("due");
            assert_eq!(due.iter().map(|due| position(&due.event)).collect::<Vec<_>>(), [position(&events[1])], "{how:?}");
        }
    }

    /// Two at once empty a key, each having seen the other's event still there.
    async fn whoever_empties_a_key_frees_it(bed: &Bed) {
        let (name, member, events) = blocked_key(bed, 2).await;
        bed.log.park(&member.fence, &[behind(&events[1])]).await.expect("park");
        let mut tx = bed.begin().await;
        Unblocking::Redriven.run(&mut tx, &name, &member, &events[0]).await;
        let (log, other, sequence) = (bed.log.clone(), name.clone(), events[1].origin.sequence);
        let discarding = tokio::spawn(async move { log.discard(&other, sequence, "not needed").await });
        waiting_for_locks(&bed.pool, 1).await;
        tx.commit().await.expect("commit");
        assert!(discarding.await.expect("discarding").expect("discard"));
        assert!(bed.log.blocked_keys(&member.fence).await.expect("keys").is_empty());
        assert_eq!(blocked_rows(bed, &name).await, 0);
    }

    /// As above at random, also where the database's sessions default to other isolation levels: a call may fail as
    /// passing then, but a key is blocked exactly while something of it is parked.
    async fn a_key_is_blocked_exactly_while_something_is_parked(bed: &Bed) {
        for level in ["read committed", "repeatable read", "serializable"] {
            let alter = format!("ALTER DATABASE {} SET default_transaction_isolation = '{level}'", bed.database.name());
            sqlx::query(AssertSqlSafe(alter)).execute(&bed.pool).await.expect("alter");
            let pool = bed.database.connect(6).await;
            let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
            let mut clean = 0;
            for _ in 0..25 {
                let (name, member, events) = blocked_key(bed, 3).await;
                log.park(&member.fence, &[behind(&events[1])]).await.expect("park");
                let first = [republished(&events[0])];
                let third = [behind(&events[2])];
                let (redriven, discarded, third) = tokio::join!(
                    log.redriven(&member.fence, &first),
                    log.discard(&name, events[1].origin.sequence, "not needed"),
                    log.park(&member.fence, &third),
                );
                let mut failed = false;
                for kind in [kind(&redriven), kind(&discarded), kind(&third)].into_iter().flatten() {
                    assert_eq!(kind, LogErrorKind::Unavailable, "{level}");
                    failed = true;
                }
                clean += usize::from(!failed);
                let left = parked(bed, &name).await;
                assert_eq!(blocked_rows(bed, &name).await, i64::from(!left.is_empty()), "{level}: {left:?} are parked");
                if let Ok(answer) = third {
                    assert_eq!(answer == [Parked::Yes], left.contains(&position(&events[2])), "{level}");
                }
                if !failed && !left.is_empty() {
                    let due = log.due_parked(&member.fence, 10).await.expect("due");
                    assert_eq!(due.len(), left.len(), "{level}: what is left is due");
                }
            }
            assert!(clean == 25 || level != "read committed", "only {clean} rounds without an error");
            pool.close().await;
        }
    }

    /// An event whose row retention removed long ago fails again: the copy is all there is.
    async fn a_copy_is_parked_again_without_the_log(bed: &Bed) {
        let (name, member, events) = blocked_key(bed, 1).await;
        sqlx::query("DELETE FROM outbox.outbox_event").execute(&bed.pool).await.expect("retention");
        let again = Park { failure: Some(failure(7, Some(Duration::from_hours(1)))), ..behind(&events[0]) };
        assert_eq!(bed.log.park(&member.fence, &[again]).await.expect("park"), [Parked::Yes]);
        let parked = bed.log.parked(&name, None, 10).await.expect("parked");
        assert_eq!((parked[0].attempts, parked[0].state), (7, ParkState::Retrying));
        assert_eq!(parked[0].event, events[0]);
        let unknown = Park { sequence: events[0].origin.sequence, ..behind(&events[0]) };
        let unknown = Park { sequence: outbox_core::event::Sequence::new(0, 99).expect("sequence"), ..unknown };
        let refused = bed.log.park(&member.fence, &[behind(&events[0]), unknown]).await.expect_err("no such event");
        assert_eq!(refused.kind(), LogErrorKind::Corrupt);
    }

    /// A batch is as if its events came one by one.
    async fn many_events_of_one_key_in_one_call(bed: &Bed) {
        const EVENTS: usize = 2_000;
        let name = consumer(&bed.log, "relay").await;
        let member = join(&bed.log, &name).await;
        let mut tx = bed.begin().await;
        let events: Vec<_> = (1..=EVENTS as i64).map(|v| crate::support::changed(1, v)).collect();
        let _receipt = outbox_core::outbox::Outbox::append(&bed.log, &mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        let read = read(&bed.log, &only(&member.tracks), EVENTS).await.events;
        let mut parks: Vec<Park> = read.iter().map(behind).collect();
        parks[0].failure = Some(failure(1, None));
        let answers = bed.log.park(&member.fence, &parks).await.expect("park");
        assert!(answers.len() == EVENTS && answers.iter().all(|answer| *answer == Parked::Yes));
        assert_eq!(bed.log.redrive(&name, &Redrive::Event(read[EVENTS / 2].origin.sequence)).await.expect("redrive"), 1);
        let due = bed.log.due_parked(&member.fence, 100).await.expect("due");
        let due: Vec<RecordedEvent> = due.into_iter().map(|due| due.event).collect();
        assert_eq!(due, read[..DUE_OF_A_KEY], "the first ones, in order");
        let published: Vec<Republished> = read.iter().map(republished).collect();
        let answers = bed.log.redriven(&member.fence, &published[..DUE_OF_A_KEY]).await.expect("redriven");
        assert!(answers.iter().all(|answer| *answer == Redriven::KeyBlocked));
        assert_eq!(bed.log.due_parked(&member.fence, 1).await.expect("due")[0].event, read[DUE_OF_A_KEY], "and so on");
        let answers = bed.log.redriven(&member.fence, &published[DUE_OF_A_KEY..]).await.expect("redriven");
        assert!(answers.iter().all(|answer| *answer == Redriven::KeyFree));
    }

    /// Looking for what is due does not become dear with what is not.
    async fn very_many_blocked_keys_are_no_burden(bed: &Bed) {
        const TABLES: [&str; 2] = ["outbox_parked", "outbox_blocked"];
        let (name, member, _) = blocked_key(bed, 1).await;
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        for sql in [
            // Its reads would be counted with those that are looked at.
            "ALTER TABLE outbox.outbox_parked SET (autovacuum_enabled = off)",
            "ALTER TABLE outbox.outbox_blocked SET (autovacuum_enabled = off)",
            "INSERT INTO outbox.outbox_parked SELECT consumer, 1000 + n, 0, lane, 'Agg/x' || n, id, aggregate_type, 'x' || n,
                NULL, event_type, content_type, payload, headers, created_at, false, 'parked', 'refused', 1, parked_at, NULL
            FROM outbox.outbox_parked CROSS JOIN generate_series(1, 20000) AS n",
            "INSERT INTO outbox.outbox_blocked SELECT consumer, lane_key, lane FROM outbox.outbox_parked WHERE position > 1000",
        ] {
            sqlx::query(sql).execute(&pool).await.expect(sql);
        }
        for statistics in ["none", "good"] {
            let began = blocks_touched(&pool, &TABLES).await;
            assert!(!log.renew(&member.fence, LEASE).await.expect("renew").redrive);
            assert!(log.due_parked(&member.fence, 100).await.expect("due").is_empty());
            let touched = blocks_touched(&pool, &TABLES).await - began;
            assert!(touched < 20, "looking for nothing touched {touched} blocks, with {statistics} statistics");
            sqlx::query("ANALYZE outbox.outbox_parked, outbox.outbox_blocked").execute(&pool).await.expect("analyze");
        }
        assert_eq!(log.redrive(&name, &Redrive::All).await.expect("redrive"), 20_001);
        let began = blocks_touched(&pool, &TABLES).await;
        assert!(log.renew(&member.fence, LEASE).await.expect("renew").redrive);
        assert_eq!(log.due_parked(&member.fence, 100).await.expect("due").len(), 100);
        println!("blocks for 100 of 20,001 keys: {}", blocks_touched(&pool, &TABLES).await - began);
        pool.close().await;
    }

    async fn what_a_text_column_cannot_hold_is_no_obstacle(bed: &Bed) {
        let (name, member, events) = blocked_key(bed, 1).await;
        let reason = "broker said \0".to_owned() + &"ü".repeat(3_000);
        let again = Park { failure: Some(ParkFailure { reason, ..failure(2, None) }), ..behind(&events[0]) };
        bed.log.park(&member.fence, &[again]).await.expect("park");
        let kept = bed.log.parked(&name, None, 1).await.expect("parked").remove(0).reason;
        assert!(kept.starts_with("broker said \u{FFFD}ü") && kept.chars().count() == 2_000, "{kept}");
        let which = Redrive::Aggregate { aggregate_type: "Agg\0".into(), aggregate_id: "1".into() };
        assert_eq!(bed.log.redrive(&name, &which).await.expect("redrive"), 0);
        assert!(bed.log.discard(&name, events[0].origin.sequence, "gone\0").await.expect("discard"));
    }
}

fn kind<T>(outcome: &Result<T, LogError>) -> Option<LogErrorKind> {
    outcome.as_ref().err().map(LogError::kind)
}

#[derive(Debug, Clone, Copy)]
enum Unblocking {
    Discard,
    Redriven,
}

impl Unblocking {
    /// In a transaction of the test's, to stop it before it is committed.
    async fn run(
        self,
        tx: &mut Transaction<'static, Postgres>,
        name: &ConsumerName,
        member: &Assignment,
        event: &RecordedEvent,
    ) {
        match self {
            Self::Discard => {
                sqlx::query("SELECT outbox.outbox_discard($1, $2, 0, 'not needed')")
                    .bind(name.as_str())
                    .bind(position(event))
                    .execute(&mut **tx)
                    .await
                    .expect("discard");
            }
            Self::Redriven => {
                sqlx::query("SELECT outbox.outbox_redriven($1, $2, $3, -1, ARRAY[$4], ARRAY[0], ARRAY['Agg/1'])")
                    .bind(name.as_str())
                    .bind(member.fence.member.0)
                    .bind(member.fence.epoch as i64)
                    .bind(position(event))
                    .execute(&mut **tx)
                    .await
                    .expect("redriven");
            }
        }
    }
}

async fn park_in(
    tx: &mut Transaction<'static, Postgres>,
    name: &ConsumerName,
    member: &Assignment,
    event: &RecordedEvent,
) {
    let answer: Vec<i16> = sqlx::query_scalar(
        "SELECT outbox.outbox_park($1, $2, $3, -1, ARRAY[$4], ARRAY[0], ARRAY[$5], ARRAY['behind'], ARRAY[''], ARRAY[0],
            ARRAY[NULL::double precision])",
    )
    .bind(name.as_str())
    .bind(member.fence.member.0)
    .bind(member.fence.epoch as i64)
    .bind(position(event))
    .bind(i16::from(event.lane.get()))
    .fetch_one(&mut **tx)
    .await
    .expect("park");
    assert_eq!(answer, [1]);
}

fn park_in_background(log: &PostgresLog, member: &Assignment, park: Park) -> tokio::task::JoinHandle<Vec<Parked>> {
    let (log, fence) = (log.clone(), member.fence.clone());
    tokio::spawn(async move { log.park(&fence, &[park]).await.expect("park") })
}

/// New events of one key, the first of which failed.
async fn blocked_key(bed: &Bed, events: usize) -> (ConsumerName, Assignment, Vec<RecordedEvent>) {
    let name = format!("relay-{}", uuid::Uuid::now_v7());
    let name = ConsumerName::parse(name).expect("name");
    bed.log.register(&name, outbox_core::log::StartAt::End).await.expect("register");
    for _ in 0..events {
        bed.bump_and_commit(1).await;
    }
    let member = join(&bed.log, &name).await;
    let read = read(&bed.log, &only(&member.tracks), 100).await.events;
    assert_eq!(read.len(), events);
    let fails = Park { failure: Some(failure(1, None)), ..behind(&read[0]) };
    assert_eq!(bed.log.park(&member.fence, &[fails]).await.expect("park"), [Parked::Yes]);
    (name, member, read)
}

fn failure(attempts: u32, retry_in: Option<Duration>) -> ParkFailure {
    ParkFailure { reason: "refused".into(), attempts, retry_in }
}

fn behind(event: &RecordedEvent) -> Park {
    Park { sequence: event.origin.sequence, lane: event.lane, failure: None }
}

fn republished(event: &RecordedEvent) -> Republished {
    let lane_key = event.event.lane_key().into_owned();
    Republished { sequence: event.origin.sequence, lane: event.lane, lane_key }
}

fn position(event: &RecordedEvent) -> i64 {
    event.origin.sequence.position() as i64
}

async fn parked(bed: &Bed, name: &ConsumerName) -> Vec<i64> {
    let sql = "SELECT position FROM outbox.outbox_parked WHERE consumer = $1 ORDER BY 1";
    sqlx::query_scalar(sql).bind(name.as_str()).fetch_all(&bed.pool).await.expect("parked")
}

async fn blocked_rows(bed: &Bed, name: &ConsumerName) -> i64 {
    let sql = "SELECT count(*) FROM outbox.outbox_blocked WHERE consumer = $1";
    sqlx::query_scalar(sql).bind(name.as_str()).fetch_one(&bed.pool).await.expect("blocked")
}
