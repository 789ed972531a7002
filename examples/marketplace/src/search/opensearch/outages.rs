//! A projector into a real OpenSearch that is away for a while, or refuses a document.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    time::{Duration, Instant},
};

use opensearch::http::{Method, Url};
use outbox_core::{
    event::NewEvent,
    log::{ConsumerName, EventLog as _},
    log_source::LogSource,
    memory::MemoryLog,
    outbox::Outbox as _,
    profile::Profile,
};
use outbox_projector::{
    Projector, ProjectorError, ProjectorStatus,
    rebuild::{Generations as _, Stage},
};
use serde_json::{Value, json};
use test_services::{PostgresVersion, TcpProxy, TestDatabase, opensearch_url, unique};
use tokio::{
    sync::{oneshot, watch},
    task::JoinHandle,
    time::timeout,
};

use super::*;
use crate::{
    db::{Db, PostgresDb},
    search::{SearchDeadLetters, SearchDocument, change::tests::document},
    tutors::TUTOR_CREATED,
};

/// Two longest pauses of the projector: whatever is wrong has passed by then.
const PATIENCE: Duration = Duration::from_mins(2);

#[tokio::test]
async fn nothing_is_lost_in_an_outage_of_a_minute_and_nobody_knocks_all_the_time() {
    let url = Url::parse(&opensearch_url().await).expect("address");
    let target = url.socket_addrs(|| None).expect("address").into_iter().find(SocketAddr::is_ipv4).expect("IPv4");
    let proxy = TcpProxy::start(target).await;
    let mut scene = Scene::start(&format!("http://{}", proxy.addr())).await;
    scene.append((1..=200).map(tutor)).await;
    scene.until("indexed", |status| status.totals().applied == 200).await;

    proxy.cut();
    let began = Instant::now();
    for first in [201, 301, 401] {
        scene.append((first..first + 100).map(tutor)).await;
    }
    scene.until("waits", |status| status.problem().is_some()).await;
    // The outage itself: nothing else has to happen in it.
    tokio::time::sleep(Duration::from_mins(1).saturating_sub(began.elapsed())).await;
    let knocks = proxy.refused();
    assert!((2..40).contains(&knocks), "{knocks} requests in a minute");
    assert_eq!(scene.status.borrow().totals().applied, 200);

    proxy.restore();
    let status = scene.until("indexed", |status| status.totals().applied == 500).await;
    assert_eq!((status.totals().duplicates, dead_letters(&status), status.problem()), (0, 0, None));
    assert_eq!(scene.indexed().await, (1..=500).collect());
    scene.end().await;
}

#[tokio::test]
async fn what_opensearch_refuses_are_dead_letters_and_the_rest_flows() {
    const REFUSED: [i64; 3] = [3, 5, 8];
    let mut scene = Scene::start(&opensearch_url().await).await;
    let events = (1..=10).map(|id| if REFUSED.contains(&id) { refused(id) } else { tutor(id) });
    scene.append(events).await;
    scene.append([tutor(11)]).await;
    let status = scene.until("indexed", |status| status.totals().applied == 8).await;
    assert_eq!((status.totals().duplicates, dead_letters(&status), status.problem()), (0, 3, None));
    assert_eq!(scene.indexed().await, [1, 2, 4, 6, 7, 9, 10, 11].into());

    let kept: Vec<(String, String, Vec<u8>)> =
        sqlx::query_as("SELECT cause, reason, payload FROM search_dead_letters ORDER BY number")
            .fetch_all(scene.database.pool())
            .await
            .expect("letters");
    for ((cause, reason, payload), id) in kept.iter().zip(REFUSED) {
        assert_eq!(cause, "rejected");
        assert!(reason.contains("created_at"), "{reason}");
        assert_eq!(serde_json::from_slice::<Value>(payload).expect("JSON")["id"], id, "as it came");
    }
    assert_eq!(kept.len(), 3);
    scene.end().await;
}

fn tutor(id: i64) -> NewEvent {
    NewEvent::json("Tutor", id, TUTOR_CREATED, &document(id, "Anna")).expect("event")
}

/// A tutor, but no document of the index: its mapping wants a date.
fn refused(id: i64) -> NewEvent {
    let odd = SearchDocument { created_at: "yesterday".to_owned(), ..document(id, "Anna") };
    NewEvent::json("Tutor", id, TUTOR_CREATED, &odd).expect("event")
}

fn dead_letters(status: &ProjectorStatus) -> usize {
    status.partitions.values().map(|partition| partition.dead_letters).sum()
}

/// A log, an index, and a projector between them as the program runs it.
struct Scene {
    log: MemoryLog,
    index: OpenSearchIndex,
    database: TestDatabase,
    db: Arc<Db>,
    status: watch::Receiver<ProjectorStatus>,
    stop: oneshot::Sender<()>,
    running: JoinHandle<Result<(), ProjectorError>>,
}

impl Scene {
    async fn start(opensearch: &str) -> Self {
        let log = MemoryLog::default();
        let id = log.identity().await.expect("identity").id;
        let alias = unique("tutors");
        let database = TestDatabase::create(PostgresVersion::V15).await;
        let db = PostgresDb::open(database.url(), Profile::default()).await.expect("database");
        let db = Arc::new(Db::Postgres(db));
        let projected = OpenSearchIndex::new(opensearch, &alias, id).expect("address");
        let source = LogSource::builder(Arc::new(log.clone())).consumer(ConsumerName::parse("search").expect("name"));
        let projector = Projector::builder(source.build(), projected.projection(Generation::FIRST, Stage::Live))
            .dead_letters(Arc::new(SearchDeadLetters::of(db.clone())))
            .build();
        let status = projector.status();
        let (stop, stopped) = oneshot::channel();
        let running = tokio::spawn(async move {
            projector
                .run(async {
                    let _stop = stopped.await;
                })
                .await
        });
        // Looked at past whatever the projector goes through.
        let index = OpenSearchIndex::new(&opensearch_url().await, &alias, id).expect("address");
        Self { log, index, database, db, status, stop, running }
    }

    async fn append(&self, events: impl IntoIterator<Item = NewEvent>) {
        let events: Vec<NewEvent> = events.into_iter().collect();
        let mut tx = self.log.begin();
        let receipt = self.log.append(&mut tx, &events).await.expect("append");
        tx.commit().await;
        receipt.committed();
    }

    async fn until(&mut self, what: &str, is_so: impl Fn(&ProjectorStatus) -> bool) -> ProjectorStatus {
        let waited = timeout(PATIENCE, self.status.wait_for(|status| is_so(status))).await;
        let status = waited.unwrap_or_else(|_| panic!("in time: {what}"));
        status.unwrap_or_else(|_| panic!("it ended: {what}")).clone()
    }

    /// The tutors that are in the index.
    async fn indexed(&self) -> BTreeSet<i64> {
        let Shared { client, alias, .. } = &*self.index.0;
        client.call(Method::Post, &format!("/{alias}/_refresh"), None).await.expect("refreshed");
        let all = json!({ "size": 10_000, "_source": ["id"], "query": { "match_all": {} } });
        let found = client.call(Method::Post, &format!("/{alias}/_search"), Some(all)).await.expect("found");
        let hits = found["hits"]["hits"].as_array().expect("hits");
        hits.iter().map(|hit| hit["_source"]["id"].as_i64().expect("id")).collect()
    }

    async fn end(self) {
        self.stop.send(()).expect("it runs");
        self.running.await.expect("no panic").expect("run");
        let Shared { client, alias, .. } = &*self.index.0;
        client.call(Method::Delete, &format!("/{alias}-v1"), None).await.expect("removed");
        self.db.close().await;
        self.database.drop_database().await;
    }
}
