//! Where a service is: environment variable, the file of `scripts/services`, container.

use std::{
    env, fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};

use crate::PostgresVersion;

/// A service that tests share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Service {
    Postgres(PostgresVersion),
    Kafka,
    OpenSearch,
}

impl Service {
    /// The variable with its address, in the environment or in the file.
    fn variable(self) -> &'static str {
        match self {
            Self::Postgres(PostgresVersion::V15) => "OUTBOX_TEST_POSTGRES_15_URL",
            Self::Postgres(PostgresVersion::V18) => "OUTBOX_TEST_POSTGRES_18_URL",
            Self::Kafka => "OUTBOX_TEST_KAFKA_BOOTSTRAP",
            Self::OpenSearch => "OUTBOX_TEST_OPENSEARCH_URL",
        }
    }

    /// What `scripts/services` calls it.
    fn name(self) -> &'static str {
        match self {
            Self::Postgres(PostgresVersion::V15) => "postgres15",
            Self::Postgres(PostgresVersion::V18) => "postgres18",
            Self::Kafka => "kafka",
            Self::OpenSearch => "opensearch",
        }
    }
}

/// The address of a service that answers, or a panic that says what to do.
pub(crate) async fn address(service: Service) -> String {
    let (variable, name) = (service.variable(), service.name());
    if let Some(address) = environment(variable) {
        return address; // the user's word; if it is wrong, the test's own error says so best
    }
    let file = environment_file();
    let missing = match recorded(&file, variable) {
        Some(address) if answers(&address).await => return address,
        Some(address) => format!("{} names {address}, where nothing answers", file.display()),
        None => format!("{variable} is neither set nor in {}", file.display()),
    };
    #[cfg(feature = "containers")]
    let missing = match crate::containers::address(service).await {
        Ok(address) => return address,
        Err(error) => format!("{missing}, and no container: {error}"),
    };
    panic!("no {name} for this test: {missing}. Run: scripts/services up {name}");
}

/// The folder with the server programs of a PostgreSQL version.
pub(crate) fn postgres_bin(version: PostgresVersion) -> PathBuf {
    let (variable, name) = match version {
        PostgresVersion::V15 => ("OUTBOX_TEST_POSTGRES_15_BIN", "postgres15"),
        PostgresVersion::V18 => ("OUTBOX_TEST_POSTGRES_18_BIN", "postgres18"),
    };
    let file = environment_file();
    let Some(bin) = environment(variable).or_else(|| recorded(&file, variable)) else {
        panic!(
            "this test starts a PostgreSQL server of its own, and {variable}, the folder with the programs `initdb` \
             and `postgres`, is neither set nor in {}. Run: scripts/services up {name}",
            file.display()
        )
    };
    PathBuf::from(bin)
}

/// The folder with the jars of a Kafka broker.
pub(crate) fn kafka_libs() -> PathBuf {
    libs("OUTBOX_TEST_KAFKA_LIBS", "a Kafka broker", "kafka")
}

/// The folder with the jars of an OpenSearch node, and in `classes` its main class.
pub(crate) fn opensearch_libs() -> PathBuf {
    libs("OUTBOX_TEST_OPENSEARCH_LIBS", "an OpenSearch node", "opensearch")
}

fn libs(variable: &str, what: &str, name: &str) -> PathBuf {
    let file = environment_file();
    let Some(libs) = environment(variable).or_else(|| recorded(&file, variable)) else {
        panic!(
            "this test starts {what} of its own, and {variable}, the folder with its jars, is neither set nor in {}. Run: \
             scripts/services up {name}",
            file.display()
        )
    };
    PathBuf::from(libs)
}

/// The program of PgBouncer.
pub(crate) fn pgbouncer() -> PathBuf {
    program("OUTBOX_TEST_PGBOUNCER", "this test starts a PgBouncer of its own", "pgbouncer")
}

/// The program of a Python that has the packages of `scripts/services.d/python`.
pub(crate) fn python() -> PathBuf {
    program("OUTBOX_TEST_PYTHON", "this test runs a consumer in Python", "python")
}

fn program(variable: &str, why: &str, name: &str) -> PathBuf {
    let file = environment_file();
    let Some(program) = environment(variable).or_else(|| recorded(&file, variable)) else {
        panic!(
            "{why}, and {variable}, the program, is neither set nor in {}. Run: scripts/services up {name}",
            file.display()
        )
    };
    PathBuf::from(program)
}

fn environment(variable: &str) -> Option<String> {
    env::var(variable).ok().filter(|value| !value.is_empty())
}

/// `services/env` in cargo's target folder. As in `scripts/services`, a relative `CARGO_TARGET_DIR` counts from the root
/// of the repository.
fn environment_file() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let root = package
        .ancestors()
        .find(|folder| folder.join("Cargo.lock").is_file())
        .unwrap_or_else(|| panic!("no folder above {} has a Cargo.lock", package.display()));
    let target = env::var_os("CARGO_TARGET_DIR").filter(|value| !value.is_empty()).unwrap_or_else(|| "target".into());
    root.join(target).join("services").join("env")
}

/// Read each time: services may be started again, on other ports, while a test program runs.
fn recorded(file: &Path, variable: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let value = text.lines().find_map(|line| line.strip_prefix(variable)?.strip_prefix('='))?;
    Some(value.to_owned())
}

/// Does anyone accept connections there? The file outlives the services, for instance after a restart of the machine.
async fn answers(address: &str) -> bool {
    let connect = TcpStream::connect(authority(address));
    matches!(timeout(Duration::from_secs(5), connect).await, Ok(Ok(_)))
}

/// `host:port` of a URL or of a plain address.
fn authority(address: &str) -> &str {
    let rest = address.split_once("://").map_or(address, |(_, rest)| rest);
    let rest = rest.split_once('/').map_or(rest, |(authority, _)| authority);
    rest.rsplit_once('@').map_or(rest, |(_, host)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn authority_of_each_kind_of_address() {
        assert_eq!(authority("127.0.0.1:9092"), "127.0.0.1:9092");
        assert_eq!(authority("http://127.0.0.1:9200"), "127.0.0.1:9200");
        assert_eq!(authority("postgres://u:p@127.0.0.1:5432/postgres?a=b"), "127.0.0.1:5432");
    }

    #[test]
    fn a_variable_is_found_by_its_whole_name() {
        let file = tempfile::NamedTempFile::new().expect("temporary file");
        fs::write(file.path(), "A_URL=1\nA=x=y\n").expect("write");
        assert_eq!(recorded(file.path(), "A").as_deref(), Some("x=y"));
        assert_eq!(recorded(file.path(), "URL"), None);
        assert_eq!(recorded(Path::new("/nowhere"), "A"), None);
    }
}
