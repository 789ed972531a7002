//! Lanes, batch, window, events of a lane in flight, lingering of the publisher, relays.

use outbox_core::event::LaneCount;
use test_services::TestDatabase;

use super::{Tables, drain};
use crate::{
    contest::{RelaySettings, Result, log},
    figures::{report::Report, table::load},
};

const LANES: [(u8, &str); 3] = [(1, "one_lane"), (8, "eight_lanes"), (64, DEFAULT)];
const DEFAULT: &str = "default_lanes";

struct Row {
    name: String,
    schema: &'static str,
    relay: RelaySettings,
}

/// To Kafka, and to nowhere: what the broker costs hides what the settings change.
fn rows(null: bool) -> Vec<Row> {
    let plain = RelaySettings { null, ..RelaySettings::default() };
    let row = |name: String, relay| Row { name, schema: DEFAULT, relay };
    let mut rows = vec![row(BASE.to_owned(), plain.clone())];
    for (lanes, schema) in LANES.into_iter().filter(|(_, schema)| *schema != DEFAULT) {
        rows.push(Row { name: format!("lanes: {lanes}"), schema, relay: plain.clone() });
    }
    for batch in [500, 1_000, 2_000, 10_000] {
        rows.push(row(format!("batch: {batch}"), RelaySettings { batch: Some(batch), ..plain.clone() }));
    }
    for window in [2_000, 5_000, 50_000] {
        rows.push(row(format!("window: {window}"), RelaySettings { window: Some(window), ..plain.clone() }));
    }
    for events in [50, 500] {
        let relay = RelaySettings { lane_in_flight: Some(events), ..plain.clone() };
        rows.push(row(format!("lane_in_flight: {events}"), relay));
    }
    for linger in ["0", "0.5", "5"].into_iter().filter(|_| !null) {
        let relay = RelaySettings { linger: Some(linger.to_owned()), ..plain.clone() };
        rows.push(row(format!("linger.ms: {linger}"), relay));
    }
    for relays in [1, 2, 4] {
        let relay = RelaySettings { relays: Some(relays), ..plain.clone() };
        rows.push(row(format!("relays that share: {relays}"), relay));
    }
    rows
}

const BASE: &str = "default settings, 64 lanes";

pub(super) async fn run(database: &TestDatabase, events: u64, rounds: usize, report: &mut Report) -> Result<()> {
    for (lanes, schema) in LANES {
        log::filled(database.pool(), schema, LaneCount::new(lanes).ok_or("a number of lanes")?, events).await?;
    }
    let only = std::env::var("OUTBOX_BENCH_ONLY").unwrap_or_default();
    let wanted = |row: &Row| only.is_empty() || row.name == BASE || only.split(',').any(|part| row.name.contains(part));
    let (mut kafka, mut null) = (Tables::default(), Tables::default());
    for round in 1..=rounds {
        for (to, tables) in [("Kafka", &mut kafka), ("nowhere", &mut null)] {
            eprintln!("round {round} of {rounds}, to {to}, load {}", load());
            for row in rows(to == "nowhere").into_iter().filter(wanted) {
                tables.add(&row.name, &[drain(database, row.schema, events, row.relay).await?]);
            }
        }
    }
    kafka.tell("PostgreSQL → Kafka", report, BASE);
    null.tell("PostgreSQL → null publisher", report, BASE);
    Ok(())
}
