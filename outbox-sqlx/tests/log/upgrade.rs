//! A log of an older version is brought up to date with its data.

use outbox_core::{
    event::LaneCount,
    log::{EventLog as _, LogAdmin as _, LogErrorKind, MemberId},
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use sqlx::AssertSqlSafe;

use crate::support::{Bed, consumer, join, on_postgres, only, read};

on_postgres! {
    /// Version 1 had one member, which owned all lanes, and one place per consumer.
    async fn places_of_version_1_are_kept(bed: &Bed) {
        let schema = SchemaName::parse("old").expect("name");
        let log = PostgresLog::builder(bed.pool.clone()).schema(schema.clone()).build();
        sqlx::raw_sql(AssertSqlSafe(version_1(&schema))).execute(&bed.pool).await.expect("version 1");
        assert_eq!(log.identity().await.expect_err("too old").kind(), LogErrorKind::NotMigrated);
        for sql in [
            event(1), event(2), event(3),
            // At that time the cursor was written by a reader that had seen the first two events.
            "INSERT INTO old.outbox_consumer (name, start_cursor, epoch)
                SELECT n, 'pg1 ' || replace(id::text, '-', '') || ' 1:1: 0 1', 7
                FROM old.outbox_log, (VALUES ('relay'), ('idle')) AS c (n)".to_owned(),
            "INSERT INTO old.outbox_member VALUES ('relay', gen_random_uuid(), 7, now() + interval '1 day')".to_owned(),
            "INSERT INTO old.outbox_lane SELECT consumer, n, member, epoch
                FROM old.outbox_member, generate_series(0, 15) AS n".to_owned(),
            checkpoint(0), checkpoint(2),
        ] {
            sqlx::query(AssertSqlSafe(sql.clone())).execute(&bed.pool).await.expect(&sql);
        }
        let old: uuid::Uuid =
            sqlx::query_scalar("SELECT member FROM old.outbox_member").fetch_one(&bed.pool).await.expect("member");

        log.migrate().await.expect("migrate");
        log.migrate().await.expect("nothing left to do");
        let fence = outbox_core::log::Fence {
            consumer: outbox_core::log::ConsumerName::parse("relay").expect("name"),
            member: MemberId(old),
            epoch: 7,
        };
        assert_eq!(log.leave(&fence).await.expect_err("a member of before").kind(), LogErrorKind::Fenced);
        let relay = consumer(&log, "relay").await;
        let progress = log.progress(&relay).await.expect("progress");
        assert_eq!((progress.position, progress.head, only(&progress.tracks).lanes.len()), (2, 3, 16));
        let member = join(&log, &relay).await;
        assert!(member.fence.epoch > 7);
        let page = read(&log, &only(&member.tracks), 10).await;
        let positions: Vec<u64> = page.events.iter().map(|event| event.origin.sequence.position()).collect();
        assert_eq!(positions, [3], "what was not passed, and nothing else");
        let status = log.event_status(&relay, log.tail(None, 1).await.expect("tail")[0].origin.sequence).await;
        let status = status.expect("status").expect("an event");
        assert!(matches!(status, outbox_core::log::EventStatus::Published(Some(_))), "the history is kept: {status:?}");

        let idle = consumer(&log, "idle").await;
        let member = join(&log, &idle).await;
        assert_eq!(read(&log, &only(&member.tracks), 10).await.events.len(), 3, "from where it starts");
    }
}

/// What a library of version 1 ran: the script up to its first note.
fn version_1(schema: &SchemaName) -> String {
    let script = PostgresLog::migration_sql(schema, LaneCount::new(16).expect("lanes"));
    let note = script.find("._outbox_migrations (version").expect("the first note");
    let end = note + script[note..].find(";\n").expect("its end") + 2;
    format!("{}INSERT INTO \"{schema}\".outbox_log (lanes, schema_version) VALUES (16, 1);", &script[..end])
}

fn event(n: i64) -> String {
    format!(
        "INSERT INTO old.outbox_event (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
        VALUES (old.outbox_lane('Agg/{n}'), gen_random_uuid(), 'Agg', '{n}', 'AggChanged', 'application/json', '{{}}', now())"
    )
}

/// Behind the first `events` events.
fn checkpoint(events: i64) -> String {
    format!(
        "INSERT INTO old.outbox_checkpoint (consumer, member, epoch, cursor, position)
        SELECT 'relay', m.member, 7, concat_ws(' ', 'pg1', replace(l.id::text, '-', ''), e.next || ':' || e.next || ':',
            {events}, e.next), {events}
        FROM old.outbox_member AS m, old.outbox_log AS l,
            (SELECT coalesce(max(xid::text::bigint), 0) + 1 AS next FROM old.outbox_event WHERE position <= {events}) AS e"
    )
}
