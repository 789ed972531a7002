//! The cost of an event, whatever is left behind it.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::LaneCount,
    log::{ConsumerName, EventLog as _, LogAdmin as _, StartAt},
};
use sqlx::AssertSqlSafe;
use test_services::{TestDatabase, unique};

use super::{Tables, drain};
use crate::{
    contest::{RelaySettings, Result, log},
    figures::{report::Report, table::load},
};

const SCHEMA: &str = "backlog";
const SHORTEST: u64 = 10_000;
/// A row of a round is of so many events at least: one short backlog takes too little time to be measured.
const AT_LEAST: u64 = 100_000;

pub(super) async fn run(database: &TestDatabase, events: u64, rounds: usize, report: &mut Report) -> Result<()> {
    let pool = database.pool();
    let log = log::filled(pool, SCHEMA, LaneCount::default(), events).await?;
    let lengths = || std::iter::successors(Some(SHORTEST), |length| Some(length * 10)).take_while(|l| *l <= events);
    let (mut kafka, mut null) = (Tables::default(), Tables::default());
    for round in 1..=rounds {
        for (to, tables) in [("nowhere", &mut null), ("Kafka", &mut kafka)] {
            eprintln!("round {round} of {rounds}, to {to}, load {}", load());
            for length in lengths() {
                let mut outcomes = Vec::new();
                for _ in 0..(AT_LEAST / length).max(1) {
                    let consumer = ConsumerName::parse(unique("backlog"))?;
                    let begin = format!(
                        "SELECT created_at FROM {SCHEMA}.outbox_event WHERE position > \
                         (SELECT max(position) - $1 FROM {SCHEMA}.outbox_event) ORDER BY position LIMIT 1"
                    );
                    let begin: DateTime<Utc> =
                        sqlx::query_scalar(AssertSqlSafe(begin)).bind(length as i64).fetch_one(pool).await?;
                    log.register(&consumer, StartAt::Time(begin)).await?;
                    let relay = RelaySettings {
                        null: to == "nowhere",
                        consumer: Some(consumer.to_string()),
                        ..RelaySettings::default()
                    };
                    // Events made in the same microsecond all count, so a little more may be left than was asked for.
                    outcomes.push(drain(database, SCHEMA, length, relay).await?);
                    log.drop_consumer(&consumer).await?;
                }
                tables.add(&format!("a backlog of {length}"), &outcomes);
            }
        }
    }
    let yardstick = format!("a backlog of {AT_LEAST}");
    kafka.tell("PostgreSQL → Kafka", report, &yardstick);
    null.tell("PostgreSQL → null publisher", report, &yardstick);
    Ok(())
}
