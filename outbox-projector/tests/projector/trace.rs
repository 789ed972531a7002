//! The spans around steps and handlers, as a subscriber sees them.

use std::{
    collections::HashMap,
    fmt::Debug,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use outbox_core::{
    event::{ReceivedEvent, TraceParent},
    projection::{Projection, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::{
    inbox::{InboxDatabase, InboxProjection},
    sql::{Handled, Handler, HandlerError, ProjectionName, SqlProjection},
};
use sqlx::Transaction;
use tracing::{Span, Subscriber, field::Field, span};
use tracing_subscriber::{Layer, layer::Context, layer::SubscriberExt, registry::LookupSpan};

use crate::{
    sql::{
        database::{Database, TestDatabase, fresh},
        handler::ReadModel,
    },
    support::counted,
};

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
    each_projection(fresh::<sqlx::Postgres>().await, [1, 2]).await;
}

#[cfg(feature = "sqlite")]
#[tokio::test]
async fn spans_carry_the_producers_trace_on_sqlite() {
    each_projection(fresh::<sqlx::Sqlite>().await, [3, 4]).await;
}

async fn each_projection<DB: TestDatabase + InboxDatabase>(database: Database<DB>, traces: [u8; 2])
where
    ReadModel: Handler<DB>,
{
    let name = || ProjectionName::parse("traced").expect("name");
    let sql = SqlProjection::builder(database.pool.clone(), name(), Inside).link_traces(link).build();
    spans_carry_the_producers_trace(&sql, traces[0]).await;
    let inbox = InboxProjection::builder(database.pool.clone(), name(), Inside).link_traces(link).build();
    spans_carry_the_producers_trace(&inbox, traces[1]).await;
    database.tear_down().await;
}

async fn spans_carry_the_producers_trace(projection: &dyn Projection, trace: u8) {
    let log = Sequencer::default();
    let parent = TraceParent::new([trace; 16], [7; 8], true).expect("parent");
    let traced = log.receive(counted("a", 1).with_trace_parent(&parent));
    let untraced = log.receive(counted("a", 2));
    let events = [traced.clone(), untraced.clone()];

    // A place in the code that is met for the first time while a subscriber comes may not be told of it.
    apply(projection, "before", &[log.receive(counted("before", 0).with_trace_parent(&parent))]).await;
    let spans = Spans::default();
    let listening = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    apply(projection, "listening", &events).await;
    drop(listening);

    let spans = std::mem::take(&mut *spans.0.lock().unwrap());
    let [step] = &spans.named("outbox.project")[..] else { panic!("one step: {spans:?}") };
    let fields = ["projection", "partition", "events"].map(|field| step.fields[field].as_str());
    assert_eq!(fields, ["traced", "listening", "2"]);
    let handled = spans.named("outbox.handle");
    let [first, second] = &handled[..] else { panic!("two calls: {spans:?}") };
    for (span, event) in [(first, &traced), (second, &untraced)] {
        assert_eq!(span.fields["event"], event.event.id.to_string());
        assert_eq!(span.fields["event_type"], "Counted");
        assert_eq!(span.parent, Some(step.id.clone()));
        assert!(span.around_the_handler, "{span:?}");
    }
    assert_eq!(first.fields.get("traceparent"), Some(&parent.to_string()));
    assert_eq!(second.fields.get("traceparent"), None);
    assert_eq!(linked_to(trace), [(Some(first.id.clone()), parent)]);

    let nobody = tracing::subscriber::set_default(tracing::subscriber::NoSubscriber::new());
    let again = [log.receive(counted("b", 3).with_trace_parent(&parent))];
    apply(projection, "nobody", &again).await;
    drop(nobody);
    assert_eq!(linked_to(trace).len(), 1, "nobody listens, so nothing is linked");
}

async fn apply(projection: &dyn Projection, partition: &str, events: &[ReceivedEvent]) {
    let (partition, to) = (Partition::new(partition), SourcePosition::from_text("1"));
    let did = projection.apply(Step::new(&partition, None, &to, events)).await.expect("apply");
    assert_eq!(did.applied, events.len());
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

/// Every span with its fields, in the order of their beginnings.
#[derive(Clone, Default)]
struct Spans(Arc<Mutex<Seen>>);

#[derive(Debug, Default)]
struct Seen(Vec<SeenSpan>);

#[derive(Debug)]
struct SeenSpan {
    id: span::Id,
    name: &'static str,
    parent: Option<span::Id>,
    fields: HashMap<&'static str, String>,
    around_the_handler: bool,
}

impl Seen {
    fn named(&self, name: &str) -> Vec<&SeenSpan> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The latest of this id: ids are used again.
    fn latest(&mut self, id: &span::Id) -> Option<&mut SeenSpan> {
        self.0.iter_mut().rev().find(|span| span.id == *id)
    }
}

impl<S: Subscriber + for<'s> LookupSpan<'s>> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &span::Attributes<'_>, id: &span::Id, context: Context<'_, S>) {
        let mut fields = HashMap::new();
        attributes.record(&mut Record(&mut fields));
        let parent = context.span(id).and_then(|span| span.parent().map(|parent| parent.id()));
        let name = attributes.metadata().name();
        self.0.lock().unwrap().0.push(SeenSpan { id: id.clone(), name, parent, fields, around_the_handler: false });
    }

    fn on_record(&self, id: &span::Id, values: &span::Record<'_>, _: Context<'_, S>) {
        if let Some(span) = self.0.lock().unwrap().latest(id) {
            values.record(&mut Record(&mut span.fields));
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut fields = HashMap::new();
        event.record(&mut Record(&mut fields));
        if fields.get("message").is_none_or(|text| text != "inside") {
            return;
        }
        if let Some(within) = context.event_span(event)
            && let Some(span) = self.0.lock().unwrap().latest(&within.id())
        {
            span.around_the_handler = true;
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
