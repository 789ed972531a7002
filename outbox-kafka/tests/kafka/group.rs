//! Several sources of a group, one after the other and side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use outbox_core::{
    publisher::Message,
    source::{EventSource, Partition, SourceErrorKind, SourceEvent, SourcePosition},
};
use outbox_kafka::source::KafkaSource;
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::{
    reading::{assigned, batch, events, number, publish, source},
    support::{Topic, within},
};

#[tokio::test]
async fn what_was_not_committed_comes_again_and_what_was_does_not() {
    let topic = Topic::new(1).await;
    publish(&topic, events(&topic, 0..20).into_iter().map(|(_, m)| m).collect()).await;
    let group = test_services::unique("group");
    let mut committed = 0;
    for round in 0..3 {
        let mut source = source(&topic, &group).batch(4).build().expect("settings");
        let first = batch(&mut source, &BTreeMap::new()).await;
        assert_eq!(number(&first.records[0]), committed, "round {round}");
        let _not_committed = batch(&mut source, &BTreeMap::new()).await;
        source.commit(&first.partition, &first.position).await.expect("commit");
        committed += first.records.len();
        within("close", source.close()).await.expect("close");
    }
}

/// A member of the group, at work in a task: it notes what it sees and commits it.
struct Member {
    state: watch::Receiver<State>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<KafkaSource>,
}

#[derive(Default)]
struct State {
    owned: BTreeSet<Partition>,
    seen: BTreeSet<usize>,
}

impl Member {
    fn start(topic: &Topic, group: &str) -> Self {
        let source = source(topic, group).batch(10).build().expect("settings");
        let (notes, state) = watch::channel(State::default());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(work(source, notes, stopped));
        Self { state, stop, task }
    }

    fn owned(&self) -> BTreeSet<Partition> {
        self.state.borrow().owned.clone()
    }

    async fn stop(self) -> KafkaSource {
        self.stop.send(()).expect("it works");
        within("the end of a member", self.task).await.expect("a member")
    }
}

async fn work(mut source: KafkaSource, notes: watch::Sender<State>, mut stopped: oneshot::Receiver<()>) -> KafkaSource {
    loop {
        let event = tokio::select! {
            _ = &mut stopped => return source,
            event = source.next() => event.expect("next"),
        };
        match event {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    match source.start(&partition, None).await {
                        Ok(()) => notes.send_modify(|state| {
                            state.owned.insert(partition);
                        }),
                        // It was taken away again before it was started.
                        Err(error) => assert_eq!(error.kind(), SourceErrorKind::Revoked, "{error}"),
                    }
                }
            }
            SourceEvent::Revoked(partitions) => {
                notes.send_modify(|state| state.owned.retain(|owned| !partitions.contains(owned)));
            }
            SourceEvent::Batch(batch) => {
                assert!(notes.borrow().owned.contains(&batch.partition), "only of what it owns");
                notes.send_modify(|state| state.seen.extend(batch.records.iter().map(number)));
                if let Err(error) = source.commit(&batch.partition, &batch.position).await {
                    let passing = [SourceErrorKind::Revoked, SourceErrorKind::Unavailable];
                    assert!(passing.contains(&error.kind()), "{error}");
                }
            }
            _ => {}
        }
    }
}

/// Waits until what two members noted is so.
async fn until(what: &str, members: [&mut Member; 2], so: impl Fn(&State, &State) -> bool) {
    let [a, b] = members;
    within(what, async {
        while !so(&a.state.borrow_and_update(), &b.state.borrow_and_update()) {
            tokio::select! {
                changed = a.state.changed() => changed.expect("it works"),
                changed = b.state.changed() => changed.expect("it works"),
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_takes_over_partitions_and_nothing_is_missing() {
    const PARTITIONS: usize = 6;
    const COUNT: usize = 400;
    let topic = Topic::new(6).await;
    let group = test_services::unique("group");
    let spread = |numbers: std::ops::Range<usize>| {
        // Keys of their own, so that every partition has some.
        let messages = events(&topic, numbers).into_iter().enumerate();
        messages.map(|(n, (_, m))| Message { key: n.to_string().into(), ..m }).collect()
    };
    publish(&topic, spread(0..COUNT)).await;
    let mut first = Member::start(&topic, &group);
    within("the first member", first.state.wait_for(|s| s.owned.len() == PARTITIONS && !s.seen.is_empty()))
        .await
        .expect("it works");

    let mut second = Member::start(&topic, &group);
    let half = PARTITIONS / 2;
    until("three partitions each", [&mut first, &mut second], |a, b| a.owned.len() == half && b.owned.len() == half)
        .await;
    assert!(first.owned().is_disjoint(&second.owned()));
    publish(&topic, spread(COUNT..2 * COUNT)).await;
    until("every event", [&mut first, &mut second], |a, b| a.seen.union(&b.seen).count() == 2 * COUNT).await;
    assert!(second.state.borrow().seen.iter().any(|n| *n >= COUNT), "the second one works too");

    // One leaves, and the other has everything, long before a session would time out.
    let given_back = second.owned().into_iter().next().expect("a partition");
    let mut second = second.stop().await;
    within("close", second.close()).await.expect("close");
    let late = second.commit(&given_back, &SourcePosition::from_text("1")).await;
    assert_eq!(late.expect_err("it has left").kind(), SourceErrorKind::Revoked);
    let all = first.state.wait_for(|state| state.owned.len() == PARTITIONS);
    tokio::time::timeout(Duration::from_secs(30), all).await.expect("all partitions").expect("it works");
    within("close", first.stop().await.close()).await.expect("close");
}

#[tokio::test]
async fn a_dropped_source_leaves_its_group_at_once() {
    let topic = Topic::new(1).await;
    let group = test_services::unique("group");
    let mut first = source(&topic, &group).build().expect("settings");
    let partitions = assigned(&mut first).await;
    drop(first);
    let mut second = source(&topic, &group).build().expect("settings");
    let taken = tokio::time::timeout(Duration::from_secs(30), assigned(&mut second)).await;
    assert_eq!(taken.expect("before the session times out"), partitions);
}
