//! An event exists if and only if its transaction commits, however that transaction is built.

use outbox_core::outbox::Outbox as _;
use sqlx::Acquire as _;

use crate::support::{Bed, changed, named, on_postgres, versions};

on_postgres! {
    async fn committed_is_read_and_rolled_back_never(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut kept = bed.begin().await;
        bed.bump(&mut kept, 1).await;
        let mut gone = bed.begin().await;
        bed.bump(&mut gone, 2).await;
        assert_eq!(reader.catch_up().await, [], "neither is committed");
        gone.rollback().await.expect("rollback");
        kept.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)]);
        let mut dropped = bed.begin().await;
        bed.bump(&mut dropped, 3).await;
        drop(dropped);
        bed.bump_and_commit(4).await;
        assert_eq!(versions(&reader.catch_up().await), [named(4, 1)]);
    }

    /// Rows written in a savepoint carry the id of the whole transaction.
    async fn savepoints(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut tx = bed.begin().await;
        for (aggregate, kept) in [(1, true), (2, false), (3, true)] {
            let mut savepoint = tx.begin().await.expect("savepoint");
            let _receipt = bed.log.append(&mut savepoint, &[changed(aggregate, 1)]).await.expect("append");
            if kept { savepoint.commit().await } else { savepoint.rollback().await }.expect("end");
        }
        bed.bump_and_commit(4).await;
        assert_eq!(versions(&reader.catch_up().await), [named(4, 1)]);
        tx.commit().await.expect("commit");
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1), named(3, 1)]);
        reader.assert_complete(&bed.committed().await);
    }

    /// Many savepoints issue many ids that no row carries; the reader does not look each of them up.
    async fn more_savepoints_than_a_reader_would_list(bed: &Bed) {
        let mut reader = bed.follow().await;
        let mut tx = bed.begin().await;
        bed.bump(&mut tx, 1).await;
        let many = "DO $$ BEGIN FOR n IN 1..1000 LOOP
                BEGIN INSERT INTO elsewhere VALUES ('sub'); EXCEPTION WHEN OTHERS THEN NULL; END;
            END LOOP; END $$";
        sqlx::query(many).execute(&mut *tx).await.expect("subtransactions");
        let mut other = bed.begin().await;
        bed.bump(&mut other, 2).await;
        assert_eq!(reader.catch_up().await, []);
        other.commit().await.expect("commit");
        tx.commit().await.expect("commit");
        let mut came = versions(&reader.catch_up().await);
        came.sort();
        assert_eq!(came, [named(1, 1), named(2, 1)]);
        reader.assert_complete(&bed.committed().await);
    }

    async fn prepared_transactions(bed: &Bed) {
        let mut reader = bed.follow().await;
        for (aggregate, gid) in [(1, "kept"), (2, "gone")] {
            let gid = format!("{gid}-{}", bed.database.name());
            let mut tx = bed.begin().await;
            bed.bump(&mut tx, aggregate).await;
            sqlx::query(sqlx::AssertSqlSafe(format!("PREPARE TRANSACTION '{gid}'")))
                .execute(&mut *tx)
                .await
                .expect("prepare");
            // Nothing is left for this to commit.
            tx.commit().await.expect("commit");
        }
        bed.bump_and_commit(3).await;
        assert_eq!(versions(&reader.catch_up().await), [named(3, 1)], "prepared is not committed");
        for (verb, gid) in [("COMMIT", "kept"), ("ROLLBACK", "gone")] {
            let sql = format!("{verb} PREPARED '{gid}-{}'", bed.database.name());
            sqlx::query(sqlx::AssertSqlSafe(sql)).execute(&bed.pool).await.expect(verb);
        }
        assert_eq!(versions(&reader.catch_up().await), [named(1, 1)]);
        reader.assert_complete(&bed.committed().await);
    }

    async fn every_isolation_level(bed: &Bed) {
        let mut reader = bed.follow().await;
        for (aggregate, level) in [(1, "READ COMMITTED"), (2, "REPEATABLE READ"), (3, "SERIALIZABLE")] {
            let begin = sqlx::AssertSqlSafe(format!("BEGIN ISOLATION LEVEL {level}"));
            let mut tx = bed.pool.begin_with(begin).await.expect("begin");
            bed.bump(&mut tx, aggregate).await;
            bed.bump(&mut tx, aggregate).await;
            tx.commit().await.expect(level);
        }
        assert_eq!(reader.catch_up().await.len(), 6);
        reader.assert_complete(&bed.committed().await);
    }

    /// Whenever a call is dropped, the next user of its connection finds no transaction there.
    async fn dropped_calls_leave_no_transaction_behind(bed: &Bed) {
        let pool = bed.database.connect(1).await;
        let log = outbox_sqlx::PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = crate::support::Follower::from(log.clone(), outbox_core::log::StartAt::Beginning).await;
        let name = crate::support::consumer(&log, "suite").await;
        let member = outbox_core::log::MemberId::random();
        for n in 0..150 {
            // A different moment each time; any is right.
            let moment = std::time::Duration::from_micros(n * 15);
            let _dropped = tokio::time::timeout(moment, reader.page(10)).await;
            let joining = outbox_core::log::EventLog::join(
                &log,
                &name,
                member,
                outbox_core::log::Claim::Share,
                crate::support::LEASE,
            );
            let _dropped = tokio::time::timeout(moment, joining).await;
            sqlx::query("INSERT INTO elsewhere VALUES ('kept')").execute(&pool).await.expect("write");
            let kept: i64 =
                sqlx::query_scalar("SELECT count(*) FROM elsewhere").fetch_one(&bed.pool).await.expect("count");
            assert_eq!(kept, n as i64 + 1, "written, and in a transaction that nobody commits");
        }
        pool.close().await;
    }

    /// A connection that the application left in a transaction is not read from: the snapshot would be wrong.
    async fn a_connection_left_in_a_transaction_is_refused_once(bed: &Bed) {
        let pool = bed.database.connect(1).await;
        let log = outbox_sqlx::PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = crate::support::Follower::from(log.clone(), outbox_core::log::StartAt::Beginning).await;
        bed.bump_and_commit(1).await;
        sqlx::raw_sql("BEGIN").execute(&pool).await.expect("begin");
        sqlx::query("INSERT INTO elsewhere VALUES ('gone')").execute(&pool).await.expect("write");
        let refused = outbox_core::log::EventLog::read(&log, &[reader.track()], 10).await.expect_err("refused");
        assert!(refused.kind().passes(), "{refused:?}");
        assert_eq!(reader.catch_up().await.len(), 1, "that transaction is over");
        pool.close().await;
    }

    /// The reader has its own isolation, whatever the pool's connections are set to.
    async fn a_pool_that_defaults_to_serializable(bed: &Bed) {
        let name = bed.database.name();
        let alter = format!("ALTER DATABASE {name} SET default_transaction_isolation = 'serializable'");
        sqlx::query(sqlx::AssertSqlSafe(alter)).execute(&bed.pool).await.expect("alter");
        let pool = bed.database.connect(4).await;
        let log = outbox_sqlx::PostgresLog::builder(pool.clone()).open().await.expect("open");
        let mut reader = crate::support::Follower::from(log.clone(), outbox_core::log::StartAt::Beginning).await;
        bed.bump_and_commit(1).await;
        assert_eq!(reader.catch_up().await.len(), 1);
        let consumer = crate::support::consumer(&log, "suite").await;
        let assignment = crate::support::join(&log, &consumer).await;
        outbox_core::log::EventLog::checkpoint(&log, &assignment.fence, &[reader.track()]).await.expect("checkpoint");
        pool.close().await;
    }
}
