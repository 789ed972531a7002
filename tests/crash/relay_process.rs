//! Relays as processes of their own, that tell what they do.

use std::{
    env,
    os::unix::process::ExitStatusExt as _,
    process::{ExitStatus, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
    sync::watch,
    time::timeout,
};

use crate::{
    mortal::Failpoint,
    program::{BROKERS, DATABASE, DIE, STATUS, TOPIC},
    shop::Shop,
};

/// Long enough for a loaded machine; a test that waits this long has failed.
pub(crate) const PATIENCE: Duration = Duration::from_mins(1);

/// A relay process. Dropped, it is killed.
pub(crate) struct RelayProcess {
    child: Child,
    seen: watch::Receiver<Seen>,
}

/// What a relay said of itself last.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) lanes: u64,
    pub(crate) published: u64,
    pub(crate) checkpoints: u64,
    pub(crate) parked: u64,
    pub(crate) blocked_keys: u64,
    /// How often its lease ran out.
    pub(crate) fenced: u64,
    pub(crate) last_error: Option<String>,
}

impl RelayProcess {
    pub(crate) fn start(shop: &Shop) -> Self {
        Self::spawn(shop, &[])
    }

    pub(crate) fn that_dies(shop: &Shop, at: Failpoint) -> Self {
        Self::spawn(shop, &[(DIE, at.name())])
    }

    fn spawn(shop: &Shop, orders: &[(&str, &str)]) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "program::relay", "--nocapture"])
            .env(DATABASE, &shop.database)
            .env(TOPIC, &shop.topic.name)
            .env(BROKERS, &shop.topic.brokers)
            .envs(orders.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("a relay process");
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
            Some(false) => panic!("the relay process ended, and not yet: {what}; it said {:?}", self.seen()),
            None => panic!("in vain: {what}; it said {:?}", self.seen()),
        }
    }

    /// Until it says anything new.
    pub(crate) async fn changed(&mut self) {
        let changed = timeout(PATIENCE, self.seen.changed()).await;
        assert!(matches!(changed, Ok(Ok(()))), "it says nothing new after {:?}: {changed:?}", self.seen());
    }

    /// Waits until it has killed itself.
    pub(crate) async fn dies(mut self) {
        let status = self.ended("the failpoint").await;
        assert_eq!(status.signal(), Some(Signal::KILL.as_raw()), "it did not come to its failpoint: {status}");
    }

    /// Asks it to stop.
    pub(crate) fn terminate(&self) {
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.try_into().ok()?)).expect("it runs");
        kill_process(pid, Signal::TERM).expect("it runs");
    }

    /// Asks it to stop, and returns how long it took to end in good order.
    pub(crate) async fn stops(mut self) -> Duration {
        let asked = Instant::now();
        self.terminate();
        let status = self.ended("its end").await;
        assert_eq!(status.code(), Some(0), "it did not stop in good order: {status}");
        asked.elapsed()
    }

    async fn ended(&mut self, what: &str) -> ExitStatus {
        // `Child::wait` closes its standard input, which would end it.
        let _stdin = self.child.stdin.take();
        let ended = timeout(PATIENCE, self.child.wait()).await.ok();
        let status = ended.unwrap_or_else(|| panic!("in vain: {what}; it said {:?}", self.seen()));
        status.expect("our own child")
    }
}

/// Passes on what a process says, until it ends.
async fn listen(stdout: ChildStdout, seen: watch::Sender<Seen>) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        // The harness of the tests writes there too, and not always whole lines.
        if let Some((_, told)) = line.split_once(STATUS) {
            seen.send_replace(Seen::from(&serde_json::from_str(told).expect("JSON")));
        }
    }
}

impl From<&Value> for Seen {
    fn from(told: &Value) -> Self {
        let number = |name: &str| told[name].as_u64().expect("a number");
        Self {
            lanes: number("lanes"),
            published: number("published"),
            checkpoints: number("checkpoints"),
            parked: number("parked"),
            blocked_keys: number("blocked_keys"),
            fenced: number("fenced"),
            last_error: told["last_error"].as_str().map(str::to_owned),
        }
    }
}
