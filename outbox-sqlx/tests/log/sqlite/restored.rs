//! A file that is put back to an earlier time.

use std::{collections::HashMap, path::Path};

use outbox_core::{
    event::{LogId, RecordedEvent, Sequence},
    log::{EventLog as _, LogAdmin as _, LogErrorKind, Park, ParkFailure, Redrive, Track},
};
use outbox_sqlx::SqliteLog;
use sqlx::SqlitePool;

use super::bed::{SqliteBed, connect, join, read_on, write};
use crate::support::{changed, consumer, version};

/// What a consumer behind a broker keeps: the highest sequence of each key, below which everything is a duplicate.
#[derive(Default)]
struct ReadModel {
    watermarks: HashMap<(LogId, String), Sequence>,
    applied: Vec<(String, i64)>,
}

impl ReadModel {
    fn apply(&mut self, events: &[RecordedEvent]) {
        for event in events {
            let key = (event.origin.log, event.event.lane_key().into_owned());
            let newest = self.watermarks.get(&key).copied();
            if newest < Some(event.origin.sequence) {
                self.watermarks.insert(key, event.origin.sequence);
                self.applied.push(version(event));
            }
        }
    }
}

async fn open(path: &Path) -> (SqlitePool, SqliteLog) {
    let pool = connect(path, 4).await;
    let log = SqliteLog::builder(pool.clone()).open().await.expect("open");
    (pool, log)
}

#[tokio::test]
async fn after_a_restore_consumers_drop_nothing_new() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let mut model = ReadModel::default();
    bed.write_versions(1, 1..=3).await;
    model.apply(&member.consume().await);
    let folder = tempfile::tempdir().expect("folder");
    let backup = folder.path().join("backup.db");
    bed.execute(&format!("VACUUM INTO '{}'", backup.display())).await;

    // Lost with the file, but published.
    bed.write_versions(1, 4..=6).await;
    model.apply(&member.consume().await);
    let (lost, before) = (member.assignment.tracks.clone(), model.applied.clone());

    let (pool, log) = open(&backup).await;
    // Beyond its end.
    assert_eq!(log.read(&lost, 10).await.expect_err("not reached yet").kind(), LogErrorKind::BadCursor);
    let reanchored = log.reanchor().await.expect("reanchor");
    assert_eq!((reanchored.generation, reanchored.from_position), (1, 4));
    assert_eq!(reanchored.log, log.identity().await.expect("identity").id);
    let refused = log.checkpoint(member.fence(), &member.assignment.tracks).await.expect_err("of another time");
    assert_eq!(refused.kind(), LogErrorKind::Fenced);

    for v in 7..=10 {
        write(&log, &pool, &[changed(1, v)]).await;
    }
    let mut again = join(&log, &member.name).await;
    let events = read_on(&log, &mut again.tracks).await;
    model.apply(&events);
    let new: Vec<i64> = model.applied[before.len()..].iter().map(|(_, v)| *v).collect();
    assert_eq!(new, [7, 8, 9, 10]);
    assert_eq!(events[0].origin.sequence, Sequence::new(1, 4).expect("sequence"));

    // The new events have gone past it, and still it is no place of this log.
    let refused = log.read(&lost, 10).await.expect_err("a place that is gone");
    assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    assert!(refused.to_string().contains("restore"), "{refused}");
    // Events of before keep what they had.
    let sequences: Vec<Sequence> = log.tail(None, 10).await.expect("tail").iter().map(|e| e.origin.sequence).collect();
    let expected = [(0, 1), (0, 2), (0, 3), (1, 4), (1, 5), (1, 6), (1, 7)];
    assert_eq!(
        sequences,
        expected.map(|(generation, position)| Sequence::new(generation, position).expect("sequence"))
    );
}

/// Places beyond the end, as when tables were copied one by one and the sequence was forgotten.
#[tokio::test]
async fn places_beyond_the_end_are_noticed_and_mended() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let lagging = bed.member("lagging").await;
    bed.write_versions(1, 1..=4).await;
    member.consume().await;
    let name = member.name.clone();
    bed.execute("DELETE FROM outbox_event WHERE position > 2; DELETE FROM sqlite_sequence WHERE name = 'outbox_event'")
        .await;
    for refused in [
        bed.log
            .join(&name, member.fence().member, outbox_core::log::Claim::Share, crate::support::LEASE)
            .await
            .map(drop),
        bed.log.read(&member.assignment.tracks, 1).await.map(drop),
        bed.log.prune(&outbox_core::log::RetentionPolicy::default()).await.map(drop),
        bed.log.progress(&name).await.map(drop),
    ] {
        let refused = refused.expect_err("beyond the end");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        assert!(refused.to_string().contains("reanchor"), "{refused}");
    }
    let shown = bed.log.consumers().await.expect("operators see it");
    assert_eq!(shown.iter().map(|consumer| consumer.position).collect::<Vec<_>>(), [0, 4]);

    let reanchored = bed.log.reanchor().await.expect("reanchor");
    assert_eq!((reanchored.generation, reanchored.from_position), (1, 3));
    bed.write_versions(1, 3..=3).await;
    let mut again = join(&bed.log, &name).await;
    let events = read_on(&bed.log, &mut again.tracks).await;
    assert_eq!(events.iter().map(|event| version(event).1).collect::<Vec<_>>(), [3]);
    assert_eq!(events[0].origin.sequence, Sequence::new(1, 3).expect("sequence"));
    let mut other = join(&bed.log, &lagging.name).await;
    let versions: Vec<i64> = read_on(&bed.log, &mut other.tracks).await.iter().map(|event| version(event).1).collect();
    assert_eq!(versions, [1, 2, 3]);
}

/// What is parked stays parked, lanes stay where they were, and a second time is no different.
#[tokio::test]
async fn reanchoring_keeps_parked_events_and_lagging_lanes() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    bed.write_versions(1, 1..=2).await;
    let first = read_on(&bed.log, &mut member.assignment.tracks).await.remove(0);
    let failure = ParkFailure { reason: "refused".into(), attempts: 1, retry_in: None };
    let park = Park { sequence: first.origin.sequence, lane: first.lane, failure: Some(failure) };
    bed.log.park(member.fence(), &[park]).await.expect("park");
    let lagging = outbox_core::event::LaneSet::from_iter([first.lane]);
    let all = &member.assignment.tracks[0];
    let beginning = join(&bed.log, &consumer(&bed.log, "fresh").await).await.tracks.remove(0).cursor;
    let tracks = [
        Track { cursor: beginning, lanes: lagging },
        Track { cursor: all.cursor.clone(), lanes: all.lanes.difference(lagging) },
    ];
    bed.log.checkpoint(member.fence(), &tracks).await.expect("checkpoint");

    for generation in 1..=2 {
        let reanchored = bed.log.reanchor().await.expect("reanchor");
        assert_eq!((reanchored.generation, reanchored.from_position), (generation, 3));
    }
    assert_eq!(bed.number("SELECT count(*) FROM sqlite_sequence WHERE name = 'outbox_event'").await, 1);
    let progress = bed.log.progress(&member.name).await.expect("progress");
    assert_eq!(progress.tracks.iter().map(|track| track.lanes).collect::<Vec<_>>(), tracks.map(|track| track.lanes));
    assert_eq!((progress.position, progress.head), (0, 2));
    let again = join(&bed.log, &member.name).await;
    assert_eq!(bed.log.redrive(&member.name, &Redrive::Event(first.origin.sequence)).await.expect("redrive"), 1);
    let due = bed.log.due_parked(&again.fence, 10).await.expect("due");
    assert_eq!(due[0].event, first);
}
