//! The way into a membership, while whoever drives the source drops its futures again and again.

use super::*;

/// How long a caller waits before it does something else.
const SHORT: Duration = Duration::from_millis(10);

/// What `next` says at last.
async fn driven(source: &mut LogSource) -> Result<SourceEvent, SourceError> {
    let deadline = Instant::now() + LEASE * 10;
    loop {
        if let Ok(told) = tokio::time::timeout(SHORT, source.next()).await {
            return told;
        }
        assert!(Instant::now() < deadline, "nothing came of it");
    }
}

async fn members(log: &MemoryLog) -> usize {
    log.consumers().await.expect("consumers").remove(0).members.len()
}

#[tokio::test(start_paused = true)]
async fn what_hangs_is_given_up_in_its_time() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut source = source(Arc::new(log.clone()));
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        log.hang_next(operation, 1);
        let before = Instant::now();
        let error = driven(&mut source).await.expect_err("no answer");
        assert_eq!(error.kind(), SourceErrorKind::Unavailable, "{operation:?}");
        let waited = before.elapsed();
        assert!((LEASE..LEASE + Duration::from_secs(2)).contains(&waited), "{operation:?}: {waited:?}");
    }
    assert!(matches!(driven(&mut source).await, Ok(SourceEvent::Assigned(partitions)) if partitions.len() == 1));
}

#[tokio::test(start_paused = true)]
async fn what_is_slow_is_asked_once() {
    let log = FaultyLog::new(MemoryLog::default());
    let slow = LEASE / 2;
    for operation in [LogOperation::Identity, LogOperation::Register, LogOperation::Join] {
        // A second question would not be slow.
        log.slow_next(operation, 1, slow);
    }
    let before = Instant::now();
    let mut source = source(Arc::new(log.clone()));
    assert!(matches!(driven(&mut source).await, Ok(SourceEvent::Assigned(partitions)) if partitions.len() == 1));
    let waited = before.elapsed();
    assert!((slow * 3..slow * 3 + Duration::from_secs(1)).contains(&waited), "{waited:?}");
}

#[tokio::test(start_paused = true)]
async fn a_membership_that_nobody_has_come_for_is_kept_and_can_be_given_back() {
    for taken in [false, true] {
        for late in [Duration::ZERO, LEASE * 3] {
            let log = FaultyLog::new(MemoryLog::default());
            log.slow_next(LogOperation::Join, 1, LEASE / 2);
            let mut first = source(Arc::new(log.clone()));
            assert!(tokio::time::timeout(SHORT, first.next()).await.is_err(), "it joins");
            let mut second = source(Arc::new(log.inner().clone()));
            // The first one's answer comes, and its caller is busy.
            assert!(tokio::time::timeout(late, second.next()).await.is_err(), "the lanes are the first one's");
            if taken {
                assigned(&mut first).await;
            }
            first.close().await.expect("close");
            let closed = Instant::now();
            assigned(&mut second).await;
            assert!(closed.elapsed() < Duration::from_secs(2), "with the next poll: {:?}", closed.elapsed());
            assert_eq!(members(log.inner()).await, 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_told_though_the_lanes_are_given_back_slowly() {
    let log = FaultyLog::new(MemoryLog::default());
    apart(log.inner()).await;
    let mut source = source(Arc::new(log.clone()));
    log.slow_next(LogOperation::Leave, usize::MAX, LEASE / 2);
    assert_eq!(driven(&mut source).await.expect_err("two places").kind(), SourceErrorKind::Configuration);
    assert_eq!(members(log.inner()).await, 0);
}

#[tokio::test(start_paused = true)]
async fn who_heard_that_the_log_is_away_hears_that_it_is_back() {
    let log = FaultyLog::new(MemoryLog::default());
    let mut owner = source(Arc::new(log.clone()));
    let partition = started(&mut owner).await;
    assert!(tokio::time::timeout(LEASE, owner.next()).await.is_err(), "there is nothing to read");
    assert_eq!(owner.lag(&partition, None).await.expect("lag"), Some(0));
    log.fail_next(LogOperation::Read, 1, LogErrorKind::Unavailable);
    assert_eq!(owner.next().await.expect_err("on cue").kind(), SourceErrorKind::Unavailable);
    log.fail_next(LogOperation::Progress, 1, LogErrorKind::Unavailable);
    let lag = owner.lag(&partition, None).await.expect_err("nothing is known of what has come since");
    assert_eq!(lag.kind(), SourceErrorKind::Unavailable);
    assert!(hears_nothing_new(&mut owner).await, "there is nothing to read");
    assert!(tokio::time::timeout(LEASE, owner.next()).await.is_err(), "once");

    let mut waiting = source(Arc::new(log.clone()));
    log.fail_next(LogOperation::Join, 1, LogErrorKind::Unavailable);
    assert_eq!(waiting.next().await.expect_err("on cue").kind(), SourceErrorKind::Unavailable);
    assert!(hears_nothing_new(&mut waiting).await, "somebody else has the lanes");
    assert!(tokio::time::timeout(LEASE, waiting.next()).await.is_err(), "once");

    // Whoever lost them may not get others.
    log.fail_next(LogOperation::Renew, 1, LogErrorKind::Fenced);
    log.inner().leave(&fence(&owner)).await.expect("leave");
    assigned(&mut waiting).await;
    assert!(matches!(owner.next().await, Ok(SourceEvent::Revoked(_))));
    assert!(hears_nothing_new(&mut owner).await, "the other has the lanes");
}

/// An assignment without partitions, soon.
async fn hears_nothing_new(source: &mut LogSource) -> bool {
    let told = tokio::time::timeout(LEASE, source.next()).await;
    matches!(told, Ok(Ok(SourceEvent::Assigned(partitions))) if partitions.is_empty())
}

fn fence(source: &LogSource) -> crate::log::Fence {
    let State::Member(member) = &source.state else { panic!("no member") };
    member.lease.fence().clone()
}
