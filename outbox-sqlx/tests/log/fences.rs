//! A member that was taken over writes nothing any more, and nobody waits longer than needed.

use std::time::Duration;

use outbox_core::log::{Assignment, ConsumerName, EventLog as _, LogErrorKind, MemberId};
use sqlx::Row as _;

use crate::support::{Bed, LEASE, consumer, join, on_postgres};

on_postgres! {
    async fn a_stale_member_changes_nothing(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let name = consumer(&bed.log, "relay").await;
        let stale = expired_member(bed, &name).await;
        let page = bed.log.read(&stale.cursor, stale.lanes, 10).await.expect("reading is not fenced");
        let owner = join(&bed.log, &name).await;
        assert!(owner.fence.epoch > stale.fence.epoch);

        let before = rows_of(bed).await;
        for result in [
            bed.log.checkpoint(&stale.fence, &page.next).await,
            bed.log.renew(&stale.fence, LEASE).await,
            bed.log.leave(&stale.fence).await,
        ] {
            assert_eq!(result.expect_err("stale").kind(), LogErrorKind::Fenced);
        }
        assert_eq!(rows_of(bed).await, before);
        bed.log.checkpoint(&owner.fence, &page.next).await.expect("the owner's fence is good");
    }

    async fn the_epoch_decides_and_not_the_clock(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let late = expired_member(bed, &name).await;
        bed.log.checkpoint(&late.fence, &late.cursor).await.expect("nobody took over yet");
        bed.log.renew(&late.fence, LEASE).await.expect("nor now");
        let second = bed.log.join(&name, MemberId::random(), LEASE).await.expect("join");
        assert_eq!(second, None, "the renewed lease holds");
    }

    async fn leaving_hands_over_at_once(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let first = join(&bed.log, &name).await;
        assert_eq!(bed.log.join(&name, MemberId::random(), LEASE).await.expect("join"), None);
        bed.log.leave(&first.fence).await.expect("leave");
        let lanes: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_lane").fetch_one(&bed.pool).await.expect("lanes");
        assert_eq!(lanes, 0);
        let second = join(&bed.log, &name).await;
        assert_eq!(second.lanes.len(), 64);
    }

    /// Of many that ask at once, one gets the lanes.
    async fn only_one_of_many_takes_over(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        expired_member(bed, &name).await;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (log, name) = (bed.log.clone(), name.clone());
            asking.spawn(async move { log.join(&name, MemberId::random(), LEASE).await.expect("join") });
        }
        let assigned: Vec<Assignment> = asking.join_all().await.into_iter().flatten().collect();
        assert_eq!(assigned.len(), 1);
        assert_eq!(assigned[0].fence.epoch, 2);
    }

    /// The takeover either sees the old member's checkpoint or keeps it from being written.
    async fn a_checkpoint_and_a_takeover_at_the_same_time(bed: &Bed) {
        for _ in 0..40 {
            bed.bump_and_commit(1).await;
            let name = consumer(&bed.log, &format!("relay-{}", uuid::Uuid::now_v7())).await;
            let old = expired_member(bed, &name).await;
            let page = bed.log.read(&old.cursor, old.lanes, 100).await.expect("read");
            let (written, new) = tokio::join!(
                bed.log.checkpoint(&old.fence, &page.next),
                bed.log.join(&name, MemberId::random(), LEASE),
            );
            let new = new.expect("join").expect("the lease ran out");
            match written {
                Ok(()) => assert_eq!(new.cursor, page.next, "written, but the new member begins before it"),
                Err(error) => {
                    assert_eq!(error.kind(), LogErrorKind::Fenced);
                    assert_eq!(new.cursor, old.cursor);
                }
            }
            assert_eq!(bed.log.progress(&name).await.expect("progress").cursor, new.cursor);
        }
    }

    /// A zombie in the middle of a checkpoint holds the takeover up until that checkpoint can be seen.
    async fn a_takeover_waits_for_a_checkpoint_under_way(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let old = expired_member(bed, &name).await;
        let mut zombie = bed.begin().await;
        sqlx::query("SELECT 1 FROM outbox.outbox_member WHERE consumer = $1 FOR SHARE")
            .bind(name.as_str())
            .execute(&mut *zombie)
            .await
            .expect("fence");
        let (log, taker) = (bed.log.clone(), name.clone());
        let taking = tokio::spawn(async move { join(&log, &taker).await });
        waiting_for_a_row(bed).await;
        sqlx::query("INSERT INTO outbox.outbox_checkpoint (consumer, member, epoch, cursor, position) VALUES ($1, $2, $3, 'late', 0)")
            .bind(name.as_str())
            .bind(old.fence.member.0)
            .bind(old.fence.epoch as i64)
            .execute(&mut *zombie)
            .await
            .expect("checkpoint");
        zombie.commit().await.expect("commit");
        assert_eq!(taking.await.expect("join").cursor.as_text(), "late");
    }

    /// The history is kept, but not for ever.
    async fn checkpoints_do_not_pile_up(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let member = join(&bed.log, &name).await;
        for _ in 0..1_150 {
            bed.log.checkpoint(&member.fence, &member.cursor).await.expect("checkpoint");
        }
        let kept: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_checkpoint").fetch_one(&bed.pool).await.expect("count");
        assert!((1_000..=1_001).contains(&kept), "{kept} checkpoints");
    }

    async fn cursors_of_others_are_refused(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let member = join(&bed.log, &name).await;
        let foreign = outbox_core::log::Cursor::from_text("12");
        let refused = bed.log.checkpoint(&member.fence, &foreign).await.expect_err("foreign");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);

        let schema = outbox_sqlx::postgres::SchemaName::parse("other").expect("name");
        let other = outbox_sqlx::PostgresLog::builder(bed.pool.clone()).schema(schema).migrate().await.expect("migrate");
        let refused = other.read(&member.cursor, member.lanes, 1).await.expect_err("another log's");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    }

    /// A dump restored on another server: its rows are of transactions that this server has not issued.
    async fn a_log_moved_from_another_server_is_noticed(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let name = consumer(&bed.log, "relay").await;
        join(&bed.log, &name).await;
        sqlx::query("UPDATE outbox.outbox_event SET xid = '4611686018427387904'").execute(&bed.pool).await.expect("move");
        let refused = bed.log.join(&name, MemberId::random(), LEASE).await.expect_err("moved");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    }
}

/// A member whose lease ran out by the database's clock.
async fn expired_member(bed: &Bed, name: &ConsumerName) -> Assignment {
    bed.log.join(name, MemberId::random(), Duration::ZERO).await.expect("join").expect("lanes")
}

async fn rows_of(bed: &Bed) -> Vec<String> {
    let sql = "SELECT m::text FROM outbox.outbox_member AS m UNION ALL SELECT l::text FROM outbox.outbox_lane AS l
        UNION ALL SELECT c::text FROM outbox.outbox_checkpoint AS c UNION ALL SELECT c::text FROM outbox.outbox_consumer AS c
        ORDER BY 1";
    sqlx::query(sql).fetch_all(&bed.pool).await.expect("rows").iter().map(|row| row.get(0)).collect()
}

/// Polls, because waiting for a lock gives no signal.
async fn waiting_for_a_row(bed: &Bed) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock')",
        )
        .fetch_one(&bed.pool)
        .await
        .expect("activity");
        if waiting {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for a row");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
