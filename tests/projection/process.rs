//! Projectors as processes of their own, that tell what they do.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    PATIENCE,
    model::Kind,
    mortal::Failpoint,
    program::{ORDERS, Orders, STATUS, Seen},
    shop::{Feed, Shop},
};

/// A projector process. Dropped, it is killed.
pub(crate) struct ProjectorProcess {
    child: Child,
    seen: watch::Receiver<Seen>,
}

impl ProjectorProcess {
    pub(crate) fn start(shop: &Shop, kind: Kind) -> Self {
        Self::spawn(&orders(shop, kind))
    }

    /// Each of its events takes up to so long.
    pub(crate) fn slow(shop: &Shop, kind: Kind, takes: Duration) -> Self {
        Self::spawn(&Orders { takes, ..orders(shop, kind) })
    }

    pub(crate) fn that_dies(shop: &Shop, kind: Kind, at: Failpoint) -> Self {
        Self::spawn(&Orders { die: Some(at.name().to_owned()), ..orders(shop, kind) })
    }

    fn spawn(orders: &Orders) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "program::projector", "--nocapture"])
            .env(ORDERS, serde_json::to_string(orders).expect("JSON"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a projector process");
        let (sender, seen) = watch::channel(Seen::default());
        tokio::spawn(listen(child.stdout.take().expect("stdout"), sender));
        Self { child, seen }
    }

    pub(crate) fn seen(&self) -> Seen {
        self.seen.borrow().clone()
    }

    pub(crate) async fn until(&mut self, what: &str, reached: impl FnMut(&Seen) -> bool) {
        let reached = timeout(PATIENCE, self.seen.wait_for(reached)).await.ok().map(|reached| reached.is_ok());
        match reached {
            Some(true) => {}
            Some(false) => panic!("the projector process ended, and not yet: {what}; it said {:?}", self.seen()),
            None => panic!("in vain: {what}; it said {:?}", self.seen()),
        }
    }

    /// Waits until it has killed itself.
    pub(crate) async fn dies(mut self) {
        let status = self.ended("the failpoint").await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it did not come to its failpoint: {status}");
    }

    /// Kills it.
    pub(crate) async fn killed(mut self) {
        self.child.kill().await.expect("it runs");
    }

    /// Asks it to stop, and waits until it has, in good order.
    pub(crate) async fn stops(mut self) -> Seen {
        let pid = self.id().try_into().ok().and_then(Pid::from_raw).expect("the id of a process");
        kill_process(pid, Signal::TERM).expect("it runs");
        let status = self.ended("its end").await;
        assert_eq!(status.code(), Some(0), "it did not stop in good order: {status}");
        self.seen()
    }

    /// With SIGSTOP: its connections stay open, and it does nothing until [`ProjectorProcess::wakes`].
    pub(crate) fn freezes(&self) {
        test_services::freeze(self.id());
    }

    pub(crate) fn wakes(&self) {
        test_services::thaw(self.id());
    }

    fn id(&self) -> u32 {
        self.child.id().expect("it runs")
    }

    async fn ended(&mut self, what: &str) -> ExitStatus {
        // `Child::wait` closes its standard input, which would end it.
        let _stdin = self.child.stdin.take();
        let ended = timeout(PATIENCE, self.child.wait()).await.ok();
        let status = ended.unwrap_or_else(|| panic!("in vain: {what}; it said {:?}", self.seen()));
        status.expect("our own child")
    }
}

fn orders(shop: &Shop, kind: Kind) -> Orders {
    Orders {
        database: shop.database.url().to_owned(),
        brokers: shop.brokers.clone(),
        topic: (shop.feed == Feed::Kafka).then(|| shop.topic.clone()),
        letters: shop.letters.clone(),
        group: shop.group.clone(),
        kind: kind.name().to_owned(),
        die: None,
        takes: Duration::ZERO,
    }
}

/// Passes on what a process says, until it ends.
async fn listen(stdout: ChildStdout, seen: watch::Sender<Seen>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The harness of the tests writes there too, and not always whole lines.
        if let Some((_, told)) = line.split_once(STATUS) {
            seen.send_replace(serde_json::from_str(told).expect("JSON"));
        }
    }
}
