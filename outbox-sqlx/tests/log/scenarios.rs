//! The races that broke other outboxes, with sessions A and B and a reader.

use outbox_core::outbox::Outbox as _;

use crate::support::{Bed, Follower, bump, changed, named, on_postgres, versions, write_elsewhere};

on_postgres! {
    /// B has its xid first and appends last: an order by xid would turn v1 and v2 round.
    async fn early_xid_late_write(bed: &Bed) {
        let mut b = bed.begin().await;
        write_elsewhere(&mut b).await;
        bed.bump_and_commit(1).await;
        bed.bump(&mut b, 1).await;
        b.commit().await.expect("commit");

        let mut reader = bed.follow().await;
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1), named(1, 2)]);
        reader.assert_complete(&bed.committed().await);
    }

    /// B has the smaller position and commits after the reader passed it.
    async fn horizon_gap(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut a = bed.begin().await;
        write_elsewhere(&mut a).await;
        let mut b = bed.begin().await;
        bed.bump(&mut b, 2).await;
        bed.bump(&mut a, 1).await;
        a.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)]);
        b.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(2, 1)]);
        reader.assert_complete(&bed.committed().await);
    }

    /// An open transaction delays nobody, is not forgotten, and does not make reading dearer.
    async fn old_transaction(bed: &Bed) {
        const BATCHES: i64 = 20;
        const BATCH: i64 = 500;
        // Its own connection, so that its statistics are those of the reader alone.
        let reader_pool = bed.database.connect(1).await;
        let log = outbox_sqlx::PostgresLog::builder(reader_pool.clone()).open().await.expect("open");
        let mut reader = Follower::from(log, outbox_core::log::StartAt::Beginning).await;
        let mut a = bed.begin().await;
        bed.bump(&mut a, 1).await;

        // Its reads would be counted with those of the reader.
        let no_vacuum = "ALTER TABLE outbox.outbox_event SET (autovacuum_enabled = off)";
        sqlx::query(no_vacuum).execute(&bed.pool).await.expect("alter");
        let mut b = bed.pool.acquire().await.expect("connection");
        // What is tested is the reader; it sees to the durability of what it hands out.
        sqlx::query("SET synchronous_commit = off").execute(&mut *b).await.expect("set");
        let mut first_cost = None;
        for batch in 1..=BATCHES {
            // One transaction after the other in the server itself, while the reader goes on reading.
            let after = reader.seen.len() as i64;
            read_while(&mut reader, transactions(&mut b, after, BATCH)).await;
            reader.catch_up().await;
            let own_reads = if first_cost.is_some() { COST_EVENTS } else { 0 };
            assert_eq!(reader.seen.len() as i64, batch * BATCH + own_reads, "B's events come at once");
            if batch == 1 {
                first_cost = Some(cost_of_a_read(bed, &mut b, &reader_pool, &mut reader).await);
            }
        }
        let last_cost = cost_of_a_read(bed, &mut b, &reader_pool, &mut reader).await;
        let first_cost = first_cost.expect("measured");
        // Ten rows may lie on one page more or less, and the indexes are one level higher; the log has more than 150 pages.
        assert!(last_cost <= first_cost + 20, "a read cost {first_cost} blocks at first and {last_cost} in the end");

        a.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)]);
        reader.assert_complete(&bed.committed().await);
        drop(b);
        reader_pool.close().await;
    }

    /// Positions of rolled-back transactions are never filled.
    async fn rollback_holes(bed: &Bed) {
        let mut reader = bed.follow().await;
        for n in 1..=90 {
            let mut tx = bed.begin().await;
            bed.bump(&mut tx, n % 3 + 1).await;
            if n % 3 == 0 { tx.rollback().await } else { tx.commit().await }.expect("end");
            if n % 7 == 0 {
                reader.catch_up().await;
            }
        }
        let page = reader.page(1_000).await;
        assert!(page.caught_up, "holes are not waited for");
        assert_eq!(reader.seen.len(), 60);
        reader.assert_complete(&bed.committed().await);
    }

    /// As the horizon gap, with readers that die between the reads and in the middle of a window.
    async fn late_commit_across_a_reader_crash(bed: &Bed) {
        let mut first = bed.follow().await;
        let mut a = bed.begin().await;
        write_elsewhere(&mut a).await;
        let mut b = bed.begin().await;
        for aggregate in 10..15 {
            bed.bump(&mut b, aggregate).await;
        }
        for aggregate in 1..6 {
            bed.bump(&mut a, aggregate).await;
        }
        a.commit().await.expect("commit");
        first.page(1).await;
        first.page(1).await;
        // Killed here: a window is open and two of its five events are acknowledged.
        let acknowledged = first.cursor.clone();
        b.commit().await.expect("commit");

        let mut second = first.successor(acknowledged.clone());
        let mut replay = first.successor(acknowledged.clone());
        second.page(2).await;
        second.page(2).await;
        let in_the_middle = second.cursor.clone();
        let mut third = first.successor(in_the_middle);
        let rest = third.catch_up().await;

        let mut path: Vec<_> = first.seen.clone();
        path.extend(second.seen.clone());
        path.extend(rest);
        let complete = Follower { seen: path.clone(), ..first.successor(acknowledged) };
        complete.assert_complete(&bed.committed().await);
        replay.catch_up().await;
        assert_eq!(versions(&replay.seen), versions(&path[2..]), "a replay gives the same events in the same order");
    }

    /// A prepared transaction outlives its session, and here the reader too; its events come when it is committed.
    async fn prepared_transaction_across_a_reader_restart(bed: &Bed) {
        let mut first = bed.follow().await;
        for (aggregate, verb) in [(1, "COMMIT"), (2, "ROLLBACK")] {
            let gid = format!("{}-{aggregate}", bed.database.name());
            let mut tx = bed.begin().await;
            bed.bump(&mut tx, aggregate).await;
            let prepare = format!("PREPARE TRANSACTION '{gid}'");
            sqlx::query(sqlx::AssertSqlSafe(prepare)).execute(&mut *tx).await.expect("prepare");
            tx.commit().await.expect("nothing is left to commit");
            bed.bump_and_commit(aggregate + 10).await;
            assert_eq!(versions(&first.catch_up().await), [named(aggregate + 10, 1)]);
            let mut second = first.successor(first.cursor.clone());
            assert_eq!(second.catch_up().await, []);
            let end = format!("{verb} PREPARED '{gid}'");
            sqlx::query(sqlx::AssertSqlSafe(end)).execute(&bed.pool).await.expect("end");
            let came = second.catch_up().await;
            assert_eq!(versions(&came), if verb == "COMMIT" { vec![named(1, 1)] } else { vec![] });
            first.seen.extend(came);
            first.cursor = second.cursor;
        }
        first.assert_complete(&bed.committed().await);
    }

    /// A's xid is not below xmax of the reader's snapshot, and its position is below what was emitted.
    async fn larger_xid_older_position(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut b = bed.begin().await;
        write_elsewhere(&mut b).await;
        let mut a = bed.begin().await;
        bed.bump(&mut a, 1).await;
        bed.bump(&mut b, 2).await;
        b.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(2, 1)]);
        a.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)]);
        reader.assert_complete(&bed.committed().await);
    }

    /// By default B's append waits for A, though neither locked the aggregate's row.
    async fn writers_that_nobody_serialises(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut a = bed.begin().await;
        let _receipt = bed.log.append(&mut a, &[changed(1, 1)]).await.expect("append");

        let (log, pool) = (bed.log.clone(), bed.pool.clone());
        let b = tokio::spawn(async move {
            let mut b = pool.begin().await.expect("begin");
            let _receipt = log.append(&mut b, &[changed(1, 2)]).await.expect("append");
            b.commit().await.expect("commit");
        });
        waiting_for_an_advisory_lock(bed).await;
        assert_eq!(reader.catch_up().await, [], "nothing is committed yet");
        a.commit().await.expect("commit");
        b.await.expect("B");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1), named(1, 2)]);
    }

    /// With `already_locked` and no lock nothing is lost, and the inversion shows in the sequences.
    async fn writers_that_nobody_serialises_misusing_already_locked(bed: &Bed) {
        let log = bed.log.already_locked();
        let mut reader = bed.follow().await;
        let mut a = bed.begin().await;
        let _receipt = log.append(&mut a, &[changed(1, 1)]).await.expect("append");
        let mut b = bed.begin().await;
        let _receipt = log.append(&mut b, &[changed(1, 2)]).await.expect("append");
        b.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 2)]);
        a.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)], "v1 is late, not lost");
        assert!(reader.seen[1].origin.sequence < reader.seen[0].origin.sequence, "a consumer can tell");
    }

    /// With `already_locked` and the lock it asks for, order is kept.
    async fn writers_that_serialise_themselves(bed: &Bed) {
        let log = bed.log.already_locked();
        let mut reader = bed.follow().await;
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (log, pool) = (log.clone(), bed.pool.clone());
            tasks.spawn(async move {
                for _ in 0..20 {
                    let mut tx = pool.begin().await.expect("begin");
                    bump(&log, &mut tx, 1).await.expect("bump");
                    tx.commit().await.expect("commit");
                }
            });
        }
        while !tasks.is_empty() {
            reader.catch_up().await;
            tasks.try_join_next().transpose().expect("writer");
        }
        reader.catch_up().await;
        reader.assert_complete(&bed.committed().await);
        assert_eq!(reader.seen.len(), 80);
    }
}

/// Polls, because waiting for a lock gives no signal.
async fn waiting_for_an_advisory_lock(bed: &Bed) {
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(30);
    loop {
        let waiting: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND NOT granted
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))",
        )
        .fetch_one(&bed.pool)
        .await
        .expect("locks");
        if waiting {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "nobody waits for an advisory lock");
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

/// Reads on until the writing ends; the read under way then is dropped.
async fn read_while(reader: &mut Follower, writing: impl Future<Output = ()>) {
    let mut writing = std::pin::pin!(writing);
    loop {
        tokio::select! {
            biased;
            () = &mut writing => return,
            _page = reader.page(1_000) => {}
        }
    }
}

/// So many transactions of one event each, about aggregate 2, whose version is at `after`.
async fn transactions(writer: &mut sqlx::PgConnection, after: i64, count: i64) {
    let sql = format!(
        "DO $$ BEGIN FOR n IN 1..{count} LOOP
            INSERT INTO outbox.outbox_event
                (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
            VALUES (outbox.outbox_lane('Agg/2'), gen_random_uuid(), 'Agg', '2', 'AggChanged', 'application/json',
                convert_to(json_build_object('v', {after} + n)::text, 'UTF8'), now());
            COMMIT;
        END LOOP; END $$"
    );
    // The simple protocol: a block that commits may not run inside the transaction of an extended query.
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(writer).await.expect("transactions");
}

const COST_EVENTS: i64 = 10;

/// The blocks of the log's table and its indexes that a read of ten new events touches.
async fn cost_of_a_read(
    bed: &Bed,
    writer: &mut sqlx::PgConnection,
    reader_pool: &sqlx::PgPool,
    reader: &mut Follower,
) -> i64 {
    transactions(writer, reader.seen.len() as i64, COST_EVENTS).await;
    let flush = "SELECT pg_stat_force_next_flush()";
    sqlx::query(flush).execute(&mut *writer).await.expect("flush");
    sqlx::query(flush).execute(reader_pool).await.expect("flush");
    let blocks = async || -> i64 {
        sqlx::query_scalar(
            "SELECT (heap_blks_read + heap_blks_hit + idx_blks_read + idx_blks_hit)::bigint
            FROM pg_statio_all_tables WHERE relid = 'outbox.outbox_event'::regclass",
        )
        .fetch_one(&bed.pool)
        .await
        .expect("statistics")
    };
    let before = blocks().await;
    assert_eq!(reader.page(100).await.events.len() as i64, COST_EVENTS);
    sqlx::query(flush).execute(reader_pool).await.expect("flush");
    let cost = blocks().await - before;
    assert!(cost > 0, "nothing was measured");
    cost
}
