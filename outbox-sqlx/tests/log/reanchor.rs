//! What re-anchoring costs, and where it leaves lanes that stand at different places.

use std::collections::BTreeSet;

use outbox_core::{
    event::{LaneCount, LaneSet},
    log::{ConsumerName, EventLog as _, LogAdmin as _, Track, lanes_of},
    outbox::Outbox as _,
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, PgPool};

use crate::support::{Bed, blocks_touched, changed, consumer, join, on_postgres, only, read, write_elsewhere};

on_postgres! {
    /// Writers wait while it runs: what a place has behind it is not walked over, and of what it has before it only entries
    /// of an index are.
    async fn what_was_passed_is_not_walked_over(bed: &Bed) {
        const TABLE: [&str; 1] = ["outbox_event"];
        // One session does all of it, and counts what it touches.
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        // Its reads would be counted with those that are looked at.
        let no_vacuum = "ALTER TABLE outbox.outbox_event SET (autovacuum_enabled = off)";
        sqlx::query(no_vacuum).execute(&pool).await.expect("no autovacuum");
        for (round, statistics) in (1..).zip(["none", "good", "good, and plans for any place"]) {
            let mut open = bed.begin().await;
            write_elsewhere(&mut open).await;
            write_many(&pool, 20_000).await;
            // One more consumer with three places: near the beginning, in the middle, and at the end.
            let name = consumer(&log, &format!("relay-{round}")).await;
            stand(&log, &name, &[(500, 1), (15_000, 2), (100_000, u64::MAX - 3)]).await;
            open.rollback().await.expect("rollback");
            write_many(&pool, 10_000).await;
            let before = blocks_touched(&pool, &TABLE).await;
            log.reanchor().await.expect("reanchor");
            let touched = blocks_touched(&pool, &TABLE).await - before;
            let places = 3 * round;
            assert!(touched < 200 * places, "{places} places touched {touched} blocks, with {statistics} statistics");
            sqlx::query("ANALYZE outbox.outbox_event").execute(&pool).await.expect("analyze");
        }
        pool.close().await;
    }

    /// Each lane goes on with what it had not passed: what came later, and what committed late among what it passed.
    async fn every_lane_goes_on_where_it_was(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let idle = consumer(&bed.log, "idle").await;
        let mut late = bed.begin().await;
        let _receipt = bed.log.append(&mut late, &[changed(1, 1)]).await.expect("append");
        for aggregate in 2..=12 {
            bed.bump_and_commit(aggregate).await;
        }
        // One lane stands in front of its events, one between, the others behind all.
        let member = join(&bed.log, &name).await;
        let start = only(&member.tracks);
        let middle = read(&bed.log, &start, 5).await.next;
        let end = read(&bed.log, &start, 100).await.next;
        let (front, between) = (lane_of(2), lane_of(11).difference(lane_of(2)));
        let rest = start.lanes.difference(front).difference(between);
        let tracks = [(&start.cursor, front), (&middle, between), (&end, rest)];
        let tracks = tracks.map(|(cursor, lanes)| Track { cursor: cursor.clone(), lanes });
        bed.log.checkpoint(&member.fence, &tracks).await.expect("checkpoint");
        late.commit().await.expect("commit");
        bed.bump_and_commit(20).await;

        let expected = unseen(bed, &tracks).await;
        assert!(expected.len() < 13 && expected.contains(&1), "the late one, and not all: {expected:?}");
        bed.log.reanchor().await.expect("reanchor");
        let member = join(&bed.log, &name).await;
        assert_eq!(lanes_of(&member.tracks), start.lanes);
        let after = unseen(bed, &member.tracks).await;
        assert!(after.is_superset(&expected), "all of {expected:?}, which may come with others, not {after:?}");
        let idle = join(&bed.log, &idle).await;
        assert_eq!(unseen(bed, &idle.tracks).await.len(), 13, "who had read nothing gets all");
    }
}

/// In transactions of 50.
async fn write_many(pool: &PgPool, events: i64) {
    let sql = format!(
        "DO $$ BEGIN FOR n IN 1..{} LOOP
            INSERT INTO outbox.outbox_event
                (lane, id, aggregate_type, aggregate_id, event_type, content_type, payload, created_at)
            SELECT k, gen_random_uuid(), 'Agg', k::text, 'AggChanged', 'application/json',
                convert_to(repeat('x', 240), 'UTF8'), now() FROM generate_series(0, 49) AS k;
            COMMIT;
        END LOOP; END $$",
        events / 50
    );
    sqlx::query(AssertSqlSafe(sql)).execute(pool).await.expect("write");
}

fn lane_of(aggregate: i64) -> LaneSet {
    LaneSet::from_iter([LaneCount::default().lane_of(&format!("Agg/{aggregate}"))])
}

/// A member passes so many events with these lanes, and leaves.
async fn stand(log: &PostgresLog, name: &ConsumerName, places: &[(usize, u64)]) {
    let member = join(log, name).await;
    let start = only(&member.tracks);
    let mut tracks = Vec::new();
    for (events, lanes) in places {
        let cursor = read(log, &start, *events).await.next;
        tracks.push(Track { cursor, lanes: LaneSet::from_mask(*lanes) });
    }
    log.checkpoint(&member.fence, &tracks).await.expect("checkpoint");
    log.leave(&member.fence).await.expect("leave");
}

/// The positions of what these tracks have before them.
async fn unseen(bed: &Bed, tracks: &[Track]) -> BTreeSet<u64> {
    let pages = bed.log.read(tracks, 1_000).await.expect("read");
    pages.iter().flat_map(|page| &page.events).map(|event| event.origin.sequence.position()).collect()
}
