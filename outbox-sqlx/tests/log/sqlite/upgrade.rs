//! A file of version 1 with data in it.

use outbox_core::log::{ConsumerName, EventLog as _, LogAdmin as _, LogErrorKind, RetentionPolicy};
use outbox_sqlx::SqliteLog;
use sqlx::{
    SqlSafeStr as _, SqlitePool,
    migrate::{Migration, MigrationType, Migrator},
};
use uuid::Uuid;

use super::bed::{connect, join, read_on, write};
use crate::support::{changed, version};

async fn version_1(pool: &SqlitePool) {
    let sql = include_str!("../../../src/sqlite/migrations/0001_log.sql").into_sql_str();
    let log = Migration::new(1, "log".into(), MigrationType::Simple, sql, false);
    let mut migrator = Migrator::with_migrations(vec![log]);
    migrator.dangerous_set_table_name("_outbox_migrations");
    migrator.run(pool).await.expect("version 1");
}

/// As version 1 wrote them: five events, a consumer at the third, another one that never wrote a checkpoint.
async fn data(pool: &SqlitePool) -> Uuid {
    let id = Uuid::now_v7();
    sqlx::query("INSERT INTO outbox_log (one, id, lanes) VALUES (1, ?1, 8)").bind(id).execute(pool).await.expect("log");
    let lanes = outbox_core::event::LaneCount::new(8).expect("lanes");
    for v in 1..=5_i64 {
        let event = changed(v, v).into_event();
        sqlx::query(
            "INSERT INTO outbox_event (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, \
             created_at) VALUES (?1, ?2, 'Agg', ?3, 'AggChanged', 'application/json', ?4, ?5)",
        )
        .bind(i64::from(lanes.lane_of(&event.lane_key()).get()))
        .bind(event.id)
        .bind(v.to_string())
        .bind(event.payload.as_deref())
        .bind(event.created_at.timestamp_micros())
        .execute(pool)
        .await
        .expect("event");
    }
    let cursor = |position: i64| format!("sqlite1 {} {position}", id.as_simple());
    for (name, start, epoch) in [("relay", 0, 2), ("late", 4, 0)] {
        sqlx::query("INSERT INTO outbox_consumer (name, start_cursor, epoch) VALUES (?1, ?2, ?3)")
            .bind(name)
            .bind(cursor(start))
            .bind(epoch)
            .execute(pool)
            .await
            .expect("consumer");
    }
    let member = Uuid::now_v7();
    sqlx::query("INSERT INTO outbox_member (consumer, member, epoch, expires) VALUES ('relay', ?1, 2, 9e15)")
        .bind(member)
        .execute(pool)
        .await
        .expect("member");
    for position in [1, 2, 3] {
        sqlx::query(
            "INSERT INTO outbox_checkpoint (consumer, member, epoch, cursor, position) VALUES ('relay', ?1, 2, ?2, ?3)",
        )
        .bind(member)
        .bind(cursor(position))
        .bind(position)
        .execute(pool)
        .await
        .expect("checkpoint");
    }
    member
}

#[tokio::test]
async fn an_upgrade_keeps_every_place_and_fences_members() {
    let folder = tempfile::tempdir().expect("folder");
    let pool = connect(&folder.path().join("log.db"), 4).await;
    version_1(&pool).await;
    let member = data(&pool).await;
    let builder = || SqliteLog::builder(pool.clone());
    assert_eq!(builder().open().await.expect_err("version 1").kind(), LogErrorKind::NotMigrated);

    let log = builder().migrate().await.expect("migrate");
    let [relay, late] = ["relay", "late"].map(|name| ConsumerName::parse(name).expect("name"));
    let old = outbox_core::log::Fence { consumer: relay.clone(), member: outbox_core::log::MemberId(member), epoch: 2 };
    let refused = log.renew(&old, crate::support::LEASE).await.expect_err("it did not know of lanes");
    assert_eq!(refused.kind(), LogErrorKind::Fenced);

    let positions = async |name: &ConsumerName| log.progress(name).await.expect("progress").position;
    assert_eq!((positions(&relay).await, positions(&late).await), (3, 4));
    let mut of_relay = join(&log, &relay).await;
    assert_eq!((of_relay.fence.epoch, of_relay.lanes().len(), of_relay.tracks.len()), (3, 8, 1));
    write(&log, &pool, &[changed(6, 6)]).await;
    let numbers =
        |events: Vec<outbox_core::event::RecordedEvent>| events.iter().map(|e| version(e).1).collect::<Vec<_>>();
    assert_eq!(numbers(read_on(&log, &mut of_relay.tracks).await), [4, 5, 6]);
    assert_eq!(numbers(read_on(&log, &mut join(&log, &late).await.tracks).await), [5, 6]);
    log.checkpoint(&of_relay.fence, &of_relay.tracks).await.expect("checkpoint");
    let pruned = log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.held_back_by), (4, Some(late)));
    builder().migrate().await.expect("a second time changes nothing");
}
