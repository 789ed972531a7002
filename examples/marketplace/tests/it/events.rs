//! A change becomes an event, and the event changes what is found.

use std::path::Path;

use outbox_core::{event::NewEvent, outbox::Outbox as _};
use outbox_sqlx::SqliteLog;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use sqlx::SqlitePool;

use super::program::{Program, ada};

fn found(id: &Value) -> impl Fn(&Value) -> bool {
    move |answer| answer["results"][0]["id"] == *id
}

#[tokio::test]
async fn a_tutor_is_found_changed_and_gone() {
    let program = Program::start().await;
    let tutor = program.post_tutor(&ada()).await;
    assert_eq!(tutor["slug"], "ada-lovelace");
    assert_eq!(tutor["hourly_rate"], "1800.00");
    let answer = program.search_until("q=lovelase", found(&tutor["id"])).await;
    let document = answer["results"][0].as_object().expect("object");
    assert_eq!(document.len(), 15, "{document:?}");
    assert_eq!(document["hourly_rate"], json!(1800.0));
    assert_eq!(document["created_at"], tutor["created_at"]);

    let changed =
        program.patch_tutor(&tutor["id"], &json!({"headline": "Analytical engines", "hourly_rate": 1950.5})).await;
    assert_eq!(changed.status(), StatusCode::OK);
    let changed: Value = changed.json().await.expect("JSON");
    assert_eq!((&changed["hourly_rate"], &changed["slug"]), (&json!("1950.50"), &tutor["slug"]));
    program.search_until("q=analytical", found(&tutor["id"])).await;
    assert_eq!(program.search("q=algebra").await["total"], 0);

    assert_eq!(program.delete_tutor(&tutor["id"]).await.status(), StatusCode::NO_CONTENT);
    program.search_until("q=lovelace", |answer| answer["total"] == 0).await;
    let path = format!("/api/tutors/{}/", tutor["id"]);
    let gone = program.ask(Method::GET, &path).send().await.expect("answer");
    assert_eq!(gone.status(), StatusCode::NOT_FOUND);
    assert_eq!(program.delete_tutor(&tutor["id"]).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_change_that_changes_nothing_tells_nobody() {
    let program = Program::start().await;
    let tutor = program.post_tutor(&ada()).await;
    let same = program.patch_tutor(&tutor["id"], &json!({"hourly_rate": "1800.00", "subjects": ["Maths"]})).await;
    let same: Value = same.json().await.expect("JSON");
    assert_eq!(same["updated_at"], tutor["updated_at"]);
    // Positions are given out in order: only the first tutor's event lies before the second's.
    let other = program.post_tutor(&json!({"full_name": "Grace Hopper", "hourly_rate": 1})).await;
    program.search_until("q=hopper", found(&other["id"])).await;
    let page = program.ask(Method::GET, "/").send().await.expect("answer").text().await.expect("text");
    assert!(page.contains("2 since the start"), "two events, not three: {page}");
}

#[tokio::test]
async fn the_index_goes_on_where_it_was_and_a_lost_one_is_made_anew() {
    let (_parent, data) = super::program::directory();
    let program = Program::start_in(&data, &["--no-demo"]).await;
    let tutor = program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", found(&tutor["id"])).await;
    program.interrupt();
    assert!(program.ended().await.0.success());

    let program = Program::start_in(&data, &[]).await;
    assert_eq!(program.search("q=lovelace").await["total"], 1, "there at once");
    let gone = program.post_tutor(&json!({"full_name": "Grace Hopper", "hourly_rate": 1})).await;
    program.delete_tutor(&gone["id"]).await;
    program.interrupt();
    assert!(program.ended().await.0.success());

    std::fs::remove_dir_all(data.join("search")).expect("removed");
    let program = Program::start_in(&data, &[]).await;
    program.search_until("q=lovelace", found(&tutor["id"])).await;
    program.search_until("q=hopper", |answer| answer["total"] == 0).await;
}

/// What no version of this program writes: it cannot be shown by any search.
pub(crate) fn nonsense() -> Value {
    json!({ "id": "secret" })
}

pub(crate) async fn append_nonsense(data: &Path) {
    let pool = SqlitePool::connect_with(SqliteLog::connect_options(data.join("marketplace.db"))).await.expect("opened");
    let log = SqliteLog::builder(pool.clone()).build();
    let event = NewEvent::json("Tutor", 4711, "TutorCreated", &nonsense()).expect("event");
    let mut tx = pool.begin_with("BEGIN IMMEDIATE").await.expect("begin");
    let _another_process_reads_it = log.append(&mut tx, &[event]).await.expect("append");
    tx.commit().await.expect("commit");
    pool.close().await;
}

#[tokio::test]
async fn an_event_that_the_index_refuses_is_a_dead_letter_and_search_goes_on() {
    let (_parent, data) = super::program::directory();
    let program = Program::start_in(&data, &["--no-demo"]).await;
    append_nonsense(&data).await;
    let tutor = program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", found(&tutor["id"])).await;
    let page = program.ask(Method::GET, "/").send().await.expect("answer").text().await.expect("text");
    assert!(page.contains("some events are dead letters"), "{page}");
    program.interrupt();
    let (status, said) = program.ended().await;
    assert!(status.success());
    assert!(said.contains("is in search_dead_letters"), "{said}");
    assert!(!said.contains("secret"), "a payload is not for the log: {said}");

    let letters = || async {
        let pool = SqlitePool::connect_with(SqliteLog::connect_options(data.join("marketplace.db"))).await;
        let pool = pool.expect("opened");
        let all = "SELECT projection, cause, reason, payload FROM search_dead_letters";
        let all: Vec<(String, String, String, Vec<u8>)> = sqlx::query_as(all).fetch_all(&pool).await.expect("letters");
        pool.close().await;
        all
    };
    let kept = letters().await;
    let [(projection, cause, reason, payload)] = &kept[..] else { panic!("one letter: {kept:?}") };
    assert_eq!(cause, "rejected");
    assert!(reason.contains("secret"), "the reason says what was wrong: {reason}");
    assert_eq!(serde_json::from_slice::<Value>(payload).expect("JSON"), nonsense());

    // The letters of an index that is made anew are those of its own reading.
    std::fs::remove_dir_all(data.join("search")).expect("removed");
    let program = Program::start_in(&data, &[]).await;
    program.search_until("q=lovelace", found(&tutor["id"])).await;
    program.interrupt();
    assert!(program.ended().await.0.success());
    let again = letters().await;
    assert_eq!(again.len(), 1);
    assert_ne!(&again[0].0, projection);

    let mut program = Program::start_in(&data, &[]).await;
    program.complains("is in search_dead_letters").await;
}

#[tokio::test]
async fn lists_have_pages_filters_and_an_order() {
    let (_parent, data) = super::program::directory();
    let program = Program::start_in(&data, &["--demo"]).await;
    let first = program.get("/api/tutors/").await;
    assert_eq!((first["count"].as_i64(), first["previous"].is_null()), (Some(240), true));
    let next = first["next"].as_str().expect("next");
    assert!(next.starts_with(&program.url), "{next}");
    let second = program.get(next.strip_prefix(&program.url).expect("own address")).await;
    let ids =
        |page: &Value| page["results"].as_array().expect("list").iter().map(|t| t["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&second).len(), 20);
    assert!(ids(&second).iter().all(|id| !ids(&first).contains(id)), "pages do not overlap");

    let filter = "subject=Piano&min_price=1000&max_price=2000&ordering=hourly_rate&format=online";
    let pianists = program.get(&format!("/api/tutors/?{filter}")).await;
    let rates: Vec<f64> = pianists["results"]
        .as_array()
        .expect("list")
        .iter()
        .filter_map(|t| t["hourly_rate"].as_str()?.parse().ok())
        .collect();
    assert!(
        !rates.is_empty() && rates.is_sorted() && rates[0] >= 1000.0 && rates[rates.len() - 1] <= 2000.0,
        "{rates:?}"
    );
    let cyrillic = program.get("/api/tutors/?q=%D0%B8%D0%92%D0%B0%D0%BD%D0%BE%D0%B2").await;
    assert!(cyrillic["count"].as_i64() > Some(0), "case is folded beyond ASCII");

    let past = program.ask(Method::GET, "/api/tutors/?page=13").send().await.expect("answer");
    assert_eq!(past.status(), StatusCode::NOT_FOUND);
    assert_eq!(past.json::<Value>().await.expect("JSON")["detail"], "Invalid page.");
    let slug = first["results"][0]["slug"].as_str().expect("slug");
    assert_eq!(program.get(&format!("/api/tutors/by-slug/{slug}/")).await["id"], first["results"][0]["id"]);
}

#[tokio::test]
async fn slugs_are_unique_whatever_the_name() {
    let program = Program::start().await;
    for (name, slug) in
        [("Иван Петров", "ivan-petrov"), ("Ivan Petrov", "ivan-petrov-1"), ("…", "tutor"), ("!!", "tutor-1")]
    {
        let tutor = program.post_tutor(&json!({"full_name": name, "hourly_rate": 0})).await;
        assert_eq!(tutor["slug"], slug, "{name}");
    }
}
