//! A database that is restored, moved or promoted: what the log notices, and that re-anchoring mends it.

use std::collections::BTreeMap;

use outbox_core::{
    event::{RecordedEvent, Sequence},
    log::{Assignment, Claim, EventLog as _, LogAdmin as _, LogErrorKind, MemberId, Page, Track},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{PgPool, postgres::PgPoolOptions};
use test_services::{OwnPostgres, PostgresVersion};

use crate::support::{
    LEASE, aggregates, bump, changed, consumer, join, moved, named, only, read, version, versions, write_elsewhere,
};

/// A consumer in another system: of each aggregate it takes what is newer than what it has, and drops the rest.
#[derive(Default)]
struct Watermarks {
    newest: BTreeMap<String, Sequence>,
    taken: Vec<(String, i64)>,
    dropped: Vec<(String, i64)>,
}

impl Watermarks {
    fn take(&mut self, events: &[RecordedEvent]) {
        for event in events {
            let (aggregate, v) = version(event);
            let newest = self.newest.entry(aggregate.clone()).or_insert(event.origin.sequence);
            let fresh = *newest < event.origin.sequence || !self.taken.iter().any(|(known, _)| *known == aggregate);
            if fresh {
                *newest = event.origin.sequence;
                self.taken.push((aggregate, v));
            } else {
                self.dropped.push((aggregate, v));
            }
        }
    }
}

struct Site {
    server: OwnPostgres,
    pool: PgPool,
    log: PostgresLog,
}

impl Site {
    async fn create(version: PostgresVersion) -> Self {
        let server = OwnPostgres::create(version).await;
        let pool = connect(&server).await;
        let log = PostgresLog::builder(pool.clone()).migrate().await.expect("migrate");
        aggregates(&pool).await;
        Self { server, pool, log }
    }

    /// The log as it is on a server.
    async fn on(mut server: OwnPostgres) -> Self {
        server.start().await;
        let pool = connect(&server).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("the log came along");
        Self { server, pool, log }
    }

    async fn write(&self, aggregates: impl IntoIterator<Item = i64>) {
        for aggregate in aggregates {
            let mut tx = self.pool.begin().await.expect("begin");
            bump(&self.log, &mut tx, aggregate).await.expect("bump");
            tx.commit().await.expect("commit");
        }
    }

    /// Reads to the end and writes a checkpoint there.
    async fn consume(&self, member: &mut Assignment) -> Vec<RecordedEvent> {
        let mut came = Vec::new();
        loop {
            let Page { events, next, caught_up } = read(&self.log, &only(&member.tracks), 3).await;
            came.extend(events);
            member.tracks = moved(&only(&member.tracks), &next);
            if caught_up {
                self.log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
                return came;
            }
        }
    }

    async fn kind_of_join(&self, consumer: &outbox_core::log::ConsumerName) -> Option<LogErrorKind> {
        let joined = self.log.join(consumer, MemberId::random(), Claim::Share, LEASE).await;
        joined.err().map(|error| {
            assert!(error.to_string().contains("`reanchor`"), "no advice: {error}");
            error.kind()
        })
    }
}

async fn connect(server: &OwnPostgres) -> PgPool {
    PgPoolOptions::new().max_connections(6).connect(&server.url()).await.expect("connect")
}

/// The database goes back in time; consumers do not. A member that runs on is noticed, and once the log is re-anchored
/// nobody takes new events for old ones.
async fn a_backup_is_restored(version: PostgresVersion) {
    let mut site = Site::create(version).await;
    let name = consumer(&site.log, "relay").await;
    let mut watermarks = Watermarks::default();
    let mut member = join(&site.log, &name).await;
    site.write(1..=5).await;
    watermarks.take(&site.consume(&mut member).await);
    site.pool.close().await;
    site.server.stop().await;
    let backup = site.server.copy().await;

    let mut site = Site::on(site.server).await;
    site.write((1..=5).chain(1..=5)).await;
    watermarks.take(&site.consume(&mut member).await);
    assert_eq!(watermarks.taken.len(), 15);
    site.server.stop().await;

    let site = Site::on(backup).await;
    for refused in
        [site.log.read(&member.tracks, 10).await.map(drop), site.log.checkpoint(&member.fence, &member.tracks).await]
    {
        // The backup knows the member, and its fence would be good.
        let refused = refused.expect_err("the place is not one of this time");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor, "{refused}");
        assert!(refused.to_string().contains("`reanchor`"), "no advice: {refused}");
    }
    // Without re-anchoring this would happen: the aggregate's next event has a sequence that the consumer has seen.
    let lost = {
        let mut tx = site.pool.begin().await.expect("begin");
        bump(&site.log, &mut tx, 5).await.expect("bump");
        tx.rollback().await.expect("rollback");
        site.log.consumers().await.expect("consumers")[0].head
    };
    assert!(Sequence::new(0, lost + 1).expect("sequence") <= watermarks.newest["5"], "positions are issued again");

    let reanchored = site.log.reanchor().await.expect("reanchor");
    assert_eq!((reanchored.generation, reanchored.from_position), (1, lost + 1));
    let refused = site.log.checkpoint(&member.fence, &member.tracks).await.expect_err("a member of before");
    assert_eq!(refused.kind(), LogErrorKind::Fenced);
    site.write(1..=5).await;
    let mut member = join(&site.log, &name).await;
    let came = site.consume(&mut member).await;
    assert_eq!(
        versions(&came),
        (1..=5).map(|aggregate| named(aggregate, 2)).collect::<Vec<_>>(),
        "exactly what is new"
    );
    watermarks.take(&came);
    assert!(watermarks.dropped.is_empty(), "new events were taken for old ones: {:?}", watermarks.dropped);
    // Events of before keep their sequences.
    let all = site.log.tail(None, 100).await.expect("tail");
    let generations: Vec<u16> = all.iter().map(|event| event.origin.sequence.generation()).collect();
    assert_eq!(generations, [0, 0, 0, 0, 0, 1, 1, 1, 1, 1]);
}

/// A dump keeps the transaction ids of the server it comes from, which mean nothing on another one.
async fn a_dump_is_restored_on_a_newer_server(version: PostgresVersion) {
    let source = Site::create(version).await;
    let name = consumer(&source.log, "relay").await;
    let parked = consumer(&source.log, "idle").await;
    spend_ids(&source.pool).await;
    source.write(1..=5).await;
    // Its position is the lowest one that is left, and it commits after the checkpoint.
    let mut late = source.pool.begin().await.expect("begin");
    let _receipt = source.log.append(&mut late, &[changed(9, 1)]).await.expect("append");
    source.write(1..=3).await;
    let mut member = join(&source.log, &name).await;
    assert_eq!(source.consume(&mut member).await.len(), 8);
    late.commit().await.expect("commit");
    source.write(4..=5).await;

    let target = OwnPostgres::create(PostgresVersion::V18).await;
    source.server.dump_into(&target).await;
    let site = Site::on(target).await;
    assert_eq!(site.kind_of_join(&name).await, Some(LogErrorKind::BadCursor));
    assert_eq!(site.kind_of_join(&parked).await, Some(LogErrorKind::BadCursor));
    site.log.reanchor().await.expect("reanchor");

    let mut member = join(&site.log, &name).await;
    let came = versions(&site.consume(&mut member).await);
    assert_eq!(came[0], named(9, 1), "the one that committed late comes first");
    assert_eq!(came[came.len() - 2..], [named(4, 2), named(5, 2)]);
    assert_eq!(came.len(), 6, "and nothing from before it: {came:?}");
    let mut idle = join(&site.log, &parked).await;
    assert_eq!(site.consume(&mut idle).await.len(), 11, "who had read nothing gets all");

    // Life goes on: the new server's own transactions, also one that was open meanwhile.
    let mut open = site.pool.begin().await.expect("begin");
    write_elsewhere(&mut open).await;
    site.write(1..=2).await;
    assert_eq!(site.consume(&mut member).await.len(), 2);
    bump(&site.log, &mut open, 3).await.expect("bump");
    open.commit().await.expect("commit");
    let came = site.consume(&mut member).await;
    assert_eq!(came.len(), 1);
    assert_eq!(came[0].origin.sequence.generation(), 1);
}

/// Transactions that run while the log is re-anchored and write events afterwards.
async fn re_anchoring_forgets_nobody_who_is_writing(version: PostgresVersion) {
    let site = Site::create(version).await;
    let name = consumer(&site.log, "relay").await;
    let mut member = join(&site.log, &name).await;
    site.write(1..=3).await;
    site.consume(&mut member).await;
    let mut open = site.pool.begin().await.expect("begin");
    write_elsewhere(&mut open).await;
    site.log.reanchor().await.expect("reanchor");
    site.write(4..=4).await;
    bump(&site.log, &mut open, 5).await.expect("bump");
    let mut member = join(&site.log, &name).await;
    assert_eq!(versions(&site.consume(&mut member).await), [named(4, 1)]);
    open.commit().await.expect("commit");
    assert_eq!(versions(&site.consume(&mut member).await), [named(5, 1)]);
}

/// Rows of another life whose transaction ids are by chance those of transactions that run now, and stay open.
async fn old_rows_are_not_taken_for_those_of_who_runs_now(version: PostgresVersion) {
    let site = Site::create(version).await;
    let name = consumer(&site.log, "relay").await;
    site.write(1..=2).await;
    let mut open = site.pool.begin().await.expect("begin");
    write_elsewhere(&mut open).await;
    let changed = sqlx::query("UPDATE outbox.outbox_event SET xid = $1::text::xid8")
        .bind(xid(&mut open).await)
        .execute(&site.pool)
        .await
        .expect("as a dump of another server brings them");
    assert_eq!(changed.rows_affected(), 2);
    site.log.reanchor().await.expect("reanchor");
    let mut member = join(&site.log, &name).await;
    assert_eq!(versions(&site.consume(&mut member).await), [named(1, 1), named(2, 1)]);
    open.commit().await.expect("commit");
    assert_eq!(versions(&site.consume(&mut member).await), []);
}

async fn xid(tx: &mut sqlx::Transaction<'static, sqlx::Postgres>) -> String {
    sqlx::query_scalar("SELECT pg_current_xact_id()::text").fetch_one(&mut **tx).await.expect("xid")
}

/// A standby that has everything becomes the primary: nothing is to be done.
async fn a_standby_is_promoted(version: PostgresVersion) {
    let mut site = Site::create(version).await;
    let name = consumer(&site.log, "relay").await;
    let mut member = join(&site.log, &name).await;
    site.write(1..=5).await;
    let late: Vec<Track> = member.tracks.clone();
    site.consume(&mut member).await;
    site.write(1..=2).await;
    site.pool.close().await;
    site.server.stop().await;
    let standby = site.server.copy().await;
    standby.as_standby();

    let site = Site::on(standby).await;
    assert_eq!(site.log.read(&member.tracks, 10).await.expect_err("not yet").kind(), LogErrorKind::ReadOnly);
    let promoted: bool = sqlx::query_scalar("SELECT pg_promote()").fetch_one(&site.pool).await.expect("promote");
    assert!(promoted);
    site.write(3..=3).await;
    assert_eq!(versions(&site.consume(&mut member).await), [named(1, 2), named(2, 2), named(3, 2)]);
    assert_eq!(site.log.read(&late, 10).await.expect("an old place is good too")[0].events.len(), 8);
}

/// So many that no fresh server has issued them.
async fn spend_ids(pool: &PgPool) {
    let sql = "DO $$ BEGIN FOR n IN 1..5000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$";
    sqlx::raw_sql(sql).execute(pool).await.expect("spend");
}

crate::durability::on_own_server!(
    a_backup_is_restored,
    a_dump_is_restored_on_a_newer_server,
    re_anchoring_forgets_nobody_who_is_writing,
    old_rows_are_not_taken_for_those_of_who_runs_now,
    a_standby_is_promoted
);
