//! Consumers, their lanes and how they do.

use outbox_core::log::{Claim, MemberId};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::{Bed, Ended, LEASE, interrupt, on_logs};

on_logs! {
    async fn status_shows_how_far_each_consumer_is(bed: &Bed) {
        bed.append_some(1, 3).await;
        let ahead = bed.join("ahead").await;
        bed.consume(&ahead).await;
        bed.register("behind").await;

        let status = bed.value(&["status"]).await;
        let database = if bed.is_sqlite() { "sqlite" } else { "postgresql" };
        assert_eq!((&status["database"], &status["head"], &status["generation"]), (&database.into(), &3.into(), &0.into()));
        let [ahead, behind] = status["consumers"].as_array().expect("consumers").as_slice() else {
            panic!("two consumers: {status}")
        };
        assert_eq!((&ahead["name"], &ahead["lag"], &ahead["position"]), (&"ahead".into(), &0.into(), &3.into()));
        assert!(ahead["oldest_pending"].is_null() && ahead["checkpoint_at"].is_string());
        assert_eq!((&ahead["members"][0]["live"], ahead["members"][0]["lanes"].as_array().map(Vec::len)), (&true.into(), Some(64)));
        assert_eq!((&behind["name"], &behind["lag"], &behind["parked"]), (&"behind".into(), &3.into(), &0.into()));
        assert!(behind["oldest_pending_seconds"].as_u64().is_some_and(|age| age < 600), "{behind}");
        assert_eq!(behind["free_lanes"].as_array().map(Vec::len), Some(64));

        let table = bed.fine(&["status"]).await;
        let line = |name: &str| table.lines().find(|line| line.starts_with(name)).expect(name).to_owned();
        assert!(table.contains("CONSUMER") && line("ahead").contains("1 live"), "{table}");
        assert!(line("behind").split_whitespace().nth(1) == Some("3") && line("behind").contains("none"), "{table}");
    }

    async fn lanes_have_owners(bed: &Bed) {
        let member = bed.join("mine").await;
        bed.register("nobodys").await;
        let owners = bed.values(&["lanes"]).await;
        assert_eq!(owners.len(), 2);
        assert_eq!(owners[0]["member"], member.fence.member.0.to_string());
        assert_eq!((&owners[1]["consumer"], &owners[1]["member"]), (&"nobodys".into(), &serde_json::Value::Null));
        assert_eq!(bed.values(&["lanes", "--consumer", "mine"]).await, owners[..1]);
        let table = bed.fine(&["lanes"]).await;
        assert!(table.contains("nobody") && table.contains("0-63") && table.contains("ends in"), "{table}");
        // The lane of a key is written to databases: this value may never change.
        assert_eq!(bed.values(&["lanes", "--key", "Tutor/42", "--consumer", "mine"]).await[0]["lanes"], serde_json::json!([44]));
        assert_eq!(bed.outbox(&["lanes", "--consumer", "unknown"]).await.code, 1);
    }

    async fn a_consumer_is_registered_paused_and_resumed(bed: &Bed) {
        bed.append_some(1, 2).await;
        bed.fine(&["consumers", "register", "late", "--start", "end"]).await;
        bed.fine(&["consumers", "register", "early", "--start", "2020-01-01T00:00:00Z"]).await;
        let listed = bed.values(&["consumers"]).await;
        assert_eq!(bed.values(&["consumers", "list"]).await, listed);
        let lags: Vec<_> = listed.iter().map(|consumer| (consumer["name"].as_str(), consumer["lag"].as_u64())).collect();
        assert_eq!(lags, [(Some("early"), Some(2)), (Some("late"), Some(0))]);

        let member = bed.join("late").await;
        for (word, paused) in [("pause", true), ("pause", true), ("resume", false)] {
            assert_eq!(bed.value(&["consumers", word, "late"]).await["paused"], paused);
            assert_eq!(bed.log().renew(&member.fence, LEASE).await.expect("renew").paused, paused);
            assert_eq!(bed.fine(&["consumers"]).await.contains("paused"), paused);
        }
        let unknown = bed.outbox(&["consumers", "pause", "unknown"]).await;
        assert_eq!(unknown.code, 1);
        assert!(unknown.err.contains("`outbox consumers` lists them"), "{}", unknown.err);
        assert_eq!(bed.outbox(&["consumers", "register", "a", "--start", "soon"]).await.code, 2);
    }

    async fn dropping_a_consumer_says_what_is_lost_and_asks(bed: &Bed) {
        bed.append_some(1, 2).await;
        let member = bed.join("old").await;
        let refused = bed.outbox(&["consumers", "drop", "old"]).await;
        assert_eq!(refused.code, 2);
        for said in ["2 positions before it", "1 member of it runs", "Nothing was done", "--yes"] {
            assert!(refused.err.contains(said), "{said}: {}", refused.err);
        }
        bed.log().renew(&member.fence, LEASE).await.expect("nothing was done");

        bed.fine(&["consumers", "drop", "old", "--yes"]).await;
        assert!(bed.values(&["consumers"]).await.is_empty());
        bed.log().renew(&member.fence, LEASE).await.expect_err("fenced");
        assert_eq!(bed.outbox(&["consumers", "drop", "old", "--yes"]).await.code, 1);
    }

    async fn watching_ends_well_when_interrupted(bed: &Bed) {
        bed.register("relay").await;
        for signal in ["-INT", "-TERM"] {
            let mut watching = bed.command(&["status", "--watch", "1", "--json"]).spawn().expect("spawn");
            let mut lines = BufReader::new(watching.stdout.take().expect("stdout")).lines();
            for _ in 0..2 {
                let line = lines.next_line().await.expect("read").expect("a line");
                assert_eq!(crate::support::parsed(&line)["consumers"][0]["name"], "relay");
            }
            interrupt(&watching, signal).await;
            let ended = Ended::from(watching.wait_with_output().await.expect("wait"));
            assert_eq!(ended.code, 0, "{signal}: {ended:?}");
        }
    }

    /// Somebody who is not the only member is shown beside the others.
    async fn members_share_lanes(bed: &Bed) {
        let consumer = bed.register("shared").await;
        for _ in 0..2 {
            bed.log().join(&consumer, MemberId::random(), Claim::Share, LEASE).await.expect("join");
        }
        assert_eq!(bed.values(&["lanes"]).await.len(), 2, "one of them without lanes so far");
        assert!(bed.fine(&["status"]).await.contains("2 live"));
    }
}
