//! Retention, and re-anchoring.

use outbox_core::log::LogErrorKind;

use crate::support::{Bed, LEASE, on_logs};

on_logs! {
    async fn prune_asks_and_removes_what_everybody_has_passed(bed: &Bed) {
        bed.append_some(1, 50).await;
        let member = bed.join("relay").await;
        bed.consume(&member).await;
        let refused = bed.outbox(&["prune"]).await;
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("--yes"), "{}", refused.err);
        assert_eq!(bed.values(&["tail", "-n", "100"]).await.len(), 50, "nothing was done");

        assert_eq!(bed.value(&["prune", "--keep-for", "1h", "--yes"]).await["removed"], 0);
        assert_eq!(bed.value(&["prune", "--keep-events", "10", "--yes"]).await["removed"], 40);
        bed.register("behind").await;
        let held = bed.value(&["prune", "--yes"]).await;
        assert_eq!((&held["removed"], &held["held_back_by"]), (&0.into(), &"behind".into()));
        bed.fine(&["consumers", "drop", "behind", "--yes"]).await;
        assert!(bed.fine(&["prune", "--yes"]).await.contains("10 events removed"));
        assert!(bed.values(&["tail"]).await.is_empty());
    }

    async fn reanchor_asks_and_raises_the_generation(bed: &Bed) {
        bed.append_some(1, 2).await;
        let member = bed.join("relay").await;
        bed.consume(&member).await;
        assert_eq!(bed.outbox(&["reanchor"]).await.code, 2);
        bed.log().renew(&member.fence, LEASE).await.expect("nothing was done");

        let anchored = bed.value(&["reanchor", "--yes"]).await;
        assert_eq!((&anchored["generation"], &anchored["from_position"]), (&1.into(), &3.into()));
        let fenced = bed.log().renew(&member.fence, LEASE).await.expect_err("fenced");
        assert_eq!(fenced.kind(), LogErrorKind::Fenced);
        bed.append_some(1, 1).await;
        let events = bed.values(&["tail"]).await;
        let generations: Vec<_> = events.iter().map(|event| event["generation"].as_u64()).collect();
        assert_eq!(generations, [Some(0), Some(0), Some(1)]);
        for event in events {
            let sequence = event["sequence"].to_string();
            assert_eq!(bed.value(&["event", &sequence]).await["event"], event, "found by its sequence");
        }
    }
}
