//! What operators see of a log in PostgreSQL, where commits come late and roles may do little.

use outbox_core::log::{
    Claim, ConsumerName, EventLog as _, EventStatus, LogAdmin as _, LogErrorKind, MemberId, Park, ParkFailure, Redrive,
    StartAt,
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

use crate::support::{Bed, LEASE, consumer, join, moved, on_postgres, only, read, waiting_for_locks, write_elsewhere};

on_postgres! {
    /// A checkpoint says nothing of an event that was not visible then, though its position is lower.
    async fn an_event_that_commits_late_is_pending_until_it_is_passed(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let mut member = join(&bed.log, &name).await;
        let mut late = bed.begin().await;
        bed.bump(&mut late, 1).await;
        bed.bump_and_commit(2).await;
        let early = pass(bed, &mut member).await;
        late.commit().await.expect("commit");
        let events = bed.log.tail(None, 10).await.expect("tail");
        let (late, newer) = (events[0].origin.sequence, events[1].origin.sequence);
        assert_eq!(early, [newer]);
        let status = async |sequence| bed.log.event_status(&name, sequence).await.expect("status");
        assert_eq!(status(late).await, Some(EventStatus::Pending));
        let Some(EventStatus::Published(Some(first))) = status(newer).await else { panic!("published, and when") };
        let pending = bed.log.consumers().await.expect("consumers")[0].oldest_pending;
        assert_eq!(pending, Some(events[0].event.created_at), "the late one is what is pending");
        assert_eq!(pass(bed, &mut member).await, [late]);
        let Some(EventStatus::Published(Some(second))) = status(late).await else { panic!("published, and when") };
        assert!(second > first, "by a later checkpoint");
        assert_eq!(status(newer).await, Some(EventStatus::Published(Some(first))), "as before");
        assert_eq!(bed.log.consumers().await.expect("consumers")[0].oldest_pending, None);
    }

    /// The time of publication stays known when lanes change hands, and is unknown beyond the history.
    async fn the_history_goes_on_over_take_overs_and_ends(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        bed.bump_and_commit(1).await;
        let mut first = join(&bed.log, &name).await;
        let sequence = pass(bed, &mut first).await[0];
        let known = bed.log.event_status(&name, sequence).await.expect("status");
        assert!(matches!(known, Some(EventStatus::Published(Some(_)))), "{known:?}");
        bed.log.release(&first.fence, &first.tracks).await.expect("release");
        let mut second = join(&bed.log, &name).await;
        bed.bump_and_commit(2).await;
        pass(bed, &mut second).await;
        assert_eq!(bed.log.event_status(&name, sequence).await.expect("status"), known);
        bed.log.leave(&second.fence).await.expect("leave");
        sqlx::query("DELETE FROM outbox.outbox_checkpoint WHERE epoch = $1")
            .bind(first.fence.epoch as i64)
            .execute(&bed.pool)
            .await
            .expect("the history ends");
        assert_eq!(bed.log.event_status(&name, sequence).await.expect("status"), Some(EventStatus::Published(None)));
    }

    /// Dropping waits for nobody but those who are just writing, and forgets everything; epochs go on.
    async fn a_dropped_consumer_leaves_nothing_behind(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let name = consumer(&bed.log, "relay").await;
        let member = join(&bed.log, &name).await;
        let event = read(&bed.log, &only(&member.tracks), 1).await.events.remove(0);
        let failure = Some(ParkFailure { reason: "refused".into(), attempts: 1, retry_in: None });
        let park = Park { sequence: event.origin.sequence, lane: event.lane, failure };
        bed.log.park(&member.fence, std::slice::from_ref(&park)).await.expect("park");
        bed.log.discard(&name, park.sequence, "gone").await.expect("discard");
        bed.log.park(&member.fence, &[park]).await.expect("park");
        bed.log.leave(&member.fence).await.expect("leave");
        let member = join(&bed.log, &name).await;
        bed.log.drop_consumer(&name).await.expect("drop");
        for table in ["member", "lane", "checkpoint", "parked", "blocked", "discarded", "consumer"] {
            let sql = AssertSqlSafe(format!("SELECT count(*) FROM outbox.outbox_{table}"));
            let left: i64 = sqlx::query_scalar(sql).fetch_one(&bed.pool).await.expect(table);
            assert_eq!(left, 0, "{table}");
        }
        assert_eq!(bed.log.leave(&member.fence).await.expect_err("gone").kind(), LogErrorKind::Fenced);
        let name = consumer(&bed.log, "relay").await;
        let again = join(&bed.log, &name).await;
        assert!(again.fence.epoch > member.fence.epoch, "no fence is good twice");
    }

    /// A member that writes while its consumer is dropped, either way round: no deadlock, and nothing is left.
    async fn dropping_and_writing_at_the_same_time(bed: &Bed) {
        for n in 0..25 {
            let name = consumer(&bed.log, &format!("relay-{n}")).await;
            let member = join(&bed.log, &name).await;
            let (dropped, released, joined) = tokio::join!(
                bed.log.drop_consumer(&name),
                bed.log.release(&member.fence, &member.tracks),
                bed.log.join(&name, MemberId::random(), Claim::Share, LEASE),
            );
            dropped.expect("drop");
            if let Err(error) = released {
                assert_eq!(error.kind(), LogErrorKind::Fenced, "{error:?}");
            }
            if let Err(error) = joined {
                assert_eq!(error.kind(), LogErrorKind::UnknownConsumer, "{error:?}");
            }
            let sql = "SELECT (SELECT count(*) FROM outbox.outbox_lane) + (SELECT count(*) FROM outbox.outbox_member)
                + (SELECT count(*) FROM outbox.outbox_checkpoint)";
            let left: i64 = sqlx::query_scalar(sql).fetch_one(&bed.pool).await.expect("rows");
            assert_eq!(left, 0);
        }
    }

    /// An operator asks for all keys while another one drops the consumer: they take the keys in one order, whatever the
    /// order of the rows.
    async fn dropping_and_redriving_at_the_same_time(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        for key in ["c", "b", "a"] {
            sqlx::query("INSERT INTO outbox.outbox_blocked (consumer, lane_key, lane) VALUES ('relay', $1, 0)")
                .bind(key)
                .execute(&bed.pool)
                .await
                .expect("blocked");
        }
        sqlx::query(
            "INSERT INTO outbox.outbox_parked (consumer, position, generation, lane, lane_key, id, aggregate_type,
                aggregate_id, event_type, content_type, headers, created_at, unordered, state, reason, attempts, parked_at)
            SELECT consumer, row_number() OVER (), 0, lane, lane_key, gen_random_uuid(), 'Agg', lane_key, 'AggChanged',
                'application/json', '', now(), false, 'parked', 'refused', 1, now() FROM outbox.outbox_blocked",
        )
        .execute(&bed.pool)
        .await
        .expect("parked");
        let mut holder = bed.begin().await;
        sqlx::query("SELECT FROM outbox.outbox_blocked WHERE lane_key = 'a' FOR UPDATE")
            .execute(&mut *holder)
            .await
            .expect("hold");
        let (log, other) = (bed.log.clone(), name.clone());
        let redriving = tokio::spawn(async move { log.redrive(&other, &Redrive::All).await });
        waiting_for_locks(&bed.pool, 1).await;
        let (log, other) = (bed.log.clone(), name.clone());
        let dropping = tokio::spawn(async move { log.drop_consumer(&other).await });
        waiting_for_locks(&bed.pool, 2).await;
        holder.rollback().await.expect("rollback");
        assert_eq!(redriving.await.expect("redriving").expect("redrive"), 3);
        dropping.await.expect("dropping").expect("drop");
    }

    /// Each with a kind and advice, and nothing half done.
    async fn a_role_that_may_only_read(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let name = consumer(&bed.log, "relay").await;
        let owner = join(&bed.log, &name).await;
        let (role, pool) = reading_role(bed).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("it may look");
        assert_eq!(log.tail(None, 10).await.expect("tail").len(), 1);
        assert_eq!(log.consumers().await.expect("consumers").len(), 1);
        assert_eq!(read(&log, &only(&owner.tracks), 10).await.events.len(), 1);
        let other = ConsumerName::parse("other").expect("name");
        for refused in [
            log.register(&other, StartAt::Beginning).await.expect_err("register"),
            log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect_err("join"),
            log.renew(&owner.fence, LEASE).await.expect_err("renew"),
            log.checkpoint(&owner.fence, &owner.tracks).await.expect_err("checkpoint"),
            log.leave(&owner.fence).await.expect_err("leave"),
            log.set_paused(&name, true).await.expect_err("pause"),
            log.drop_consumer(&name).await.expect_err("drop"),
            log.redrive(&name, &Redrive::All).await.expect_err("redrive"),
            log.reanchor().await.expect_err("reanchor"),
        ] {
            assert_eq!(refused.kind(), LogErrorKind::Database, "{refused:?}");
            assert!(refused.to_string().contains("role"), "no advice: {refused}");
            assert!(std::error::Error::source(&refused).is_some());
        }
        bed.log.renew(&owner.fence, LEASE).await.expect("nothing happened");
        pool.close().await;
        for sql in [format!("DROP OWNED BY {role}"), format!("DROP ROLE {role}")] {
            sqlx::query(AssertSqlSafe(sql)).execute(&bed.pool).await.expect("drop");
        }
    }

    /// A session that is set to read only is told so.
    async fn a_session_that_is_read_only(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let owner = join(&bed.log, &name).await;
        let options = bed.database.url().parse::<sqlx::postgres::PgConnectOptions>().expect("url");
        let options = options.options([("default_transaction_read_only", "on")]);
        let pool = PgPoolOptions::new().max_connections(2).connect_with(options).await.expect("connect");
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        for refused in [
            log.checkpoint(&owner.fence, &owner.tracks).await.expect_err("checkpoint"),
            log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect_err("join"),
            log.drop_consumer(&name).await.expect_err("drop"),
        ] {
            assert_eq!(refused.kind(), LogErrorKind::ReadOnly, "{refused:?}");
        }
        pool.close().await;
    }

    async fn consumers_are_counted_from_the_tables(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let mut open = bed.begin().await;
        write_elsewhere(&mut open).await;
        bed.bump_and_commit(1).await;
        let info = bed.log.consumers().await.expect("consumers").remove(0);
        assert_eq!((info.name, info.free_lanes.len(), info.position, info.head), (name.clone(), 64, 0, 1));
        assert!(info.members.is_empty() && info.checkpoint_at.is_none() && info.oldest_pending.is_some());
        let mut member = join(&bed.log, &name).await;
        assert_eq!(bed.log.consumers().await.expect("consumers")[0].checkpoint_at, None, "getting lanes is no progress");
        pass(bed, &mut member).await;
        let info = bed.log.consumers().await.expect("consumers").remove(0);
        assert!(info.checkpoint_at.is_some() && info.oldest_pending.is_none() && info.free_lanes.is_empty());
        assert_eq!((info.position, info.members[0].lanes.len(), info.members[0].live), (1, 64, true));
        open.rollback().await.expect("rollback");
    }
}

/// Reads all there is, writes a checkpoint behind it, and returns what came.
async fn pass(bed: &Bed, member: &mut outbox_core::log::Assignment) -> Vec<outbox_core::event::Sequence> {
    let page = read(&bed.log, &only(&member.tracks), 100).await;
    assert!(page.caught_up);
    member.tracks = moved(&only(&member.tracks), &page.next);
    bed.log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
    page.events.iter().map(|event| event.origin.sequence).collect()
}

async fn reading_role(bed: &Bed) -> (String, PgPool) {
    let role = format!("reader_{}", uuid::Uuid::now_v7().simple());
    for sql in [
        format!("CREATE ROLE {role}"),
        format!("GRANT USAGE ON SCHEMA outbox TO {role}"),
        format!("GRANT SELECT ON ALL TABLES IN SCHEMA outbox TO {role}"),
        format!("GRANT SELECT ON ALL SEQUENCES IN SCHEMA outbox TO {role}"),
    ] {
        sqlx::query(AssertSqlSafe(sql)).execute(&bed.pool).await.expect("grant");
    }
    let options = bed.database.url().parse::<sqlx::postgres::PgConnectOptions>().expect("url");
    let options = options.options([("role", role.as_str())]);
    (role, PgPoolOptions::new().max_connections(2).connect_with(options).await.expect("connect"))
}
