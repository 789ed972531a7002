//! Several sources of a group, one after the other and side by side.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use outbox_core::{
    publisher::Message,
    source::{EventSource, Partition, SourceErrorKind, SourceEvent, SourcePosition},
};
use outbox_kafka::source::{KafkaSource, KafkaSourceBuilder};
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
    /// Every coming and going of partitions.
    rebalances: Vec<String>,
}

impl Member {
    fn start(topic: &Topic, group: &str) -> Self {
        Self::with(source(topic, group))
    }

    fn with(source: KafkaSourceBuilder) -> Self {
        let source = source.batch(10).build().expect("settings");
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
            SourceEvent::Assigned(partitions) if partitions.is_empty() => {}
            SourceEvent::Assigned(partitions) => {
                notes.send_modify(|state| state.rebalances.push(format!("assigned {partitions:?}")));
                for partition in partitions {
                    if started(&mut source, &partition).await {
                        notes.send_modify(|state| {
                            state.owned.insert(partition);
                        });
                    }
                }
            }
            SourceEvent::Revoked(partitions) => {
                notes.send_modify(|state| {
                    state.rebalances.push(format!("revoked {partitions:?}"));
                    state.owned.retain(|owned| !partitions.contains(owned));
                });
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

/// `false`: it was taken away again before it was started.
async fn started(source: &mut KafkaSource, partition: &Partition) -> bool {
    within("a start", async {
        loop {
            match source.start(partition, None).await {
                Ok(()) => return true,
                Err(error) if error.kind() == SourceErrorKind::Revoked => return false,
                Err(error) => assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}"),
            }
        }
    })
    .await
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

/// Messages with keys of their own, so that every partition has some.
fn spread(topic: &Topic, numbers: std::ops::Range<usize>) -> Vec<Message> {
    let messages = events(topic, numbers).into_iter().enumerate();
    messages.map(|(n, (_, m))| Message { key: n.to_string().into(), ..m }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_member_takes_over_partitions_and_nothing_is_missing() {
    const PARTITIONS: usize = 6;
    const COUNT: usize = 400;
    let topic = Topic::new(6).await;
    let group = test_services::unique("group");
    let spread = |numbers| spread(&topic, numbers);
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_in_flight_when_its_partition_moves_comes_again_elsewhere() {
    const COUNT: usize = 60;
    let topic = Topic::new(2).await;
    let group = test_services::unique("group");
    publish(&topic, spread(&topic, 0..COUNT)).await;
    let mut first = source(&topic, &group).batch(10).build().expect("settings");
    let mut in_flight = BTreeMap::new();
    while in_flight.len() < 2 {
        let batch = batch(&mut first, &BTreeMap::new()).await;
        in_flight.entry(batch.partition.clone()).or_insert(batch);
    }

    // The first one is busy with its batches, and its partitions are given away all the same.
    let mut second = Member::start(&topic, &group);
    within("a partition of its own", second.state.wait_for(|state| !state.owned.is_empty())).await.expect("it works");
    let moved = second.owned().into_iter().next().expect("a partition");
    let moved_batch = in_flight.remove(&moved).expect("a batch of it was in flight");
    let late = first.commit(&moved, &moved_batch.position).await.expect_err("it belongs to the second");
    assert_eq!(late.kind(), SourceErrorKind::Revoked, "{late}");
    let again: BTreeSet<usize> = moved_batch.records.iter().map(number).collect();
    within("the batch again", second.state.wait_for(|state| state.seen.is_superset(&again))).await.expect("it works");

    let (kept, batch) = in_flight.pop_first().expect("the other one stayed");
    within("the commit of what stayed", async {
        // In the middle of the rebalance the broker may put it off.
        while let Err(error) = first.commit(&kept, &batch.position).await {
            assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{error}");
        }
    })
    .await;
    within("close", first.close()).await.expect("close");
    within("both", second.state.wait_for(|state| state.owned.len() == 2)).await.expect("it works");
    let committed: BTreeSet<usize> = batch.records.iter().map(number).collect();
    let rest = COUNT - committed.len();
    within("the rest", second.state.wait_for(|state| state.seen.len() >= rest)).await.expect("it works");
    let second_saw = second.state.borrow().seen.clone();
    assert_eq!(second_saw.len(), rest, "and nothing that was committed");
    assert!(second_saw.is_disjoint(&committed));
    within("close", second.stop().await.close()).await.expect("close");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_missing_while_members_come_and_go() {
    const ROUNDS: usize = 3;
    const EACH: usize = 120;
    let topic = Topic::new(6).await;
    let group = test_services::unique("group");
    let mut seen = BTreeSet::new();
    let mut members = vec![Member::start(&topic, &group)];
    for round in 0..ROUNDS {
        publish(&topic, spread(&topic, round * EACH..(round + 1) * EACH)).await;
        let mut new = Member::start(&topic, &group);
        within("the new member's share", new.state.wait_for(|s| !s.owned.is_empty())).await.expect("it works");
        members.push(new);
        if round % 2 == 0 {
            let old = members.remove(0);
            seen.extend(old.state.borrow().seen.iter().copied());
            let state = old.state.clone();
            drop(old.stop().await);
            seen.extend(state.borrow().seen.iter().copied());
        }
    }
    let mut last = members.pop().expect("some are left");
    for member in members {
        let state = member.state.clone();
        within("close", member.stop().await.close()).await.expect("close");
        seen.extend(state.borrow().seen.iter().copied());
    }
    let all = |state: &State| seen.union(&state.seen).count() == ROUNDS * EACH;
    within("every event", last.state.wait_for(all)).await.expect("it works");
    within("close", last.stop().await.close()).await.expect("close");
}

/// On one thread, which the handler blocks: nothing else of the application runs.
#[tokio::test]
async fn a_handler_slower_than_the_longest_poll_interval_keeps_its_partitions() {
    const LONGEST: Duration = Duration::from_secs(6);
    let topic = Topic::new(1).await;
    let group = test_services::unique("group");
    publish(&topic, spread(&topic, 0..20)).await;
    let longest = LONGEST.as_millis().to_string();
    let strict =
        source(&topic, &group).setting("max.poll.interval.ms", &longest).setting("session.timeout.ms", longest);
    let mut source = strict.batch(10).build().expect("settings");
    let slow = batch(&mut source, &BTreeMap::new()).await;
    // Time is what this test is about.
    std::thread::sleep(LONGEST + LONGEST / 3);
    source.commit(&slow.partition, &slow.position).await.expect("it is still a member");
    match within("more", source.next()).await.expect("next") {
        SourceEvent::Batch(next) => assert_eq!(number(&next.records[0]), slow.records.len()),
        other => panic!("it was expelled: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_static_member_that_restarts_finds_its_partitions_and_disturbs_nobody() {
    let topic = Topic::new(4).await;
    let group = test_services::unique("group");
    let named = |name: &str| source(&topic, &group).setting("group.instance.id", name);
    let (mut a, mut b) = (Member::with(named("a")), Member::with(named("b")));
    until("two partitions each", [&mut a, &mut b], |a, b| a.owned.len() == 2 && b.owned.len() == 2).await;
    let (before, owned) = (a.state.borrow().rebalances.clone(), b.owned());
    within("close", b.stop().await.close()).await.expect("close");
    let mut b = Member::with(named("b"));
    within("its partitions", b.state.wait_for(|state| state.owned == owned)).await.expect("it works");
    publish(&topic, spread(&topic, 0..100)).await;
    until("every event", [&mut a, &mut b], |a, b| a.seen.len() + b.seen.len() == 100).await;
    assert_eq!(a.state.borrow().rebalances, before, "the other one noticed nothing");
}
