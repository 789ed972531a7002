//! Looking at events.

use outbox_core::event::NewEvent;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};

use crate::support::{Bed, Ended, changed, interrupt, on_logs, parsed};

on_logs! {
    async fn tail_prints_the_newest_events(bed: &Bed) {
        bed.append_some(1, 30).await;
        bed.append(&[
            NewEvent::json("Tutor", 42, "TutorCreated", &json!({"name": "Анна\u{1b}[31m"})).expect("event")
                .with_header("tenant", "a").expect("header"),
            NewEvent::tombstone("Tutor", 42, "TutorErased").expect("event"),
            NewEvent::tombstone("Photo", "a/b", "PhotoTaken").expect("event"),
        ]).await;
        // The default profile has no place for bytes, others have.
        let bytes = if bed.is_sqlite() { "x'ff00'" } else { "'\\xff00'" };
        bed.execute(&format!("UPDATE outbox_event SET payload = {bytes} WHERE aggregate_type = 'Photo'")).await;

        assert_eq!(bed.values(&["tail"]).await.len(), 20);
        let all = bed.values(&["tail", "-n", "1000"]).await;
        let sequences: Vec<u64> = all.iter().map(|event| event["sequence"].as_u64().expect("sequence")).collect();
        assert_eq!(sequences, (1..=33).collect::<Vec<_>>());
        assert_eq!(bed.values(&["tail", "-n", "0"]).await.len(), 0);

        let tutor = bed.values(&["tail", "--aggregate", "Tutor/42"]).await;
        assert_eq!(tutor.len(), 2);
        assert_eq!(parsed(tutor[0]["payload"].as_str().expect("text"))["name"], "Анна\u{1b}[31m");
        assert_eq!(tutor[0]["headers"], json!([{"name": "tenant", "value": "a", "encoding": "utf-8"}]));
        assert!(tutor[1]["payload"].is_null());
        let photo = bed.values(&["tail", "--type", "PhotoTaken"]).await;
        assert_eq!((&photo[0]["payload"], &photo[0]["payload_encoding"]), (&"ff00".into(), &"hex".into()));
        assert_eq!(bed.values(&["tail", "-n", "5", "--type", "AggChanged"]).await.len(), 5, "newer ones are left out");

        let lines = bed.fine(&["tail", "-n", "3"]).await;
        assert!(lines.contains("Tutor/42  TutorCreated  {\"name\":\"Анна") && lines.contains("(tombstone)"), "{lines}");
        assert!(lines.contains("Photo/a/b"), "{lines}");
        assert!(!lines.contains('\u{1b}'), "a payload cannot command the terminal");
    }

    async fn tail_follows(bed: &Bed) {
        bed.append_some(1, 3).await;
        let mut following = bed.command(&["tail", "--follow", "-n", "1", "--json"]).spawn().expect("spawn");
        let mut lines = BufReader::new(following.stdout.take().expect("stdout")).lines();
        let mut next = async || parsed(&lines.next_line().await.expect("read").expect("a line"));
        assert_eq!(next().await["sequence"], 3);
        bed.append(&[changed(2, 1), changed(2, 2)]).await;
        assert_eq!((&next().await["sequence"], &next().await["sequence"]), (&4.into(), &5.into()));
        bed.append(&[changed(3, 1)]).await;
        assert_eq!(next().await["sequence"], 6, "each once");
        interrupt(&following, "-INT").await;
        let ended = Ended::from(following.wait_with_output().await.expect("wait"));
        assert_eq!(ended.code, 0, "{ended:?}");
    }

    /// As `| head -1` does.
    async fn a_reader_that_goes_away_is_no_error(bed: &Bed) {
        let long = "x".repeat(1_000);
        let events: Vec<NewEvent> =
            (0..500).map(|n| NewEvent::json("Agg", n, "AggChanged", &json!({"long": long})).expect("event")).collect();
        bed.append(&events).await;
        let mut tail = bed.command(&["tail", "-n", "500"]).spawn().expect("spawn");
        let mut some = [0; 100];
        // More than a pipe holds is still to come.
        tail.stdout.take().expect("stdout").read_exact(&mut some).await.expect("read");
        let ended = Ended::from(tail.wait_with_output().await.expect("wait"));
        assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    }

    async fn an_event_is_shown_with_what_each_consumer_did(bed: &Bed) {
        bed.append_some(1, 2).await;
        let ahead = bed.join("ahead").await;
        bed.consume(&ahead).await;
        bed.register("behind").await;

        let shown = bed.value(&["event", "2"]).await;
        assert_eq!((&shown["event"]["sequence"], &shown["event"]["aggregate_id"]), (&2.into(), &"1".into()));
        let status = shown["status"].as_array().expect("status");
        assert_eq!((&status[0]["consumer"], &status[0]["status"]), (&"ahead".into(), &"published".into()));
        assert!(status[0]["published_at"].is_string());
        assert_eq!((&status[1]["consumer"], &status[1]["status"]), (&"behind".into(), &"pending".into()));
        assert_eq!(bed.value(&["event", "2", "--consumer", "ahead"]).await["status"].as_array().map(Vec::len), Some(1));

        let text = bed.fine(&["event", "2"]).await;
        assert!(text.contains("Agg/1") && text.contains("published, at the latest") && text.contains("\"v\":2"), "{text}");
        let missing = bed.outbox(&["event", "99"]).await;
        assert_eq!(missing.code, 1);
        assert!(missing.err.contains("no event with sequence 99"), "{}", missing.err);
    }
}
