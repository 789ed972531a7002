//! Reading many tracks at once, at rest, from a time on, and through connections that others have changed.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use outbox_core::{
    event::LaneSet,
    log::{Cursor, EventLog as _, LogErrorKind, Page, StartAt, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{Executor as _, PgPool, postgres::PgPoolOptions};

use crate::support::{Bed, Follower, bump, changed, named, on_postgres, read, version, versions, write_elsewhere};

/// The lanes of a log in two halves, each at a place of its own.
fn halves(first: &Cursor, second: &Cursor) -> [Track; 2] {
    let half = |cursor: &Cursor, mask| Track { cursor: cursor.clone(), lanes: LaneSet::from_mask(mask) };
    [half(first, 0x0000_0000_FFFF_FFFF), half(second, 0xFFFF_FFFF_0000_0000)]
}

/// Reads on until both reached the end in one call.
async fn read_both(log: &PostgresLog, tracks: &mut [Track; 2], limit: usize) -> [Vec<(String, i64)>; 2] {
    let mut seen = [Vec::new(), Vec::new()];
    loop {
        let pages = log.read(tracks, limit).await.expect("read");
        assert_eq!(pages.len(), 2);
        for ((page, track), seen) in pages.iter().zip(tracks.iter_mut()).zip(&mut seen) {
            assert!(page.events.len() <= limit);
            assert!(page.events.iter().all(|event| track.lanes.contains(event.lane)));
            track.cursor = page.next.clone();
            seen.extend(versions(&page.events));
        }
        let ends: Vec<&Page> = pages.iter().filter(|page| page.caught_up).collect();
        if let [first, second] = ends[..] {
            assert_eq!(first.next, second.next, "tracks that reach the end together stand at one place");
            return seen;
        }
    }
}

on_postgres! {
    /// Each gets what its own place has before it, in one call, and they become one.
    async fn tracks_at_different_places(bed: &Bed) {
        let reader = bed.follow().await;
        let start = reader.cursor.clone();
        for aggregate in 1..=20 {
            bed.bump_and_commit(aggregate).await;
        }
        let mut ahead = reader.successor(start.clone());
        ahead.catch_up().await;
        // One that is late for both, and one that is new for both.
        let mut late = bed.begin().await;
        write_elsewhere(&mut late).await;
        bed.bump(&mut late, 1).await;
        for aggregate in 2..=20 {
            bed.bump_and_commit(aggregate).await;
        }
        ahead.catch_up().await;
        late.commit().await.expect("commit");

        let mut tracks = halves(&start, &ahead.cursor);
        let seen = read_both(&bed.log, &mut tracks, 3).await;
        for (nth, expected_per_aggregate) in [(0, 2), (1, 0)] {
            let lanes = tracks[nth].lanes;
            let mine = ahead.seen.iter().filter(|event| lanes.contains(event.lane));
            let aggregates: std::collections::BTreeSet<String> = mine.map(|event| version(event).0).collect();
            let all_of = |aggregate: &String| seen[nth].iter().filter(|(name, _)| name == aggregate).count();
            for aggregate in aggregates {
                let late = usize::from(aggregate == "1");
                let expected = if expected_per_aggregate == 0 { late } else { expected_per_aggregate };
                assert_eq!(all_of(&aggregate), expected, "aggregate {aggregate} of half {nth}");
            }
        }
        assert_eq!(tracks[0].cursor, tracks[1].cursor);
        bed.bump_and_commit(3).await;
        let together = Track { lanes: tracks[0].lanes.union(tracks[1].lanes), cursor: tracks[0].cursor.clone() };
        assert_eq!(versions(&read(&bed.log, &together, 10).await.events), [named(3, 3)]);
    }

    async fn no_tracks_are_no_pages(bed: &Bed) {
        assert_eq!(bed.log.read(&[], 10).await.expect("read"), []);
    }

    /// Places that were reached one after the other while nothing came.
    async fn tracks_at_rest_meet(bed: &Bed) {
        let mut first = bed.follow().await;
        bed.bump_and_commit(1).await;
        first.catch_up().await;
        // Moves the head, so that the next place is another one.
        let mut gone = bed.begin().await;
        bed.bump(&mut gone, 2).await;
        gone.rollback().await.expect("rollback");
        let mut second = first.successor(first.cursor.clone());
        second.catch_up().await;
        assert_ne!(first.cursor, second.cursor);
        let mut tracks = halves(&first.cursor, &second.cursor);
        assert_eq!(read_both(&bed.log, &mut tracks, 10).await, [vec![], vec![]]);
        let met = tracks[0].cursor.clone();
        assert_eq!(read_both(&bed.log, &mut tracks, 10).await, [vec![], vec![]]);
        assert_eq!(tracks[0].cursor, met, "and stay there");
    }

    /// One statement and nothing else, however busy others are with what is no event; and nothing to checkpoint.
    async fn an_idle_look_is_one_statement(bed: &Bed) {
        const LOOKS: i64 = 20;
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = Follower::from(log, StartAt::Beginning).await;
        bed.bump_and_commit(1).await;
        // Open when the window ends, so that the reader waits for them; they end one after the other without an event.
        let mut others = Vec::new();
        for _ in 0..LOOKS / 2 {
            let mut other = bed.begin().await;
            write_elsewhere(&mut other).await;
            others.push(other);
        }
        reader.catch_up().await;
        reader.catch_up().await;
        let rest = reader.cursor.clone();
        let session = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&pool).await.expect("session");
        let before = transaction_of(&pool).await;
        for _ in 0..LOOKS {
            let page = reader.page(100).await;
            assert!(page.caught_up && page.events.is_empty());
            assert_eq!(page.next, rest, "nothing to checkpoint");
            if let Some(other) = others.pop() {
                other.commit().await.expect("commit");
            }
        }
        let last = last_statement(session, &bed.pool).await;
        assert!(last.starts_with("WITH looked"), "a look ended with {last:?}");
        assert_eq!(transaction_of(&pool).await - before, LOOKS + 1, "one transaction a look, and the one that asks");
        pool.close().await;
    }

    /// What the pool's default is does not matter, not even one that waits for quiet.
    async fn any_default_isolation(bed: &Bed) {
        for default in ["repeatable read", "serializable"] {
            let set = format!("SET default_transaction_isolation = '{default}'");
            let options = PgPoolOptions::new().max_connections(2).after_connect(move |conn, _| {
                let set = sqlx::AssertSqlSafe(set.clone());
                Box::pin(async move { conn.execute(set).await.map(drop) })
            });
            let pool = options.connect(bed.database.url()).await.expect("connect");
            let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
            let mut reader = Follower::from(log.clone(), StartAt::End).await;
            let mut a = bed.begin().await;
            write_elsewhere(&mut a).await;
            let v = bed.bump(&mut a, 1).await;
            let mut b = pool.begin().await.expect("begin");
            let w = bump(&log, &mut b, 2).await.expect("bump");
            b.commit().await.expect("commit");
            assert_eq!(versions(&reader.catch_up().await), [named(2, w)], "{default}");
            a.commit().await.expect("commit");
            assert_eq!(versions(&reader.catch_up().await), [named(1, v)], "{default}");
            pool.close().await;
        }
    }

    /// A transaction that its owner forgot would show the reader the same moment for ever.
    async fn a_connection_left_in_a_transaction_is_not_believed(bed: &Bed) {
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = Follower::from(log.clone(), StartAt::Beginning).await;
        reader.catch_up().await;
        pool.execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("begin");
        let mut refused = 0;
        for n in 1..=3 {
            bed.bump_and_commit(1).await;
            match log.read(&[reader.track()], 10).await {
                Ok(pages) => {
                    reader.cursor = pages[0].next.clone();
                    reader.seen.extend(pages[0].events.clone());
                }
                Err(error) => {
                    assert_eq!(error.kind(), LogErrorKind::Unavailable, "look {n}: {error:?}");
                    refused += 1;
                }
            }
        }
        assert!(refused > 0, "the forgotten transaction went unnoticed");
        reader.catch_up().await;
        reader.assert_complete(&bed.committed().await);
        pool.close().await;
    }

    /// Looks that find nothing do not begin a transaction that would notice; what the server says of its ids in a
    /// forgotten one is as old as the first look.
    async fn a_second_look_in_a_forgotten_transaction_is_refused(bed: &Bed) {
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = Follower::from(log.clone(), StartAt::Beginning).await;
        reader.catch_up().await;
        pool.execute("BEGIN").await.expect("begin");
        let rest = reader.track();
        assert_eq!(read(&log, &rest, 10).await.events, [], "the first look is as good as any");
        let refused = log.read(std::slice::from_ref(&rest), 10).await.expect_err("the second one is not");
        assert_eq!(refused.kind(), LogErrorKind::Unavailable, "{refused:?}");
        bed.bump_and_commit(1).await;
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)], "the connection was given up");
        pool.close().await;
    }

    /// Reads that are dropped anywhere leave the pool as it was.
    async fn reads_that_are_dropped(bed: &Bed) {
        let pool = bed.database.connect(2).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = Follower::from(log.clone(), StartAt::Beginning).await;
        for n in 0..60_u64 {
            bed.bump_and_commit(1).await;
            let patience = Duration::from_micros(50 * n);
            let read = tokio::time::timeout(patience, log.read(&[reader.track()], 10)).await;
            if let Ok(pages) = read {
                let pages = pages.expect("read");
                reader.cursor = pages[0].next.clone();
                reader.seen.extend(pages[0].events.clone());
            }
        }
        reader.catch_up().await;
        reader.assert_complete(&bed.committed().await);
        pool.close().await;
    }

    /// From the first position that was created then or later, whatever the times behind it are.
    async fn from_a_time_on(bed: &Bed) {
        let base = Utc::now();
        for (aggregate, minute) in [(1, 0), (2, 10), (3, 20), (4, 15), (5, 30)] {
            append_at(bed, aggregate, minutes(base, minute)).await;
        }
        for (minute, expected) in [(-5, vec![1, 2, 3, 4, 5]), (10, vec![2, 3, 4, 5]), (11, vec![3, 4, 5]), (25, vec![5]), (31, vec![])] {
            let start = StartAt::Time(minutes(base, minute));
            let mut reader = Follower::from(bed.log.clone(), start).await;
            let expected: Vec<_> = expected.into_iter().map(|aggregate| named(aggregate, 1)).collect();
            assert_eq!(versions(&reader.catch_up().await), expected, "from minute {minute} on");
            bed.bump_and_commit(20).await;
            assert_eq!(reader.catch_up().await.len(), 1, "and goes on from there");
            bed.pool.execute("DELETE FROM outbox.outbox_event WHERE aggregate_id = '20'").await.expect("delete");
        }
    }

    /// It is open while the consumer is registered, and its events lie below the place.
    async fn from_a_time_on_with_a_transaction_open(bed: &Bed) {
        let base = Utc::now();
        append_at(bed, 1, base).await;
        let mut open = bed.begin().await;
        let event = changed(2, 1).with_created_at(minutes(base, 60));
        let _receipt = bed.log.append(&mut open, &[event]).await.expect("append");
        append_at(bed, 3, minutes(base, 30)).await;
        append_at(bed, 4, minutes(base, 50)).await;
        let mut none = Follower::from(bed.log.clone(), StartAt::Time(minutes(base, 55))).await;
        let mut some = Follower::from(bed.log.clone(), StartAt::Time(minutes(base, 40))).await;
        let mut end = Follower::from(bed.log.clone(), StartAt::End).await;
        assert_eq!(versions(&some.catch_up().await), [named(4, 1)]);
        assert_eq!(none.catch_up().await, []);
        assert_eq!(end.catch_up().await, []);
        open.commit().await.expect("commit");
        for reader in [&mut some, &mut none, &mut end] {
            assert_eq!(versions(&reader.catch_up().await), [named(2, 1)]);
        }
    }
}

fn minutes(base: DateTime<Utc>, minutes: i64) -> DateTime<Utc> {
    base + TimeDelta::minutes(minutes)
}

async fn append_at(bed: &Bed, aggregate: i64, time: DateTime<Utc>) {
    let mut tx = bed.begin().await;
    let event = changed(aggregate, 1).with_created_at(time);
    let _receipt = bed.log.append(&mut tx, &[event]).await.expect("append");
    tx.commit().await.expect("commit");
}

/// The number of the transaction in which the pool's one session answers; each one is numbered.
async fn transaction_of(pool: &PgPool) -> i64 {
    let own = "SELECT split_part(virtualtransaction, '/', 2)::bigint FROM pg_locks
        WHERE pid = pg_backend_pid() AND locktype = 'virtualxid'";
    sqlx::query_scalar(own).fetch_one(pool).await.expect("the number of a transaction")
}

/// What a session did last.
async fn last_statement(session: i32, other: &PgPool) -> String {
    let sql = "SELECT query FROM pg_stat_activity WHERE pid = $1";
    sqlx::query_scalar(sql).bind(session).fetch_one(other).await.expect("activity")
}
