//! A PostgreSQL server of one test, to be stopped and killed.

use std::{
    env,
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{MetadataExt as _, chown},
    path::{Path, PathBuf},
    process::{self, Child, Stdio},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection};
use tempfile::TempDir;
use tokio::{process::Command, time::sleep};
use uuid::Uuid;

use crate::{PostgresVersion, locate::postgres_bin};

/// Followed by the process id of the test program.
const PREFIX: &str = "outbox-own-postgres-";

/// A folder older than this, of a test program that is gone, was left behind.
const STALE: Duration = Duration::from_hours(1);

const PATIENCE: Duration = Duration::from_mins(1);

/// A PostgreSQL server with its own data and port, so that a test can take the database away and bring it back.
///
/// It uses the programs that `scripts/services` found, commits as durably as a server in production, and listens on the
/// same port each time. Dropped, it is killed and its data deleted.
#[derive(Debug)]
pub struct OwnPostgres {
    bin: PathBuf,
    user: Option<User>,
    port: u16,
    server: Option<Child>,
    /// Last, so that the files go after the server has.
    folder: TempDir,
}

impl OwnPostgres {
    /// Creates an empty cluster and starts its server; takes a second or two.
    ///
    /// # Panics
    ///
    /// If the programs are not there or fail.
    pub async fn create(version: PostgresVersion) -> Self {
        let user = User::for_server();
        // User postgres must be able to enter it, which is not sure of TMPDIR.
        let place = if user.is_some() { PathBuf::from("/var/tmp") } else { env::temp_dir() };
        sweep(&place, PREFIX);
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(&place)
            .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", place.display()));
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid)).expect("root may give a folder away");
        }
        let mut own = Self { bin: postgres_bin(version), user, port: free_port(), server: None, folder };
        let data = own.data();
        let mut initdb = own.command("initdb");
        initdb.arg("-D").arg(data).args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"]);
        run(initdb.arg("--no-sync")).await;
        own.start().await;
        own
    }

    /// Its address, as superuser, the same after each start.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// Starts the server and waits until it answers. Does nothing if it runs.
    ///
    /// # Panics
    ///
    /// If it does not start; the message has the end of its log.
    pub async fn start(&mut self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let server =
                self.server.get_or_insert_with(|| spawn(&self.bin, self.user.as_ref(), &self.folder, self.port));
            if let Some(status) = server.try_wait().expect("our own child") {
                self.server = None;
                let log = fs::read_to_string(self.log()).unwrap_or_default();
                // The sessions of a killed server take a moment to notice, and hold its shared memory until then.
                let sessions_left = log.contains("pre-existing shared memory block");
                assert!(sessions_left && Instant::now() < deadline, "PostgreSQL ended with {status}:\n{}", tail(&log));
            } else if let Ok(connection) = PgConnection::connect(&self.url()).await {
                connection.close().await.ok();
                return;
            } else {
                assert!(Instant::now() < deadline, "PostgreSQL does not answer on port {}", self.port);
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the server in good order, without waiting for its clients to leave (a "fast" shutdown). Does nothing if it
    /// does not run.
    ///
    /// # Panics
    ///
    /// If it does not stop.
    pub async fn stop(&mut self) {
        if let Some(mut server) = self.server.take() {
            let data = self.data();
            let mut pg_ctl = self.command("pg_ctl");
            run(pg_ctl.arg("stop").args(["-m", "fast", "-w", "-s", "-D"]).arg(data)).await;
            server.wait().expect("our own child");
        }
    }

    /// Kills the server with SIGKILL, as the kernel does when memory runs out: no goodbye to its clients, no checkpoint.
    /// Does nothing if it does not run.
    ///
    /// # Panics
    ///
    /// If it cannot be killed.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("our own child");
            // Waited for, so that it does not linger as a zombie: the next start would take it for alive and refuse.
            server.wait().expect("our own child");
        }
    }

    /// A server on a copy of the data as they are now, as after restoring a backup; not started yet. Stop this one first.
    ///
    /// # Panics
    ///
    /// If this server runs, or the data cannot be copied.
    pub async fn copy(&self) -> Self {
        assert!(self.server.is_none(), "the files of a running server are no backup");
        let place = self.folder.path().parent().expect("a folder in a folder");
        let folder = tempfile::Builder::new()
            .prefix(&format!("{PREFIX}{}-", process::id()))
            .tempdir_in(place)
            .unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", place.display()));
        let user = User::for_server();
        if let Some(user) = &user {
            chown(folder.path(), Some(user.uid), Some(user.gid)).expect("root may give a folder away");
        }
        run(Command::new("cp").arg("-a").arg(self.data()).arg(folder.path())).await;
        Self { bin: self.bin.clone(), user, port: free_port(), server: None, folder }
    }

    /// Makes the next start that of a standby, which takes no writes until it is promoted.
    ///
    /// # Panics
    ///
    /// If the file cannot be written.
    pub fn as_standby(&self) {
        File::create(self.data().join("standby.signal")).expect("a file in our own folder");
    }

    /// Dumps the database as SQL and restores it into an empty one, with the programs of that one, which must not be
    /// older.
    ///
    /// # Panics
    ///
    /// If one of the programs fails.
    pub async fn dump_into(&self, target: &Self) {
        let mut pg_dump = target.command("pg_dump");
        let dump = pg_dump.arg("--dbname").arg(self.url()).stdin(Stdio::null()).output().await.expect("pg_dump");
        let said = String::from_utf8_lossy(&dump.stderr);
        assert!(dump.status.success(), "pg_dump ended with {}:\n{}", dump.status, tail(&said));
        let script = target.folder.path().join("dump.sql");
        fs::write(&script, dump.stdout).expect("a file in our own folder");
        let mut psql = target.command("psql");
        run(psql.args(["-X", "-q", "-v", "ON_ERROR_STOP=1", "--dbname"]).arg(target.url()).arg("-f").arg(script)).await;
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    fn command(&self, program: &str) -> Command {
        command(&self.bin, self.user.as_ref(), program).into()
    }
}

impl Drop for OwnPostgres {
    fn drop(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().and_then(|()| server.wait()).ok();
        }
    }
}

/// The server, as a child of this process.
fn spawn(bin: &Path, user: Option<&User>, folder: &TempDir, port: u16) -> Child {
    let log = File::create(folder.path().join("log")).expect("a file in our own folder");
    let mut postgres = command(bin, user, "postgres");
    postgres.arg("-D").arg(folder.path().join("data")).args(["-p", &port.to_string()]);
    let settings = [
        "listen_addresses=127.0.0.1",
        "unix_socket_directories=", // a socket's path has a length limit, and nobody would use it
        "logging_collector=off",
        "fsync=on",
        "synchronous_commit=on",
        "wal_level=logical",
        "max_prepared_transactions=64",
        "max_connections=100",
        "shared_buffers=32MB",
    ];
    for setting in settings {
        postgres.args(["-c", setting]);
    }
    postgres
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a second handle"))
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("cannot start {}: {error}", bin.join("postgres").display()))
}

/// A program of PostgreSQL's, run as the user that the server needs. `setpriv` is replaced by the program, so that the
/// child's process id is the server's.
fn command(bin: &Path, user: Option<&User>, program: &str) -> process::Command {
    let program = bin.join(program);
    let mut command = match user {
        None => process::Command::new(program),
        Some(user) => user.command(&program),
    };
    command.env("LC_ALL", "C.UTF-8").current_dir("/");
    command
}

async fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().await;
    let output = output.unwrap_or_else(|error| panic!("cannot run {:?}: {error}", command.as_std()));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?} ended with {}:\n{}", command.as_std(), output.status, tail(&said));
}

/// Whom the server runs as.
#[derive(Debug)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// PostgreSQL refuses to run as root. None: as whoever runs the test. For root: user postgres, who comes with the
    /// distribution's package, else nobody.
    pub(crate) fn for_server() -> Option<Self> {
        // The owner of one's own folder in /proc is the effective user; the standard library has no other way to ask.
        let root = fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
        if !root {
            return None;
        }
        let users = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let find = |name: &str| {
            let mut fields =
                users.lines().map(|line| line.split(':')).find(|line| line.clone().next() == Some(name))?;
            Some(Self { uid: fields.nth(2)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
        };
        Some(find("postgres").or_else(|| find("nobody")).expect("user postgres or nobody in /etc/passwd"))
    }

    /// A program run as this user.
    pub(crate) fn command(&self, program: &Path) -> process::Command {
        let mut command = process::Command::new("setpriv");
        command.args([format!("--reuid={}", self.uid), format!("--regid={}", self.gid)]);
        command.args(["--clear-groups", "--inh-caps=-all", "--"]).arg(program);
        command
    }
}

/// A port nobody listens on, below those that the kernel gives to outgoing connections: while the server is down no
/// client's socket can take it.
pub(crate) fn free_port() -> u16 {
    loop {
        let (_, random, ..) = Uuid::new_v4().as_fields();
        let port = 20_000 + random % 12_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

/// Deletes the folders of test programs that were killed, which have this prefix and a process id in their names. A
/// server of PostgreSQL that still runs there ends by itself: it looks after its lock file once a minute.
pub(crate) fn sweep(place: &Path, prefix: &str) {
    for entry in fs::read_dir(place).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.strip_prefix(prefix)?.split('-').next()) else { continue };
        let age = entry.metadata().and_then(|folder| folder.modified()).ok().and_then(|time| time.elapsed().ok());
        if age.is_some_and(|age| age > STALE) && !Path::new("/proc").join(pid).exists() {
            fs::remove_dir_all(entry.path()).ok(); // another test program may be at it too
        }
    }
}

/// The last lines of a log.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
