//! A PgBouncer of one test.

use std::{
    env,
    fs::{self, File},
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use sqlx::{Connection as _, PgConnection, postgres::PgConnectOptions};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::{
    locate,
    own_postgres::{User, free_port, tail},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// The first version that keeps track of prepared statements. One before it could be tested for nothing but its
/// failure, which a later one shows too when this is switched off.
const OLDEST: (u32, u32) = (1, 21);

/// A PgBouncer that pools transactions, in front of a PostgreSQL server. Dropped, it is killed.
#[derive(Debug)]
pub struct OwnPgBouncer {
    server: Child,
    port: u16,
    _folder: TempDir,
}

impl OwnPgBouncer {
    /// Starts one that holds at most `server_connections` per database to the server of these options, and keeps track
    /// of up to `prepared` statements a client; 0 switches that off. Its program is that of `OUTBOX_TEST_PGBOUNCER`,
    /// else the one that `scripts/services` provided. The user of the options may change its settings on its console.
    ///
    /// # Panics
    ///
    /// If there is no PgBouncer, it is older than 1.21, or it does not start; the message says what to run, or has the
    /// end of its log.
    pub async fn start(server: &PgConnectOptions, server_connections: u32, prepared: u32) -> Self {
        let program = locate::pgbouncer();
        assert_recent(&program);
        let user = User::for_server();
        let place = if user.is_some() { PathBuf::from("/var/tmp") } else { env::temp_dir() };
        let folder = tempfile::Builder::new().prefix("outbox-own-pgbouncer-").tempdir_in(&place);
        let folder = folder.unwrap_or_else(|error| panic!("cannot create a folder in {}: {error}", place.display()));
        let port = free_port();
        let settings = format!(
            "[databases]\n* = host={} port={} user={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\n\
             unix_socket_dir =\nauth_type = any\npool_mode = transaction\ndefault_pool_size = {server_connections}\n\
             max_client_conn = 200\nignore_startup_parameters = extra_float_digits\n\
             max_prepared_statements = {prepared}\nadmin_users = {}\n",
            server.get_host(),
            server.get_port(),
            server.get_username(),
            server.get_username(),
        );
        let (file, log) = (folder.path().join("pgbouncer.ini"), folder.path().join("log"));
        fs::write(&file, settings).expect("a file in our own folder");
        let mut command = match &user {
            None => Command::new(&program),
            Some(user) => {
                for path in [folder.path(), &file] {
                    chown(path, Some(user.uid), Some(user.gid)).expect("root may give a file away");
                }
                user.command(&program)
            }
        };
        let output = File::create(&log).expect("a file in our own folder");
        command.arg(&file).stdin(Stdio::null()).stdout(output.try_clone().expect("a second handle")).stderr(output);
        let spawned = command.spawn().unwrap_or_else(|error| panic!("cannot start {}: {error}", program.display()));
        let mut own = Self { server: spawned, port, _folder: folder };

        let deadline = Instant::now() + PATIENCE;
        loop {
            let ended = own.server.try_wait().expect("our own child");
            let said = || tail(&fs::read_to_string(&log).unwrap_or_default());
            assert!(ended.is_none(), "PgBouncer ended with {ended:?}:\n{}", said());
            if let Ok(connection) = PgConnection::connect_with(&own.options(server)).await {
                connection.close().await.ok();
                return own;
            }
            assert!(Instant::now() < deadline, "PgBouncer does not answer on port {port}:\n{}", said());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The same database as these options, through it.
    #[must_use]
    pub fn options(&self, server: &PgConnectOptions) -> PgConnectOptions {
        server.clone().host("127.0.0.1").port(self.port)
    }
}

impl Drop for OwnPgBouncer {
    fn drop(&mut self) {
        self.server.kill().and_then(|()| self.server.wait()).ok();
    }
}

fn assert_recent(program: &Path) {
    let ((major, minor), (oldest_major, oldest_minor)) = (version(program), OLDEST);
    assert!(
        (major, minor) >= OLDEST,
        "{} is PgBouncer {major}.{minor}, and this test needs {oldest_major}.{oldest_minor} or later. Run: \
         scripts/services up pgbouncer; and see that OUTBOX_TEST_PGBOUNCER, if it is set, does not name an old one",
        program.display()
    );
}

/// From `PgBouncer 1.18.0`.
fn version(program: &Path) -> (u32, u32) {
    let output = Command::new(program).arg("--version").stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("cannot run {}: {error}", program.display()));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut numbers = said.lines().next().unwrap_or_default().split(['.', ' ']).filter_map(|word| word.parse().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) => (major, minor),
        _ => panic!("{} does not tell its version: {said:?}", program.display()),
    }
}
