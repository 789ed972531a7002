//! What the gauges say, in which an outage must not look like a read model that is up to date.

use std::{sync::Arc, time::Duration};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use outbox_core::{
    memory::MemoryProjection,
    source::{SourceErrorKind, SourceEvent},
};
use outbox_projector::{PartitionState, Projector, ProjectorBuilder, ProjectorErrorKind, ProjectorStatus};

use super::scripted::{Lag, Scripted, Store, partition, scripted};
use crate::support::Running;

const EVERY: Duration = Duration::from_secs(5);

fn projector(source: Scripted) -> ProjectorBuilder {
    Projector::builder(source, Arc::new(Store::of(MemoryProjection::new("model")))).lag_every(EVERY)
}

#[tokio::test(start_paused = true)]
async fn a_lag_that_is_not_known_is_no_number() {
    let recorder = DebuggingRecorder::new();
    let shown = recorder.snapshotter();
    // The runner's task has this thread too.
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (script, source) = scripted(1, Lag::Is(3));
    let mut running = Running::start(projector(source));
    running.until("known", |status| status.lag() == Some(3)).await;
    assert_eq!(both(&shown)[0], Some(3.0));
    script.set_lag(Lag::Fails);
    running.until("not known", |status| status.lag().is_none()).await;
    let all = shown.snapshot().into_vec();
    let value = |name: &str| all.iter().find(|(key, ..)| key.key().name() == name).map(|(.., value)| value);
    assert!(matches!(value("outbox_projector_lag_errors_total"), Some(DebugValue::Counter(n)) if *n >= 1));
    assert!(matches!(value("outbox_projector_lag_records"), Some(DebugValue::Gauge(lag)) if lag.is_nan()));

    script.set_lag(Lag::Is(0));
    running.until("known again", |status| status.lag() == Some(0)).await;
    assert_eq!(both(&shown), [Some(0.0); 2]);
    running.stop().await.expect("run");
}

#[tokio::test(start_paused = true)]
async fn who_reads_nothing_lags_with_nothing_only_while_the_source_works() {
    let recorder = DebuggingRecorder::new();
    let shown = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let (script, source) = scripted(0, Lag::Is(3));
    let mut running = Running::start(projector(source));
    let is_away = |status: &ProjectorStatus| status.source_error.is_some();
    tokio::task::yield_now().await;
    assert_eq!(both(&shown), [Some(0.0); 2], "nothing is known to be wrong");

    script.fail(SourceErrorKind::Unavailable);
    running.until("away", is_away).await;
    assert_eq!(both(&shown), [None; 2]);
    script.say(SourceEvent::Assigned(Vec::new()));
    running.until("back", |status| !is_away(status)).await;
    assert_eq!(both(&shown), [Some(0.0); 2], "others have the partitions");

    script.say(SourceEvent::Assigned(vec![partition(0)]));
    running.until("assigned", |status| !status.partitions.is_empty()).await;
    assert_eq!(both(&shown), [None; 2], "nobody has asked yet");
    running.until("known", |status| status.lag() == Some(3)).await;
    assert_eq!(both(&shown)[0], Some(3.0));

    script.say(SourceEvent::Revoked(vec![partition(0)]));
    running.until("revoked", |s| s.partitions[&partition(0)].state == PartitionState::Revoked).await;
    assert_eq!(both(&shown), [None; 2], "perhaps because nothing can be reached");
    script.fail(SourceErrorKind::Unavailable);
    running.until("away", is_away).await;
    assert_eq!(both(&shown), [None; 2]);
    script.say(SourceEvent::Assigned(Vec::new()));
    running.until("back", |status| !is_away(status)).await;
    assert_eq!(both(&shown), [Some(0.0); 2], "others have them now");
    running.stop().await.expect("run");
}

#[tokio::test(start_paused = true)]
async fn an_end_in_peace_leaves_nothing_to_alert_on_and_another_does() {
    let recorder = DebuggingRecorder::new();
    let shown = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    for (peace, left) in [(true, Some(0.0)), (false, None)] {
        let (script, source) = scripted(1, Lag::Is(3));
        let mut running = Running::start(projector(source));
        running.until("known", |status| status.lag() == Some(3)).await;
        if peace {
            running.stop().await.expect("run");
        } else {
            script.fail(SourceErrorKind::Configuration);
            assert_eq!(running.end().await.expect_err("it lasts").kind(), ProjectorErrorKind::Source);
        }
        assert_eq!(both(&shown), [left; 2]);
    }
    let (_script, source) = scripted(1, Lag::Is(3));
    let mut running = Running::start(projector(source));
    running.until("known", |status| status.lag() == Some(3)).await;
    running.crash().await;
    assert_eq!(both(&shown), [None; 2], "nobody said that it is to end");
}

/// Records and seconds; `None`: no number.
fn both(shown: &Snapshotter) -> [Option<f64>; 2] {
    let all = shown.snapshot().into_vec();
    ["outbox_projector_lag_records", "outbox_projector_lag_seconds"].map(|name| {
        let found = all.iter().find(|(key, ..)| key.key().name() == name);
        let Some((.., DebugValue::Gauge(value))) = found else { panic!("no gauge {name}") };
        // A snapshot takes the values away, and 0 is what a gauge without one shows.
        metrics::gauge!(name, "projection" => "model").set(value.into_inner());
        Some(value.into_inner()).filter(|value| !value.is_nan())
    })
}
