//! Records that nothing can apply, through Kafka: each becomes a dead letter as it came, and the rest flows.

use std::{num::NonZeroU32, sync::Arc};

use async_trait::async_trait;
use outbox_core::{
    event::{NewEvent, ReceivedEvent},
    profile::header,
    projection::Projection,
    source::EventSource as _,
};
use outbox_kafka::{KafkaPublisher, KafkaSource};
use outbox_projector::{
    dead_letters::{NoTopicLetter, TopicDeadLetters, TopicLetter, header as letter, read_to_end, replay},
    inbox::InboxProjection,
    sql::{Handled, Handler, HandlerError, LetterFilter, Letters, PostgresProjection, ProjectionName, Replay},
};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use serde_json::json;
use sqlx::{Postgres, Transaction};
use test_services::OwnKafka;

use crate::{
    PATIENCE, acl,
    model::Kind,
    read_model::{CHANGED, ListAndCount},
    running::{Running, projector, source},
    shop::{Feed, Shop},
    topic::{self, Written},
};

const REJECTED: &str = "AggRejected";
const FAILS: &str = "AggFails";
const PANICS: &str = "AggPanics";
const HUGE: &str = "AggHuge";
const HUGE_BYTES: usize = 900_000;
const ATTEMPTS: &str = "3";
const NOT_JSON: &[u8] = b"\xff\x00 no envelope";

/// Fails as the event's type says, after its rows were written.
struct Fragile;

#[async_trait]
impl Handler<Postgres> for Fragile {
    async fn handle(&self, tx: &mut Transaction<'_, Postgres>, event: &ReceivedEvent) -> Result<Handled, HandlerError> {
        ListAndCount::default().handle(tx, event).await?;
        match event.event.event_type.as_str() {
            REJECTED | HUGE => Err(HandlerError::reject("nobody wants it")),
            FAILS => Err(HandlerError::retry("not yet")),
            PANICS => panic!("it cannot be"),
            _ => Ok(Handled::Done),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sql_projection_gives_poison_up_and_goes_on() {
    give_up(Kind::Sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_inbox_gives_poison_up_and_goes_on() {
    give_up(Kind::Inbox).await;
}

async fn give_up(kind: Kind) {
    let shop = Shop::open(Feed::Kafka).await;
    let relay = shop.relay();
    write_foreign(&shop, &shop.topic, b"a", NOT_JSON);
    let mut v = 0;
    for event_type in [REJECTED, FAILS, PANICS, HUGE] {
        for event_type in [CHANGED, event_type, CHANGED] {
            v += 1;
            let bytes = if event_type == HUGE { HUGE_BYTES } else { 10 };
            let payload = json!({ "v": v, "fill": "x".repeat(bytes) });
            shop.append(NewEvent::json("Agg", "a", event_type, &payload).expect("event")).await;
        }
    }
    relay.finish().await;

    let name = ProjectionName::parse("model").expect("a name");
    let projection: Arc<dyn Projection> = match kind {
        Kind::Inbox => Arc::new(InboxProjection::builder(shop.pool().clone(), name, Fragile).build()),
        _ => Arc::new(PostgresProjection::builder(shop.pool().clone(), name, Fragile).build()),
    };
    let attempts = NonZeroU32::new(ATTEMPTS.parse().expect("a number")).expect("not 0");
    let builder = projector(source(&shop).build().expect("a source"), projection).attempts(attempts);
    let running = Running::start(builder.dead_letters(shop.dead_letters()));
    shop.until_projected().await;
    running.stop().await;

    let list: Vec<i64> =
        sqlx::query_scalar("SELECT v FROM entry ORDER BY n").fetch_all(shop.pool()).await.expect("entries");
    assert_eq!(list, [1, 3, 4, 6, 7, 9, 10, 12], "the rest flows, in order");
    let letters = topic::read(&shop.brokers, &shop.letters).await;
    let of = |event_type: &str| letters.iter().find(|letter| letter.header(header::TYPE) == Some(event_type));
    let records = topic::read(&shop.brokers, &shop.topic).await;
    for (event_type, cause, reason, attempts) in [
        (REJECTED, "rejected", "nobody wants it", "1"),
        (FAILS, "rejected", "not yet", ATTEMPTS),
        (PANICS, "rejected", "it cannot be", ATTEMPTS),
        (HUGE, "rejected", "nobody wants it", "1"),
    ] {
        let found = of(event_type).unwrap_or_else(|| panic!("{event_type} became no letter"));
        let record = records.iter().find(|record| record.header(header::TYPE) == Some(event_type)).expect("a record");
        assert_as_it_came(found, record);
        assert_eq!(found.header(letter::CAUSE), Some(cause), "{event_type}");
        assert_eq!(found.header(letter::ATTEMPTS), Some(attempts), "{event_type}");
        assert_eq!(found.header(letter::ID), record.header(header::ID), "{event_type}");
        let said = found.header(letter::REASON).expect("a reason");
        assert!(said.contains(reason), "{event_type}: {said}");
    }
    assert!(of(HUGE).and_then(|letter| letter.payload.as_ref()).is_some_and(|body| body.len() > HUGE_BYTES));
    let foreign = letters.iter().find(|letter| letter.payload.as_deref() == Some(NOT_JSON)).expect("a letter");
    assert_as_it_came(foreign, records.iter().find(|r| r.payload.as_deref() == Some(NOT_JSON)).expect("a record"));
    assert_eq!(foreign.header("from"), Some("abroad"));
    assert_eq!((foreign.header(letter::CAUSE), foreign.header(letter::ATTEMPTS)), (Some("undecodable"), Some("0")));
    assert!(foreign.header(letter::PLACE).is_some_and(|place| place.contains(&shop.topic)), "{foreign:?}");
    assert_eq!(letters.len(), 5, "nothing else became one");
    if matches!(kind, Kind::Inbox) {
        replay_into_an_inbox(&shop).await;
    }
    shop.close().await;
}

/// The handler is mended, and the topic still has the letters when it is read again.
async fn replay_into_an_inbox(shop: &Shop) {
    let list = async || list_of(shop, "a").await;
    let before = list().await;
    let after = [&before[..], &[2, 5, 8, 11]].concat();
    for (group, dry_run, applied) in [("one", true, 4), ("two", false, 4), ("three", false, 0)] {
        let (letters, others) = read_letters(shop, group).await;
        assert_eq!((letters.len(), others.len()), (5, 0));
        let name = ProjectionName::parse("model").expect("a name");
        let mended = InboxProjection::builder(shop.pool().clone(), name, ListAndCount::default()).build();
        let all = Replay::of(Letters::All).from_topic(letters);
        let all = if dry_run { all.dry_run() } else { all };
        let report = replay(&mended, &all).await.expect("replayed");
        assert_eq!((report.totals().applied, report.totals().duplicates), (applied, 4 - applied));
        assert_eq!(report.left(), 1, "what is no event: {report:?}");
        assert_eq!(list().await, if dry_run { before.clone() } else { after.clone() });
    }
}

/// Whenever somebody begins anew, the whole topic is there. Letters, and what is none.
async fn read_letters(shop: &Shop, group: &str) -> (Vec<TopicLetter>, Vec<NoTopicLetter>) {
    let group = format!("{}-{group}", shop.group);
    let mut source = KafkaSource::builder(&shop.brokers, group, [&shop.letters]).build().expect("a source");
    let (mut letters, mut others) = (Vec::new(), Vec::new());
    let reading = read_to_end(&mut source, |record| match TopicLetter::try_from(record) {
        Ok(letter) => letters.push(letter),
        Err(error) => others.push(error),
    });
    tokio::time::timeout(PATIENCE, reading).await.expect("in time").expect("read");
    source.close().await.expect("closed");
    (letters, others)
}

/// An operator reads the topic, looks what a replay would do, and does it once the handler is mended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_of_a_topic_are_replayed_in_order_and_once() {
    let shop = Shop::open(Feed::Kafka).await;
    let relay = shop.relay();
    write_foreign(&shop, &shop.topic, b"a", NOT_JSON);
    write_foreign(&shop, &shop.letters, b"a", NOT_JSON);
    for v in 1..=6 {
        for key in ["a", "b"] {
            let event_type = [CHANGED, REJECTED, FAILS][v % 3];
            shop.append(NewEvent::json("Agg", key, event_type, &json!({ "v": v })).expect("event")).await;
        }
    }
    relay.finish().await;
    let name = || ProjectionName::parse("model").expect("a name");
    let projection = PostgresProjection::builder(shop.pool().clone(), name(), Fragile).build();
    let builder = projector(source(&shop).build().expect("a source"), Arc::new(projection));
    let running = Running::start(builder.attempts(NonZeroU32::MIN).dead_letters(shop.dead_letters()));
    shop.until_projected().await;
    running.stop().await;
    assert_eq!((list_of(&shop, "a").await, list_of(&shop, "b").await), (vec![3, 6], vec![3, 6]));

    for (group, dry_run, applied) in [("one", true, 8), ("two", false, 8), ("three", false, 0)] {
        let (letters, others) = read_letters(&shop, group).await;
        assert_eq!((letters.len(), &others[..]), (9, &[NoTopicLetter::Foreign { offset: 0 }][..]));
        let mended = PostgresProjection::builder(shop.pool().clone(), name(), ListAndCount::default()).build();
        let all = Replay::of(Letters::All).from_topic(letters);
        let all = if dry_run { all.dry_run() } else { all };
        let report = mended.dead_letters().replay(&all).await.expect("replayed");
        assert_eq!((report.totals().applied, report.totals().duplicates), (applied, 8 - applied));
        assert_eq!(report.left(), 1, "what is no event: {report:?}");
        let left = mended.dead_letters().list(&LetterFilter::default(), 100).await.expect("a list").len();
        assert_eq!(left, if dry_run { 9 } else { 1 });
        let list = if dry_run { vec![3, 6] } else { vec![3, 6, 1, 2, 4, 5] };
        assert_eq!((list_of(&shop, "a").await, list_of(&shop, "b").await), (list.clone(), list));
    }
    shop.close().await;
}

/// Key, body and headers, and behind them those that say what happened.
fn assert_as_it_came(found: &Written, record: &Written) {
    assert_eq!((&found.key, &found.payload), (&record.key, &record.payload));
    let (before, behind) = found.headers.split_at(record.headers.len());
    assert_eq!(before, record.headers);
    assert!(behind.iter().all(|(name, _)| name.starts_with(letter::PREFIX)), "{behind:?}");
}

/// The topic of dead letters may not be written, and then its broker is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_place_for_dead_letters_the_partition_waits() {
    let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    let settings = [("authorizer.class.name", authorizer), ("allow.everyone.if.no.acl.found", "true")];
    let mut elsewhere = OwnKafka::create(&settings).await;
    let shop = Shop::open(Feed::Kafka).await;
    let bootstrap = elsewhere.bootstrap();
    topic::create(&bootstrap, &shop.letters, 1).await;
    let publisher = KafkaPublisher::builder(&bootstrap)
        .setting("topic.metadata.propagation.max.ms", "1000")
        .setting("topic.metadata.refresh.interval.ms", "1000")
        .build()
        .expect("publisher");
    let letters = Arc::new(TopicDeadLetters::new(Arc::new(publisher), shop.letters.clone()));
    let name = ProjectionName::parse("model").expect("a name");
    let projection = PostgresProjection::builder(shop.pool().clone(), name, Fragile).build();
    let builder = projector(source(&shop).build().expect("a source"), Arc::new(projection)).dead_letters(letters);
    let mut running = Running::start(builder);
    let relay = shop.relay();
    let write = async |key: &str, event_type: &str, v: i64| {
        shop.append(NewEvent::json("Agg", key, event_type, &json!({ "v": v })).expect("event")).await;
    };
    // Of three partitions at least one has none of the poison.
    let others = ["b", "c", "d", "e", "f", "g", "h"];
    let mut v = 0;
    for (what, gone) in [("forbidden", false), ("gone", true)] {
        if gone {
            elsewhere.kill();
        } else {
            acl::allow(&bootstrap, &shop.letters, acl::Operation::Describe).await;
            acl::deny(&bootstrap, &shop.letters, acl::Operation::Write).await;
        }
        let before = running.applied();
        write("a", REJECTED, v + 1).await;
        running.until(&format!("{what}: the partition waits"), |status| status.problem().is_some()).await;
        println!("{what}: {}", running.status.borrow().problem().unwrap_or_default());
        write("a", CHANGED, v + 2).await;
        for key in others {
            write(key, CHANGED, v + 2).await;
        }
        running.until("other partitions flow", |status| status.totals().applied > before).await;
        let list = list_of(&shop, "a").await;
        assert!(!list.contains(&(v + 2)), "{what}: the event was passed over without a letter: {list:?}");
        if gone {
            elsewhere.start().await;
        } else {
            acl::clear(&bootstrap, &shop.letters).await;
        }
        let all = before + 1 + others.len();
        running.until(&format!("{what}: everything flows again"), |status| status.totals().applied == all).await;
        assert_eq!(list_of(&shop, "a").await.last(), Some(&(v + 2)));
        v += 2;
    }
    relay.finish().await;
    shop.until_projected().await;
    running.stop().await;
    let letters = topic::read(&bootstrap, &shop.letters).await;
    assert!(letters.iter().all(|letter| letter.header(header::TYPE) == Some(REJECTED)));
    let mut ids: Vec<_> = letters.iter().filter_map(|letter| letter.header(letter::ID)).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 2, "each poison is a letter");
    shop.close().await;
}

async fn list_of(shop: &Shop, key: &str) -> Vec<i64> {
    let list = sqlx::query_scalar("SELECT v FROM entry WHERE aggregate = $1 ORDER BY n").bind(key);
    list.fetch_all(shop.pool()).await.expect("entries")
}

/// As somebody writes who knows nothing of this project.
fn write_foreign(shop: &Shop, topic: &str, key: &[u8], payload: &[u8]) {
    let producer: ThreadedProducer<DefaultProducerContext> =
        ClientConfig::new().set("bootstrap.servers", &shop.brokers).create().expect("a producer");
    let headers = OwnedHeaders::new().insert(Header { key: "from", value: Some("abroad") });
    let record = BaseRecord::to(topic).key(key).payload(payload).headers(headers);
    producer.send(record).map_err(|(error, _)| error).expect("room in the queue");
    producer.flush(PATIENCE).expect("written");
}
