mod hanging;
mod joining;
mod quiet;
mod shared;

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::*;
use crate::{
    event::{Lane, NewEvent},
    log::{Claim, ConsumerName, LogAdmin, StartAt},
    memory::MemoryLog,
    outbox::Outbox,
    source::Batch,
    testing::{FaultyLog, LogOperation, source::SourceHarness},
};

const LEASE: Duration = Duration::from_secs(12);

struct Harness {
    log: MemoryLog,
    is_shared: bool,
}

impl Harness {
    #[expect(clippy::unused_async, reason = "suites make their harness with an async function")]
    async fn fresh() -> Self {
        Self { log: MemoryLog::default(), is_shared: false }
    }

    async fn shared() -> Self {
        Self { is_shared: true, ..Self::fresh().await }
    }
}

#[async_trait]
impl SourceHarness for Harness {
    type Source = LogSource;

    async fn open(&self) -> LogSource {
        let builder = builder(Arc::new(self.log.clone()));
        if self.is_shared { builder.shared() } else { builder }.build()
    }

    async fn produce(&self, events: Vec<NewEvent>) {
        append(&self.log, &events).await;
    }

    async fn produce_foreign(&self, _: Bytes) {
        unreachable!("a log has no foreign records");
    }
}

crate::source_suite!(conformance, Harness::fresh);
crate::source_suite!(conformance_of_shared_lanes, Harness::shared);

fn source(log: Arc<dyn EventLog>) -> LogSource {
    builder(log).build()
}

fn builder(log: Arc<dyn EventLog>) -> LogSourceBuilder {
    LogSource::builder(log).consumer(consumer()).lease(LEASE)
}

fn consumer() -> ConsumerName {
    ConsumerName::parse("suite").expect("name")
}

fn event() -> NewEvent {
    NewEvent::tombstone("Suite", 1, "Happened").expect("event")
}

async fn append(log: &MemoryLog, events: &[NewEvent]) {
    let mut tx = log.begin();
    let receipt = log.append(&mut tx, events).await.expect("append");
    tx.commit().await;
    receipt.committed();
}

async fn assigned(source: &mut LogSource) -> Partition {
    match source.next().await.expect("next") {
        SourceEvent::Assigned(mut partitions) if partitions.len() == 1 => partitions.remove(0),
        other => panic!("expected an assignment of one partition, got {other:?}"),
    }
}

async fn started(source: &mut LogSource) -> Partition {
    let partition = assigned(source).await;
    source.start(&partition, None).await.expect("start");
    partition
}

async fn batch(source: &mut LogSource) -> Batch {
    match source.next().await.expect("next") {
        SourceEvent::Batch(batch) => batch,
        other => panic!("expected a batch, got {other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_log_that_is_away_is_told_and_asked_again() {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[event()]).await;
    let mut source = source(Arc::new(log.clone()));
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        log.fail_next(operation, 2, LogErrorKind::Unavailable);
        for _ in 0..2 {
            let error = source.next().await.expect_err("on cue");
            assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{operation:?}");
        }
    }
    started(&mut source).await;
    let before = Instant::now();
    log.fail_next(LogOperation::Read, 20, LogErrorKind::Unavailable);
    for _ in 0..20 {
        assert_eq!(source.next().await.expect_err("on cue").kind(), SourceErrorKind::Unavailable);
    }
    assert_eq!(batch(&mut source).await.records.len(), 1);
    let waited = before.elapsed();
    assert!((Duration::from_secs(1)..Duration::from_secs(30)).contains(&waited), "20 tries with jitter: {waited:?}");
}

#[tokio::test]
async fn what_does_not_pass_keeps_its_cause() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut source = source(Arc::new(log.clone()));
    log.fail_next(LogOperation::Register, 1, LogErrorKind::NotMigrated);
    let error = source.next().await.expect_err("on cue");
    assert_eq!(error.kind(), SourceErrorKind::Configuration);
    let cause = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<LogError>());
    assert_eq!(cause.map(LogError::kind), Some(LogErrorKind::NotMigrated));
}

#[tokio::test(start_paused = true)]
async fn a_fenced_commit_records_nothing_and_the_partition_is_asked_for_again() {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[event()]).await;
    let mut source = source(Arc::new(log.clone()));
    let partition = started(&mut source).await;
    let first = batch(&mut source).await;
    log.fail_next(LogOperation::Checkpoint, 1, LogErrorKind::Fenced);
    let refused = source.commit(&partition, &first.position).await.expect_err("fenced");
    assert_eq!(refused.kind(), SourceErrorKind::Revoked);
    assert_eq!(source.commit(&partition, &first.position).await.expect_err("lost").kind(), SourceErrorKind::Revoked);
    assert!(matches!(source.next().await, Ok(SourceEvent::Revoked(lost)) if lost == [partition.clone()]));
    assert_eq!(started(&mut source).await, partition);
    assert_eq!(batch(&mut source).await.records.len(), 1, "it comes again");
}

#[tokio::test(start_paused = true)]
async fn a_takeover_is_noticed_while_waiting_paused_or_not() {
    for pause in [false, true] {
        let log = FaultyLog::new(MemoryLog::default());
        let mut source = source(Arc::new(log.clone()));
        let partition = started(&mut source).await;
        if pause {
            source.pause(&partition).await.expect("pause");
        }
        log.fail_next(LogOperation::Renew, 1, LogErrorKind::Fenced);
        let before = Instant::now();
        assert!(matches!(source.next().await, Ok(SourceEvent::Revoked(lost)) if lost == [partition]));
        assert!(before.elapsed() < LEASE, "{:?}", before.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn renewals_that_fail_are_tried_again_within_the_lease() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut owner = source(Arc::new(log.clone()));
    started(&mut owner).await;
    let mut other = source(Arc::new(log.inner().clone()));
    for _ in 0..5 {
        log.fail_next(LogOperation::Renew, 3, LogErrorKind::Unavailable);
        let taken = tokio::time::timeout(LEASE, other.next()).await;
        assert!(taken.is_err(), "{taken:?}");
    }
    assert_eq!(log.failures_left(), 0);
    let before = Instant::now();
    drop(owner);
    assigned(&mut other).await;
    assert!(before.elapsed() <= LEASE + Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_commit_in_this_process_is_found_without_a_poll() {
    let log = MemoryLog::default();
    let day = Duration::from_hours(24);
    let mut source = LogSource::builder(Arc::new(log.clone())).consumer(consumer()).lease(day).poll(day).build();
    started(&mut source).await;
    // Far into the ever longer pauses.
    assert!(tokio::time::timeout(Duration::from_hours(1), source.next()).await.is_err());
    let before = Instant::now();
    let news = [event()];
    let (found, ()) = tokio::join!(batch(&mut source), append(&log, &news));
    assert_eq!(found.records.len(), 1);
    assert!(before.elapsed() < Duration::from_secs(1), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_paused_consumer_delivers_nothing_until_it_goes_on() {
    let log = MemoryLog::default();
    append(&log, &[event()]).await;
    let mut owner = source(Arc::new(log.clone()));
    let partition = started(&mut owner).await;
    log.set_paused(&consumer(), true).await.expect("pause");
    // It is told with its next renewal; a batch may still come before.
    let first = batch(&mut owner).await;
    assert!(tokio::time::timeout(LEASE, owner.next()).await.is_err(), "nothing new");
    append(&log, &[event()]).await;
    assert!(tokio::time::timeout(LEASE * 10, owner.next()).await.is_err(), "it is paused");
    owner.commit(&partition, &first.position).await.expect("what was delivered may be committed");
    owner.close().await.expect("close");

    let mut second = source(Arc::new(log.clone()));
    started(&mut second).await;
    assert!(tokio::time::timeout(LEASE * 10, second.next()).await.is_err(), "paused from the beginning");
    log.set_paused(&consumer(), false).await.expect("go on");
    let before = Instant::now();
    assert_eq!(batch(&mut second).await.records.len(), 1);
    assert!(before.elapsed() <= LEASE / 2, "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn lanes_at_different_places_are_refused_and_given_back() {
    let log = MemoryLog::default();
    apart(&log).await;
    let mut source = source(Arc::new(log.clone()));
    for _ in 0..2 {
        let refused = source.next().await.expect_err("two places");
        assert_eq!(refused.kind(), SourceErrorKind::Configuration);
        assert!(refused.to_string().contains("2 places"), "{refused}");
        let members = log.consumers().await.expect("consumers").remove(0).members;
        assert_eq!(members, [], "the lanes are free for whom they are for");
    }
}

/// Leaves the consumer's lanes at two places.
async fn apart(log: &MemoryLog) {
    append(log, &[event()]).await;
    log.register(&consumer(), StartAt::Beginning).await.expect("register");
    let relay = log.join(&consumer(), MemberId::random(), Claim::Share, LEASE).await.expect("join");
    let end = log.read(&relay.tracks, 100).await.expect("read").remove(0).next;
    let (ahead, behind): (Vec<Lane>, Vec<Lane>) = relay.lanes().iter().partition(|lane| lane.get() < 8);
    let tracks = [(end, ahead), (relay.tracks[0].cursor.clone(), behind)];
    let tracks = tracks.map(|(cursor, lanes)| Track { cursor, lanes: lanes.into_iter().collect() });
    log.checkpoint(&relay.fence, &tracks).await.expect("checkpoint");
    log.leave(&relay.fence).await.expect("leave");
}

#[tokio::test(start_paused = true)]
async fn who_waits_asks_often_and_joins_again_when_an_answer_is_lost() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut owner = source(Arc::new(log.inner().clone()));
    started(&mut owner).await;
    let mut waiting = source(Arc::new(log.clone()));
    assert!(tokio::time::timeout(LEASE * 2, waiting.next()).await.is_err(), "somebody owns the lanes");
    owner.close().await.expect("close");
    // The renewal that is given the lanes, whose answer does not come.
    log.fail_after(LogOperation::Renew, 1, LogErrorKind::Unavailable);
    let before = Instant::now();
    assigned(&mut waiting).await;
    assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
    assert_eq!(log.failures_left(), 0);
    let members = log.inner().consumers().await.expect("consumers").remove(0).members;
    assert_eq!(members.len(), 1, "it is one member");
}
