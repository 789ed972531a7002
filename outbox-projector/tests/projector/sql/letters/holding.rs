//! Later events of a key that has a letter wait behind it.

use std::sync::Arc;

use bytes::Bytes;
use outbox_core::{
    memory::MemoryBroker,
    profile::{Profile, RawPayload, SeedEnvelope},
    projection::DeadLetterCause,
    testing::Sequencer,
};
use outbox_projector::{
    ProjectorStatus,
    sql::{BlockedKeys, Handler, Letters, Replay},
};

use super::{counts, keeping, key_of, list, rejected, replay, step};
use crate::{
    sql::{
        Database, ReadModel,
        database::TestDatabase,
        handler::Trouble,
        model::{Model, received},
        on_every_database,
    },
    support::{PATIENCE, Running, counted, projector},
};

on_every_database!(
    what_comes_behind_a_letter_waits_and_the_rest_flows,
    what_is_held_is_kept_as_it_came,
    only_the_first_letter_of_a_key_can_be_replayed_by_itself,
    a_replay_beside_running_projectors_keeps_the_order,
);

async fn what_comes_behind_a_letter_waits_and_the_rest_flows<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..6).map(|n| received(&log, "a", n)).collect();
    let b: Vec<_> = (6..9).map(|n| received(&log, "b", n)).collect();
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    let first = [a[0].clone(), a[2].clone(), b[0].clone()];
    let applied = step(&projection, "1", &first, &[rejected(&a[1])]).await.expect("apply");
    assert_eq!((applied.applied, applied.held), (2, 1), "behind it in its own step");
    let applied = step(&projection, "2", &[a[3].clone(), b[1].clone(), a[4].clone(), a[2].clone()], &[]).await;
    let applied = applied.expect("apply");
    assert_eq!((applied.applied, applied.held, applied.duplicates), (1, 2, 1), "behind it in a later step");
    let causes: Vec<_> = list(&projection).await.into_iter().map(|letter| letter.cause).collect();
    assert_eq!(causes[0], DeadLetterCause::Rejected);
    assert_eq!(causes[1..], [DeadLetterCause::Held; 3]);
    assert_eq!((database.model().await.list("a"), database.model().await.list("b")), (vec![0], vec![6, 7]));

    let report = replay(&projection, key_of(&a[1])).await;
    assert_eq!(counts(&report), (4, 0));
    let applied = step(&projection, "3", &[a[5].clone(), b[2].clone()], &[]).await.expect("apply");
    assert_eq!((applied.applied, applied.held), (2, 0), "the key is free");
    assert_eq!(database.model().await, Model::of(a.iter().chain(&b)));
}

async fn what_is_held_is_kept_as_it_came<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let events: Vec<_> = (0..4).map(|n| log.record(counted("a", n))).collect();
    let write = |event| {
        let mut message = Profile::default().message(event).expect("message");
        message.headers.push(("added-on-the-way".into(), Bytes::from_static(b"\xff")));
        broker.write(message.clone());
        message
    };
    let written: Vec<_> = events.iter().map(write).collect();
    let handler = ReadModel::with(1, Trouble::Reject);
    let projection = Arc::new(keeping(database, BlockedKeys::Hold, &handler));
    let source = broker.source("group", ["suite-events"], SeedEnvelope);
    let mut running = Running::start(projector(source, projection.clone()));
    running.until("the rest is held", |status| status.totals().held == 2).await;
    running.stop().await.expect("run");

    let letters = list(&projection).await;
    assert_eq!(letters.len(), 3);
    for (n, letter) in (1..).zip(&letters) {
        assert_eq!(letter.place, format!("memory/suite-events@{n}"), "where it stood");
        let (_, record) = projection.dead_letters().get(letter.id).await.expect("get").expect("there");
        let record = record.expect("kept here");
        assert_eq!((record.key.as_ref(), &record.payload), (Some(&written[n].key), &written[n].payload));
        assert_eq!(record.headers, written[n].headers);
        assert_eq!(record.event(&SeedEnvelope).expect("decoded").event.id, events[n].event.id);
        assert!(record.event(&RawPayload).is_err(), "its source's decoder reads it, and no other");
    }
    // Straight from a log there is no record: whatever decoder is given, the event is read.
    let event = log.receive(counted("a", 4));
    step(&projection, "5", std::slice::from_ref(&event), &[]).await.expect("apply");
    let (_, record) = projection.dead_letters().get(event.event.id).await.expect("get").expect("there");
    assert_eq!(record.expect("kept here").event(&SeedEnvelope).expect("decoded"), event);
    handler.mend();
    assert_eq!(counts(&replay(&projection, Letters::All).await), (4, 0));
    assert_eq!(database.model().await.list("a"), [0, 1, 2, 3, 4]);
}

async fn only_the_first_letter_of_a_key_can_be_replayed_by_itself<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    step(&projection, "1", &events[1..], &[rejected(&events[0])]).await.expect("apply");
    let report = replay(&projection, Letters::Id(events[1].event.id)).await;
    assert_eq!(counts(&report), (0, 1));
    assert!(report.keys[0].error.as_ref().is_some_and(|error| error.contains("earlier")), "{report:?}");
    let too_early = projection.dead_letters().replay_event(events[1].event.id, &events[1]).await;
    assert!(too_early.expect_err("too early").to_string().contains("earlier"));
    for (n, event) in events.iter().enumerate() {
        assert_eq!(counts(&replay(&projection, Letters::Id(event.event.id)).await), (1, 0));
        assert_eq!(list(&projection).await.len(), 2 - n);
    }
    assert_eq!(database.model().await, Model::of(&events));
}

/// Two projectors believe that the partition is theirs, an event of it is rejected, and it is replayed while they work.
pub(super) async fn a_replay_beside_running_projectors_keeps_the_order<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    const COUNT: i64 = 400;
    let (broker, log) = (MemoryBroker::default(), Sequencer::default());
    let write = |range: std::ops::Range<i64>| {
        for n in range {
            let event = log.record(counted(&format!("key-{}", n % 4), n));
            broker.write(Profile::default().message(&event).expect("message"));
        }
    };
    let handler = ReadModel::with(20, Trouble::Reject);
    handler.trouble(41, Trouble::Reject);
    let mut both = ["one", "two"].map(|group| {
        let source = broker.source(group, ["suite-events"], SeedEnvelope);
        let projection = keeping(database, BlockedKeys::Hold, &handler);
        Running::start(projector(source, Arc::new(projection)).batch(10))
    });
    write(0..100);
    let held = |status: &ProjectorStatus| status.totals().held > 0;
    let [one, two] = &mut both;
    tokio::select! {
        _ = one.until("a key is blocked", held) => {}
        _ = two.until("a key is blocked", held) => {}
    }
    write(100..COUNT / 2);
    handler.mend();
    let operator = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    let replaying = async {
        // Keys are freed and stay so, however much the projectors hold back meanwhile.
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while !list(&operator).await.is_empty() {
            assert!(tokio::time::Instant::now() < deadline, "the keys are never free");
            operator.dead_letters().replay(&Replay::of(Letters::All)).await.expect("replay");
        }
    };
    let writing = async {
        for from in (COUNT / 2..COUNT).step_by(10) {
            write(from..from + 10);
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(replaying, writing);
    for running in &mut both {
        let at_end = |status: &ProjectorStatus| {
            let position = |p: &outbox_projector::PartitionStatus| p.position.as_ref().map(|p| p.as_text().to_owned());
            status.partitions.values().any(|p| position(p) == Some(COUNT.to_string()))
        };
        running.until("the end", at_end).await;
    }
    for running in both {
        running.stop().await.expect("run");
    }
    // A projector may have held back what it met before its key was free.
    replay(&operator, Letters::All).await;
    assert_eq!(list(&operator).await, []);
    let model = database.model().await;
    for key in 0..4 {
        let expected: Vec<i64> = (0..COUNT).filter(|n| n % 4 == key).collect();
        assert_eq!(model.list(&format!("key-{key}")), expected, "key {key}");
    }
}
