//! A Kafka broker of one test, to be killed, frozen and cut off.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fs::{self, File},
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::{sleep, timeout},
};

use crate::{
    TcpProxy, frozen, locate,
    nursery::Nursery,
    own_postgres::{free_port, sweep, tail},
};

/// Followed by the process id of the test program.
const PREFIX: &str = "outbox-own-kafka-";

const PATIENCE: Duration = Duration::from_mins(1);

/// An Apache Kafka broker with its own data and ports, so that a test can take it away and bring it back. One node,
/// broker and controller.
///
/// It uses the jars that `scripts/services` fetched, and listens on the same port each time. Topics are created by an
/// administrator only. A killed broker is up again within about two seconds. Dropped, it is killed and its data deleted;
/// it dies with the test program, however that ends.
#[derive(Debug)]
pub struct OwnKafka {
    server: Option<Child>,
    nursery: Nursery,
    ports: Ports,
    libs: PathBuf,
    /// Last, so that the files go after the broker has.
    folder: TempDir,
}

#[derive(Debug, Clone, Copy)]
struct Ports {
    direct: u16,
    controller: u16,
    /// The listener behind the proxy, and where that listens.
    proxied: u16,
    proxy: u16,
}

impl OwnKafka {
    /// Starts a broker without topics; takes two to three seconds. `settings` are those of `server.properties` and
    /// replace the defaults of this helper.
    ///
    /// # Panics
    ///
    /// If the jars or `java` are not there, or the broker does not start.
    pub async fn create(settings: &[(&str, &str)]) -> Self {
        let place = env::temp_dir();
        sweep(&place, PREFIX);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(&place)
            .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", place.display()));
        let (ports, nursery) = (Ports::free(), Nursery::open());
        let mut own = Self { server: None, nursery, ports, libs: locate::kafka_libs(), folder };
        own.configure(settings);
        own.format().await;
        own.start().await;
        own
    }

    /// The bootstrap address, `host:port`, the same after each start.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.ports.direct)
    }

    /// A proxy in front of the broker. Clients that are given its address stay behind it: there the broker advertises the
    /// proxy's address instead of its own. One at a time.
    ///
    /// # Panics
    ///
    /// If there is one already.
    pub async fn proxy(&self) -> TcpProxy {
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        TcpProxy::start_at(at(self.ports.proxy), at(self.ports.proxied)).await
    }

    /// Starts the broker and waits until it serves. Does nothing if it runs.
    ///
    /// # Panics
    ///
    /// If it does not start; the message has the end of its log.
    pub async fn start(&mut self) {
        if self.server.is_none() {
            let mut java = self.java();
            java.arg("kafka.Kafka").arg(self.folder.path().join("server.properties"));
            self.server = Some(self.nursery.start(java));
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.answers(Duration::from_secs(1)).await {
            let ended = self.server.as_mut().and_then(|server| server.try_wait().expect("our own child"));
            assert!(ended.is_none(), "the broker ended with {ended:?}:\n{}", self.said());
            assert!(Instant::now() < deadline, "the broker does not serve:\n{}", self.said());
            sleep(Duration::from_millis(20)).await; // nothing signals that it serves
        }
    }

    /// Whether the broker serves: it answers a request within this time. Its port is open before it does.
    pub async fn answers(&self, within: Duration) -> bool {
        // ApiVersions (key 18), version 0, correlation id 90, no client id. Answered by length, id and error code 0.
        const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 90, 0xff, 0xff];
        let ask = async {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.ports.direct)).await?;
            connection.write_all(&REQUEST).await?;
            let mut answer = [0; 10];
            connection.read_exact(&mut answer).await?;
            io::Result::Ok(answer[4..] == [0, 0, 0, 90, 0, 0])
        };
        matches!(timeout(within, ask).await, Ok(Ok(true)))
    }

    /// Kills the broker with SIGKILL, as the kernel does when memory runs out: no goodbye to its clients, and nothing is
    /// tidied up. Does nothing if it does not run.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("our own child");
            server.wait().expect("our own child");
        }
    }

    /// Stops the broker with SIGSTOP: its connections stay open, and nobody answers until [`thaw`](Self::thaw).
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn freeze(&self) {
        frozen::freeze(self.process());
    }

    /// Lets a frozen broker go on as if nothing had happened, with SIGCONT.
    ///
    /// # Panics
    ///
    /// If it does not run.
    pub fn thaw(&self) {
        frozen::thaw(self.process());
    }

    fn process(&self) -> u32 {
        self.server.as_ref().expect("a broker that runs").id()
    }

    fn configure(&self, settings: &[(&str, &str)]) {
        let Ports { direct, controller, proxied, proxy } = self.ports;
        let data = self.folder.path().join("data");
        let addresses = [
            ("controller.quorum.voters", format!("1@127.0.0.1:{controller}")),
            (
                "listeners",
                format!(
                    "DIRECT://127.0.0.1:{direct},PROXIED://127.0.0.1:{proxied},CONTROLLER://127.0.0.1:{controller}"
                ),
            ),
            ("advertised.listeners", format!("DIRECT://127.0.0.1:{direct},PROXIED://127.0.0.1:{proxy}")),
            ("log.dirs", data.display().to_string()),
        ];
        let mut all: BTreeMap<&str, &str> = DEFAULTS.iter().copied().collect();
        all.extend(addresses.iter().map(|(name, value)| (*name, value.as_str())));
        all.extend(settings.iter().copied());
        let lines: Vec<String> = all.iter().map(|(name, value)| format!("{name}={value}")).collect();
        fs::write(self.folder.path().join("server.properties"), lines.join("\n")).expect("a file in our own folder");
        fs::write(self.folder.path().join("log4j2.properties"), LOGGING).expect("a file in our own folder");
    }

    async fn format(&self) {
        let mut java = self.java();
        java.args(["kafka.tools.StorageTool", "format", "-t", "AAAAAAAAAAAAAAAAAAAAAQ", "-c"]);
        java.arg(self.folder.path().join("server.properties"));
        let status = tokio::process::Command::from(java)
            .status()
            .await
            .unwrap_or_else(|error| panic!("cannot run java: {error}"));
        assert!(status.success(), "formatting ended with {status}:\n{}", self.said());
    }

    /// Java with the broker's jars. The kernel kills it when whoever started it ends.
    fn java(&self) -> Command {
        let log = File::options().create(true).append(true).open(self.log()).expect("a file in our own folder");
        let logging = self.folder.path().join("log4j2.properties");
        let mut java = Command::new("setpriv");
        java.args(["--pdeathsig", "KILL", "--", "java"]);
        // Started often and for little work: a small heap, and the first compiler only.
        java.args(["-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
        let classes = self.libs.join("classes.jsa");
        if classes.is_file() {
            java.arg(format!("-XX:SharedArchiveFile={}", classes.display()));
        }
        java.args(["-Djava.awt.headless=true", "-Dlog4j2.disable.jmx=true"])
            .arg(format!("-Dlog4j2.configurationFile={}", logging.display()))
            .arg(format!("-Dkafka.logs.dir={}", self.folder.path().display()))
            .arg("-cp")
            .arg(self.libs.join("*"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        java
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn said(&self) -> String {
        tail(&fs::read_to_string(self.log()).unwrap_or_default())
    }
}

impl Drop for OwnKafka {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of the broker's log:\n{}", self.said());
        }
        if let Some(mut server) = self.server.take() {
            server.kill().and_then(|()| server.wait()).ok();
        }
    }
}

/// One copy of everything, for there is one node; little to create and to clean. The session is short because a killed
/// broker is let in again only when its former session has ended.
const DEFAULTS: &[(&str, &str)] = &[
    ("process.roles", "broker,controller"),
    ("node.id", "1"),
    ("listener.security.protocol.map", "DIRECT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"),
    ("controller.listener.names", "CONTROLLER"),
    ("inter.broker.listener.name", "DIRECT"),
    ("auto.create.topics.enable", "false"),
    ("default.replication.factor", "1"),
    ("min.insync.replicas", "1"),
    ("offsets.topic.replication.factor", "1"),
    ("offsets.topic.num.partitions", "1"),
    ("transaction.state.log.replication.factor", "1"),
    ("transaction.state.log.min.isr", "1"),
    ("transaction.state.log.num.partitions", "1"),
    ("share.coordinator.state.topic.replication.factor", "1"),
    ("share.coordinator.state.topic.min.isr", "1"),
    ("group.initial.rebalance.delay.ms", "0"),
    ("broker.session.timeout.ms", "1000"),
    ("broker.heartbeat.interval.ms", "250"),
    ("num.network.threads", "2"),
    ("num.io.threads", "2"),
    ("log.cleaner.enable", "false"),
    ("log.index.size.max.bytes", "65536"),
];

const LOGGING: &str = "\
status=error
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=%d{HH:mm:ss.SSS} %p %c{1} %m%n
rootLogger.level=warn
rootLogger.appenderRef.console.ref=console
";

impl Ports {
    fn free() -> Self {
        let mut free = BTreeSet::new();
        while free.len() < 4 {
            free.insert(free_port());
        }
        let mut free = free.into_iter();
        let mut next = || free.next().expect("four ports");
        Self { direct: next(), controller: next(), proxied: next(), proxy: next() }
    }
}
