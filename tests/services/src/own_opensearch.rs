//! An OpenSearch node of one test, to be killed and started again.

use std::{
    env,
    fs::{self, File},
    io,
    net::Ipv4Addr,
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
    locate,
    nursery::Nursery,
    own_postgres::{free_port, sweep, tail},
};

/// Followed by the process id of the test program.
const PREFIX: &str = "outbox-own-opensearch-";

const PATIENCE: Duration = Duration::from_mins(2);

/// An OpenSearch node with its own data and port, so that a test can take it away and bring it back.
///
/// It uses the jars that `scripts/services` fetched, and listens on the same port each time. It is up within three to
/// seven seconds, and takes 500 MB: share it among the cases of a test. Dropped, it is killed and its data deleted; it
/// dies with the test program, however that ends.
#[derive(Debug)]
pub struct OwnOpenSearch {
    server: Option<Child>,
    nursery: Nursery,
    port: u16,
    /// Last, so that the files go after the node has.
    folder: TempDir,
}

impl OwnOpenSearch {
    /// Starts a node without indexes.
    ///
    /// # Panics
    ///
    /// If the jars or `java` are not there, or the node does not start.
    pub async fn create() -> Self {
        let place = env::temp_dir();
        sweep(&place, PREFIX);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(&place)
            .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", place.display()));
        let mut own = Self { server: None, nursery: Nursery::open(), port: free_port(), folder };
        own.start().await;
        own
    }

    /// The address, the same after each start.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Starts the node and waits until it serves. Does nothing if it runs.
    ///
    /// # Panics
    ///
    /// If it does not start; the message has the end of its log.
    pub async fn start(&mut self) {
        if self.server.is_none() {
            self.server = Some(self.nursery.start(self.java()));
        }
        let deadline = Instant::now() + PATIENCE;
        while !self.answers(Duration::from_secs(5)).await {
            let ended = self.server.as_mut().and_then(|server| server.try_wait().expect("our own child"));
            assert!(ended.is_none(), "the node ended with {ended:?}:\n{}", self.said());
            assert!(Instant::now() < deadline, "the node does not serve:\n{}", self.said());
            sleep(Duration::from_millis(50)).await; // nothing signals that it serves
        }
    }

    /// Kills the node with SIGKILL: nothing is flushed and nobody is told. Does nothing if it does not run.
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

    /// Whether the node has a cluster to serve, and all its indexes at hand. Its port is open before.
    async fn answers(&self, within: Duration) -> bool {
        let ask = async {
            let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            let request = "GET /_cluster/health?wait_for_status=yellow&timeout=3s HTTP/1.0\r\nHost: localhost\r\n\r\n";
            connection.write_all(request.as_bytes()).await?;
            let mut answer = [0; 12];
            connection.read_exact(&mut answer).await?;
            io::Result::Ok(answer.ends_with(b" 200"))
        };
        matches!(timeout(within, ask).await, Ok(Ok(true)))
    }

    /// The kernel kills it when whoever started it ends.
    fn java(&self) -> Command {
        let libs = locate::opensearch_libs();
        let temporary = self.folder.path().join("tmp");
        fs::create_dir_all(&temporary).expect("a folder in our own folder");
        let log = File::options().create(true).append(true).open(self.log()).expect("a file in our own folder");
        let mut java = Command::new("setpriv");
        java.args(["--pdeathsig", "KILL", "--", "java"]);
        // As `scripts/services` starts it, with a smaller heap.
        java.args(["-Xms256m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"])
            .args(["-Dio.netty.noUnsafe=true", "-Dio.netty.noKeySetOptimization=true"])
            .args(["-Dio.netty.recycler.maxCapacityPerThread=0", "-Dio.netty.allocator.numDirectArenas=0"])
            .args(["-Dlog4j.shutdownHookEnabled=false", "-Dlog4j2.disable.jmx=true"])
            .arg(format!("-Djava.io.tmpdir={}", temporary.display()))
            .arg("-cp")
            .arg(format!("{0}/classes:{0}/*", libs.display()))
            .arg("OsNode")
            .arg(self.folder.path())
            .arg(self.port.to_string())
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

impl Drop for OwnOpenSearch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the end of the node's log:\n{}", self.said());
        }
        if let Some(mut server) = self.server.take() {
            server.kill().and_then(|()| server.wait()).ok();
        }
    }
}
