//! Members and their checkpoints, as the tables have them.

use std::time::Duration;

use outbox_core::log::{Claim, EventLog as _, EventStatus, LogAdmin as _, LogErrorKind, MemberId, Track, lanes_of};

use super::bed::{SqliteBed, join};
use crate::support::{LEASE, changed, consumer};

/// Trimming the history takes no place away, however long ago a member wrote its last checkpoint.
#[tokio::test]
async fn the_history_ends_but_no_place_is_lost() {
    let bed = SqliteBed::create().await;
    bed.write(&[changed(1, 1), changed(2, 1)]).await;
    let name = consumer(&bed.log, "relay").await;
    let busy = join(&bed.log, &name).await;
    let quiet = join(&bed.log, &name).await;
    bed.log.release(&busy.fence, &half_of(&busy.tracks)).await.expect("release");
    let mut quiet_tracks = bed.log.renew(&quiet.fence, LEASE).await.expect("renew").gained;
    assert_eq!(lanes_of(&quiet_tracks).len(), 32);
    let end = bed.log.read(&quiet_tracks, 10).await.expect("read").remove(0).next;
    quiet_tracks[0].cursor = end.clone();
    bed.log.checkpoint(&quiet.fence, &quiet_tracks).await.expect("checkpoint");

    // As if the busy one had written 10,000 checkpoints since then.
    let rest = rest_of(&busy.tracks);
    bed.log.checkpoint(&busy.fence, &rest).await.expect("checkpoint");
    bed.execute("UPDATE outbox_checkpoint SET id = id + 20000 WHERE id = (SELECT max(id) FROM outbox_checkpoint)")
        .await;
    bed.execute("UPDATE outbox_member SET checkpoint = checkpoint + 20000 WHERE epoch = 1").await;
    bed.log.checkpoint(&busy.fence, &rest).await.expect("checkpoint");
    assert_eq!(bed.number("SELECT count(*) FROM outbox_checkpoint").await, 3, "the newest of each, and one of history");

    bed.log.leave(&quiet.fence).await.expect("leave");
    let progress = bed.log.progress(&name).await.expect("progress");
    let (behind, ahead) = (&progress.tracks[0], &progress.tracks[1]);
    assert_eq!((behind.lanes, ahead.lanes), (lanes_of(&rest), lanes_of(&quiet_tracks)));
    assert_eq!(ahead.cursor, end);
}

/// Lanes 0 to 31.
fn half_of(tracks: &[Track]) -> Vec<Track> {
    of(tracks, u64::from(u32::MAX))
}

fn rest_of(tracks: &[Track]) -> Vec<Track> {
    of(tracks, !u64::from(u32::MAX))
}

fn of(tracks: &[Track], mask: u64) -> Vec<Track> {
    let lanes = outbox_core::event::LaneSet::from_mask(mask);
    tracks.iter().map(|track| Track { cursor: track.cursor.clone(), lanes: track.lanes.intersection(lanes) }).collect()
}

/// Lanes that change hands are no checkpoint: nothing was published by that.
#[tokio::test]
async fn only_checkpoints_date_a_publication() {
    let bed = SqliteBed::create().await;
    bed.write(&[changed(1, 1)]).await;
    let mut first = bed.member("relay").await;
    let sequence = bed.log.tail(None, 1).await.expect("tail")[0].origin.sequence;
    let status = async || bed.log.event_status(&first.name, sequence).await.expect("status");
    assert_eq!(status().await, Some(EventStatus::Pending));
    let consumers = bed.log.consumers().await.expect("consumers");
    assert_eq!(consumers[0].checkpoint_at, None);
    assert!(consumers[0].oldest_pending.is_some());

    let name = first.name.clone();
    first.consume().await;
    let Some(EventStatus::Published(Some(published))) = bed.log.event_status(&name, sequence).await.expect("status")
    else {
        panic!("not published");
    };
    bed.log.leave(first.fence()).await.expect("leave");
    let second = join(&bed.log, &name).await;
    let status = bed.log.event_status(&name, sequence).await.expect("status");
    assert_eq!(status, Some(EventStatus::Published(Some(published))));
    let consumers = bed.log.consumers().await.expect("consumers");
    assert_eq!(consumers[0].checkpoint_at, Some(published));
    assert_eq!(consumers[0].oldest_pending, None);

    // What is left of the history is dated, and does not go back so far.
    bed.log.checkpoint(&second.fence, &second.tracks).await.expect("checkpoint");
    bed.execute("DELETE FROM outbox_checkpoint WHERE id < (SELECT max(id) FROM outbox_checkpoint)").await;
    assert_eq!(bed.number("SELECT count(written_at) FROM outbox_checkpoint").await, 1);
    let status = bed.log.event_status(&name, sequence).await.expect("status");
    assert_eq!(status, Some(EventStatus::Published(None)));
}

/// Whoever was a member before a consumer was dropped is none of the consumer that has its name now.
#[tokio::test]
async fn epochs_go_on_when_a_consumer_is_registered_again() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    let member = MemberId::random();
    let before = bed.log.join(&name, member, Claim::Share, LEASE).await.expect("join");
    bed.log.drop_consumer(&name).await.expect("drop");
    consumer(&bed.log, "relay").await;
    let after = bed.log.join(&name, member, Claim::Share, LEASE).await.expect("join");
    assert!(after.fence.epoch > before.fence.epoch);
    let refused = bed.log.checkpoint(&before.fence, &before.tracks).await.expect_err("the old one");
    assert_eq!(refused.kind(), LogErrorKind::Fenced);
    let refused = bed.log.renew(&before.fence, LEASE).await.expect_err("the old one");
    assert_eq!(refused.kind(), LogErrorKind::Fenced);
}

#[tokio::test]
async fn a_lease_and_a_wait_may_be_longer_than_the_clock() {
    let bed = SqliteBed::create().await;
    let name = consumer(&bed.log, "relay").await;
    let member = bed.log.join(&name, MemberId::random(), Claim::Share, Duration::MAX).await.expect("join");
    bed.log.renew(&member.fence, Duration::MAX).await.expect("renew");
    let info = bed.log.consumers().await.expect("consumers").remove(0);
    assert!(info.members[0].live);
}

/// A renewal when nothing changes writes one page.
#[tokio::test]
async fn an_idle_renewal_writes_little() {
    let bed = SqliteBed::create().await;
    let member = bed.member("relay").await;
    bed.log.renew(member.fence(), LEASE).await.expect("renew");
    // Log frames in the write-ahead log; nobody else writes.
    let frames = async || {
        let row: (i64, i64, i64) =
            sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(&bed.write).await.expect("frames");
        row.1
    };
    frames().await;
    for _ in 0..10 {
        bed.log.renew(member.fence(), LEASE).await.expect("renew");
    }
    let written = frames().await;
    // Two within a millisecond are the same bytes, which SQLite does not write again.
    assert!((1..=10).contains(&written), "{written} pages for 10 renewals");
}
