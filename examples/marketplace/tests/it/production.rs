//! The same program on PostgreSQL, Kafka and OpenSearch.

use std::time::Duration;

use outbox_core::{event::NewEvent, outbox::Outbox as _};
use outbox_sqlx::PostgresLog;
use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};
use test_services::{PostgresVersion, TcpProxy, TestDatabase, kafka_bootstrap, opensearch_url, unique};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

use super::{
    events::nonsense,
    letters::{said, whole},
    program::{DEADLINE, Program, ada, command, refusal},
};

const TOKEN: &str = "a-token-for-tests-only";

/// Names of its own in every service.
async fn production(database: &str) -> Command {
    let mut command = command(&["--shape", "production"]);
    command
        .env("MARKETPLACE_ADMIN_TOKEN", TOKEN)
        .env("MARKETPLACE_DATABASE_URL", database)
        .env("MARKETPLACE_KAFKA_BROKERS", kafka_bootstrap().await)
        .env("MARKETPLACE_OPENSEARCH_URL", opensearch_url().await)
        .env("MARKETPLACE_TOPIC_PREFIX", format!("{}-", unique("shop")))
        .env("MARKETPLACE_CONSUMER_GROUP", unique("search-service"))
        .env("MARKETPLACE_SEARCH_INDEX", unique("tutors"));
    command
}

/// The operator's, with the same names.
fn letters_of(program: &Command, arguments: &[&str]) -> Command {
    let mut operator = command(&[&["--shape", "production", "search-letters"], arguments].concat());
    operator.envs(program.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
    operator
}

async fn run(command: Command) -> Program {
    let mut program = Program::run(command).await;
    TOKEN.clone_into(&mut program.token);
    program
}

#[tokio::test]
async fn a_change_goes_through_kafka_into_opensearch() {
    let database = TestDatabase::create(PostgresVersion::V15).await;
    let program = run(production(database.url()).await).await;
    assert!(!program.greeting.contains(TOKEN), "a configured token is not shown");
    let tutor = program.post_tutor(&ada()).await;
    let answer = program.search_until("q=lovelase", |answer| answer["total"] == 1).await;
    assert_eq!(answer["results"][0]["hourly_rate"], json!(1800.0));
    assert_eq!(answer["results"][0]["created_at"], tutor["created_at"]);

    let changed = program.patch_tutor(&tutor["id"], &json!({"headline": "Analytical engines"})).await;
    assert_eq!(changed.status(), StatusCode::OK);
    program.search_until("q=analytical", |answer| answer["total"] == 1).await;
    program.delete_tutor(&tutor["id"]).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 0).await;
    let list = program.get("/api/tutors/?subject=Maths&q=ada").await;
    assert_eq!(list["count"], 0);

    program.interrupt();
    let (status, complaint) = program.ended().await;
    assert_eq!(status.code(), Some(0), "{complaint}");
    database.drop_database().await;
}

#[tokio::test]
async fn an_event_that_the_index_refuses_is_a_dead_letter_and_its_partition_goes_on() {
    let database = TestDatabase::create(PostgresVersion::V18).await;
    let program = run(production(database.url()).await).await;
    let tutor = program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 1).await;
    let log = PostgresLog::builder(database.pool().clone()).build();
    let id = tutor["id"].as_i64().expect("id");
    let event = NewEvent::json("Tutor", id, "TutorUpdated", &nonsense()).expect("event");
    let mut tx = database.pool().begin().await.expect("begin");
    let _another_process_reads_it = log.append(&mut tx, &[event]).await.expect("append");
    tx.commit().await.expect("commit");

    // Of the same tutor, so behind it in its partition.
    let changed = program.patch_tutor(&tutor["id"], &json!({"headline": "Analytical engines"})).await;
    assert_eq!(changed.status(), StatusCode::OK);
    program.search_until("q=analytical", |answer| answer["total"] == 1).await;
    let letters: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("SELECT cause, reason, payload FROM search_dead_letters")
            .fetch_all(database.pool())
            .await
            .expect("letters");
    let [(cause, reason, payload)] = &letters[..] else { panic!("one letter: {letters:?}") };
    assert_eq!(cause, "rejected");
    assert!(reason.contains("secret"), "the reason says what was wrong: {reason}");
    // As the topic had it: around the payload of the event there is the envelope.
    assert!(String::from_utf8_lossy(payload).contains(&nonsense().to_string()), "{payload:?}");
    drop(program);
    database.drop_database().await;
}

#[tokio::test]
async fn a_letter_is_replayed_beside_the_running_program_and_found() {
    let database = TestDatabase::create(PostgresVersion::V15).await;
    let command = production(database.url()).await;
    let operator = |arguments: &[&str]| letters_of(&command, arguments);
    let (list, dry, replay, again, list_again) = (
        operator(&[]),
        operator(&["replay", "--dry-run"]),
        operator(&["replay"]),
        operator(&["replay"]),
        operator(&[]),
    );
    let mut program = run(command).await;
    program.search_until("q=mercator", |answer| answer["total"] == 0).await;
    let log = PostgresLog::builder(database.pool().clone()).build();
    let event = NewEvent::json("Tutor", 4711, "TutorCreated", &nonsense()).expect("event");
    let mut tx = database.pool().begin().await.expect("begin");
    let _another_process_reads_it = log.append(&mut tx, &[event]).await.expect("append");
    tx.commit().await.expect("commit");
    program.complains("is in search_dead_letters").await;
    let listed = said(list).await;
    assert!(listed.starts_with("1 dead letter of the search index\n") && listed.contains("secret"), "{listed}");
    let refused = said(replay).await;
    assert!(refused.contains("Tutor/4711: 0 done, 1 left"), "nothing was mended: {refused}");

    let all = "SELECT payload FROM search_dead_letters";
    let envelope: Vec<u8> = sqlx::query_scalar(all).fetch_one(database.pool()).await.expect("the letter");
    let envelope = String::from_utf8(envelope).expect("UTF-8");
    let mended = envelope.replace(&nonsense().to_string(), &whole(4711).to_string());
    let mend = sqlx::query("UPDATE search_dead_letters SET payload = $1").bind(mended.into_bytes());
    mend.execute(database.pool()).await.expect("mended");
    let would = said(dry).await;
    assert!(would.contains("nothing was changed") && would.contains("1 written, 0 left"), "{would}");
    assert_eq!(program.search("q=mercator").await["total"], 0, "a dry run changes nothing");
    let replayed = said(again).await;
    assert!(replayed.contains("1 written, 0 left"), "{replayed}");
    program.search_until("q=mercator", |answer| answer["total"] == 1).await;
    assert!(said(list_again).await.starts_with("0 dead letters"), "what is done is deleted");
    drop(program);
    database.drop_database().await;
}

#[tokio::test]
async fn an_operator_makes_neither_tables_nor_an_index() {
    let database = TestDatabase::create(PostgresVersion::V18).await;
    let command = production(database.url()).await;
    let tables = async || {
        let count = "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'";
        sqlx::query_scalar::<_, i64>(count).fetch_one(database.pool()).await.expect("count")
    };
    for arguments in [&[][..], &["replay", "--dry-run"], &["replay"]] {
        let complaint = refusal(letters_of(&command, arguments)).await;
        assert!(complaint.contains("no marketplace of this version: start the marketplace once"), "{complaint}");
        assert_eq!(tables().await, 0);
    }
    let index = unique("elsewhere");
    let [dry, replay] = [&["replay", "--dry-run"][..], &["replay"]].map(|arguments| {
        let mut operator = letters_of(&command, arguments);
        operator.env("MARKETPLACE_SEARCH_INDEX", &index);
        operator
    });
    let program = run(command).await;
    for operator in [dry, replay] {
        let complaint = refusal(operator).await;
        assert!(complaint.contains(&format!("there is no search index {index}")), "{complaint}");
    }
    let asked = program.http.head(format!("{}/{index}-v1", opensearch_url().await)).send().await.expect("an answer");
    assert_eq!(asked.status(), StatusCode::NOT_FOUND, "none was made");
    drop(program);
    database.drop_database().await;
}

#[tokio::test]
async fn lists_and_slugs_work_on_postgresql_too() {
    let database = TestDatabase::create(PostgresVersion::V18).await;
    let program = run(production(database.url()).await).await;
    for slug in ["ada-lovelace", "ada-lovelace-1", "ada-lovelace-2"] {
        assert_eq!(program.post_tutor(&ada()).await["slug"], slug);
    }
    let list =
        program.get("/api/tutors/?subject=Maths&min_price=1800&max_price=1800&q=ENGINES&ordering=-created_at").await;
    let slugs: Vec<&Value> = list["results"].as_array().expect("list").iter().map(|t| &t["slug"]).collect();
    assert_eq!(slugs, ["ada-lovelace-2", "ada-lovelace-1", "ada-lovelace"]);
    drop(program);
    database.drop_database().await;
}

#[tokio::test]
async fn an_unreachable_database_is_said_in_one_line() {
    // A port on which nobody listens any more.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").expect("port").local_addr().expect("address");
    let complaint = refusal(production(&format!("postgres://user:secret@{nobody}/shop")).await).await;
    assert!(complaint.contains(&nobody.to_string()) && complaint.contains("cannot be reached"), "{complaint}");
    assert!(!complaint.contains("secret"), "{complaint}");
}

#[tokio::test]
async fn a_missing_setting_is_named() {
    let mut command = production("postgres://nowhere/shop").await;
    command.env_remove("MARKETPLACE_ADMIN_TOKEN");
    assert!(refusal(command).await.contains("MARKETPLACE_ADMIN_TOKEN"));
    let mut command = production("postgres://nowhere/shop").await;
    command.env("MARKETPLACE_ADMIN_TOKEN", "short");
    assert!(refusal(command).await.contains("MARKETPLACE_ADMIN_TOKEN"));
}

#[tokio::test]
async fn a_database_that_goes_away_is_waited_for() {
    let database = TestDatabase::create(PostgresVersion::V15).await;
    let mut url = url(database.url());
    let proxy = TcpProxy::start(url.socket_addrs(|| None).expect("address")[0]).await;
    url.set_port(Some(proxy.addr().port())).expect("port");
    url.set_host(Some("127.0.0.1")).expect("host");
    let program = run(production(url.as_str()).await).await;
    program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 1).await;

    proxy.cut();
    let refused = program.as_admin(Method::POST, "/api/admin/tutors/").json(&ada()).send().await.expect("answer");
    assert_eq!(refused.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(refused.headers().contains_key(header::RETRY_AFTER));
    assert_eq!(refused.headers()[header::CONTENT_TYPE], "application/problem+json");
    assert_eq!(program.search("q=lovelace").await["total"], 1, "search needs no database");
    let health = program.ask(Method::GET, "/health").send().await.expect("answer");
    assert_eq!(health.status(), StatusCode::SERVICE_UNAVAILABLE);

    proxy.restore();
    // Polled: the connections come back when they are next asked for.
    let end = Instant::now() + DEADLINE;
    let hopper = json!({"full_name": "Grace Hopper", "hourly_rate": 1});
    while !program
        .as_admin(Method::POST, "/api/admin/tutors/")
        .json(&hopper)
        .send()
        .await
        .expect("answer")
        .status()
        .is_success()
    {
        assert!(Instant::now() < end, "the database is back");
        // The program tells nobody that it is connected again.
        sleep(Duration::from_millis(50)).await;
    }
    program.search_until("q=hopper", |answer| answer["total"] == 1).await;
    drop(program);
    database.drop_database().await;
}

fn url(text: &str) -> reqwest::Url {
    text.parse().expect("address")
}
