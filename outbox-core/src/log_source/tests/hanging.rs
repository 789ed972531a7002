//! A log that takes a question and never answers it, as behind a connection that is half open.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_lost_lease_is_told_while_a_read_hangs() {
    for build in [LogSourceBuilder::build, |builder: LogSourceBuilder| builder.shared().build()] {
        let log = FaultyLog::new(MemoryLog::default());
        append(log.inner(), &[event()]).await;
        let mut source = build(builder(Arc::new(log.clone())));
        let SourceEvent::Assigned(partitions) = source.next().await.expect("next") else { panic!("not assigned") };
        for partition in &partitions {
            source.start(partition, None).await.expect("start");
        }
        log.hang_next(LogOperation::Read, 1);
        log.fail_next(LogOperation::Renew, 1, LogErrorKind::Fenced);
        let before = Instant::now();
        assert!(matches!(source.next().await, Ok(SourceEvent::Revoked(lost)) if lost == partitions));
        assert!(before.elapsed() < LEASE / 2, "with the next renewal: {:?}", before.elapsed());
        assert_eq!(log.failures_left(), 0);
    }
}

/// That the log can be read is not all.
#[tokio::test(start_paused = true)]
async fn while_checkpoints_fail_nobody_says_that_all_is_well() {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[event()]).await;
    let mut source = source(Arc::new(log.clone()));
    let partition = started(&mut source).await;
    let position = batch(&mut source).await.position;
    assert!(
        tokio::time::timeout(Duration::from_secs(1), source.next()).await.is_err(),
        "it rests behind the last event"
    );
    log.fail_next(LogOperation::Checkpoint, usize::MAX, LogErrorKind::Unavailable);
    source.commit(&partition, &position).await.expect_err("not written");
    let (before, mut failures) = (Instant::now(), 0);
    while before.elapsed() < LEASE {
        let error = source.next().await.expect_err("nothing was written");
        assert_eq!(error.kind(), SourceErrorKind::Unavailable);
        failures += 1;
    }
    assert!(failures < 60, "{failures} tries in {LEASE:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_that_hangs_is_given_up_and_made_again() {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[event()]).await;
    let mut source = source(Arc::new(log.clone()));
    started(&mut source).await;
    log.hang_next(LogOperation::Read, 1);
    let before = Instant::now();
    // Whoever drives it may drop its futures, and the deadline is that of the read all the same.
    let error = loop {
        if let Ok(told) = tokio::time::timeout(LEASE / 10, source.next()).await {
            break told.expect_err("no answer");
        }
        assert!(before.elapsed() < LEASE * 3, "nobody gave it up");
    };
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    let waited = before.elapsed();
    assert!((LEASE..LEASE * 2).contains(&waited), "{waited:?}");
    assert_eq!(batch(&mut source).await.records.len(), 1);
    assert!(before.elapsed() < LEASE + Duration::from_secs(2), "{:?}", before.elapsed());
}

#[tokio::test(start_paused = true)]
async fn whatever_hangs_on_the_way_to_a_partition_is_asked_again() {
    let log = FaultyLog::new(MemoryLog::default());
    append(log.inner(), &[event()]).await;
    let mut source = source(Arc::new(log.clone()));
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        log.hang_next(operation, 1);
        let before = Instant::now();
        let error = source.next().await.expect_err("no answer");
        assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{operation:?}");
        assert!(before.elapsed() <= LEASE + Duration::from_secs(2), "{:?}", before.elapsed());
    }
    let partition = started(&mut source).await;
    let position = batch(&mut source).await.position;
    source.close().await.expect("close");

    // Started where it did not stand, it asks the log whether the position is one of its own.
    let mut second = builder(Arc::new(log.clone())).build();
    assert_eq!(assigned(&mut second).await, partition);
    log.hang_next(LogOperation::Read, 1);
    let error = second.start(&partition, Some(&position)).await.expect_err("no answer");
    assert_eq!(error.kind(), SourceErrorKind::Unavailable);
    second.start(&partition, Some(&position)).await.expect("start");
    log.hang_next(LogOperation::Leave, 1);
    assert_eq!(second.close().await.expect_err("no answer").kind(), SourceErrorKind::Unavailable);
}
