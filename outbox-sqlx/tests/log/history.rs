//! The history of checkpoints: long, beside a transaction that keeps every removed row from going, and over several
//! memberships.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::Sequence,
    log::{Assignment, EventLog as _, EventStatus, LogAdmin as _, Track},
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Bed, LEASE, blocks_touched, consumer, join, moved, on_postgres, only, read};

/// As many as are written in 40 minutes without a pause.
const CHECKPOINTS: i64 = 50_000;
const KEPT: i64 = 10_000;
/// Checkpoints from one event to the next.
const STEP: i64 = 500;

on_postgres! {
    /// Of 50,000 checkpoints 40,000 were trimmed, and stay where they were as dead rows.
    async fn what_was_trimmed_long_ago_is_not_walked_over(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let former = join(&bed.log, &name).await;
        bed.log.leave(&former.fence).await.expect("leave");
        let member = join(&bed.log, &name).await;
        for _ in 0..CHECKPOINTS / STEP {
            bed.bump_and_commit(1).await;
        }
        let mut old = bed.pool.begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
        sqlx::query("SELECT 1").execute(&mut *old).await.expect("a snapshot that is kept");
        // One session does all of it, and counts what it touches.
        let pool = bed.database.connect(1).await;
        write_history(&pool, &member).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        for statistics in ["none", "good"] {
            let (info, touched) = counting(&pool, log.consumers()).await;
            let last = written_at(&pool, &member, CHECKPOINTS).await;
            assert_eq!(info.expect("consumers")[0].checkpoint_at, Some(last));
            assert!(touched < 60, "the last checkpoint touched {touched} blocks, with {statistics} statistics");

            for (event, most) in [(CHECKPOINTS / STEP, 100), (KEPT / STEP * 9 / 2, 1_500)] {
                let (status, touched) = counting(&pool, log.event_status(&name, sequence(event))).await;
                let at = written_at(&pool, &member, event * STEP).await;
                assert_eq!(status.expect("status"), Some(EventStatus::Published(Some(at))), "event {event}");
            assert!(touched < most, "the time of event {event} touched {touched} blocks, with {statistics} statistics");
            }
            let (status, touched) = counting(&pool, log.event_status(&name, sequence(1))).await;
            let oldest = written_at(&pool, &member, CHECKPOINTS - KEPT + 1).await;
            assert_eq!(status.expect("status"), Some(EventStatus::Published(Some(oldest))), "at the latest");
            assert!(touched < 1_500, "the whole history touched {touched} blocks, with {statistics} statistics");
            sqlx::query("ANALYZE outbox.outbox_checkpoint").execute(&pool).await.expect("analyze");
        }
        old.rollback().await.expect("rollback");
        pool.close().await;
    }

    /// A lane goes to another member and comes back; each event has the time of the first checkpoint behind it.
    async fn times_are_those_of_whoever_owned_the_lane(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let mut first = join(&bed.log, &name).await;
        let mut times = vec![pass(bed, &mut first).await];
        bed.log.release(&first.fence, &first.tracks).await.expect("release");
        let mut second = join(&bed.log, &name).await;
        times.push(pass(bed, &mut second).await);
        bed.log.release(&second.fence, &second.tracks).await.expect("release");
        first.tracks = bed.log.renew(&first.fence, LEASE).await.expect("renew").gained;
        times.push(pass(bed, &mut first).await);
        for (event, at) in (1..).zip(times) {
            let status = bed.log.event_status(&name, sequence(event)).await.expect("status");
            assert_eq!(status, Some(EventStatus::Published(Some(at))), "event {event}");
        }
        let newest = bed.log.consumers().await.expect("consumers")[0].checkpoint_at;
        let expected: Option<DateTime<Utc>> = sqlx::query_scalar("SELECT max(written_at) FROM outbox.outbox_checkpoint")
            .fetch_one(&bed.pool)
            .await
            .expect("newest");
        assert_eq!(newest, expected);
        bed.log.leave(&first.fence).await.expect("leave");
        bed.log.leave(&second.fence).await.expect("leave");
        assert_eq!(bed.log.consumers().await.expect("consumers")[0].checkpoint_at, expected, "nobody writes any more");
    }
}

/// Checkpoint `n` stands behind the first `n / STEP` events. The oldest are trimmed.
async fn write_history(pool: &PgPool, member: &Assignment) {
    let cursor = only(&member.tracks).cursor;
    let log = cursor.as_text().split(' ').nth(1).expect("the log's id").to_owned();
    for sql in [
        // Its reads would be counted with those that are looked at.
        "ALTER TABLE outbox.outbox_checkpoint SET (autovacuum_enabled = off)".to_owned(),
        "DELETE FROM outbox.outbox_checkpoint WHERE nth = 1 AND epoch = $1".to_owned(),
        format!(
            "INSERT INTO outbox.outbox_checkpoint (consumer, member, epoch, nth, lanes, cursor, position, written_at)
            SELECT m.consumer, m.member, m.epoch, n, m.lanes,
                concat_ws(' ', 'pg1', '{log}', next || ':' || next || ':', n / {STEP}, next), n / {STEP},
                now() + make_interval(secs => n * 0.05)
            FROM outbox.outbox_member AS m, generate_series(1, {CHECKPOINTS}) AS n,
                (SELECT pg_snapshot_xmax(pg_current_snapshot())::text AS next) AS s
            WHERE m.epoch = $1"
        ),
        format!("DELETE FROM outbox.outbox_checkpoint WHERE epoch = $1 AND nth <= {}", CHECKPOINTS - KEPT),
    ] {
        let query = sqlx::query(AssertSqlSafe(sql.clone()));
        let query = if sql.contains("$1") { query.bind(member.fence.epoch as i64) } else { query };
        query.execute(pool).await.expect(&sql);
    }
}

async fn written_at(pool: &PgPool, member: &Assignment, nth: i64) -> DateTime<Utc> {
    sqlx::query_scalar("SELECT written_at FROM outbox.outbox_checkpoint WHERE epoch = $1 AND nth = $2")
        .bind(member.fence.epoch as i64)
        .bind(nth)
        .fetch_one(pool)
        .await
        .expect("written at")
}

/// How many blocks of the history it touched.
async fn counting<T>(pool: &PgPool, call: impl Future<Output = T>) -> (T, i64) {
    let before = blocks_touched(pool, &["outbox_checkpoint"]).await;
    let done = call.await;
    (done, blocks_touched(pool, &["outbox_checkpoint"]).await - before)
}

fn sequence(position: i64) -> Sequence {
    Sequence::new(0, position as u64).expect("sequence")
}

/// Writes an event and passes it, twice; returns when that was first recorded.
async fn pass(bed: &Bed, member: &mut Assignment) -> DateTime<Utc> {
    bed.bump_and_commit(1).await;
    let track: Track = only(&member.tracks);
    member.tracks = moved(&track, &read(&bed.log, &track, 10).await.next);
    let mut times: Vec<DateTime<Utc>> = Vec::new();
    for _ in 0..2 {
        bed.log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
        let newest = "SELECT written_at FROM outbox.outbox_checkpoint ORDER BY id DESC LIMIT 1";
        times.push(sqlx::query_scalar(newest).fetch_one(&bed.pool).await.expect("written at"));
    }
    times[0]
}
