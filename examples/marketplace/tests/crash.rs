//! `kill -9` in the middle of 2,000 writes, at ten different moments, in both shapes: after a restart, what was
//! acknowledged is there, and search equals the table.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

const WRITES: usize = 2_000;
const CLIENTS: usize = 4;
const MOMENTS: [usize; 10] = [5, 90, 250, 480, 700, 955, 1_200, 1_444, 1_700, 1_990];
const PATIENCE: Duration = Duration::from_mins(4);

/// A running marketplace.
struct Marketplace {
    process: Child,
    url: String,
}

impl Marketplace {
    fn start(settings: &[(String, String)]) -> Self {
        let mut process = Command::new(env!("CARGO_BIN_EXE_marketplace"))
            .args(["--listen", "127.0.0.1:0", "--no-demo"])
            .envs(settings.iter().cloned())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the marketplace starts");
        let mut lines = BufReader::new(process.stdout.take().expect("stdout")).lines();
        let address = lines
            .find_map(|line| line.expect("text").strip_prefix("listening on ").map(str::to_owned))
            .expect("it ended before it listened");
        Self { process, url: address }
    }

    fn kill(mut self) {
        self.process.kill().expect("kill -9");
        self.process.wait().expect("reaped");
    }
}

impl Drop for Marketplace {
    fn drop(&mut self) {
        let (_gone, _reaped) = (self.process.kill(), self.process.wait());
    }
}

/// What one client was told.
#[derive(Default)]
struct Told {
    /// The newest acknowledged headline of each of its tutors; none after a deletion.
    tutors: BTreeMap<i64, Option<String>>,
    /// The tutors of writes that were not acknowledged: they may have been committed or not.
    unsure: BTreeSet<i64>,
}

/// Makes, changes and deletes tutors until the server goes away.
async fn write(url: &str, token: &str, client: usize, written: &AtomicUsize, moment: usize, reached: &Notify) -> Told {
    let http = reqwest::Client::new();
    let base = format!("{url}/api/admin/tutors/");
    let mut told = Told::default();
    for n in 0_usize.. {
        if written.load(Ordering::Relaxed) >= WRITES {
            break;
        }
        let headline = format!("version {n} of client {client}");
        let newest = told.tutors.iter().rev().find(|(_, headline)| headline.is_some()).map(|(id, _)| *id);
        let (request, changed, expected) = match (n % 5, newest) {
            (2 | 3, Some(id)) => {
                let body = json!({"headline": headline});
                (http.patch(format!("{base}{id}/")).json(&body), Some(id), Some(headline))
            }
            (4, Some(id)) if n % 10 == 4 => (http.delete(format!("{base}{id}/")), Some(id), None),
            _ => {
                let body =
                    json!({"full_name": format!("Tutor {client} {n}"), "headline": headline, "hourly_rate": "10"});
                (http.post(&base).json(&body), None, Some(headline))
            }
        };
        told.unsure.extend(changed);
        let answer = request.bearer_auth(token).send().await;
        let Ok(answer) = answer else { break };
        if answer.status() == StatusCode::SERVICE_UNAVAILABLE {
            // The database was too slow: on a loaded machine that is a fair answer.
            continue;
        }
        assert!(answer.status().is_success(), "{}", answer.status());
        let Ok(body) = answer.bytes().await else { break };
        let id = changed.unwrap_or_else(|| {
            let made: Value = serde_json::from_slice(&body).expect("JSON");
            made["id"].as_i64().expect("id")
        });
        told.tutors.insert(id, expected);
        if changed.is_some() {
            told.unsure.remove(&id);
        }
        if written.fetch_add(1, Ordering::Relaxed) + 1 == moment {
            reached.notify_one();
        }
    }
    told
}

async fn try_at(moment: usize, settings: Vec<(String, String)>, token: impl Fn() -> String) {
    let marketplace = Marketplace::start(&settings);
    let (url, token) = (marketplace.url.clone(), token());
    let (written, reached) = (AtomicUsize::new(0), Notify::new());
    let clients = futures_util::future::join_all(
        (0..CLIENTS).map(|client| write(&url, &token, client, &written, moment, &reached)),
    );
    let kill = async {
        reached.notified().await;
        marketplace.kill();
    };
    let (told, ()) = timeout(PATIENCE, async { tokio::join!(clients, kill) }).await.expect("writes");
    let at_kill = written.load(Ordering::Relaxed);
    assert!(at_kill < WRITES, "it was killed after the last write");

    let again = Marketplace::start(&settings);
    let table = timeout(PATIENCE, table(&again.url)).await.expect("the table");
    for Told { tutors, unsure } in told {
        for (id, headline) in tutors.into_iter().filter(|(id, _)| !unsure.contains(id)) {
            let row = table.get(&id).map(|(_, headline)| headline.clone());
            assert_eq!(row, headline, "tutor {id}: what was acknowledged is not in the table");
        }
    }
    let equal = async {
        let mut found = search(&again.url).await;
        while found != table {
            // There is no signal for "the index has caught up" outside the process.
            tokio::time::sleep(Duration::from_millis(200)).await;
            found = search(&again.url).await;
        }
    };
    let caught_up = timeout(PATIENCE, equal).await;
    assert!(caught_up.is_ok(), "killed at {moment}: search differs from the table of {} tutors", table.len());
    println!("killed after {at_kill} writes: search equals the table of {} tutors", table.len());
}

/// All tutors: what their pages say, by id.
async fn table(url: &str) -> BTreeMap<i64, (String, String)> {
    let mut rows = BTreeMap::new();
    let mut next = Some(format!("{url}/api/tutors/?ordering=created_at"));
    while let Some(page) = next {
        let page: Value = get(&page).await;
        rows.extend(page["results"].as_array().expect("results").iter().map(facts));
        next = page["next"].as_str().map(str::to_owned);
    }
    rows
}

/// All documents of the index.
async fn search(url: &str) -> BTreeMap<i64, (String, String)> {
    let mut documents = BTreeMap::new();
    loop {
        let offset = documents.len();
        let Ok(answer) = reqwest::get(format!("{url}/tutors/search?limit=100&offset={offset}")).await else {
            return documents;
        };
        // The index of a fresh start may not be there yet.
        let Ok(page) = answer.json::<Value>().await else { return documents };
        let Some(results) = page["results"].as_array() else { return documents };
        documents.extend(results.iter().map(facts));
        if results.len() < 100 {
            return documents;
        }
    }
}

fn facts(tutor: &Value) -> (i64, (String, String)) {
    let text = |field: &str| tutor[field].as_str().expect("text").to_owned();
    (tutor["id"].as_i64().expect("id"), (text("full_name"), text("headline")))
}

async fn get(url: &str) -> Value {
    loop {
        let answer = reqwest::get(url).await.expect("answer");
        if answer.status() != StatusCode::SERVICE_UNAVAILABLE {
            return answer.error_for_status().expect("200").json().await.expect("JSON");
        }
    }
}

fn setting(name: &str, value: impl Into<String>) -> (String, String) {
    (format!("MARKETPLACE_{name}"), value.into())
}

#[cfg(feature = "embedded")]
mod embedded {
    use super::{MOMENTS, setting, try_at};

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn survives_kill_9() {
        let tries = MOMENTS.map(|moment| async move {
            let folder = tempfile::tempdir().expect("folder");
            let data = folder.path().join("data");
            let settings = vec![setting("DATA_DIR", data.to_str().expect("path"))];
            let token = || std::fs::read_to_string(data.join("admin-token")).expect("token").trim().to_owned();
            try_at(moment, settings, token).await;
        });
        futures_util::future::join_all(tries).await;
    }
}

#[cfg(feature = "production")]
mod production {
    use test_services::{PostgresVersion, TestDatabase, kafka_bootstrap, opensearch_url, unique};

    use super::{MOMENTS, setting, try_at};

    const TOKEN: &str = "a-token-for-tests-that-nobody-else-knows";

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn survives_kill_9() {
        let tries = MOMENTS.map(|moment| async move {
            let database = TestDatabase::create(PostgresVersion::V15).await;
            let name = unique("crash");
            let settings = vec![
                setting("SHAPE", "production"),
                setting("ADMIN_TOKEN", TOKEN),
                setting("DATABASE_URL", database.url()),
                setting("KAFKA_BROKERS", kafka_bootstrap().await),
                setting("OPENSEARCH_URL", opensearch_url().await),
                setting("TOPIC_PREFIX", format!("{name}-")),
                setting("CONSUMER_GROUP", name.as_str()),
                setting("SEARCH_INDEX", name.as_str()),
            ];
            try_at(moment, settings, || TOKEN.to_owned()).await;
            database.drop_database().await;
        });
        futures_util::future::join_all(tries).await;
    }
}
