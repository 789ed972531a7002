//! A running marketplace.

use std::{
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::{Instant, sleep, timeout},
};

/// Nothing here should take this long; what does has failed.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);

/// The program, with an environment of its own.
pub(crate) fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marketplace"));
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("MARKETPLACE_")) {
        command.env_remove(name);
    }
    command.env("MARKETPLACE_LISTEN", "127.0.0.1:0").args(arguments);
    command.env_remove("RUST_BACKTRACE").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.kill_on_drop(true);
    command
}

pub(crate) struct Program {
    child: Child,
    stdout: BufReader<ChildStdout>,
    /// What it said up to `listening on …`, that line included.
    pub(crate) greeting: String,
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    /// Kept until the program is gone.
    directory: Option<TempDir>,
}

impl Program {
    /// Embedded, in a directory of its own, without demo tutors.
    pub(crate) async fn start() -> Self {
        let directory = TempDir::new().expect("directory");
        let data = directory.path().join("data");
        let mut program = Self::start_in(&data, &["--no-demo"]).await;
        program.directory = Some(directory);
        program
    }

    pub(crate) async fn start_in(data: &Path, arguments: &[&str]) -> Self {
        let data_dir = ["--data-dir", data.to_str().expect("UTF-8")];
        let mut program = Self::run(command(&[&data_dir, arguments].concat())).await;
        let token = std::fs::read_to_string(data.join("admin-token")).expect("token file");
        token.trim().clone_into(&mut program.token);
        program
    }

    /// Waits until it listens.
    pub(crate) async fn run(mut command: Command) -> Self {
        let mut child = command.spawn().expect("started");
        let mut stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut greeting = String::new();
        let url = timeout(DEADLINE, async {
            loop {
                let mut line = String::new();
                if stdout.read_line(&mut line).await.expect("stdout") == 0 {
                    return None;
                }
                greeting.push_str(&line);
                if let Some(url) = line.strip_prefix("listening on ") {
                    return Some(url.trim().to_owned());
                }
            }
        });
        let Some(url) = url.await.expect("listening in time") else {
            let mut complaint = String::new();
            child.stderr.take().expect("stderr").read_to_string(&mut complaint).await.expect("stderr");
            panic!("the program ended before it listened: {complaint}");
        };
        let http = reqwest::Client::builder().no_proxy().timeout(DEADLINE);
        let http = http.redirect(reqwest::redirect::Policy::none()).build().expect("client");
        Self { child, stdout, greeting, url, token: String::new(), http, directory: None }
    }

    pub(crate) fn ask(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url))
    }

    pub(crate) fn as_admin(&self, method: Method, path: &str) -> RequestBuilder {
        self.ask(method, path).bearer_auth(&self.token)
    }

    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.ask(Method::GET, path).send().await.expect("answer");
        assert_eq!(answer.status(), StatusCode::OK, "GET {path}");
        answer.json().await.expect("JSON")
    }

    pub(crate) async fn post_tutor(&self, tutor: &Value) -> Value {
        let answer = self.as_admin(Method::POST, "/api/admin/tutors/").json(tutor).send().await.expect("answer");
        assert_eq!(answer.status(), StatusCode::CREATED);
        answer.json().await.expect("JSON")
    }

    pub(crate) async fn patch_tutor(&self, id: &Value, change: &Value) -> Response {
        let path = format!("/api/admin/tutors/{id}/");
        self.as_admin(Method::PATCH, &path).json(change).send().await.expect("answer")
    }

    pub(crate) async fn delete_tutor(&self, id: &Value) -> Response {
        let path = format!("/api/admin/tutors/{id}/");
        self.as_admin(Method::DELETE, &path).send().await.expect("answer")
    }

    pub(crate) async fn search(&self, query: &str) -> Value {
        self.get(&format!("/tutors/search?{query}")).await
    }

    /// The first search answer that fits. Polled: the index follows the log, and nothing tells an HTTP client when.
    pub(crate) async fn search_until(&self, query: &str, fits: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        let path = format!("/tutors/search?{query}");
        loop {
            let answer = self.ask(Method::GET, &path).send().await.expect("answer");
            // The production shape says 503 until its index was made.
            let found = if answer.status().is_success() { answer.json().await.expect("JSON") } else { json!(null) };
            if fits(&found) {
                return found;
            }
            assert!(Instant::now() < end, "{query}: still {found}");
            // Asked as a client would, again and again: an answer is the only signal there is from outside.
            sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) fn interrupt(&self) {
        self.signal("INT");
    }

    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().expect("running").to_string();
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill");
        assert!(sent.success());
    }

    /// Waits until standard error says so.
    pub(crate) async fn complains(&mut self, text: &str) {
        let stderr = self.child.stderr.as_mut().expect("stderr");
        let mut heard = Vec::new();
        let said = async {
            while !String::from_utf8_lossy(&heard).contains(text) {
                let read = stderr.read_buf(&mut heard).await.expect("stderr");
                assert!(read > 0, "it ended without saying {text:?}");
            }
        };
        timeout(DEADLINE, said).await.expect("said in time");
    }

    /// Its exit status, and what it wrote to standard error.
    pub(crate) async fn ended(mut self) -> (ExitStatus, String) {
        let mut rest = String::new();
        let mut complaint = String::new();
        let mut stderr = self.child.stderr.take().expect("stderr");
        let status = timeout(DEADLINE, async {
            let (out, err, status) = tokio::join!(
                self.stdout.read_to_string(&mut rest),
                stderr.read_to_string(&mut complaint),
                self.child.wait()
            );
            out.and(err).expect("output");
            status.expect("status")
        });
        (status.await.expect("ended in time"), complaint)
    }
}

/// Runs a program that refuses to start: its one line on standard error. Its exit code is 1.
pub(crate) async fn refusal(mut command: Command) -> String {
    let output = timeout(DEADLINE, command.output()).await.expect("ended in time").expect("started");
    let complaint = String::from_utf8(output.stderr).expect("UTF-8");
    assert_eq!(output.status.code(), Some(1), "{complaint}");
    assert_eq!(complaint.lines().count(), 1, "{complaint}");
    assert!(complaint.starts_with("marketplace: "), "{complaint}");
    complaint
}

/// A data directory of a test, which is gone after it.
pub(crate) fn directory() -> (TempDir, PathBuf) {
    let parent = TempDir::new().expect("directory");
    let path = parent.path().join("data");
    (parent, path)
}

pub(crate) fn ada() -> Value {
    json!({ "full_name": "Ada Lovelace", "headline": "Algebra and engines", "hourly_rate": "1800", "subjects": ["Maths"] })
}
