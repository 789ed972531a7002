//! Waking other processes: handles without a common bell stand for them.

use std::time::{Duration, Instant};

use outbox_core::{log::EventLog as _, outbox::Outbox as _};
use outbox_sqlx::{
    PostgresLog,
    postgres::{Listening, NotifySettings, SchemaName},
};
use sqlx::postgres::PgListener;
use tokio::time::timeout;

use crate::support::{Bed, changed, on_postgres};

/// Far beyond what anything here takes: a test that fails does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

/// Far beyond the test, so that what is sent is sent at once or never.
const SELDOM: Duration = Duration::from_mins(10);

/// Another process that writes.
async fn writer(bed: &Bed, interval: Duration) -> PostgresLog {
    let settings = NotifySettings::default().with_interval(interval);
    PostgresLog::builder(bed.pool.clone()).notify(settings).open().await.expect("open")
}

async fn listen(bed: &Bed, log: &PostgresLog) -> Listening {
    let mut listening = log.listen((*bed.pool.connect_options()).clone());
    timeout(PATIENCE, listening.connected()).await.expect("connected");
    assert!(listening.is_connected());
    listening
}

async fn commit(bed: &Bed, log: &PostgresLog) {
    let mut tx = bed.begin().await;
    let receipt = log.append(&mut tx, &[changed(1, 1)]).await.expect("append");
    tx.commit().await.expect("commit");
    receipt.committed();
}

/// Everything that is sent.
async fn overhear(bed: &Bed) -> PgListener {
    let mut listener = PgListener::connect_with(&bed.pool).await.expect("connect");
    listener.listen("outbox/outbox").await.expect("listen");
    listener
}

async fn next(listener: &mut PgListener) -> String {
    timeout(PATIENCE, listener.recv()).await.expect("a notification").expect("receive").payload().to_owned()
}

on_postgres! {
    async fn a_commit_rings_in_another_process(bed: &Bed) {
        let writer = writer(bed, Duration::from_millis(1)).await;
        let _listening = listen(bed, &bed.log).await;
        let mut bell = bed.log.wake().listen();
        for _ in 0..3 {
            bell.arm();
            commit(bed, &writer).await;
            timeout(PATIENCE, bell.rung()).await.expect("rung by another process");
        }
    }

    /// Both listen and both would notify. All that is ever sent comes from the one that commits.
    async fn a_process_that_was_woken_does_not_pass_it_on(bed: &Bed) {
        let (a, b) = (writer(bed, Duration::from_millis(1)).await, writer(bed, Duration::from_millis(1)).await);
        let (_a, _b) = (listen(bed, &a).await, listen(bed, &b).await);
        let mut heard = overhear(bed).await;
        let mut bell = b.wake().listen();
        let mut senders = Vec::new();
        for _ in 0..20 {
            bell.arm();
            commit(bed, &a).await;
            timeout(PATIENCE, bell.rung()).await.expect("rung by another process");
            senders.push(next(&mut heard).await);
        }
        // What B passed on would have come before this.
        commit(bed, &b).await;
        let last = next(&mut heard).await;
        assert!(senders.iter().all(|sender| *sender == senders[0]), "20 commits of A: {senders:?}");
        assert_ne!(last, senders[0]);
    }

    /// The second commit within the interval has to wait; the first does not.
    async fn the_first_commit_is_told_at_once(bed: &Bed) {
        let writer = writer(bed, SELDOM).await;
        let mut heard = overhear(bed).await;
        commit(bed, &writer).await;
        let sender = next(&mut heard).await;
        commit(bed, &writer).await;
        sqlx::query("SELECT outbox.outbox_notify()").execute(&bed.pool).await.expect("notify");
        assert_ne!(next(&mut heard).await, sender, "the next that is heard is the one sent by hand");
    }

    async fn a_burst_of_commits_sends_few_notifications(bed: &Bed) {
        let interval = Duration::from_millis(20);
        let writer = writer(bed, interval).await;
        let mut heard = overhear(bed).await;
        let begun = Instant::now();
        for _ in 0..10 {
            // A hundred transactions whose commits are told in a row.
            let mut receipts = Vec::new();
            for _ in 0..100 {
                let mut tx = bed.begin().await;
                receipts.push(writer.append(&mut tx, &[changed(1, 1)]).await.expect("append"));
                tx.commit().await.expect("commit");
            }
            receipts.into_iter().for_each(outbox_core::outbox::Receipt::committed);
        }
        let took = begun.elapsed();
        let mut count = 0;
        // There is no signal for the last one; silence for many intervals is taken for it.
        while timeout(interval * 25, heard.recv()).await.is_ok() {
            count += 1;
        }
        let most = u64::try_from((took.as_millis() / interval.as_millis()) + 2).expect("a small number").min(20);
        assert!((1..=most).contains(&count), "{count} notifications for 1,000 commits in {took:?}");
    }

    async fn a_listener_survives_the_end_of_its_connection(bed: &Bed) {
        let writer = writer(bed, Duration::from_millis(1)).await;
        let _listening = listen(bed, &bed.log).await;
        let listener = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
        let first: i32 = sqlx::query_scalar(listener).fetch_one(&bed.pool).await.expect("a listener");
        let mut bell = bed.log.wake().listen();
        sqlx::query("SELECT pg_terminate_backend($1)").bind(first).execute(&bed.pool).await.expect("terminate");
        timeout(PATIENCE, bell.rung()).await.expect("rung for what may have been missed");

        let second: i32 = sqlx::query_scalar(listener).fetch_one(&bed.pool).await.expect("a listener again");
        assert_ne!(first, second);
        bell.arm();
        commit(bed, &writer).await;
        timeout(PATIENCE, bell.rung()).await.expect("rung by another process");
    }

    async fn dropped_it_stops_listening(bed: &Bed) {
        let listening = listen(bed, &bed.log).await;
        drop(listening);
        let listeners = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN %'";
        let deadline = Instant::now() + PATIENCE;
        // The server tells nobody that a client has left.
        while sqlx::query_scalar::<_, i64>(listeners).fetch_one(&bed.pool).await.expect("count") > 0 {
            assert!(Instant::now() < deadline, "still connected");
        }
    }

    async fn writers_in_sql_may_notify_and_other_logs_are_not_woken(bed: &Bed) {
        let other = PostgresLog::builder(bed.pool.clone()).schema(SchemaName::parse("other").expect("name"));
        let other = other.migrate().await.expect("migrate");
        let (_one, _two) = (listen(bed, &bed.log).await, listen(bed, &other).await);
        let (mut bell, mut others) = (bed.log.wake().listen(), other.wake().listen());
        bell.arm();
        others.arm();
        sqlx::raw_sql(
            "BEGIN; SELECT outbox.outbox_append('Agg', '1', 'AggChanged', '{}'); SELECT outbox.outbox_notify(); COMMIT",
        )
        .execute(&bed.pool)
        .await
        .expect("append in SQL");
        timeout(PATIENCE, bell.rung()).await.expect("rung from SQL");
        // Had the first been for it too, it would have come before this one.
        bell.arm();
        sqlx::raw_sql("SELECT other.outbox_notify()").execute(&bed.pool).await.expect("notify");
        timeout(PATIENCE, others.rung()).await.expect("rung from SQL");
        assert!(futures_util::FutureExt::now_or_never(bell.rung()).is_none(), "woken by another log");
    }
}
