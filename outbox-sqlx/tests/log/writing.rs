//! Writing: unordered events, locking everything first, trace contexts, bad names and headers.

use outbox_core::{
    event::{Field, InvalidEvent, InvalidReason, NewEvent, ReceivedEvent, TraceParent},
    log::EventLog as _,
    outbox::{AppendErrorKind, Outbox as _},
};
use outbox_sqlx::PostgresLog;
use sqlx::{Postgres, Transaction};

use crate::support::{Bed, changed, named, on_postgres, versions};

const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn current_trace() -> Option<TraceParent> {
    TraceParent::parse(PARENT)
}

fn viewed() -> NewEvent {
    NewEvent::tombstone("Agg", 1, "AggViewed").expect("event").unordered()
}

async fn advisory_locks(tx: &mut Transaction<'static, Postgres>) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()")
        .fetch_one(&mut **tx)
        .await
        .expect("locks")
}

async fn impatient(bed: &Bed) -> Transaction<'static, Postgres> {
    let mut tx = bed.begin().await;
    sqlx::query("SET LOCAL lock_timeout = '200ms'").execute(&mut *tx).await.expect("set");
    tx
}

on_postgres! {
    /// Eight open transactions of one aggregate at once, and an ordered writer of it among them.
    async fn unordered_writers_do_not_wait_for_each_other(bed: &Bed) {
        let mut open = Vec::new();
        for n in 0..8 {
            let mut tx = impatient(bed).await;
            let events = if n == 4 { vec![viewed(), changed(1, 1)] } else { vec![viewed(), viewed()] };
            let _receipt = bed.log.append(&mut tx, &events).await.expect("nobody is waited for");
            assert_eq!(advisory_locks(&mut tx).await, if n == 4 { 2 } else { 0 }, "the locks of the ordered event only");
            open.push(tx);
        }
        // The last to begin is the first to commit.
        for tx in open.into_iter().rev() {
            tx.commit().await.expect("commit");
        }
        let read = bed.follow().await.catch_up().await;
        assert_eq!(read.len(), 16);
        let lanes = bed.log.identity().await.expect("identity").lanes;
        for recorded in read {
            let own = if recorded.event.unordered { recorded.event.id.to_string() } else { "Agg/1".to_owned() };
            assert_eq!(recorded.lane, lanes.lane_of(&own));
            assert_eq!(recorded.event.message_key(), "1");
            let unordered = recorded.event.unordered;
            assert_eq!(ReceivedEvent::from(recorded).origin.is_none(), unordered);
        }
    }

    async fn an_unordered_event_with_an_ordering_key_is_refused(bed: &Bed) {
        let mut tx = bed.begin().await;
        let both = NewEvent::tombstone("Agg", 1, "AggViewed").and_then(|e| e.with_ordering_key("k")).expect("event");
        let refused = bed.log.append(&mut tx, &[both.unordered()]).await.expect_err("both");
        assert_eq!(refused.kind(), AppendErrorKind::Invalid);
        assert_eq!(refused.invalid().map(InvalidEvent::reason), Some(&InvalidReason::Unordered));
        bed.bump(&mut tx, 2).await;
        tx.commit().await.expect("the transaction stayed usable");
    }

    /// Each of a thousand calls has a key of its own, and the locks do not add up.
    async fn many_appends_in_one_transaction_need_not_fill_the_lock_table(bed: &Bed) {
        let mut tx = bed.begin().await;
        bed.log.lock_lanes(&mut tx).await.expect("lock");
        let log = bed.log.already_locked();
        for n in 1..=1_000 {
            let _receipt = log.append(&mut tx, &[changed(n, 1)]).await.expect("append");
        }
        sqlx::query("SELECT outbox.outbox_append('Agg', n::text, 'AggChanged', '{\"v\": 2}') FROM generate_series(1, 1000) AS n")
            .execute(&mut *tx)
            .await
            .expect("append in SQL");
        assert_eq!(advisory_locks(&mut tx).await, 64);

        let mut other = impatient(bed).await;
        let refused = bed.log.append(&mut other, &[changed(7, 9)]).await.expect_err("the lanes are taken");
        assert_eq!(refused.kind(), AppendErrorKind::Database);
        let mut other = impatient(bed).await;
        let _receipt = bed.log.append(&mut other, &[viewed()]).await.expect("an unordered event waits for nobody");
        other.rollback().await.expect("rollback");

        tx.commit().await.expect("commit");
        let mut other = impatient(bed).await;
        let _receipt = bed.log.append(&mut other, &[changed(7, 3)]).await.expect("free again");
        other.commit().await.expect("commit");
        let of_seven: Vec<_> =
            versions(&bed.follow().await.catch_up().await).into_iter().filter(|(id, _)| id == "7").collect();
        assert_eq!(of_seven, [named(7, 1), named(7, 2), named(7, 3)]);
    }

    /// What a savepoint takes back of the locks, it takes back of the knowledge of them.
    async fn locked_lanes_end_with_a_savepoint(bed: &Bed) {
        let mut tx = bed.begin().await;
        sqlx::raw_sql("SAVEPOINT s; SELECT outbox.outbox_lock_lanes(); ROLLBACK TO s").execute(&mut *tx).await.expect("lock");
        assert_eq!(advisory_locks(&mut tx).await, 0);
        sqlx::raw_sql("SELECT outbox.outbox_append('Agg', '1', 'AggChanged', '{\"v\": 1}')").execute(&mut *tx).await.expect("append");
        assert_eq!(advisory_locks(&mut tx).await, 2, "the key's lock and its lane's");
    }

    /// Two appends each, in opposite orders. The database ends one; tried again, it succeeds.
    async fn transactions_of_several_appends_may_deadlock_and_be_tried_again(bed: &Bed) {
        let transaction = async |first: i64, second: i64, both_have_one: &tokio::sync::Barrier| {
            let mut tx = bed.begin().await;
            sqlx::query("SET LOCAL deadlock_timeout = '50ms'").execute(&mut *tx).await.expect("set");
            let _receipt = bed.log.append(&mut tx, &[changed(first, 1)]).await.expect("append");
            both_have_one.wait().await;
            let second = bed.log.append(&mut tx, &[changed(second, 1)]).await.map(drop);
            match second {
                Ok(()) => tx.commit().await.expect("commit"),
                Err(_) => tx.rollback().await.expect("rollback"),
            }
            second
        };
        let barrier = tokio::sync::Barrier::new(2);
        let (a, b) = tokio::join!(transaction(1, 2, &barrier), transaction(2, 1, &barrier));
        let failed: Vec<_> = [a, b].into_iter().filter_map(Result::err).collect();
        assert_eq!(failed.len(), 1, "the database ends one of the two");
        assert_eq!(failed[0].kind(), AppendErrorKind::Database);
        let cause = std::error::Error::source(&failed[0]).and_then(|e| e.downcast_ref::<sqlx::Error>());
        let state = cause.and_then(sqlx::Error::as_database_error).and_then(|e| e.code().map(|code| code.to_string()));
        assert_eq!(state.as_deref(), Some("40P01"));
        let alone = tokio::sync::Barrier::new(1);
        transaction(1, 2, &alone).await.expect("tried again");
        assert_eq!(bed.follow().await.catch_up().await.len(), 4);
    }

    async fn the_current_trace_becomes_a_header(bed: &Bed) {
        let log = PostgresLog::builder(bed.pool.clone()).trace_context(current_trace).open().await.expect("open");
        let full = NewEvent::tombstone("Agg", 3, "AggChanged")
            .and_then(|event| event.with_header("x", vec![b'x'; 64 * 1024 - 1]))
            .expect("event");
        let own = changed(2, 1).with_header(TraceParent::HEADER, "mine").expect("header");
        let mut tx = bed.begin().await;
        let receipt = log.append(&mut tx, &[changed(1, 1), own, full]).await.expect("append");
        assert_eq!(receipt.events(), 3);
        tx.commit().await.expect("commit");
        let read = bed.follow().await.catch_up().await;
        let parents: Vec<_> = read
            .iter()
            .map(|recorded| recorded.event.headers.first(TraceParent::HEADER).map(|value| value.to_vec()))
            .collect();
        assert_eq!(parents, [Some(PARENT.into()), Some("mine".into()), None]);
    }
}

mod in_sqlite {
    use outbox_core::{
        log::{ConsumerName, StartAt},
        profile::Profile,
    };
    use outbox_sqlx::SqliteLog;
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    async fn log(folder: &tempfile::TempDir) -> (sqlx::SqlitePool, SqliteLog) {
        let options = SqliteLog::connect_options(folder.path().join("log.db"));
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.expect("connect");
        let log = SqliteLog::builder(pool.clone()).trace_context(current_trace).migrate().await.expect("migrate");
        (pool, log)
    }

    /// By hand and by the library: the rows are alike.
    #[tokio::test]
    async fn another_driver_can_append() {
        let folder = tempfile::tempdir().expect("folder");
        let (pool, log) = log(&folder).await;
        let lanes = log.identity().await.expect("identity").lanes;
        let new = NewEvent::json("Agg", "Иван", "AggChanged", &serde_json::json!({"v": 1}))
            .and_then(|event| event.with_ordering_key("key"))
            .and_then(|event| event.with_header(TraceParent::HEADER, PARENT))
            .expect("event");
        Profile::default().check(&new).expect("check");
        let event = new.event();
        let append = |count: u8| {
            sqlx::query(SqliteLog::append_sql())
                .bind(i64::from(lanes.lane_of(&event.lane_key()).get()))
                .bind(i64::from(count))
                .bind(event.id)
                .bind(event.aggregate_type.as_str())
                .bind(event.aggregate_id.as_str())
                .bind(event.ordering_key.as_ref().map(|key| key.as_str().to_owned()))
                .bind(event.event_type.as_str())
                .bind(event.content_type.as_str())
                .bind(event.payload.as_deref())
                .bind(event.headers.to_stored())
                .bind(event.created_at.timestamp_micros())
                .bind(event.unordered)
        };
        let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
        let wrong = append(lanes.get() - 1).execute(&mut *tx).await.expect("statement");
        assert_eq!(wrong.rows_affected(), 0, "another number of lanes");
        let right = append(lanes.get()).execute(&mut *tx).await.expect("statement");
        assert_eq!(right.rows_affected(), 1);
        let unordered = viewed();
        let _receipt = log.append(&mut tx, &[new.clone(), unordered.clone()]).await.expect("append");
        tx.commit().await.expect("commit");

        let consumer = ConsumerName::parse("reader").expect("name");
        log.register(&consumer, StartAt::Beginning).await.expect("register");
        let read = crate::support::everything(&log, &consumer).await;
        assert_eq!(read.len(), 3);
        assert_eq!(read[0].event, *event);
        assert_eq!((&read[1].event, read[1].lane), (&read[0].event, read[0].lane));
        assert!(read[2].event.unordered);
        assert_eq!(read[2].lane, lanes.lane_of(&unordered.event().id.to_string()));
        assert_eq!(read[2].event.headers.first(TraceParent::HEADER).map(|v| &v[..]), Some(PARENT.as_bytes()));
        let people: Vec<(String, bool)> =
            sqlx::query_as("SELECT aggregate_id, unordered FROM outbox_event_text ORDER BY position")
                .fetch_all(&pool)
                .await
                .expect("view");
        assert_eq!(people.last(), Some(&("1".to_owned(), true)));
    }
}

/// Refused when the event is made: nothing comes near the database.
#[test]
fn bad_names_and_headers_are_typed_errors() {
    let of = |result: Result<NewEvent, InvalidEvent>| {
        let refused = result.expect_err("refused");
        (refused.field(), refused.reason().clone())
    };
    let control = InvalidReason::ControlCharacter;
    assert_eq!(of(NewEvent::tombstone("a\0", 1, "T")), (Field::AggregateType, control.clone()));
    assert_eq!(of(NewEvent::tombstone("A", "1\0", "T")), (Field::AggregateId, control.clone()));
    assert_eq!(of(NewEvent::tombstone("A", 1, "T\0")), (Field::EventType, control.clone()));
    let event = || NewEvent::tombstone("A", 1, "T").expect("event");
    assert_eq!(of(event().with_ordering_key("k\0")), (Field::OrderingKey, control.clone()));
    assert_eq!(of(event().with_header("h\0", "v")), (Field::Header, control));
    assert_eq!(of(NewEvent::tombstone("A", "", "T")), (Field::AggregateId, InvalidReason::Empty));
    let long = InvalidReason::TooLong { bytes: 256, limit: 255 };
    assert_eq!(of(NewEvent::tombstone("A", "ж".repeat(128), "T")), (Field::AggregateId, long));
    let (limit, enormous) = (64 * 1024, vec![0; 16 * 1024 * 1024]);
    let too_long = InvalidReason::TooLong { bytes: enormous.len() + 1, limit };
    assert_eq!(of(event().with_header("h", enormous)), (Field::Header, too_long));
    // A value that holds NUL is no name: it may be any bytes.
    event().with_header("h", &b"\0\xff"[..]).expect("bytes");
}
