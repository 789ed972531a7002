//! What `append` accepts, refuses, costs and locks.

use std::collections::BTreeSet;

use outbox_core::{
    event::{ContentType, Field, NewEvent},
    log::EventLog as _,
    outbox::{AppendErrorKind, Outbox as _},
};
use serde_json::json;

use crate::support::{Bed, changed, named, on_postgres, version, versions};

on_postgres! {
    /// Refused before anything is sent: the transaction goes on as if nothing had been asked.
    async fn what_is_refused_leaves_the_transaction_usable(bed: &Bed) {
        let mut tx = bed.begin().await;
        let long = "x".repeat(1024 * 1024 + 1);
        let long = NewEvent::json("Agg", 1, "AggChanged", &long).expect("event");
        let refused = bed.log.append(&mut tx, &[changed(1, 1), long]).await.expect_err("over the limit");
        assert_eq!(refused.kind(), AppendErrorKind::Invalid);
        assert_eq!(refused.invalid().expect("the event").field(), Field::Payload);
        let unroutable = NewEvent::tombstone("Two Words", 1, "AggChanged").expect("event");
        let refused = bed.log.append(&mut tx, &[unroutable]).await.expect_err("no topic");
        assert_eq!(refused.invalid().expect("the event").field(), Field::Topic);

        crate::support::write_elsewhere(&mut tx).await;
        bed.bump(&mut tx, 2).await;
        tx.commit().await.expect("commit");
        assert_eq!(versions(&bed.follow().await.catch_up().await), [named(2, 1)]);
    }

    async fn every_column_survives(bed: &Bed) {
        let events = [
            NewEvent::json("Tutor", "Иван", "TutorCreated", &json!({"nul": "\u{0}", "name": "Иван"}))
                .and_then(|event| event.with_ordering_key("key/1"))
                .and_then(|event| event.with_header("trace", "00-ab"))
                .and_then(|event| event.with_header("raw", &b"\xff\x00"[..]))
                .expect("event"),
            NewEvent::tombstone("Tutor", 2, "TutorErased").expect("event"),
            NewEvent::json("Tutor", "'; DROP TABLE agg; --", "Ἄ{}\\,\"NULL\"", &json!(null)).expect("event"),
            NewEvent::json("Tutor", "NULL", "Empty", &json!({})).expect("event"),
        ];
        let mut tx = bed.begin().await;
        let receipt = bed.log.append(&mut tx, &events).await.expect("append");
        assert_eq!(receipt.events(), 4);
        tx.commit().await.expect("commit");
        let read = bed.follow().await.catch_up().await;
        let identity = bed.log.identity().await.expect("identity");
        assert_eq!(read.len(), 4);
        for (written, read) in events.iter().zip(&read) {
            assert_eq!(*written.event(), read.event);
            assert_eq!(read.lane, identity.lanes.lane_of(&read.event.lane_key()));
            assert_eq!(read.origin.log, identity.id);
            assert_eq!(read.origin.sequence.generation(), 0);
        }
    }

    /// Bytes that are no text show in the view all the same.
    async fn the_view_for_people_never_fails(bed: &Bed) {
        // Only the log itself: what the default profile refuses, another one may allow.
        let profile = outbox_core::profile::Profile::default().with_encoder(AnyBytes);
        let log = outbox_sqlx::PostgresLog::builder(bed.pool.clone()).profile(profile).open().await.expect("open");
        let binary = ContentType::parse("application/octet-stream").expect("content type");
        let event = |id: i64, bytes: &'static [u8]| {
            NewEvent::bytes("Agg", id, "Raw", binary.clone(), bytes).expect("event")
        };
        let mut tx = bed.begin().await;
        let events = [event(1, "Иван".as_bytes()), event(2, b"\xff\xfe"), event(3, b"a\x00b"), event(4, b"")];
        let _receipt = log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        let texts: Vec<Option<String>> =
            sqlx::query_scalar("SELECT payload FROM outbox.outbox_event_text ORDER BY position")
                .fetch_all(&bed.pool)
                .await
                .expect("view");
        let texts: Vec<_> = texts.iter().map(|text| text.as_deref().expect("text")).collect();
        assert_eq!(texts, ["Иван", "\\377\\376", "a\\000b", ""]);
    }

    /// A trigger for each statement counts them.
    async fn many_events_are_one_statement(bed: &Bed) {
        for sql in [
            "CREATE TABLE statements (n int)",
            "CREATE FUNCTION counted() RETURNS trigger LANGUAGE plpgsql AS
                $$ BEGIN INSERT INTO statements VALUES (1); RETURN NULL; END $$",
            "CREATE TRIGGER counted AFTER INSERT ON outbox.outbox_event FOR EACH STATEMENT EXECUTE FUNCTION counted()",
        ] {
            sqlx::query(sql).execute(&bed.pool).await.expect(sql);
        }
        let events: Vec<_> = (1..=1_000).map(|n| changed(n % 7, n)).collect();
        let mut tx = bed.begin().await;
        let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        let statements: i64 =
            sqlx::query_scalar("SELECT count(*) FROM statements").fetch_one(&bed.pool).await.expect("count");
        assert_eq!(statements, 1);
        let read: Vec<i64> = bed.follow().await.catch_up().await.iter().map(|event| version(event).1).collect();
        assert_eq!(read, (1..=1_000).collect::<Vec<_>>(), "in the order of the slice");
    }

    /// More payload than one statement takes is still one append, in order.
    async fn an_append_of_many_bytes(bed: &Bed) {
        let mebibyte = "x".repeat(1_000_000);
        let events: Vec<_> = (1..=40)
            .map(|v| NewEvent::json("Agg", 1, "AggChanged", &json!({"v": v, "x": mebibyte})).expect("event"))
            .collect();
        let mut tx = bed.begin().await;
        let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
        tx.commit().await.expect("commit");
        let read: Vec<i64> = bed.follow().await.catch_up().await.iter().map(|event| version(event).1).collect();
        assert_eq!(read, (1..=40).collect::<Vec<_>>());
    }

    /// The lock table of a server with default settings has room for a few thousand locks in all.
    async fn a_hundred_thousand_keys_in_one_append(bed: &Bed) {
        let events: Vec<_> = (1..=100_000).map(|n| changed(n, 1)).collect();
        let mut tx = bed.begin().await;
        let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
        let locks: i64 = sqlx::query_scalar(
            "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
        )
        .fetch_one(&mut *tx)
        .await
        .expect("locks");
        assert!(locks <= 64, "{locks} locks");
        tx.commit().await.expect("commit");
        let read: BTreeSet<_> =
            bed.follow().await.catch_up().await.into_iter().map(|event| event.event.aggregate_id).collect();
        assert_eq!(read.len(), 100_000);
    }

    /// Also when the planner orders the joins as it likes.
    async fn a_bulk_append_locks_its_lanes_whatever_the_plan(bed: &Bed) {
        let lanes = bed.log.identity().await.expect("identity").lanes;
        let events: Vec<_> = (1..=1_000).map(|n| changed(n, 1)).collect();
        let expected: BTreeSet<u8> =
            events.iter().map(|event| lanes.lane_of(&event.event().lane_key()).get()).collect();
        for plans in ["force_custom_plan", "force_generic_plan"] {
            let mut tx = bed.begin().await;
            for sql in ["SET LOCAL geqo_threshold = 2".to_owned(), format!("SET LOCAL plan_cache_mode = {plans}")] {
                sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&mut *tx).await.expect("set");
            }
            let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
            let locks: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM pg_locks
                WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND mode = 'ExclusiveLock' AND granted",
            )
            .fetch_one(&mut *tx)
            .await
            .expect("locks");
            assert_eq!(locks, expected.len() as i64, "{plans}");
            tx.rollback().await.expect("rollback");
        }
    }

    /// An append that locks whole lanes and one that locks a key of them wait for each other.
    async fn a_bulk_append_and_a_single_one_exclude_each_other(bed: &Bed) {
        for bulk_first in [true, false] {
            let bulk: Vec<_> = (1..=1_000).map(|n| changed(n, 1)).collect();
            let single = vec![changed(500, 2)];
            let (first, second) = if bulk_first { (bulk, single) } else { (single, bulk) };
            let mut a = bed.begin().await;
            let _receipt = bed.log.append(&mut a, &first).await.expect("append");
            let mut b = bed.begin().await;
            sqlx::query("SET LOCAL lock_timeout = '100ms'").execute(&mut *b).await.expect("set");
            let refused = bed.log.append(&mut b, &second).await.expect_err("a lock held by A");
            assert_eq!(refused.kind(), AppendErrorKind::Database);
            a.rollback().await.expect("rollback");
            let mut b = bed.begin().await;
            let _receipt = bed.log.append(&mut b, &second).await.expect("append");
            b.rollback().await.expect("rollback");
        }
    }

    /// Writers of different keys do not wait for each other.
    async fn other_keys_are_not_waited_for(bed: &Bed) {
        let mut a = bed.begin().await;
        let _receipt = bed.log.append(&mut a, &[changed(1, 1)]).await.expect("append");
        let mut b = bed.begin().await;
        sqlx::query("SET LOCAL lock_timeout = '5s'").execute(&mut *b).await.expect("set");
        let others: Vec<_> = (2..=500).map(|n| changed(n, 1)).collect();
        let _receipt = bed.log.append(&mut b, &others).await.expect("append");
        b.commit().await.expect("commit");
        a.commit().await.expect("commit");
    }

    /// Eight writers of one key whom nothing but `append` serialises: the number is taken from what the log holds
    /// once the lock is theirs.
    async fn a_hot_key_keeps_its_order(bed: &Bed) {
        let mut reader = bed.follow().await;
        sqlx::query("CREATE TABLE numbered (position bigint, v bigint)").execute(&bed.pool).await.expect("table");
        let mut tasks = tokio::task::JoinSet::new();
        for writer in 0..8 {
            let (log, pool) = (bed.log.clone(), bed.pool.clone());
            tasks.spawn(async move {
                for n in 0..25 {
                    let mut tx = pool.begin().await.expect("begin");
                    if (writer + n) % 3 == 0 {
                        crate::support::write_elsewhere(&mut tx).await;
                    }
                    let _receipt = log.append(&mut tx, &[changed(1, 0)]).await.expect("append");
                    // A counter without a lock of its own, bumped between the append and the commit: it counts right
                    // and in the order of positions only if the append excludes the other writers.
                    let v: i64 = sqlx::query_scalar("SELECT v FROM agg WHERE id = 1").fetch_one(&mut *tx).await.expect("v");
                    tokio::task::yield_now().await;
                    sqlx::query("UPDATE agg SET v = $1 WHERE id = 1").bind(v + 1).execute(&mut *tx).await.expect("v");
                    sqlx::query("INSERT INTO numbered SELECT max(position), $1 FROM outbox.outbox_event WHERE xid = pg_current_xact_id()")
                        .bind(v + 1)
                        .execute(&mut *tx)
                        .await
                        .expect("numbered");
                    tx.commit().await.expect("commit");
                }
            });
        }
        while !tasks.is_empty() {
            reader.catch_up().await;
            tasks.try_join_next().transpose().expect("writer");
        }
        reader.catch_up().await;
        let numbers: Vec<i64> = sqlx::query_scalar("SELECT v FROM numbered ORDER BY position").fetch_all(&bed.pool).await.expect("numbers");
        assert_eq!(numbers, (1..=200).collect::<Vec<_>>(), "positions are in the order of commit");
        let sequences: Vec<_> = reader.seen.iter().map(|event| event.origin.sequence).collect();
        assert_eq!(sequences.len(), 200);
        assert!(sequences.is_sorted(), "the reader keeps that order");
    }

    /// The rule for lanes stands in SQL too.
    async fn lanes_in_sql_are_those_in_rust(bed: &Bed) {
        let count = bed.log.identity().await.expect("identity").lanes;
        let keys: Vec<String> = ["Tutor/42", "", "Иван", "a/b/c", "💥", "'quoted'"]
            .into_iter()
            .map(str::to_owned)
            .chain((0..500).map(|n| format!("Agg/{n}")))
            .collect();
        let lanes: Vec<i16> = sqlx::query_scalar(
            "SELECT outbox.outbox_lane(key) FROM unnest($1::text[]) WITH ORDINALITY AS k (key, n) ORDER BY n",
        )
        .bind(&keys)
        .fetch_all(&bed.pool)
        .await
        .expect("lanes");
        let expected: Vec<i16> = keys.iter().map(|key| i16::from(count.lane_of(key).get())).collect();
        assert_eq!(lanes, expected);
    }
}

/// Carries anything: the log's own limits are what is tested.
struct AnyBytes;

impl outbox_core::profile::Encoder for AnyBytes {
    fn check(&self, _: &outbox_core::event::Event) -> Result<usize, outbox_core::event::InvalidEvent> {
        Ok(0)
    }

    fn encode(
        &self,
        recorded: &outbox_core::event::RecordedEvent,
    ) -> Result<outbox_core::profile::Encoded, outbox_core::profile::CodecError> {
        Ok(outbox_core::profile::Encoded { payload: recorded.event.payload.clone(), headers: Vec::new() })
    }
}
