//! A relay under way.

use std::{env, sync::Arc, time::Duration};

use outbox_core::{
    publisher::Publisher,
    relay::{Relay, RelayError, RelayStatus},
    retry::{Backoff, RetryPolicy},
};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
};

use crate::shop::Shop;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(2);

/// So many times as many incidents as usual: 1 unless `OUTBOX_TEST_INCIDENTS` says otherwise.
pub(crate) fn persistence() -> u64 {
    env::var("OUTBOX_TEST_INCIDENTS").map_or(1, |times| times.parse().expect("a number"))
}

pub(crate) struct Running {
    stop: oneshot::Sender<()>,
    task: JoinHandle<Result<(), RelayError>>,
    status: watch::Receiver<RelayStatus>,
    publisher: Arc<dyn Publisher>,
}

impl Running {
    /// A relay from the shop's log to this publisher. What is refused is not tried again by itself.
    pub(crate) fn start(shop: &Shop, publisher: impl Publisher + 'static) -> Self {
        let publisher: Arc<dyn Publisher> = Arc::new(publisher);
        let relay = Relay::builder(shop.shared_log(), publisher.clone(), shop.profile.clone())
            .poll(Duration::from_millis(50))
            .backoff(Backoff::new(Duration::from_millis(10), Duration::from_millis(300)))
            .retry(RetryPolicy::never())
            .build();
        let status = relay.status();
        let (sender, told_to_stop) = oneshot::channel::<()>();
        let task = tokio::spawn(async move { relay.run(async { _ = told_to_stop.await }).await });
        Self { stop: sender, task, status, publisher }
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&RelayStatus) -> bool) {
        let waited = tokio::time::timeout(PATIENCE, self.status.wait_for(reached)).await;
        let in_time = matches!(waited, Ok(Ok(_)));
        drop(waited); // it holds the status
        assert!(in_time, "in vain: {what}; status {:?}", *self.status.borrow());
    }

    pub(crate) fn last_error(&self) -> String {
        self.status.borrow().last_error.clone().unwrap_or_default()
    }

    /// Waits until so many more events are published.
    pub(crate) async fn until_published(&mut self, more: u64) {
        let enough = self.status.borrow().published + more;
        self.until(&format!("{more} more are published"), |status| status.published >= enough).await;
    }

    /// Waits until everything that was written is done or set aside.
    pub(crate) async fn until_drained(&mut self, shop: &Shop) {
        let drained = async {
            // Each checkpoint shows as a change of the status.
            while !shop.is_drained().await && self.status.changed().await.is_ok() {}
        };
        let in_time = tokio::time::timeout(PATIENCE, drained).await.is_ok();
        assert!(in_time, "in vain: everything is published; status {:?}", *self.status.borrow());
    }

    /// Stops in good order when everything is published.
    pub(crate) async fn finish(mut self, shop: &Shop) {
        self.until_drained(shop).await;
        drop(self.stop);
        let ended = tokio::time::timeout(PATIENCE, self.task).await;
        ended.expect("stopped in time").expect("no panic").expect("no error");
        assert!(self.publisher.shut_down(PATIENCE).await, "the publisher owes something");
    }
}
