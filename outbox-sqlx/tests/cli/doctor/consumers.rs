//! Consumers that nobody looks after.

use outbox_core::{
    event::LaneSet,
    log::{Claim, MemberId, Track},
};

use super::examine;
use crate::support::{Bed, LEASE, Store, changed, on_logs};

on_logs! {
    async fn a_log_in_good_health(bed: &Bed) {
        bed.append_some(1, 100).await;
        let member = bed.join("relay").await;
        bed.consume(&member).await;
        examine(bed, &[]).await.assert_fine();
        let text = bed.fine(&["doctor"]).await;
        assert!(text.ends_with("\n0 problems, 0 warnings\n"), "{text}");
        assert_eq!(bed.fine(&["doctor", "--quiet"]).await, "");
    }

    async fn an_abandoned_consumer(bed: &Bed) {
        bed.append_some(1, 3).await;
        bed.register("forgotten").await;
        let found = examine(bed, &[]).await;
        found.assert_found("consumers", "warning", &["no member of consumer forgotten runs", "3 positions behind"]);
        let found = examine(bed, &["--max-idle", "0s"]).await;
        found.assert_found("consumers", "problem", &["consumer forgotten", "3 positions behind", "never wrote a checkpoint"]);
        bed.fine(&["consumers", "pause", "forgotten"]).await;
        examine(bed, &["--max-idle", "0s"]).await.assert_found("consumers", "warning", &["is paused"]);
        bed.fine(&["consumers", "drop", "forgotten", "--yes"]).await;
        examine(bed, &["--max-idle", "0s"]).await.assert_fine();
    }

    /// One that keeps renewing its lease and never gets anywhere.
    async fn a_consumer_that_is_stuck(bed: &Bed) {
        let member = bed.join("stuck").await;
        bed.append_some(1, 3).await;
        bed.consume(&member).await;
        bed.append_some(2, 2).await;
        examine(bed, &[]).await.assert_fine();
        let found = examine(bed, &["--max-idle", "0s"]).await;
        found.assert_found("consumers", "problem", &["consumer stuck is 2 positions behind and wrote no checkpoint"]);
    }

    async fn lanes_without_an_owner(bed: &Bed) {
        let consumer = bed.register("relay").await;
        let member = bed.log().join(&consumer, MemberId::random(), Claim::Share, LEASE).await.expect("join");
        let some = LaneSet::from_mask(0b1110);
        let tracks: Vec<Track> = member.tracks.iter().map(|track| Track { lanes: some, ..track.clone() }).collect();
        bed.log().release(&member.fence, &tracks).await.expect("release");
        examine(bed, &[]).await.assert_found("lanes", "warning", &["3 lanes of consumer relay are of nobody"]);
        bed.log().renew(&member.fence, LEASE).await.expect("renew takes them again");
        examine(bed, &[]).await.assert_found("lanes", "ok", &[]);
    }

    /// As after a restore to an earlier time.
    async fn a_place_beyond_the_server(bed: &Bed) {
        bed.append_some(1, 10).await;
        let member = bed.join("relay").await;
        bed.consume(&member).await;
        bed.execute("DELETE FROM outbox_event WHERE position > 3").await;
        match &bed.store {
            Store::Postgres { .. } => bed.execute("SELECT setval('outbox_event_position_seq', 3)").await,
            Store::Sqlite { .. } => {
                bed.execute("UPDATE sqlite_sequence SET seq = 3 WHERE name = 'outbox_event'").await;
            }
        }
        let found = examine(bed, &[]).await;
        found.assert_found("cursors", "problem", &["consumer relay", "restored"]);
        bed.fine(&["reanchor", "--yes"]).await;
        examine(bed, &[]).await.assert_found("cursors", "ok", &[]);
    }

    async fn retention_that_does_not_run(bed: &Bed) {
        let old = chrono::Utc::now() - chrono::TimeDelta::days(30);
        bed.append(&[changed(1, 1).with_created_at(old), changed(1, 2)]).await;
        let member = bed.join("relay").await;
        examine(bed, &[]).await.assert_found("retention", "ok", &["never ran"]);
        bed.consume(&member).await;
        let found = examine(bed, &[]).await;
        found.assert_found("retention", "warning", &["never ran", "30 days old", "every consumer has passed it"]);
        examine(bed, &["--max-retained", "60d"]).await.assert_found("retention", "ok", &[]);
        bed.fine(&["prune", "--keep-for", "60d", "--yes"]).await;
        examine(bed, &[]).await.assert_found("retention", "ok", &["ran"]);
    }

    async fn a_writer_whose_clock_is_ahead(bed: &Bed) {
        let ahead = chrono::Utc::now() + chrono::TimeDelta::minutes(90);
        bed.append(&[changed(1, 1).with_created_at(ahead)]).await;
        examine(bed, &[]).await.assert_found("clocks", "warning", &["in the future"]);
    }
}
