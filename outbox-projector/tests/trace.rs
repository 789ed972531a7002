//! The spans around steps and handlers, and what is logged of replays that fail, as a subscriber sees them.
//!
//! A process of its own, with one subscriber for all of it: tracing keeps for every place in the code whether
//! anybody listens, and where one thread listens and another comes by for the first time, it can keep the wrong answer.
#![cfg(any(feature = "postgres", feature = "sqlite"))]
#![allow(clippy::expect_used, clippy::unwrap_used, clippy::missing_panics_doc, reason = "tests fail by panicking")]

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex, Once},
};

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::{
    error::{BoxError, chain},
    event::{NewEvent, ReceivedEvent, TraceParent},
    profile::{CodecError, CodecErrorKind, Decoder},
    projection::{DeadLetter, Projection, Step},
    source::{Partition, RawRecord, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::{
    dead_letters::{Letters, Replay, ReplayReport, TopicLetter, replay},
    external::{Change, Documents, MemoryDocuments, PositionedProjection, VersionedProjection},
    inbox::{InboxDatabase, InboxProjection},
    sql::{BlockedKeys, Handled, Handler, HandlerError, ProjectionName, SqlDatabase, SqlProjection},
};
use sqlx::{Pool, Transaction};
use tracing::{Span, Subscriber, field::Field, span};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt, registry::LookupSpan};

/// What was linked: spans by their ids, and the trace each was joined to. Traces tell the tests apart.
static LINKED: Mutex<Vec<(Option<span::Id>, TraceParent)>> = Mutex::new(Vec::new());

fn link(span: &Span, producer: &TraceParent) {
    LINKED.lock().unwrap().push((span.id(), *producer));
}

fn linked_to(trace: u8) -> Vec<(Option<span::Id>, TraceParent)> {
    LINKED.lock().unwrap().iter().filter(|(_, parent)| parent.trace_id() == [trace; 16]).cloned().collect()
}

#[cfg(feature = "postgres")]
#[tokio::test]
async fn spans_carry_the_producers_trace_on_postgres() {
    let database = test_services::TestDatabase::create(test_services::PostgresVersion::V15).await;
    let schema = outbox_projector::sql::SchemaName::default();
    outbox_projector::sql::PostgresProjection::migrate(database.pool(), &schema).await.expect("migrate");
    each_projection(database.pool(), [1, 2]).await;
    database.drop_database().await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn spans_carry_the_producers_trace_on_sqlite() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = sqlx::sqlite::SqliteConnectOptions::new();
    let options = options.filename(folder.path().join("model.db")).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("a database file");
    outbox_projector::sql::SqliteProjection::migrate(&pool).await.expect("migrate");
    each_projection(&pool, [3, 4]).await;
    pool.close().await;
}

#[tokio::test]
async fn spans_carry_the_producers_trace_into_stores_of_documents() {
    listen();
    let documents = MemoryDocuments::default();
    let versioned = VersionedProjection::builder("traced", documents.clone(), Inside).link_traces(link).build();
    spans_carry_the_producers_trace(&versioned, 5).await;
    let positioned = PositionedProjection::new("traced", documents, Inside).link_traces(link);
    spans_carry_the_producers_trace(&positioned, 6).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn a_replay_logs_no_payload_and_keeps_the_reason_in_the_table() {
    listen();
    let folder = tempfile::tempdir().expect("a folder");
    let options = sqlx::sqlite::SqliteConnectOptions::new();
    let options = options.filename(folder.path().join("model.db")).create_if_missing(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.expect("a database file");
    outbox_projector::sql::SqliteProjection::migrate(&pool).await.expect("migrate");
    let name = ProjectionName::parse("quoting-sql").expect("name");
    let projection = SqlProjection::builder(pool.clone(), name, Quoting).dead_letters(BlockedKeys::Pass).build();
    let (partition, to, letters) = (Partition::new("p"), SourcePosition::from_text("1"), letters());
    let step = Step::new(&partition, None, &to, &[]).with_dead_letters(&letters);
    projection.apply(step).await.expect("apply");
    let report = projection.dead_letters().replay(&Replay::of(Letters::All).decoder(Arc::new(Quoting))).await;
    assert_quoted_only_to_the_operator(&report.expect("replay"), "quoting-sql");
    for letter in &letters {
        let (kept, _) = projection.dead_letters().get(letter.id()).await.expect("get").expect("there");
        assert!(kept.reason.contains(SECRET), "{kept:?}");
    }
    pool.close().await;
}

#[tokio::test]
async fn a_replay_into_a_store_of_documents_logs_no_payload() {
    listen();
    let projection = VersionedProjection::builder("quoting-documents", MemoryDocuments::default(), Quoting).build();
    let letters = letters();
    let letters = letters.iter().map(|letter| TopicLetter::of("quoting-documents", letter));
    let all = Replay::of(Letters::All).from_topic(letters).decoder(Arc::new(Quoting));
    assert_quoted_only_to_the_operator(&replay(&projection, &all).await.expect("replay"), "quoting-documents");
    let store = MemoryDocuments::default().with_rule(|_| Err(format!("why this {SECRET}")));
    let store_all = |received: &ReceivedEvent| Ok(Some(Change::store(received.event.id.to_string(), "{}")));
    let versioned = VersionedProjection::builder("quoting-versioned", store.clone(), store_all).build();
    let positioned = PositionedProjection::new("quoting-positioned", store, store_all);
    let event = Sequencer::default().receive(counted("a", 1));
    let (partition, to) = (Partition::new("p"), SourcePosition::from_text("1"));
    let projections: [&dyn Projection; 2] = [&versioned, &positioned];
    for projection in projections {
        let step = Step::new(&partition, None, &to, std::slice::from_ref(&event));
        let error = projection.apply(step).await.expect_err("refused");
        assert!(chain(&error).contains(SECRET), "{}", chain(&error));
        assert!(!error.to_string().contains(SECRET), "what is logged of it: {error}");
    }
}

/// One that is decoded and refused, and one that is not decoded.
fn letters() -> [DeadLetter; 2] {
    let event = Sequencer::default().receive(counted("a", 1));
    let garbage = RawRecord { offset: 1, key: None, payload: None, headers: Vec::new() };
    let partition = Partition::new("p");
    let rejected = DeadLetter::rejected(&partition, event, None, "why", 1);
    [rejected, DeadLetter::undecodable(&partition, garbage, "bad")]
}

fn assert_quoted_only_to_the_operator(report: &ReplayReport, projection: &str) {
    assert_eq!((report.keys.len(), report.left()), (2, 2));
    assert!(report.keys.iter().all(|key| key.error.as_ref().is_some_and(|why| why.contains(SECRET))), "{report:?}");
    let said = FAILED_REPLAYS.lock().unwrap();
    let said: Vec<_> = said.iter().filter(|fields| fields["projection"] == projection).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    let quotes = |fields: &&HashMap<&'static str, String>| fields.values().any(|value| value.contains(SECRET));
    assert!(!said.iter().any(quotes), "{said:?}");
    assert!(said.iter().all(|fields| !fields["error"].is_empty() && !fields["id"].is_empty()), "{said:?}");
}

const SECRET: &str = "quoted-from-the-payload";

/// Fails with what a payload says.
struct Quoting;

#[async_trait]
impl<DB: sqlx::Database> Handler<DB> for Quoting {
    async fn handle(&self, _: &mut Transaction<'_, DB>, _: &ReceivedEvent) -> Result<Handled, HandlerError> {
        Err(HandlerError::reject(SECRET))
    }
}

impl Documents for Quoting {
    fn change(&self, _: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        Err(SECRET.into())
    }
}

impl Decoder for Quoting {
    fn decode(
        &self,
        _: Option<&Bytes>,
        _: Option<&Bytes>,
        _: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        Err(CodecError::new(CodecErrorKind::Malformed, SECRET))
    }
}

async fn each_projection<DB: SqlDatabase + InboxDatabase>(pool: &Pool<DB>, traces: [u8; 2]) {
    listen();
    let name = || ProjectionName::parse("traced").expect("name");
    let sql = SqlProjection::builder(pool.clone(), name(), Inside).link_traces(link).build();
    spans_carry_the_producers_trace(&sql, traces[0]).await;
    let inbox = InboxProjection::builder(pool.clone(), name(), Inside).link_traces(link).build();
    spans_carry_the_producers_trace(&inbox, traces[1]).await;
}

async fn spans_carry_the_producers_trace(projection: &dyn Projection, trace: u8) {
    let log = Sequencer::default();
    let parent = TraceParent::new([trace; 16], [7; 8], true).expect("parent");
    let traced = log.receive(counted("a", 1).with_trace_parent(&parent));
    let untraced = log.receive(counted("a", 2));
    let partition = format!("listening-{trace}");
    apply(projection, &partition, &[traced.clone(), untraced.clone()]).await;

    let seen = SEEN.lock().unwrap().of(&partition);
    let [step, handled @ ..] = &seen[..] else { panic!("one step: {seen:?}") };
    assert_eq!(
        (step.name, step.fields["projection"].as_str(), step.fields["events"].as_str()),
        ("outbox.project", "traced", "2")
    );
    let [first, second] = handled else { panic!("two calls: {seen:?}") };
    for (span, event) in [(first, &traced), (second, &untraced)] {
        assert_eq!((span.name, span.fields["event"].as_str()), ("outbox.handle", event.event.id.to_string().as_str()));
        assert_eq!(span.fields["event_type"], "Counted");
        assert!(span.around_the_handler, "{span:?}");
    }
    assert_eq!(first.fields.get("traceparent"), Some(&parent.to_string()));
    assert_eq!(second.fields.get("traceparent"), None);
    assert_eq!(linked_to(trace), [(Some(first.id.clone()), parent)]);

    let nobody = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    let again = [log.receive(counted("b", 3).with_trace_parent(&parent))];
    apply(projection, &format!("nobody-{trace}"), &again).await;
    drop(nobody);
    assert_eq!(linked_to(trace).len(), 1, "nobody listens, so nothing is linked");
}

async fn apply(projection: &dyn Projection, partition: &str, events: &[ReceivedEvent]) {
    let (partition, to) = (Partition::new(partition), SourcePosition::from_text("1"));
    let did = projection.apply(Step::new(&partition, None, &to, events)).await.expect("apply");
    assert_eq!(did.applied, events.len());
}

/// `{"n": n}` of the aggregate `Suite/key`.
fn counted(key: &str, n: i64) -> NewEvent {
    NewEvent::json("Suite", key, "Counted", &serde_json::json!({ "n": n })).expect("event")
}

/// Leaves a mark in the span that it is called in.
struct Inside;

#[async_trait]
impl<DB: sqlx::Database> Handler<DB> for Inside {
    async fn handle(&self, _: &mut Transaction<'_, DB>, _: &ReceivedEvent) -> Result<Handled, HandlerError> {
        tracing::info!("inside");
        Ok(Handled::Done)
    }
}

impl Documents for Inside {
    fn change(&self, received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        tracing::info!("inside");
        Ok(Some(Change::delete(received.event.id.to_string())))
    }
}

/// Every span of the process with its fields, in the order of their beginnings.
static SEEN: Mutex<Seen> = Mutex::new(Seen(Vec::new()));

/// What was logged of each, field by field.
static FAILED_REPLAYS: Mutex<Vec<HashMap<&'static str, String>>> = Mutex::new(Vec::new());

/// Listens in all threads, from before the first step on.
fn listen() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        tracing::subscriber::set_global_default(tracing_subscriber::registry().with(Spans)).expect("the only one");
    });
}

#[derive(Debug)]
struct Seen(Vec<SeenSpan>);

#[derive(Clone, Debug)]
struct SeenSpan {
    id: span::Id,
    name: &'static str,
    /// Its place among all.
    parent: Option<usize>,
    fields: HashMap<&'static str, String>,
    around_the_handler: bool,
}

impl Seen {
    /// The only step of a partition, and what began right within it.
    fn of(&self, partition: &str) -> Vec<SeenSpan> {
        let is_step = |span: &SeenSpan| span.fields.get("partition").is_some_and(|of| of == partition);
        let steps: Vec<usize> = (0..self.0.len()).filter(|&place| is_step(&self.0[place])).collect();
        assert_eq!(steps.len(), 1, "{self:?}");
        let within = self.0.iter().filter(|span| span.parent == Some(steps[0]));
        std::iter::once(&self.0[steps[0]]).chain(within).cloned().collect()
    }

    /// The place of the latest of this id: ids are used again.
    fn latest(&self, id: &span::Id) -> Option<usize> {
        self.0.iter().rposition(|span| span.id == *id)
    }
}

struct Spans;

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = HashMap::new();
        attributes.record(&mut Record(&mut fields));
        let parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.id()));
        let name = attributes.metadata().name();
        let mut seen = SEEN.lock().unwrap();
        let parent = parent.and_then(|id| seen.latest(&id));
        seen.0.push(SeenSpan { id: id.clone(), name, parent, fields, around_the_handler: false });
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        let mut seen = SEEN.lock().unwrap();
        if let Some(place) = seen.latest(id) {
            values.record(&mut Record(&mut seen.0[place].fields));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = HashMap::new();
        event.record(&mut Record(&mut fields));
        match fields.get("message").map(String::as_str) {
            Some("inside") => {}
            Some("a replay failed") => return FAILED_REPLAYS.lock().unwrap().push(fields),
            _ => return,
        }
        let mut seen = SEEN.lock().unwrap();
        if let Some(place) = context.event_span(event).and_then(|within| seen.latest(&within.id())) {
            seen.0[place].around_the_handler = true;
        }
    }
}

struct Record<'f>(&'f mut HashMap<&'static str, String>);

impl tracing::field::Visit for Record<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name(), format!("{value:?}"));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name(), value.to_owned());
    }
}
