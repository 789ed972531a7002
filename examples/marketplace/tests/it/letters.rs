//! An operator and the events that the search index refused.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use outbox_sqlx::SqliteLog;
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::SqlitePool;
use tokio::{process::Command, time::timeout};

use super::{
    events::append_nonsense,
    program::{DEADLINE, Program, ada, command, directory, refusal},
};

/// What it prints.
pub(crate) async fn said(command: Command) -> String {
    said_and_logged(command).await.0
}

async fn said_and_logged(mut command: Command) -> (String, String) {
    let output = timeout(DEADLINE, command.output()).await.expect("ended in time").expect("started");
    let complaint = String::from_utf8(output.stderr).expect("UTF-8");
    assert!(output.status.success(), "{complaint}");
    (String::from_utf8(output.stdout).expect("UTF-8"), complaint)
}

fn letters(data: &Path, arguments: &[&str]) -> Command {
    command(&[&["--data-dir", data.to_str().expect("UTF-8"), "search-letters"], arguments].concat())
}

/// A directory in which a marketplace ran, and stopped, whose index refused so many events.
async fn with_letters(data: &Path, count: usize) {
    let program = Program::start_in(data, &["--no-demo"]).await;
    for _ in 0..count {
        append_nonsense(data).await;
    }
    program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 1).await;
    program.interrupt();
    assert!(program.ended().await.0.success());
}

/// How many rows of the database a statement changed.
async fn change(data: &Path, statement: &'static str) -> u64 {
    let pool = SqlitePool::connect_with(SqliteLog::connect_options(data.join("marketplace.db"))).await.expect("opened");
    let changed = sqlx::query(statement).execute(&pool).await.expect(statement).rows_affected();
    pool.close().await;
    changed
}

/// Makes whole tutors of all letters.
async fn mend(data: &Path) -> u64 {
    let pool = SqlitePool::connect_with(SqliteLog::connect_options(data.join("marketplace.db"))).await.expect("opened");
    let mend = sqlx::query("UPDATE search_dead_letters SET payload = $1").bind(whole(4711).to_string().into_bytes());
    let mended = mend.execute(&pool).await.expect("mended").rows_affected();
    pool.close().await;
    mended
}

/// Every file but those that SQLite makes for whoever reads.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if !path.extension().is_some_and(|suffix| suffix == "db-wal" || suffix == "db-shm") {
            found.insert(path.clone(), fs::read(&path).expect("a file"));
        }
    }
    found
}

/// A tutor as the index knows them.
pub(crate) fn whole(id: i64) -> Value {
    json!({
        "id": id, "slug": "mended", "full_name": "Mended Mercator", "avatar_url": "", "headline": "Maps", "bio": "",
        "subjects": ["Geography"], "hourly_rate": 1.0, "rating": 0.0, "reviews_count": 0, "is_verified": false,
        "location": "", "formats": [], "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z",
    })
}

#[tokio::test]
async fn a_letter_is_listed_and_once_its_data_is_mended_replayed_and_found() {
    let (_parent, data) = directory();
    let complaint = refusal(letters(&data, &[])).await;
    assert!(complaint.contains("holds no marketplace"), "{complaint}");
    assert!(!data.exists(), "and none is made");

    let program = Program::start_in(&data, &["--no-demo"]).await;
    append_nonsense(&data).await;
    program.post_tutor(&ada()).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 1).await;
    let listed = said(letters(&data, &[])).await;
    assert!(listed.starts_with("1 dead letter of the search index\n"), "{listed}");
    assert!(listed.contains("rejected after 1 try") && listed.contains("secret"), "why, for the operator: {listed}");
    let complaint = refusal(letters(&data, &["replay"])).await;
    assert!(complaint.contains("stop that one first"), "{complaint}");
    program.interrupt();
    assert!(program.ended().await.0.success());

    let replayed = said(letters(&data, &["replay"])).await;
    assert!(replayed.contains("Tutor/4711: 0 done, 1 left"), "nothing was mended: {replayed}");
    assert_eq!(mend(&data).await, 1);
    for _ in 0..2 {
        let would = said(letters(&data, &["replay", "--dry-run"])).await;
        assert!(would.contains("nothing was changed") && would.contains("1 written, 0 left"), "{would}");
    }
    let replayed = said(letters(&data, &["replay"])).await;
    assert!(replayed.contains("1 written, 0 left"), "{replayed}");
    assert!(said(letters(&data, &[])).await.starts_with("0 dead letters"), "what is done is deleted");

    let program = Program::start_in(&data, &[]).await;
    program.search_until("q=mercator", |answer| answer["total"] == 1).await;
    assert_eq!(program.search("q=lovelace").await["total"], 1, "and nothing else changed");
    let page = program.ask(Method::GET, "/").send().await.expect("answer").text().await.expect("text");
    assert!(!page.contains("some events are dead letters"), "{page}");
}

#[tokio::test]
async fn what_another_version_made_is_told_and_left_as_it_is() {
    let (_parent, data) = directory();
    with_letters(&data, 1).await;
    let label = data.join("search/label.json");
    let fitting = fs::read_to_string(&label).expect("the label");
    fs::write(&label, fitting.replace("\"schema\":", "\"schema\":9")).expect("written");
    let before = files(&data);
    assert!(said(letters(&data, &[])).await.starts_with("1 dead letter of the search index\n"), "it can be listed");
    let replays = [&["replay", "--dry-run"][..], &["replay"]];
    for replay in replays {
        let complaint = refusal(letters(&data, replay)).await;
        assert!(complaint.contains("start the marketplace once"), "{complaint}");
        assert!(complaint.contains("it was made by another version"), "{complaint}");
    }
    assert!(files(&data) == before, "nothing was changed");

    fs::write(&label, &fitting).expect("written");
    let meta = data.join("search/meta.json");
    let whole = fs::read(&meta).expect("the index");
    fs::write(&meta, "{").expect("written");
    let before = files(&data);
    for replay in replays {
        let complaint = refusal(letters(&data, replay)).await;
        assert!(complaint.contains("it cannot be read"), "{complaint}");
    }
    assert!(files(&data) == before, "nothing was changed");

    fs::write(&meta, whole).expect("written");
    for older in ["DROP TABLE search_dead_letters", "DELETE FROM _marketplace_migrations WHERE version = 2"] {
        change(&data, older).await;
        let before = files(&data);
        for letters in [letters(&data, &[]), letters(&data, replays[0]), letters(&data, replays[1])] {
            let complaint = refusal(letters).await;
            assert!(complaint.contains("search_dead_letters") || complaint.contains("of this version"), "{complaint}");
        }
        assert!(files(&data) == before, "no table was made");
    }
    let complaint = refusal(letters(&data, &[])).await;
    assert!(complaint.contains("no marketplace of this version: start the marketplace once"), "{complaint}");
    let program = Program::start_in(&data, &[]).await;
    program.search_until("q=lovelace", |answer| answer["total"] == 1).await;
    assert!(said(letters(&data, &[])).await.starts_with("0 dead letters"), "the table is there again");
}

#[tokio::test]
async fn a_row_that_is_no_letter_is_named_and_the_others_are_replayed() {
    let (_parent, data) = directory();
    with_letters(&data, 2).await;
    let (refused, logged) = said_and_logged(letters(&data, &["replay"])).await;
    assert!(refused.contains("Tutor/4711: 0 done, 2 left") && refused.contains("secret"), "the reason: {refused}");
    assert!(logged.contains("a replay failed"), "{logged}");
    assert!(!logged.contains("secret"), "a payload is not for the log: {logged}");

    assert_eq!(mend(&data).await, 2);
    let unheard = "UPDATE search_dead_letters SET headers = replace(headers, 'TutorCreated', 'TutorUnheard') \
        WHERE number = 2";
    assert_eq!(change(&data, unheard).await, 1);
    let copies = "INSERT INTO search_dead_letters \
        (projection, id, place, cause, reason, attempts, given_up, record_key, payload, headers) \
        SELECT projection, 'no-id', place, cause, reason, attempts, given_up, record_key, payload, headers \
            FROM search_dead_letters WHERE number = 1 \
        UNION ALL SELECT projection, 'odd-date', place, cause, reason, attempts, 'long ago', NULL, NULL, headers \
            FROM search_dead_letters WHERE number = 1 \
        UNION ALL SELECT 'search-service.earlier', id, place, cause, reason, attempts, given_up, NULL, NULL, headers \
            FROM search_dead_letters WHERE number = 1";
    assert_eq!(change(&data, copies).await, 3);
    let listed = said(letters(&data, &[])).await;
    assert!(listed.starts_with("5 dead letters of the search index, 2 of them unreadable\n"), "{listed}");
    assert!(listed.contains("\nno-id\n  unreadable, by search-service."), "{listed}");
    assert!(listed.contains("\nodd-date\n  unreadable, by search-service."), "{listed}");
    for again in [&["replay", "--dry-run"][..], &["replay"]] {
        let replayed = said(letters(&data, again)).await;
        let counts = "2 letters: 1 written, 1 of no concern to the index, 0 left\n";
        assert!(replayed.contains(counts), "{replayed}");
        assert!(replayed.contains("1 letter of another generation of the index"), "{replayed}");
        for id in ["no-id", "odd-date"] {
            let unreadable = format!("unreadable, left as it is: {id} by search-service.");
            assert!(replayed.contains(&unreadable), "{replayed}");
        }
    }
    let listed = said(letters(&data, &[])).await;
    assert!(listed.starts_with("3 dead letters of the search index, 2 of them unreadable\n"), "{listed}");
}

#[tokio::test]
async fn a_start_warns_of_the_newest_letters_and_says_how_many_there_are() {
    let (_parent, data) = directory();
    with_letters(&data, 1).await;
    let copies = "INSERT INTO search_dead_letters \
        (projection, id, place, cause, reason, attempts, given_up, record_key, payload, headers) \
        WITH RECURSIVE copy(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM copy WHERE n < 120) \
        SELECT projection, 'copy-' || n, 'copy@' || n, cause, reason, attempts, given_up, record_key, payload, headers \
            FROM search_dead_letters, copy ORDER BY n";
    assert_eq!(change(&data, copies).await, 120);
    let program = Program::start_in(&data, &[]).await;
    program.interrupt();
    let (status, warned) = program.ended().await;
    assert!(status.success());
    assert!(warned.contains("in_all=121"), "{warned}");
    assert_eq!(warned.matches("is in search_dead_letters").count(), 100);
    assert!(warned.contains("\"copy@120\"") && warned.contains("\"copy@21\""), "the newest: {warned}");
    assert!(!warned.contains("\"copy@20\""), "and no older ones: {warned}");
}
