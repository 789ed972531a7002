//! The services as containers, for machines with a Docker engine. Compiled and linted, never run: see the crate's docs.
//!
//! Whether an engine is there is asked by starting a container, not by looking for a `docker` program: a client without
//! an engine is common. Containers are marked for reuse, so that the many test programs of one run, and later runs, share
//! them as they share local processes; `docker rm -f outbox-test-kafka` and so on removes them.

use std::{future::Future, time::Duration};

use testcontainers::{
    ContainerAsync, ContainerRequest, GenericImage, ImageExt, ReuseDirective, TestcontainersError,
    core::{IntoContainerPort as _, WaitFor},
    runners::AsyncRunner as _,
};
use tokio::sync::OnceCell;

use crate::{PostgresVersion, locate::Service};

/// A broker tells its clients where to reach it, so the port on the host is fixed before it starts.
const KAFKA_PORT: u16 = 19_392;

/// A started container and how to reach it.
type Running = Result<(ContainerAsync<GenericImage>, String), TestcontainersError>;

/// The address of a service in a container, started if need be; the error if no engine answers.
pub(crate) async fn address(service: Service) -> Result<String, TestcontainersError> {
    // Kept for the life of the process: a container handle that is dropped removes its container.
    static POSTGRES_15: Started = OnceCell::const_new();
    static POSTGRES_18: Started = OnceCell::const_new();
    static KAFKA: Started = OnceCell::const_new();
    static OPENSEARCH: Started = OnceCell::const_new();
    match service {
        Service::Postgres(PostgresVersion::V15) => once(&POSTGRES_15, postgres("15")).await,
        Service::Postgres(PostgresVersion::V18) => once(&POSTGRES_18, postgres("18")).await,
        Service::Kafka => once(&KAFKA, kafka()).await,
        Service::OpenSearch => once(&OPENSEARCH, opensearch()).await,
    }
}

type Started = OnceCell<(ContainerAsync<GenericImage>, String)>;

async fn once(cell: &Started, start: impl Future<Output = Running>) -> Result<String, TestcontainersError> {
    cell.get_or_try_init(|| start).await.map(|(_, address)| address.clone())
}

async fn postgres(version: &str) -> Running {
    let image = GenericImage::new("postgres", version)
        .with_exposed_port(5432.tcp())
        // Printed twice: by the server that the image starts to set itself up, then by the real one.
        .with_wait_for(WaitFor::message_on_stdout("PostgreSQL init process complete"))
        .with_wait_for(WaitFor::message_on_stderr("listening on IPv4 address"))
        .with_env_var("POSTGRES_HOST_AUTH_METHOD", "trust")
        .with_cmd(["-c", "max_connections=300", "-c", "wal_level=logical", "-c", "max_prepared_transactions=64"]);
    let container = shared(image, &format!("outbox-test-postgres{version}")).start().await?;
    let (host, port) = (container.get_host().await?, container.get_host_port_ipv4(5432).await?);
    Ok((container, format!("postgres://postgres@{host}:{port}/postgres")))
}

async fn kafka() -> Running {
    let advertised = format!("PLAINTEXT://127.0.0.1:{KAFKA_PORT}");
    // The first variable replaces the image's whole configuration, so all of it is here.
    let settings = [
        ("KAFKA_NODE_ID", "1"),
        ("KAFKA_PROCESS_ROLES", "broker,controller"),
        ("KAFKA_CONTROLLER_QUORUM_VOTERS", "1@localhost:9093"),
        ("KAFKA_LISTENERS", "PLAINTEXT://:9092,CONTROLLER://:9093"),
        ("KAFKA_ADVERTISED_LISTENERS", &advertised),
        ("KAFKA_LISTENER_SECURITY_PROTOCOL_MAP", "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT"),
        ("KAFKA_CONTROLLER_LISTENER_NAMES", "CONTROLLER"),
        ("KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR", "1"),
        ("KAFKA_TRANSACTION_STATE_LOG_MIN_ISR", "1"),
        ("KAFKA_SHARE_COORDINATOR_STATE_TOPIC_REPLICATION_FACTOR", "1"),
        ("KAFKA_SHARE_COORDINATOR_STATE_TOPIC_MIN_ISR", "1"),
        ("KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS", "0"),
    ];
    let mut image = GenericImage::new("apache/kafka", "4.4.0")
        .with_wait_for(WaitFor::message_on_stdout("Kafka Server started"))
        .with_mapped_port(KAFKA_PORT, 9092.tcp());
    for (name, value) in settings {
        image = image.with_env_var(name, value);
    }
    let container = shared(image, "outbox-test-kafka").start().await?;
    Ok((container, format!("127.0.0.1:{KAFKA_PORT}")))
}

async fn opensearch() -> Running {
    let image = GenericImage::new("opensearchproject/opensearch", "2")
        .with_exposed_port(9200.tcp())
        .with_wait_for(WaitFor::message_on_stdout("] started"))
        .with_env_var("discovery.type", "single-node")
        .with_env_var("DISABLE_SECURITY_PLUGIN", "true")
        .with_env_var("DISABLE_INSTALL_DEMO_CONFIG", "true")
        .with_env_var("OPENSEARCH_JAVA_OPTS", "-Xms512m -Xmx512m");
    let container = shared(image, "outbox-test-opensearch").start().await?;
    let (host, port) = (container.get_host().await?, container.get_host_port_ipv4(9200).await?);
    Ok((container, format!("http://{host}:{port}")))
}

/// A container that outlives this process and is found by the next one.
fn shared(image: ContainerRequest<GenericImage>, name: &str) -> ContainerRequest<GenericImage> {
    image.with_container_name(name).with_reuse(ReuseDirective::Always).with_startup_timeout(Duration::from_mins(5))
}
