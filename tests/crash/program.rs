//! The program of a relay process: this test program, started with a relay's orders in its environment.

use std::{
    env,
    io::{Read as _, Write as _},
    process,
    sync::Arc,
    time::Duration,
};

use outbox_core::{
    publisher::Publisher as _,
    relay::{Relay, RelayStatus},
    retry::{Backoff, RetryPolicy},
};
use outbox_kafka::KafkaPublisher;
use serde_json::json;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use crate::{
    mortal::{Failpoint, Fuse, MortalLog, MortalPublisher},
    store::{Store, profile_to},
};

pub(crate) const DATABASE: &str = "OUTBOX_CRASH_DATABASE";
pub(crate) const TOPIC: &str = "OUTBOX_CRASH_TOPIC";
pub(crate) const BROKERS: &str = "OUTBOX_CRASH_BROKERS";
/// The name of a failpoint, or nothing.
pub(crate) const DIE: &str = "OUTBOX_CRASH_DIE";

/// Before each line that tells of the relay's status.
pub(crate) const STATUS: &str = "relay-status ";

/// Long enough that a busy machine does not miss a renewal, short enough to wait for.
const LEASE: Duration = Duration::from_secs(2);
/// In milliseconds. Messages wait in the producer for so long, and a process that dies takes them along.
const LINGER: &str = "200";
/// Events read and not yet covered by a recorded checkpoint, but for one page more.
const WINDOW: usize = 100;
const BATCH: usize = 20;
/// What a relay that dies can have published and not recorded.
pub(crate) const MOST_REPEATED: usize = WINDOW - 1 + BATCH;
pub(crate) const STOP_WITHIN: Duration = Duration::from_secs(5);

/// Not a test by itself: the program.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn relay() {
    let (Ok(database), Ok(topic), Ok(brokers)) = (env::var(DATABASE), env::var(TOPIC), env::var(BROKERS)) else {
        return;
    };
    end_with_the_test();
    let mut terminated = signal(SignalKind::terminate()).expect("handler");
    let profile = profile_to(&topic);
    let store = Store::connect(&database, profile.clone()).await;
    let die_at = env::var(DIE).ok().map(|name| Failpoint::named(&name).expect("a failpoint"));
    let fuse = Fuse::at(die_at);
    let publisher = KafkaPublisher::builder(brokers).setting("linger.ms", LINGER).build().expect("publisher");
    let publisher = Arc::new(MortalPublisher::new(publisher, fuse.clone()));
    let relay = Relay::builder(Arc::new(MortalLog::new(store.log(), fuse)), publisher.clone(), profile)
        .lease(LEASE)
        .poll(Duration::from_millis(50))
        .batch(BATCH)
        .window(WINDOW)
        .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(300)))
        // A topic that was just made to take an event may refuse it once more.
        .retry(RetryPolicy::new(100, Backoff::new(Duration::from_millis(100), Duration::from_secs(1))))
        .stop_within(STOP_WITHIN)
        .build();
    let telling = tokio::spawn(tell(relay.status()));
    let shutdown = async { _ = terminated.recv().await };
    relay.run(shutdown).await.expect("a relay that waits for whatever is away");
    telling.abort();
    publisher.shut_down(Duration::from_secs(1)).await;
}

/// A test that is itself killed leaves no relay behind: its end of the pipe goes with it.
fn end_with_the_test() {
    std::thread::spawn(|| {
        _ = std::io::stdin().read(&mut [0]);
        process::exit(1);
    });
}

async fn tell(mut status: watch::Receiver<RelayStatus>) {
    loop {
        let line = line(&status.borrow_and_update());
        // One write, so that no other line gets in between.
        std::io::stdout().write_all(line.as_bytes()).expect("the test listens");
        if status.changed().await.is_err() {
            return;
        }
    }
}

fn line(status: &RelayStatus) -> String {
    let told = json!({
        "lanes": status.lanes.len(),
        "published": status.published,
        "checkpoints": status.checkpoints,
        "parked": status.parked,
        "blocked_keys": status.blocked_keys,
        "fenced": status.fenced,
        "last_error": status.last_error,
    });
    format!("{STATUS}{told}\n")
}
