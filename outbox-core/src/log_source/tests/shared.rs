//! Lanes that several sources of a consumer share.

use std::collections::{BTreeMap, BTreeSet};

use super::{quiet::Quiet, *};
use crate::testing::number_of;

/// A source that shares lanes, and what it delivered.
struct Sharer {
    source: LogSource,
    owned: BTreeSet<Partition>,
    /// Where each partition stands.
    positions: BTreeMap<Partition, SourcePosition>,
    numbers: Vec<u64>,
}

impl Sharer {
    fn of(log: Arc<dyn EventLog>) -> Self {
        let source = builder(log).shared().build();
        Self { source, owned: BTreeSet::new(), positions: BTreeMap::new(), numbers: Vec::new() }
    }

    async fn step(&mut self) {
        match self.source.next().await.expect("next") {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    self.source.start(&partition, None).await.expect("start");
                    assert!(self.owned.insert(partition), "assigned twice");
                }
            }
            SourceEvent::Revoked(partitions) => {
                for partition in partitions {
                    assert!(self.owned.remove(&partition), "{partition} was not assigned");
                }
            }
            SourceEvent::Batch(batch) => {
                assert!(self.owned.contains(&batch.partition), "{} is not owned", batch.partition);
                self.numbers.extend(batch.records.iter().map(number));
                self.positions.insert(batch.partition, batch.position);
            }
        }
    }

    async fn until(&mut self, reached: impl Fn(&Self) -> bool) {
        while !reached(self) {
            self.step().await;
        }
    }

    /// Lets it do what there is to do.
    async fn go_on_for(&mut self, time: Duration) {
        let _elapsed = tokio::time::timeout(time, async {
            loop {
                self.step().await;
            }
        })
        .await;
    }

    async fn commit(&mut self) {
        for (partition, position) in std::mem::take(&mut self.positions) {
            self.source.commit(&partition, &position).await.expect("commit");
        }
    }
}

fn number(record: &crate::source::SourceRecord) -> u64 {
    let crate::source::SourceRecord::Event { event, .. } = record else { panic!("a log has events only") };
    number_of(&event.event).expect("a number")
}

fn numbered(key: &str, n: u64) -> NewEvent {
    NewEvent::json("Suite", key, "Counted", &serde_json::json!({ "n": n })).expect("event")
}

fn many(numbers: std::ops::Range<u64>) -> Vec<NewEvent> {
    numbers.map(|n| numbered(&format!("key-{n}"), n)).collect()
}

fn sorted(mut numbers: Vec<u64>) -> Vec<u64> {
    numbers.sort_unstable();
    numbers
}

#[tokio::test(start_paused = true)]
async fn each_lane_is_a_partition() {
    let log = MemoryLog::default();
    append(&log, &many(0..300)).await;
    let mut sharer = Sharer::of(Arc::new(log.clone()));
    sharer.until(|s| s.numbers.len() == 300).await;
    let id = log.identity().await.expect("identity").id;
    let names: BTreeSet<Partition> =
        (0..64).map(|lane| Partition::new(format!("log/{id}/{}/lane/{lane}", consumer()))).collect();
    assert_eq!(sharer.owned, names);
    assert_eq!(sorted(sharer.numbers), (0..300).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_source_that_comes_gets_its_share_when_the_owner_was_heard_to_let_go() {
    let log = Arc::new(MemoryLog::default());
    let mut first = Sharer::of(log.clone());
    first.until(|s| s.owned.len() == 64).await;
    let mut second = Sharer::of(log.clone());
    second.go_on_for(Duration::from_secs(1)).await;
    assert!(second.owned.is_empty(), "nothing is free");
    first.until(|s| s.owned.len() == 32).await;
    second.go_on_for(LEASE / 2).await;
    assert!(second.owned.is_empty(), "the first was not heard of since it was told");
    first.go_on_for(Duration::from_millis(1)).await;
    let before = Instant::now();
    second.until(|s| s.owned.len() == 32).await;
    assert!(before.elapsed() <= Duration::from_secs(2), "{:?}", before.elapsed());
    assert!(first.owned.is_disjoint(&second.owned));
    let numbers = |s: &Sharer| s.owned.iter().filter_map(|p| p.as_str().rsplit('/').next()?.parse().ok()).collect();
    let (low, high): (BTreeSet<u8>, BTreeSet<u8>) = (numbers(&first), numbers(&second));
    assert_eq!((low, high), ((0..32).collect(), (32..64).collect()), "the highest are given up");

    second.source.close().await.expect("close");
    let before = Instant::now();
    first.until(|s| s.owned.len() == 64).await;
    assert!(before.elapsed() <= LEASE / 2, "with the next renewal: {:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lanes_of_a_source_that_is_gone_go_to_the_others() {
    let log = Arc::new(MemoryLog::default());
    let (mut first, mut second) = (Sharer::of(log.clone()), Sharer::of(log.clone()));
    first.until(|s| s.owned.len() == 64).await;
    tokio::join!(first.until(|s| s.owned.len() == 32), second.go_on_for(Duration::from_secs(1)));
    tokio::join!(first.go_on_for(LEASE), second.until(|s| s.owned.len() == 32));
    append(&log, &many(0..200)).await;
    first.go_on_for(Duration::from_secs(2)).await;
    drop(first.source);
    let gone = Instant::now();
    second.until(|s| s.owned.len() == 64).await;
    assert!(gone.elapsed() <= LEASE + LEASE / 2, "{:?}", gone.elapsed());
    second.until(|s| s.numbers.len() == 200).await;
    assert_eq!(sorted(second.numbers), (0..200).collect::<Vec<_>>(), "also what the first had not committed");
}

/// What was committed of a lane before it was taken away does not come again, written by then or not.
#[tokio::test(start_paused = true)]
async fn a_lane_is_given_back_where_it_was_committed() {
    let log = Arc::new(MemoryLog::default());
    append(&log, &many(0..200)).await;
    let mut first = Sharer::of(log.clone());
    first.until(|s| s.numbers.len() == 200).await;
    let mut second = Sharer::of(log.clone());
    second.go_on_for(Duration::from_secs(1)).await;
    first.until(|s| s.owned.len() == 32).await;
    // Too late for those that are gone.
    let owned = first.owned.clone();
    first.positions.retain(|partition, _| owned.contains(partition));
    first.commit().await;
    tokio::join!(first.go_on_for(LEASE), second.until(|s| s.owned.len() == 32));
    second.go_on_for(Duration::from_secs(5)).await;
    let again = second.numbers.len();
    assert!((1..200).contains(&again), "{again}");
    second.commit().await;
    second.source.close().await.expect("close");
    first.numbers.clear();
    first.until(|s| s.owned.len() == 64).await;
    first.go_on_for(Duration::from_secs(5)).await;
    assert_eq!(first.numbers, [0; 0], "all of it was committed");
}

#[tokio::test(start_paused = true)]
async fn a_paused_lane_holds_nobody_back_and_misses_nothing() {
    let log = Quiet::new(MemoryLog::default());
    log.hides.store(false, std::sync::atomic::Ordering::Relaxed);
    let mut sharer = Sharer::of(log.clone());
    sharer.until(|s| s.owned.len() == 64).await;
    append(&log.inner, &many(0..100)).await;
    sharer.until(|s| s.numbers.len() == 100).await;
    let lane = sharer.positions.keys().next().expect("a lane").clone();
    sharer.source.pause(&lane).await.expect("pause");
    append(&log.inner, &many(0..100)).await;
    append(&log.inner, &many(0..100)).await;
    sharer.go_on_for(Duration::from_secs(10)).await;
    let came = sharer.numbers.len();
    assert!((200..300).contains(&came), "{came}: those of 63 lanes");
    sharer.source.resume(&lane).await.expect("resume");
    sharer.until(|s| s.numbers.len() == 300).await;
    let expected: Vec<u64> = (0..100).flat_map(|n| [n; 3]).collect();
    assert_eq!(sorted(sharer.numbers.clone()), expected);
    // At the end of the log the lanes meet again.
    sharer.go_on_for(Duration::from_secs(10)).await;
    assert_eq!(log.widest_look(), 2, "the paused lane, and the others together");
    log.forget_calls();
    append(&log.inner, &many(0..100)).await;
    sharer.until(|s| s.numbers.len() == 400).await;
    assert_eq!(log.widest_look(), 1, "all together");
}

/// What was read for it before, and not handed out, is not what comes next.
#[tokio::test(start_paused = true)]
async fn a_lane_started_again_goes_there_while_others_are_served() {
    let log = Arc::new(MemoryLog::default());
    let of_key = |numbers: std::ops::Range<u64>| numbers.flat_map(|n| [numbered("one", n), numbered("other", n)]);
    append(&log, &of_key(0..5).collect::<Vec<_>>()).await;
    let mut sharer = Sharer::of(log.clone());
    sharer.until(|s| s.numbers.len() == 10).await;
    let lanes: Vec<Partition> = sharer.positions.keys().cloned().collect();
    assert_eq!(lanes.len(), 2, "the keys are of different lanes");
    append(&log, &of_key(5..8).collect::<Vec<_>>()).await;
    let served = batch(&mut sharer.source).await.partition;
    let waiting = lanes.into_iter().find(|lane| *lane != served).expect("the other lane");
    sharer.source.start(&waiting, None).await.expect("start");
    let again = batch(&mut sharer.source).await;
    assert_eq!(again.partition, waiting);
    assert_eq!(again.records.iter().map(number).collect::<Vec<_>>(), (0..8).collect::<Vec<_>>(), "from the beginning");
}

#[tokio::test(start_paused = true)]
async fn what_lanes_commit_is_written_together() {
    let log = Quiet::new(MemoryLog::default());
    log.hides.store(false, std::sync::atomic::Ordering::Relaxed);
    append(&log.inner, &many(0..500)).await;
    let mut sharer = Sharer::of(log.clone());
    sharer.until(|s| s.numbers.len() == 500).await;
    assert!(sharer.positions.len() > 50, "{}", sharer.positions.len());
    sharer.commit().await;
    sharer.go_on_for(Duration::from_secs(1)).await;
    assert_eq!(log.calls("checkpoint"), 2, "one at once, and one for the others");
    drop(sharer);

    let mut next = Sharer::of(log.clone());
    next.until(|s| s.owned.len() == 64).await;
    next.go_on_for(Duration::from_secs(5)).await;
    assert_eq!(next.numbers, [0; 0], "all of it was committed");
}

/// Of lanes that were gained and nobody was told of, a commit names the places too.
#[tokio::test(start_paused = true)]
async fn a_commit_while_lanes_come_is_not_fenced() {
    let log = Arc::new(MemoryLog::default());
    let (mut first, mut second) = (Sharer::of(log.clone()), Sharer::of(log.clone()));
    first.until(|s| s.owned.len() == 64).await;
    tokio::join!(first.until(|s| s.owned.len() == 32), second.go_on_for(Duration::from_secs(1)));
    tokio::join!(first.go_on_for(LEASE), second.until(|s| s.owned.len() == 32));
    append(&log, &many(0..100)).await;
    first.go_on_for(Duration::from_secs(2)).await;
    second.source.close().await.expect("close");
    // On a paused clock: the renewal brings the other lanes, and nobody asks for what is new.
    tokio::time::sleep(LEASE).await;
    let members = log.consumers().await.expect("consumers").remove(0).members;
    assert_eq!(members[0].lanes.len(), 64);
    first.commit().await;
    first.until(|s| s.owned.len() == 64).await;
    let more = tokio::time::timeout(LEASE, first.source.next()).await;
    assert!(!matches!(more, Ok(Ok(SourceEvent::Revoked(_)))), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn all_are_told_when_the_membership_is_over() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut sharer = Sharer::of(Arc::new(log.clone()));
    sharer.until(|s| s.owned.len() == 64).await;
    log.fail_next(LogOperation::Renew, 1, LogErrorKind::Fenced);
    sharer.until(|s| s.owned.is_empty()).await;
    sharer.until(|s| s.owned.len() == 64).await;
    log.fail_next(LogOperation::Checkpoint, 1, LogErrorKind::Fenced);
    append(log.inner(), &many(0..1)).await;
    sharer.until(|s| !s.positions.is_empty()).await;
    let (lane, position) = sharer.positions.pop_first().expect("a position");
    let refused = sharer.source.commit(&lane, &position).await.expect_err("fenced");
    assert_eq!(refused.kind(), SourceErrorKind::Revoked);
    sharer.until(|s| s.owned.is_empty()).await;
    sharer.until(|s| s.owned.len() == 64).await;
}

#[tokio::test(start_paused = true)]
async fn what_was_committed_and_not_written_yet_is_given_back_too() {
    let log = Arc::new(MemoryLog::default());
    append(&log, &many(0..500)).await;
    let mut first = Sharer::of(log.clone());
    first.until(|s| s.numbers.len() == 500).await;
    let mut second = Sharer::of(log.clone());
    second.go_on_for(Duration::from_secs(1)).await;
    // On a paused clock: the renewal tells what to give up, and nobody asks for what is new.
    tokio::time::sleep(LEASE / 2).await;
    first.commit().await;
    first.until(|s| s.owned.len() == 32).await;
    first.go_on_for(Duration::from_millis(1)).await;
    second.until(|s| s.owned.len() == 32).await;
    second.go_on_for(Duration::from_secs(5)).await;
    assert_eq!(second.numbers, [0; 0], "all of it was committed");
}

#[tokio::test(start_paused = true)]
async fn an_owner_joins_again_when_an_answer_with_lanes_is_lost() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut first = Sharer::of(Arc::new(log.clone()));
    first.until(|s| s.owned.len() == 64).await;
    let mut second = Sharer::of(Arc::new(log.inner().clone()));
    tokio::join!(first.until(|s| s.owned.len() == 32), second.go_on_for(Duration::from_secs(1)));
    tokio::join!(first.go_on_for(LEASE), second.until(|s| s.owned.len() == 32));
    second.source.close().await.expect("close");
    log.fail_after(LogOperation::Renew, 1, LogErrorKind::Unavailable);
    first.until(|s| s.owned.is_empty()).await;
    first.until(|s| s.owned.len() == 64).await;
    assert_eq!(log.failures_left(), 0);
}
