//! Events that could not be published.

use std::time::Duration;

use outbox_core::{
    event::RecordedEvent,
    log::{Assignment, Park, ParkFailure},
};

use crate::support::{Bed, LEASE, on_logs};

/// Of two aggregates the first event failed and the second waits behind it.
async fn some_parked(bed: &Bed) -> Assignment {
    bed.append_some(1, 2).await;
    bed.append_some(2, 2).await;
    let member = bed.join("relay").await;
    let events = bed.consume(&member).await;
    let park = |recorded: &RecordedEvent, n: usize| {
        let retry_in = (n == 2).then_some(Duration::from_hours(1));
        let failure = ParkFailure { reason: "too large\nfor the topic\u{7}".to_owned(), attempts: 3, retry_in };
        let failure = n.is_multiple_of(2).then_some(failure);
        Park { sequence: recorded.origin.sequence, lane: recorded.lane, failure }
    };
    let parks: Vec<Park> = events.iter().enumerate().map(|(n, event)| park(event, n)).collect();
    bed.log().park(&member.fence, &parks).await.expect("park");
    member
}

on_logs! {
    async fn parked_events_are_listed_and_shown(bed: &Bed) {
        assert!(bed.fine(&["parked", "list"]).await.contains("nothing is parked"));
        some_parked(bed).await;
        let listed = bed.values(&["parked", "list"]).await;
        let states: Vec<_> = listed.iter().map(|parked| (parked["sequence"].as_u64(), parked["state"].as_str())).collect();
        assert_eq!(states, [
            (Some(1), Some("parked")), (Some(2), Some("behind")), (Some(3), Some("retrying")), (Some(4), Some("behind")),
        ]);
        assert_eq!(bed.values(&["parked", "list", "-n", "1", "--consumer", "relay"]).await, listed[..1]);
        let table = bed.fine(&["parked", "list"]).await;
        assert!(table.contains("Agg/1") && table.contains("too large·for the topic·"), "{table}");
        let relay = &bed.value(&["status"]).await["consumers"][0];
        assert_eq!((&relay["parked"], &relay["blocked_keys"]), (&4.into(), &2.into()));

        let shown = bed.value(&["parked", "show", "3"]).await;
        assert_eq!((&shown["consumer"], &shown["attempts"], &shown["payload"]), (&"relay".into(), &3.into(), &"{\"v\":1}".into()));
        assert!(shown["retry_at"].is_string() && shown["parked_at"].is_string());
        let text = bed.fine(&["parked", "show", "3"]).await;
        assert!(text.contains("too large\nfor the topic·") && text.contains("retrying in") && text.contains("{\"v\":1}"), "{text}");
        assert_eq!(bed.value(&["event", "2"]).await["status"][0]["status"], "behind");

        let missing = bed.outbox(&["parked", "show", "99"]).await;
        assert_eq!(missing.code, 1);
        assert!(missing.err.contains("is not parked"), "{}", missing.err);
    }

    async fn redrive_asks_the_owner(bed: &Bed) {
        let member = some_parked(bed).await;
        let due = async || {
            let due = bed.log().due_parked(&member.fence, 10).await.expect("due");
            due.iter().map(|parked| parked.event.origin.sequence.get()).collect::<Vec<_>>()
        };
        assert_eq!(due().await, [0; 0]);
        assert_eq!(bed.value(&["parked", "redrive", "--aggregate", "Agg/9"]).await["keys"], 0);
        assert_eq!(bed.value(&["parked", "redrive", "--event", "2"]).await["keys"], 1);
        assert_eq!(due().await, [1, 2]);
        assert_eq!(bed.value(&["parked", "redrive", "--aggregate", "Agg/2"]).await["keys"], 1);
        assert_eq!(due().await, [1, 2, 3, 4]);
        assert!(bed.fine(&["parked", "redrive", "--all", "--consumer", "relay"]).await.contains("2 keys"));
        assert!(bed.log().renew(&member.fence, LEASE).await.expect("renew").redrive);

        bed.register("another").await;
        let unclear = bed.outbox(&["parked", "redrive", "--all"]).await;
        assert_eq!(unclear.code, 2);
        assert!(unclear.err.contains("another, relay"), "{}", unclear.err);
    }

    async fn discard_asks_and_keeps_the_reason(bed: &Bed) {
        some_parked(bed).await;
        let refused = bed.outbox(&["parked", "discard", "1", "--reason", "test data"]).await;
        assert_eq!(refused.code, 2);
        assert!(refused.err.contains("AggChanged of Agg/1") && refused.err.contains("--yes"), "{}", refused.err);
        assert_eq!(bed.values(&["parked", "list"]).await.len(), 4, "nothing was done");
        let blank = bed.outbox(&["parked", "discard", "1", "--reason", " ", "--yes"]).await;
        assert_eq!(blank.code, 2, "{blank:?}");

        bed.fine(&["parked", "discard", "1", "--reason", "test data", "--yes"]).await;
        assert_eq!(bed.values(&["parked", "list"]).await.len(), 3);
        let gone = bed.values(&["parked", "discarded"]).await;
        assert_eq!((gone.len(), &gone[0]["sequence"], &gone[0]["discard_reason"]), (1, &1.into(), &"test data".into()));
        assert!(bed.fine(&["parked", "discarded"]).await.contains("test data"));
        assert_eq!(bed.value(&["event", "1"]).await["status"][0]["status"], "discarded");
        assert_eq!(bed.outbox(&["parked", "discard", "1", "--reason", "again", "--yes"]).await.code, 1);
    }
}
