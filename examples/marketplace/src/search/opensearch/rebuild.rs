//! A rebuild of the index on a real OpenSearch, while writers go on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use opensearch::http::Method;
use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, EventLog as _},
    memory::MemoryLog,
    outbox::Outbox as _,
};
use outbox_projector::rebuild::{Generations as _, LiveProjector, LogSources, Rebuild};
use serde_json::{Value, json};
use uuid::Uuid;

use super::OpenSearchIndex;
use crate::{
    http::QueryPairs,
    search::{SearchIndex as _, SearchQuery, change::tests::document},
    tutors::{TUTOR_CREATED, TUTOR_DELETED, TUTOR_UPDATED},
};

const TUTORS: i64 = 100_000;
const PATIENCE: Duration = Duration::from_mins(3);

/// The index, and the names of the tutors that it should hold.
struct Scene {
    log: MemoryLog,
    index: OpenSearchIndex,
    tutors: Mutex<BTreeMap<i64, String>>,
}

impl Scene {
    async fn append(&self, events: &[NewEvent]) {
        let mut tx = self.log.begin();
        let receipt = self.log.append(&mut tx, events).await.expect("append");
        tx.commit().await;
        receipt.committed();
    }

    fn stored(&self, event_type: &str, id: i64, name: &str) -> NewEvent {
        self.tutors.lock().expect("lock").insert(id, name.to_owned());
        NewEvent::json("Tutor", id, event_type, &document(id, name)).expect("event")
    }

    fn deleted(&self, id: i64) -> NewEvent {
        self.tutors.lock().expect("lock").remove(&id);
        NewEvent::json("Tutor", id, TUTOR_DELETED, &json!({ "id": id })).expect("event")
    }

    /// How many tutors a search finds.
    async fn found(&self) -> u64 {
        let query = SearchQuery::parse(&QueryPairs::default()).expect("query");
        self.index.search(&query).await.expect("found").total
    }

    /// The names of all tutors that searches can find.
    async fn all(&self) -> BTreeMap<i64, String> {
        let mut all = BTreeMap::new();
        let mut after = 0;
        loop {
            let body = json!({
                "query": { "bool": { "must_not": { "term": { "deleted": true } } } },
                "size": 10_000, "sort": [{ "id": "asc" }], "search_after": [after], "_source": ["id", "full_name"],
            });
            let path = format!("/{}/_search", self.index.0.alias);
            let answer = self.index.0.client.call(Method::Post, &path, Some(body)).await.expect("a page");
            let hits = answer["hits"]["hits"].as_array().cloned().unwrap_or_default();
            let tutor = |hit: &Value| {
                let source = &hit["_source"];
                (source["id"].as_i64().expect("an id"), source["full_name"].as_str().expect("a name").to_owned())
            };
            all.extend(hits.iter().map(tutor));
            match all.last_key_value() {
                Some((last, _)) if !hits.is_empty() => after = *last,
                _ => return all,
            }
        }
    }

    /// Searches see a change when the index is refreshed, which nothing tells: it is asked again and again.
    async fn until_found(&self, expected: u64) {
        let end = Instant::now() + PATIENCE;
        loop {
            let found = self.found().await;
            if found == expected {
                return;
            }
            assert!(Instant::now() < end, "{found} of {expected}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebuild_of_many_tutors_is_never_seen_half_built_and_ends_equal() {
    let log = MemoryLog::default();
    let id = log.identity().await.expect("identity").id;
    let url = test_services::opensearch_url().await;
    let index = OpenSearchIndex::new(&url, &test_services::unique("tutors"), id).expect("address");
    let scene = Arc::new(Scene { log: log.clone(), index: index.clone(), tutors: Mutex::default() });
    for first in (0..TUTORS).step_by(5_000) {
        let events: Vec<_> = (first..first + 5_000).map(|n| scene.stored(TUTOR_CREATED, n + 1, "Anna")).collect();
        scene.append(&events).await;
    }
    let generations = Arc::new(index.clone());
    let sources = LogSources::new(Arc::new(log), ConsumerName::parse("tutor-search").expect("name")).batch(5_000);
    let sources = Arc::new(sources);
    let live = LiveProjector::new(generations.clone(), sources.clone()).projector(|p| p.batch(5_000));
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let running = tokio::spawn(async move {
        live.run(async {
            let _stop = stopped.await;
        })
        .await
    });
    scene.until_found(TUTORS as u64).await;

    let ended = Arc::new(AtomicBool::new(false));
    let writing = tokio::spawn({
        let (scene, ended) = (scene.clone(), ended.clone());
        async move {
            let mut next = TUTORS;
            let mut fewest = u64::MAX;
            while !ended.load(Ordering::Relaxed) {
                next += 1;
                let change = scene.stored(TUTOR_UPDATED, next % TUTORS + 1, &format!("Berta {next}"));
                let mut changes = vec![change, scene.stored(TUTOR_CREATED, next, "Clara")];
                if next % 3 == 0 {
                    changes.push(scene.deleted(next));
                }
                scene.append(&changes).await;
                // Whoever searches meanwhile finds at least everybody who was there.
                fewest = fewest.min(scene.found().await);
            }
            fewest
        }
    });
    let rebuild = Rebuild::new(generations.clone(), sources.clone()).swap_within(20).projector(|p| p.batch(5_000));
    let ran = tokio::time::timeout(PATIENCE, rebuild.run(std::future::pending())).await;
    ended.store(true, Ordering::Relaxed);
    let fewest = writing.await.expect("no panic");
    let second = ran.expect("in time").expect("rebuilt");
    assert_eq!(second.get(), 2);
    assert!(fewest >= TUTORS as u64, "a search found {fewest}");

    let expected = scene.tutors.lock().expect("lock").clone();
    assert!(expected.len() > TUTORS as usize, "writers went on");
    scene.until_found(expected.len() as u64).await;
    let refresh = format!("/{}/_refresh", index.0.alias);
    index.0.client.call(Method::Post, &refresh, None).await.expect("refreshed");
    let all = scene.all().await;
    let wrong = expected.iter().filter(|(id, name)| all.get(id) != Some(name)).count();
    assert_eq!((all.len(), wrong), (expected.len(), 0));
    let state = generations.state().await.expect("state");
    assert_eq!((state.live, state.building), (second, None));
    assert!(generations.before(second).await.expect("before").is_empty(), "the first index is gone");
    generations.claim(Uuid::now_v7(), Duration::ZERO).await.expect("the rebuild gave its claim back");
    stop.send(()).expect("it runs");
    running.await.expect("no panic").expect("run");
    let indexes = format!("/{},{}", index.index_of(second), index.claims());
    index.0.client.call(Method::Delete, &indexes, None).await.expect("removed");
}
