//! Poison of each kind, through a projector.

use std::{num::NonZeroU32, sync::Arc};

use bytes::Bytes;
use outbox_core::{
    event::NewEvent,
    memory::MemoryBroker,
    profile::{Profile, SeedEnvelope},
    projection::DeadLetterCause,
    publisher::Message,
    testing::Sequencer,
};
use outbox_projector::sql::{BlockedKeys, Handler, Letters};

use super::{counts, keeping, list, replay};
use crate::{
    sql::{Database, ReadModel, database::TestDatabase, handler::Trouble, on_every_database},
    support::{Running, counted, projector},
};

on_every_database!(poison_of_every_kind_becomes_a_letter_and_the_rest_flows);

async fn poison_of_every_kind_becomes_a_letter_and_the_rest_flows<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let write = |event: NewEvent| {
        let message = Profile::default().message(&log.record(event)).expect("message");
        broker.write(message.clone());
        message
    };
    let large = |n: i64| {
        let payload = serde_json::json!({ "n": n, "text": "x".repeat(900_000) });
        NewEvent::json("Suite", "large", "Counted", &payload).expect("event")
    };
    let handler = ReadModel::with(1, Trouble::Reject);
    handler.trouble(2, Trouble::Fail);
    handler.trouble(3, Trouble::Panic);
    handler.trouble(4, Trouble::Constraint);
    handler.trouble(5, Trouble::Reject);

    let headers = vec![("twice".into(), Bytes::from_static(b"1")), ("twice".into(), Bytes::from_static(b"\0\xff"))];
    let garbage = Message {
        topic: "suite-events".into(),
        key: Bytes::from_static(b"\xff"),
        payload: Some(Bytes::from_static(b"\xff no event")),
        headers,
    };
    write(counted("a", 0));
    broker.write(garbage.clone());
    let mut expected = vec![(garbage, DeadLetterCause::Undecodable, 0, "JSON")];
    let rejected = DeadLetterCause::Rejected;
    expected.push((write(counted("a", 1)), rejected, 1, "the script says so"));
    expected.push((write(counted("b", 2)), rejected, 3, "the script says so"));
    write(counted("a", 10));
    expected.push((write(counted("c", 3)), rejected, 3, "panicked: the script says so"));
    write(counted("c", 11));
    expected.push((write(counted("d", 4)), rejected, 3, "statement of the handler failed"));
    expected.push((write(large(5)), rejected, 1, "the script says so"));
    write(counted("b", 12));

    let source = broker.source("group", ["suite-events"], SeedEnvelope);
    let projection = Arc::new(keeping(database, BlockedKeys::Pass, &handler));
    let attempts = NonZeroU32::new(3).expect("three");
    let mut running = Running::start(projector(source, projection.clone()).attempts(attempts));
    let status = running.until_applied(4).await;
    assert_eq!(status.totals().applied, 4);
    write(counted("e", 13));
    let status = running.until_applied(5).await;
    assert!(!status.needs_action());
    assert_eq!(status.partitions.values().map(|partition| partition.dead_letters).sum::<usize>(), expected.len());
    running.stop().await.expect("run");

    let letters = list(&projection).await;
    assert_eq!(letters.len(), expected.len());
    for (message, cause, attempts, reason) in expected {
        let mut found = None;
        for letter in &letters {
            let (letter, body) = projection.dead_letters().get(letter.id).await.expect("get").expect("there");
            let body = body.expect("kept here");
            if body.payload == message.payload {
                found = Some((letter, body));
            }
        }
        let (letter, body) = found.expect("a letter with the very bytes");
        assert_eq!((body.key, body.headers), (Some(message.key), message.headers), "{letter:?}");
        assert_eq!((letter.cause, letter.attempts), (cause, attempts), "{letter:?}");
        assert!(letter.reason.contains(reason), "{letter:?}");
    }

    handler.mend();
    assert_eq!(counts(&replay(&projection, Letters::All).await), (5, 1), "all but the garbage");
    let model = database.model().await;
    let lists = ["a", "b", "c", "d", "large", "e"].map(|key| model.list(key));
    assert_eq!(lists, [vec![0, 10, 1], vec![12, 2], vec![11, 3], vec![4], vec![5], vec![13]]);
}
