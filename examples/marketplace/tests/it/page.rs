//! The page, with and without scripts, and its stream.

use reqwest::{Method, header};
use serde_json::json;

use super::program::Program;

#[tokio::test]
async fn the_page_shows_what_was_searched_and_escapes_what_was_typed() {
    let program = Program::start().await;
    program.post_tutor(&json!({"full_name": "<b>Eve</b>", "headline": "Chess & more", "hourly_rate": 1_234_567})).await;
    program.search_until("q=chess", |answer| answer["total"] == 1).await;
    let answer = program.ask(Method::GET, "/?q=chess").send().await.expect("answer");
    let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().expect("text").to_owned();
    assert!(policy.contains("script-src 'self'") && !policy.contains("unsafe"), "{policy}");
    let page = answer.text().await.expect("text");
    assert!(page.contains("&#60;b&#62;Eve") || page.contains("&lt;b&gt;Eve"), "{page}");
    assert!(page.contains("1\u{a0}234\u{a0}567\u{a0}₽"), "money for people");
    assert!(!page.contains("<b>Eve") && !page.contains("style=") && !page.contains("onclick"), "nothing inline");

    let part =
        program.ask(Method::GET, "/?q=%22%3E%3Cscript%3E").header("HX-Request", "true").send().await.expect("answer");
    assert_eq!(part.headers()[header::VARY], "HX-Request");
    let part = part.text().await.expect("text");
    assert!(part.starts_with("<section id=\"results\"") && !part.contains("<html"), "{part}");
    let bad =
        program.ask(Method::GET, "/?max_price=%3Cscript%3E").send().await.expect("answer").text().await.expect("text");
    assert!(bad.contains("max price") && !bad.contains("<script>"), "the fault is named");
}

#[tokio::test]
async fn the_files_of_the_page_are_served() {
    let program = Program::start().await;
    let page = program.ask(Method::GET, "/").send().await.expect("answer").text().await.expect("text");
    let files: Vec<&str> = page.split('"').filter(|part| part.starts_with("/static/")).collect();
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let answer = program.ask(Method::GET, file).send().await.expect("answer");
        assert!(answer.status().is_success() && answer.content_length() > Some(100), "{file}");
    }
}

#[tokio::test]
async fn the_stream_tells_of_events_as_they_pass() {
    let program = Program::start().await;
    let mut stream = program.ask(Method::GET, "/live").send().await.expect("stream");
    assert_eq!(stream.headers()[header::CONTENT_TYPE], "text/event-stream");
    program.post_tutor(&json!({"full_name": "Ada Lovelace", "hourly_rate": 1})).await;
    let mut heard = String::new();
    // Ends with the client's own deadline if the event never shows.
    while !(heard.contains("Ada Lovelace") && heard.contains("class=\"done\"") && heard.contains("caught up")) {
        let chunk = stream.chunk().await.expect("stream").expect("goes on");
        heard.push_str(&String::from_utf8_lossy(&chunk));
    }
    assert!(heard.starts_with("event: pipeline\n"), "{heard}");
}
