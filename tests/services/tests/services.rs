//! The helper itself, on real services.

use std::time::Duration;

use sqlx::{Connection as _, PgConnection};
use test_services::{
    OwnKafka, OwnPostgres, PostgresVersion, TcpProxy, TestDatabase, kafka_bootstrap, opensearch_url, unique,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

#[tokio::test]
async fn each_database_is_new_and_can_be_dropped() {
    for version in PostgresVersion::ALL {
        let (one, other) = tokio::join!(TestDatabase::create(version), TestDatabase::create(version));
        assert_ne!(one.name(), other.name());
        sqlx::query("CREATE TABLE t (a int)").execute(one.pool()).await.expect("create");
        assert!(sqlx::query("SELECT a FROM t").fetch_all(other.pool()).await.is_err(), "not shared");

        // The two things that a plain DROP DATABASE would stumble over: a session and a prepared transaction.
        let second = one.connect(1).await;
        sqlx::raw_sql("BEGIN; INSERT INTO t VALUES (1); PREPARE TRANSACTION 'it''s'")
            .execute(&second)
            .await
            .expect("2PC");
        let url = one.url().to_owned();
        one.drop_database().await;
        assert!(PgConnection::connect(&url).await.is_err(), "dropped");
        other.drop_database().await;
    }
}

#[tokio::test]
async fn a_server_of_its_own_stops_starts_and_is_killed() {
    for version in PostgresVersion::ALL {
        let mut server = OwnPostgres::create(version).await;
        let mut connection = PgConnection::connect(&server.url()).await.expect("connect");
        sqlx::raw_sql("CREATE TABLE t AS SELECT 1 AS a").execute(&mut connection).await.expect("create");

        server.kill();
        // Its sessions are processes of their own, which notice a moment later.
        let died = async { while connection.ping().await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), died).await.expect("the session dies with the server");
        assert!(PgConnection::connect(&server.url()).await.is_err(), "killed");
        server.start().await;
        server.stop().await;
        assert!(PgConnection::connect(&server.url()).await.is_err(), "stopped");
        server.start().await;

        let mut connection = PgConnection::connect(&server.url()).await.expect("connect again");
        let kept: i32 = sqlx::query_scalar("SELECT a FROM t").fetch_one(&mut connection).await.expect("select");
        assert_eq!(kept, 1);
    }
}

#[tokio::test]
async fn a_proxy_cuts_and_restores() {
    let echo = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let target = echo.local_addr().expect("address");
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = echo.accept().await {
            tokio::spawn(async move {
                let (mut reader, mut writer) = socket.split();
                tokio::io::copy(&mut reader, &mut writer).await.ok();
            });
        }
    });
    let proxy = TcpProxy::start(target).await;
    let mut before = TcpStream::connect(proxy.addr()).await.expect("connect");
    assert!(echoes(&mut before).await, "carries both ways");

    proxy.cut();
    proxy.restore(); // at once: the connection must notice all the same
    assert!(!echoes(&mut before).await, "cut");
    let mut after = TcpStream::connect(proxy.addr()).await.expect("connect");
    assert!(echoes(&mut after).await, "restored");

    proxy.cut();
    let mut during = TcpStream::connect(proxy.addr()).await.expect("the port stays open");
    assert!(!echoes(&mut during).await, "closed at once");
}

/// Does what is written come back? No when the connection is closed; hanging is a failure of the test.
async fn echoes(stream: &mut TcpStream) -> bool {
    let mut byte = [0];
    let echo = async { stream.write_all(b"x").await.is_ok() && stream.read_exact(&mut byte).await.is_ok() };
    tokio::time::timeout(Duration::from_secs(10), echo).await.expect("neither an answer nor the end of the connection")
}

#[tokio::test]
async fn a_proxy_cuts_in_the_middle_of_what_is_sent() {
    let target = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let proxy = TcpProxy::start(target.local_addr().expect("address")).await;
    proxy.cut_after(10);
    for (sent, arrives) in [(6, 6), (6, 4), (6, 6)] {
        let mut client = TcpStream::connect(proxy.addr()).await.expect("connect");
        client.write_all(&vec![b'x'; sent]).await.expect("write");
        client.shutdown().await.ok();
        let (mut server, _) = target.accept().await.expect("the other end");
        let mut arrived = Vec::new();
        server.read_to_end(&mut arrived).await.ok();
        assert_eq!(arrived.len(), arrives);
    }
    assert_eq!(proxy.cuts(), 1);
}

#[tokio::test]
async fn a_broker_of_its_own_is_killed_frozen_and_cut_off() {
    const SOON: Duration = Duration::from_secs(10);
    let mut kafka = OwnKafka::create(&[]).await;
    let proxy = kafka.proxy().await;
    assert_ne!(proxy.addr().to_string(), kafka.bootstrap());
    let mut through = TcpStream::connect(proxy.addr()).await.expect("connect");
    proxy.cut();
    assert_eq!(through.read(&mut [0]).await.ok().unwrap_or(0), 0, "cut off");
    assert!(kafka.answers(SOON).await, "but alive");

    kafka.freeze();
    assert!(!kafka.answers(Duration::from_millis(300)).await, "frozen");
    kafka.thaw();
    assert!(kafka.answers(SOON).await, "thawed");
    kafka.kill();
    assert!(TcpStream::connect(kafka.bootstrap()).await.is_err(), "killed");
    kafka.start().await;
    assert!(kafka.answers(SOON).await, "started again");
}

#[tokio::test]
async fn kafka_and_opensearch_are_found() {
    for address in [kafka_bootstrap().await, opensearch_url().await] {
        let address = address.trim_start_matches("http://").to_owned();
        TcpStream::connect(&address).await.expect("connect");
    }
}

#[test]
fn names_differ() {
    assert_ne!(unique("orders"), unique("orders"));
    assert!(unique("orders.v1").starts_with("orders.v1-"));
}

#[test]
#[should_panic(expected = "cannot begin the name")]
fn names_that_opensearch_would_refuse_are_refused() {
    let _ = unique("Orders");
}
