//! Whatever is wrong with a request, the answer is a problem that says so.

use reqwest::{Method, StatusCode, header};
use serde_json::{Value, json};

use super::program::{Program, ada};

struct Case {
    what: &'static str,
    method: Method,
    path: &'static str,
    token: Option<&'static str>,
    content_type: &'static str,
    body: String,
    status: u16,
    /// The fields that `errors` names.
    fields: &'static [&'static str],
}

const TUTORS: &str = "/api/admin/tutors/";
const RIGHT: Option<&str> = Some("the right one");

fn case(what: &'static str, method: Method, path: &'static str, status: u16) -> Case {
    Case {
        what,
        method,
        path,
        token: RIGHT,
        content_type: "application/json",
        body: ada().to_string(),
        status,
        fields: &[],
    }
}

fn post(what: &'static str, body: String, status: u16, fields: &'static [&'static str]) -> Case {
    Case { body, fields, ..case(what, Method::POST, TUTORS, status) }
}

fn cases() -> Vec<Case> {
    let valid = || ada().to_string();
    let with = |field: &str, value: Value| {
        let mut tutor = ada();
        tutor[field] = value;
        tutor.to_string()
    };
    let get =
        |what, path, status, fields| Case { fields, body: String::new(), ..case(what, Method::GET, path, status) };
    vec![
        Case { token: None, ..post("no token", valid(), 401, &[]) },
        Case { token: Some("0123456789abcdef0123456789abcdef"), ..post("wrong token", valid(), 401, &[]) },
        Case { token: None, ..post("no token beats a bad body", "{".to_owned(), 401, &[]) },
        Case { token: None, ..case("no token to delete", Method::DELETE, "/api/admin/tutors/1/", 401) },
        post("malformed JSON", "{\"full_name\": ".to_owned(), 400, &[]),
        post("not an object", "[1]".to_owned(), 400, &[]),
        post("not UTF-8", "{\"full_name\": \"\\ud800\"}".to_owned(), 400, &[]),
        Case { content_type: "text/plain", ..post("wrong content type", valid(), 415, &[]) },
        post("missing fields", "{}".to_owned(), 400, &["full_name", "hourly_rate"]),
        post("negative rate", with("hourly_rate", json!(-5)), 400, &["hourly_rate"]),
        post("rate of three digits", with("hourly_rate", json!("1.005")), 400, &["hourly_rate"]),
        post("wrong type", with("headline", json!(7)), 400, &["headline"]),
        post("long headline", with("headline", json!("x".repeat(201))), 400, &["headline"]),
        post("rating of six", with("rating", json!(6)), 400, &["rating"]),
        post("format telepathy", with("formats", json!(["telepathy"])), 400, &["formats"]),
        post("NUL", with("bio", json!("a\u{0}b")), 400, &["bio"]),
        post("unknown field", with("hourly_rat", json!(1)), 400, &["hourly_rat"]),
        post("read-only field", with("id", json!(1)), 400, &["id"]),
        post("over-long body", with("bio", json!("x".repeat(2 * 1024 * 1024))), 413, &[]),
        case("unknown tutor to change", Method::PATCH, "/api/admin/tutors/999999/", 404),
        case("unknown tutor to delete", Method::DELETE, "/api/admin/tutors/999999/", 404),
        get("unknown tutor", "/api/tutors/999999/", 404, &[]),
        get("no number", "/api/tutors/seven/", 404, &[]),
        get("unknown slug", "/api/tutors/by-slug/nobody/", 404, &[]),
        get("page past the end", "/api/tutors/?page=2", 404, &[]),
        get("page that is no number", "/api/tutors/?page=two", 400, &["page"]),
        get("bad filters", "/api/tutors/?min_price=x&ordering=name", 400, &["min_price", "ordering"]),
        get("bad search", "/tutors/search?min_price=cheap&limit=101", 400, &["limit", "min_price"]),
        get("deep search", "/tutors/search?offset=10000", 400, &["offset"]),
        get("unknown path", "/api/nowhere/", 404, &[]),
        get("unknown file", "/static/../Cargo.toml", 404, &[]),
        case("wrong method", Method::PUT, "/api/tutors/1/", 405),
        case("wrong method on search", Method::POST, "/tutors/search", 405),
    ]
}

#[tokio::test]
async fn every_error_is_a_problem() {
    let program = Program::start().await;
    for Case { what, method, path, token, content_type, body, status, fields } in cases() {
        let mut request = program.ask(method, path).header(header::CONTENT_TYPE, content_type).body(body);
        if let Some(token) = token {
            request = request.bearer_auth(if Some(token) == RIGHT { program.token.as_str() } else { token });
        }
        let answer = request.send().await.expect(what);
        assert_eq!(answer.status().as_u16(), status, "{what}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json", "{what}");
        assert_eq!(answer.headers().contains_key(header::WWW_AUTHENTICATE), status == 401, "{what}");
        assert_eq!(answer.headers().contains_key(header::ALLOW), status == 405, "{what}");
        let problem: Value = answer.json().await.expect(what);
        assert_eq!(problem["status"], status, "{what}");
        for text in ["type", "title", "detail"] {
            assert!(problem[text].as_str().is_some_and(|t| !t.is_empty()), "{what}: {problem}");
        }
        let named: Vec<&str> =
            problem["errors"].as_object().map(|e| e.keys().map(String::as_str).collect()).unwrap_or_default();
        assert_eq!(named, fields, "{what}: {problem}");
    }
    assert_eq!(program.get("/api/tutors/").await["count"], 0, "nothing was written");
}

#[tokio::test]
async fn a_missing_slash_is_added_for_readers() {
    let program = Program::start().await;
    let answer = program.ask(Method::GET, "/api/tutors?q=a+b").send().await.expect("answer");
    assert_eq!(answer.status(), StatusCode::PERMANENT_REDIRECT);
    assert_eq!(answer.headers()[header::LOCATION], "/api/tutors/?q=a+b");
}
