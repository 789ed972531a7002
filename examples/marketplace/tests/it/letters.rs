//! An operator and the events that the search index refused.

use std::path::Path;

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
pub(crate) async fn said(mut command: Command) -> String {
    let output = timeout(DEADLINE, command.output()).await.expect("ended in time").expect("started");
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn letters(data: &Path, arguments: &[&str]) -> Command {
    command(&[&["--data-dir", data.to_str().expect("UTF-8"), "search-letters"], arguments].concat())
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
    let pool = SqlitePool::connect_with(SqliteLog::connect_options(data.join("marketplace.db"))).await.expect("opened");
    let mend = "UPDATE search_dead_letters SET payload = $1";
    let mended = sqlx::query(mend).bind(whole(4711).to_string().into_bytes()).execute(&pool).await.expect("mended");
    assert_eq!(mended.rows_affected(), 1);
    pool.close().await;
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
