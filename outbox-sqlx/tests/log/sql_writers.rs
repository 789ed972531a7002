//! Writers without this library: psql, triggers and other drivers, through `outbox_append()`.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use outbox_core::{
    event::{NewEvent, RecordedEvent},
    log::EventLog as _,
    outbox::Outbox as _,
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, Postgres, SqlSafeStr as _, Transaction};

use crate::support::{Bed, changed, named, on_postgres, versions};

/// As psql sends it: text, and whatever number of statements.
async fn run(bed: &Bed, script: &str) {
    sqlx::raw_sql(AssertSqlSafe(script.to_owned()))
        .execute(&bed.pool)
        .await
        .unwrap_or_else(|e| panic!("{script}: {e}"));
}

/// The numbers of the advisory locks that the transaction owns alone, and of those it shares.
async fn locks(tx: &mut Transaction<'static, Postgres>) -> (BTreeSet<i64>, BTreeSet<i64>) {
    let all: Vec<(i64, String)> = sqlx::query_as(
        "SELECT (classid::bigint << 32) | objid::bigint, mode FROM pg_locks
         WHERE locktype = 'advisory' AND pid = pg_backend_pid()",
    )
    .fetch_all(&mut **tx)
    .await
    .expect("locks");
    let of = |mode: &str| all.iter().filter(|(_, m)| m == mode).map(|(number, _)| *number).collect();
    (of("ExclusiveLock"), of("ShareLock"))
}

/// Letters of one to four bytes, with what quoting and LIKE care about.
fn random_key(random: &mut StdRng) -> String {
    const LETTERS: [char; 16] =
        ['a', 'Z', '0', ' ', '/', '\'', '"', '\\', '%', 'ß', 'ж', 'é', '\u{301}', '漢', '💥', '\u{10FFFF}'];
    (0..random.random_range(1..40)).map(|_| LETTERS[random.random_range(0..LETTERS.len())]).collect()
}

fn facts(event: &RecordedEvent) -> (&str, &str, &str, &str, Option<&str>, Option<&str>) {
    let event = &event.event;
    let payload = event.payload.as_deref().map(|bytes| std::str::from_utf8(bytes).expect("text"));
    let key = event.ordering_key.as_ref().map(outbox_core::event::OrderingKey::as_str);
    let (kind, id) = (event.aggregate_type.as_str(), event.aggregate_id.as_str());
    (kind, id, event.event_type.as_str(), event.content_type.as_str(), key, payload)
}

on_postgres! {
    /// Golden: lanes and lock numbers of the library and of SQL.
    async fn lanes_and_locks_are_those_of_the_library(bed: &Bed) {
        let seed: u64 = StdRng::from_rng(&mut rand::rng()).random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let keys: Vec<String> = (0..400).map(|_| random_key(&mut random)).collect();
        let event = |key: &String| NewEvent::tombstone("Agg", 1, "T").and_then(|e| e.with_ordering_key(key));
        let events: Vec<NewEvent> = keys.iter().map(|key| event(key).expect("event")).collect();
        let mut tx = bed.begin().await;
        let _receipt = bed.log.append(&mut tx, &events).await.expect("append");
        let in_rust = locks(&mut tx).await;
        tx.commit().await.expect("commit");

        let mut tx = bed.begin().await;
        for key in &keys {
            sqlx::query("SELECT outbox.outbox_append('Agg', '1', 'T', NULL, ordering_key => $1)")
                .bind(key)
                .execute(&mut *tx)
                .await
                .expect("append in SQL");
        }
        assert_eq!(locks(&mut tx).await, in_rust);
        tx.commit().await.expect("commit");

        let distinct: BTreeSet<&String> = keys.iter().collect();
        assert_eq!(in_rust.0.len(), distinct.len(), "a lock for each key");
        let read = bed.follow().await.catch_up().await;
        assert_eq!(read.len(), 800);
        let lanes = bed.log.identity().await.expect("identity").lanes;
        for recorded in &read {
            assert_eq!(recorded.lane, lanes.lane_of(&recorded.event.lane_key()), "{:?}", recorded.event.ordering_key);
        }
        let owned = locks_of_all_lanes(bed).await;
        assert!(in_rust.1.is_subset(&owned), "the shared locks are those that `lock_lanes` owns");
    }

    /// Whoever comes second waits for the end of the first, and draws the later position.
    async fn a_rust_writer_and_an_sql_writer_of_one_key_wait_for_each_other(bed: &Bed) {
        const APPEND: &str = "SELECT outbox.outbox_append('Agg', '1', 'AggChanged', '{\"v\": 7}')";
        for sql_first in [true, false] {
            let (mut first, mut second) = (bed.begin().await, bed.begin().await);
            let waiter: i32 =
                sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *second).await.expect("pid");
            let log = bed.log.clone();
            let append = async move |tx: &mut Transaction<'static, Postgres>, in_sql: bool| {
                if in_sql {
                    sqlx::raw_sql(APPEND).execute(&mut **tx).await.expect("append in SQL");
                } else {
                    let _receipt = log.append(tx, &[changed(1, 8)]).await.expect("append");
                }
            };
            append(&mut first, sql_first).await;
            let waiting = tokio::spawn({
                let append = append.clone();
                async move {
                    append(&mut second, !sql_first).await;
                    second.commit().await.expect("commit");
                }
            });
            let deadline = Instant::now() + Duration::from_secs(20);
            // Nobody tells that a session has begun to wait.
            while !sqlx::query_scalar::<_, bool>(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE pid = $1 AND locktype = 'advisory' AND NOT granted)",
            )
            .bind(waiter)
            .fetch_one(&bed.pool)
            .await
            .expect("locks")
            {
                assert!(!waiting.is_finished(), "the second did not wait");
                assert!(Instant::now() < deadline, "the second neither waits nor ends");
            }
            first.commit().await.expect("commit");
            waiting.await.expect("the second");
        }
        let read = versions(&bed.follow().await.catch_up().await);
        assert_eq!(read, [named(1, 7), named(1, 8), named(1, 8), named(1, 7)], "in the order of commit");
    }

    async fn every_form_of_payload_from_plain_text(bed: &Bed) {
        run(bed, r#"
            BEGIN;
            SELECT outbox.outbox_append('Tutor', '42', 'A', '{"name": "Иван", "nul": "\u0000"}');
            SELECT outbox.outbox_append('Tutor', '42', 'B', jsonb_build_object('id', 42), '{"tenant": "ж", "raw": ""}');
            SELECT outbox.outbox_append('Tutor', '42', 'C', row_to_json(t)) FROM (SELECT 1 AS one) AS t;
            SELECT outbox.outbox_append('Tutor', '42', 'D', '\x5b5d'::bytea, ordering_key => 'room/1');
            SELECT outbox.outbox_append('Tutor', '42', 'E', NULL);
            SELECT outbox.outbox_append('Tutor', '42', 'F', 'plain', content_type => 'text/plain', unordered => true);
            SELECT outbox.outbox_append('Tutor', '42', 'G', '{}', NULL, NULL, NULL, 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11',
                '2026-01-02 03:04:05.000006+00', NULL);
            COMMIT;
            BEGIN; SELECT outbox.outbox_append('Tutor', '42', 'H', '{}'); ROLLBACK;
        "#).await;
        let read = bed.follow().await.catch_up().await;
        let json = "application/json";
        assert_eq!(read.iter().map(facts).collect::<Vec<_>>(), [
            ("Tutor", "42", "A", json, None, Some(r#"{"name": "Иван", "nul": "\u0000"}"#)),
            ("Tutor", "42", "B", json, None, Some(r#"{"id": 42}"#)),
            ("Tutor", "42", "C", json, None, Some(r#"{"one":1}"#)),
            ("Tutor", "42", "D", json, Some("room/1"), Some("[]")),
            ("Tutor", "42", "E", json, None, None),
            ("Tutor", "42", "F", "text/plain", None, Some("plain")),
            ("Tutor", "42", "G", json, None, Some("{}")),
        ]);
        let headers: BTreeSet<_> = read[1].event.headers.iter().map(|(n, v)| (n.to_owned(), v.to_vec())).collect();
        assert_eq!(headers, [("raw".to_owned(), vec![]), ("tenant".to_owned(), "ж".into())].into());
        assert!(read.iter().all(|recorded| recorded.event.unordered == (recorded.event.event_type.as_str() == "F")));
        let given = &read[6].event;
        assert_eq!(given.id.to_string(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        assert_eq!(given.created_at, "2026-01-02T03:04:05.000006Z".parse::<chrono::DateTime<chrono::Utc>>().expect("time"));
        for recorded in &read[..6] {
            let (id, created_at) = (recorded.event.id, recorded.event.created_at);
            assert_eq!((id.get_version_num(), id.get_variant()), (7, uuid::Variant::RFC4122));
            let (seconds, nanos) = id.get_timestamp().expect("version 7 has a time").to_unix();
            let made = i64::try_from(seconds).expect("seconds") * 1000 + i64::from(nanos / 1_000_000);
            assert!((made - created_at.timestamp_millis()).abs() <= 1_000, "{id} was made at {created_at}");
        }
        let default = bed.log.identity().await.expect("identity");
        assert!(read.iter().all(|recorded| recorded.lane == default.lanes.lane_of(&recorded.event.lane_key())));
        // What SQL accepts by default can be published with the default profile, but for what is not JSON.
        let profile = outbox_core::profile::Profile::default();
        for recorded in read.iter().filter(|recorded| recorded.event.event_type.as_str() != "F") {
            profile.message(recorded).expect("a message");
        }
    }

    async fn a_trigger_and_a_function_append(bed: &Bed) {
        run(bed, r"
            CREATE FUNCTION agg_changed() RETURNS trigger LANGUAGE plpgsql AS $$
            BEGIN
                PERFORM outbox.outbox_append('Agg', NEW.id::text, 'AggChanged', to_jsonb(NEW));
                RETURN NULL;
            END $$;
            CREATE TRIGGER agg_changed AFTER UPDATE ON agg FOR EACH ROW EXECUTE FUNCTION agg_changed();
            CREATE FUNCTION twice(agg bigint) RETURNS void LANGUAGE plpgsql AS $$
            BEGIN
                UPDATE agg AS a SET v = v + 1 WHERE a.id = agg;
                UPDATE agg AS a SET v = v + 1 WHERE a.id = agg;
            END $$;
        ").await;
        run(bed, "UPDATE agg SET v = v + 1 WHERE id IN (1, 2)").await;
        run(bed, "SELECT twice(1)").await;
        run(bed, "BEGIN; SELECT twice(2); ROLLBACK").await;
        let read = versions(&bed.follow().await.catch_up().await);
        assert_eq!(read, [named(1, 1), named(2, 1), named(1, 2), named(1, 3)]);
    }

    /// As the library refuses them, with words that help.
    async fn bad_input_is_refused_with_advice(bed: &Bed) {
        for (arguments, words, advice) in [
            ("'', '1', 'T', '{}'", "aggregate_type is empty", "at least one"),
            ("'A', NULL, 'T', '{}'", "aggregate_id is empty", "at least one"),
            ("'A', '1', E'T\\n', '{}'", "event_type holds a control character", "printable"),
            ("E'A\\u0085', '1', 'T', '{}'", "aggregate_type holds a control character", "printable"),
            ("'A', repeat('ж', 128), 'T', '{}'", "aggregate_id is 256 bytes long; the limit is 255", "shorter"),
            ("'A', '1', 'T', '{}', ordering_key => ''", "ordering_key is empty", "at least one"),
            ("'A', '1', 'T', '{}', content_type => ''", "content_type is empty", "at least one"),
            ("'A', '1', 'T', '{bad'", "payload is not valid JSON", "content_type"),
            ("'A', '1', 'T', ''", "payload is not valid JSON", "content_type"),
            ("'A', '1', 'T', '1 2', content_type => 'Application/JSON; charset=utf-8'", "payload is not valid JSON", "content_type"),
            ("'A', '1', 'T', '<x/>', content_type => 'application/cloudevents+json'", "payload is not valid JSON", "content_type"),
            ("'A', '1', 'T', '\\xff'::bytea", "payload is not valid JSON", "content_type"),
            ("'A', '1', 'T', to_jsonb(repeat('x', 1048000))", "the limit is 1048000", "message_bytes"),
            ("'A', '1', 'T', '{}', '[]'", "headers is a JSON array", "object"),
            ("'A', '1', 'T', '{}', '{\"n\": 1}'", "header n is a JSON number", "string"),
            ("'A', '1', 'T', '{}', '{\"\": \"x\"}'", "the name of a header is empty", "at least one"),
            ("'A', '1', 'T', '{}', '{\"Outbox-Id\": \"x\"}'", "header name \"Outbox-Id\" is reserved", "does not begin"),
            ("'A', '1', 'T', '{}', '{\"content-type\": \"x\"}'", "is reserved", "does not begin"),
            ("'A', '1', 'T', '{}', jsonb_build_object('h', repeat('x', 65536))", "headers are 65537 bytes long", "payload"),
            ("'A', '1', 'T', '{}', ordering_key => 'k', unordered => true", "declared unordered", "Leave one"),
            ("'A', '1', 'T', '{}', created_at => 'infinity'", "created_at is infinity", "years"),
        ] {
            let sql = format!("SELECT outbox.outbox_append({arguments})");
            let refused = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&bed.pool).await.expect_err(arguments);
            let refused = refused.into_database_error().expect(arguments).downcast::<sqlx::postgres::PgDatabaseError>();
            assert_eq!(refused.code(), "22023", "{arguments}: {refused}");
            assert!(refused.message().contains(words), "{arguments}: {refused}");
            assert!(refused.hint().is_some_and(|hint| hint.contains(advice)), "{arguments}: {:?}", refused.hint());
        }
        run(bed, "UPDATE outbox.outbox_log SET message_bytes = 2000000").await;
        run(bed, "SELECT outbox.outbox_append('A', '1', 'T', to_jsonb(repeat('x', 1048000)))").await;
        assert_eq!(bed.follow().await.catch_up().await.len(), 1, "with the limit raised");
    }

    /// The statement of `append_sql`, as another driver prepares and binds it.
    async fn another_driver_can_append(bed: &Bed) {
        let sql = AssertSqlSafe(PostgresLog::append_sql(bed.log.schema())).into_sql_str();
        let mut tx = bed.begin().await;
        let full: i64 = sqlx::query_scalar(sql.clone())
            .bind("Agg").bind("1").bind("AggChanged").bind(&b"{\"v\": 1}"[..])
            .bind("{\"tenant\": \"a\"}").bind("key").bind("application/json")
            .bind("0190fedc-0000-7000-8000-000000000001").bind(false)
            .fetch_one(&mut *tx)
            .await
            .expect("append");
        let nulls: i64 = sqlx::query_scalar(sql)
            .bind("Agg").bind("1").bind("AggErased").bind(None::<&[u8]>)
            .bind(None::<&str>).bind(None::<&str>).bind(None::<&str>).bind(None::<&str>).bind(None::<bool>)
            .fetch_one(&mut *tx)
            .await
            .expect("append");
        tx.commit().await.expect("commit");
        let read = bed.follow().await.catch_up().await;
        let positions: Vec<u64> = read.iter().map(|recorded| recorded.origin.sequence.position()).collect();
        assert_eq!(positions, [full, nulls].map(|position| u64::try_from(position).expect("position")));
        assert_eq!(facts(&read[0]), ("Agg", "1", "AggChanged", "application/json", Some("key"), Some("{\"v\": 1}")));
        assert_eq!(read[0].event.id.to_string(), "0190fedc-0000-7000-8000-000000000001");
        assert_eq!(facts(&read[1]), ("Agg", "1", "AggErased", "application/json", None, None));
    }

    /// Somebody else's functions and tables come first in the path; each log writes to its own tables all the same.
    async fn nothing_depends_on_the_search_path(bed: &Bed) {
        let other = PostgresLog::builder(bed.pool.clone()).schema(SchemaName::parse("other").expect("name"));
        let other = other.migrate().await.expect("migrate");
        run(bed, "
            CREATE SCHEMA evil;
            CREATE TABLE evil.outbox_event AS TABLE outbox.outbox_event;
            CREATE FUNCTION evil.octet_length(bytea) RETURNS integer LANGUAGE sql AS 'SELECT 1 / 0';
            CREATE FUNCTION evil.sha256(bytea) RETURNS bytea LANGUAGE sql AS 'SELECT NULL::bytea';
            CREATE FUNCTION evil.outbox_lane(text) RETURNS smallint LANGUAGE sql AS 'SELECT 63::smallint';
        ").await;
        run(bed, "
            BEGIN;
            SET LOCAL search_path = evil, outbox, pg_catalog;
            SELECT other.outbox_append('Agg', '1', 'AggChanged', '{}');
            SELECT other.outbox_lock_lanes(), other.outbox_notify();
            COMMIT
        ").await;
        assert!(bed.follow().await.catch_up().await.is_empty());
        assert_eq!(crate::support::Follower::from(other, outbox_core::log::StartAt::Beginning).await.catch_up().await.len(), 1);
    }

    /// The rights that the documentation names are enough.
    async fn a_writer_needs_few_rights(bed: &Bed) {
        let role = test_services::unique("writer").replace('-', "_");
        run(bed, &format!("
            CREATE ROLE {role} LOGIN;
            GRANT USAGE ON SCHEMA outbox TO {role};
            GRANT SELECT ON outbox.outbox_log TO {role};
            GRANT INSERT, SELECT (position) ON outbox.outbox_event TO {role};
        ")).await;
        let options = (*bed.pool.connect_options()).clone().username(&role);
        let mut connection = PgConnection::connect_with(&options).await.expect("connect");
        let append = "SELECT outbox.outbox_append('Agg', '1', 'AggChanged', '{}'), outbox.outbox_notify()";
        let appended = sqlx::raw_sql(append).execute(&mut connection).await;
        let denied = sqlx::raw_sql("SELECT payload FROM outbox.outbox_event").execute(&mut connection).await;
        connection.close().await.expect("close");
        run(bed, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
        appended.expect("append");
        denied.expect_err("a writer reads nothing");
    }
}

async fn locks_of_all_lanes(bed: &Bed) -> BTreeSet<i64> {
    let mut tx = bed.begin().await;
    bed.log.lock_lanes(&mut tx).await.expect("lock");
    let (owned, shared) = locks(&mut tx).await;
    assert_eq!((owned.len(), shared.len()), (64, 0));
    owned
}
