//! Parked and discarded events as people and programs read them.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::Sequence,
    log::{ConsumerName, DiscardedEvent, ParkState, ParkedEvent},
};
use serde_json::{Map, Value, json};

use crate::{
    commands::Context,
    connection::Log,
    event::{before, json as event_json, lines},
    failure::Failure,
    table::Table,
    text::{age, moment, on_lines, on_one_line},
};

/// How much of a reason a table shows.
const REASON: usize = 60;

pub(super) async fn list(
    context: &Context,
    log: &Log,
    named: Option<&ConsumerName>,
    limit: usize,
) -> Result<(), Failure> {
    let mut table = Table::new(&["CONSUMER", ">SEQUENCE", "KEY", "TYPE", "STATE", ">ATTEMPTS", "PARKED", "REASON"]);
    let mut rows = 0;
    for consumer in log.consumers(named).await? {
        for parked in log.admin().parked(&consumer.name, None, limit).await? {
            if context.out.json {
                context.out.value(&value(&consumer.name, &parked).into())?;
            }
            rows += 1;
            table.row([
                consumer.name.to_string(),
                parked.event.origin.sequence.to_string(),
                parked.event.event.lane_key().into_owned(),
                parked.event.event.event_type.to_string(),
                state(&parked),
                parked.attempts.to_string(),
                age(parked.parked_at),
                on_one_line(&parked.reason, Some(REASON)),
            ]);
        }
    }
    match (context.out.json, rows) {
        (true, _) => Ok(()),
        (false, 0) => context.out.line("nothing is parked"),
        (false, _) => context.out.line(table.to_text()),
    }
}

pub(super) async fn discarded(
    context: &Context,
    log: &Log,
    named: Option<&ConsumerName>,
    limit: usize,
) -> Result<(), Failure> {
    let mut table = Table::new(&["CONSUMER", ">SEQUENCE", "KEY", "TYPE", "DISCARDED", "WHY", "IT HAD FAILED WITH"]);
    let mut rows = 0;
    for consumer in log.consumers(named).await? {
        for discarded in log.admin().discarded(&consumer.name, None, limit).await? {
            let DiscardedEvent { parked, discard_reason, discarded_at } = &discarded;
            if context.out.json {
                let mut fields = value(&consumer.name, parked);
                fields.insert("discard_reason".to_owned(), json!(discard_reason));
                fields.insert("discarded_at".to_owned(), json!(discarded_at));
                context.out.value(&fields.into())?;
            }
            rows += 1;
            table.row([
                consumer.name.to_string(),
                parked.event.origin.sequence.to_string(),
                parked.event.event.lane_key().into_owned(),
                parked.event.event.event_type.to_string(),
                moment(*discarded_at),
                on_one_line(discard_reason, Some(REASON)),
                on_one_line(&parked.reason, Some(REASON)),
            ]);
        }
    }
    match (context.out.json, rows) {
        (true, _) => Ok(()),
        (false, 0) => context.out.line("nothing was discarded"),
        (false, _) => context.out.line(table.to_text()),
    }
}

pub(super) async fn one(
    context: &Context,
    log: &Log,
    named: Option<&ConsumerName>,
    sequence: Sequence,
) -> Result<(), Failure> {
    let (consumer, parked) = find(log, named, sequence).await?;
    context.out.either(
        || value(&consumer, &parked).into(),
        || {
            let retry = parked.retry_at.map(|at| format!("\nnext try      {}", moment(at))).unwrap_or_default();
            let reason = if parked.reason.is_empty() { "(it did not fail itself)" } else { &parked.reason };
            format!(
                "consumer      {consumer}\nstate         {}\nattempts      {}\nparked        {}{retry}\nreason\n{}\n\n{}",
                state(&parked),
                parked.attempts,
                moment(parked.parked_at),
                on_lines(reason),
                lines(&parked.event),
            )
        },
    )
}

/// The parked event with this sequence, of the consumer named or of the only one that has it.
pub(super) async fn find(
    log: &Log,
    named: Option<&ConsumerName>,
    sequence: Sequence,
) -> Result<(ConsumerName, ParkedEvent), Failure> {
    let mut found = Vec::new();
    for consumer in log.consumers(named).await? {
        let next = log.admin().parked(&consumer.name, before(sequence), 1).await?;
        let parked = next.into_iter().find(|parked| parked.event.origin.sequence == sequence);
        found.extend(parked.map(|parked| (consumer.name, parked)));
    }
    match (found.pop(), found.as_slice()) {
        (Some(only), []) => Ok(only),
        (Some((last, _)), others) => {
            let which: Vec<&str> = others.iter().map(|(name, _)| name.as_str()).chain([last.as_str()]).collect();
            Err(Failure::usage(format!(
                "event {sequence} is parked for several consumers; say --consumer with one of: {}",
                which.join(", ")
            )))
        }
        (None, _) => {
            Err(Failure::failed(format!("event {sequence} is not parked; `outbox event {sequence}` says more")))
        }
    }
}

fn state(parked: &ParkedEvent) -> String {
    match (parked.state, parked.retry_at) {
        (ParkState::Retrying, Some(at)) => format!("retrying {}", due(at)),
        (state, _) => word(state).to_owned(),
    }
}

fn due(at: DateTime<Utc>) -> String {
    if at <= Utc::now() { "now".to_owned() } else { age(at) }
}

fn word(state: ParkState) -> &'static str {
    match state {
        ParkState::Retrying => "retrying",
        ParkState::Parked => "parked",
        ParkState::Behind => "behind",
        _ => "unknown",
    }
}

fn value(consumer: &ConsumerName, parked: &ParkedEvent) -> Map<String, Value> {
    let mut fields = event_json(&parked.event);
    fields.insert("consumer".to_owned(), consumer.as_str().into());
    fields.insert("state".to_owned(), word(parked.state).into());
    fields.insert("reason".to_owned(), parked.reason.as_str().into());
    fields.insert("attempts".to_owned(), parked.attempts.into());
    fields.insert("parked_at".to_owned(), json!(parked.parked_at));
    fields.insert("retry_at".to_owned(), json!(parked.retry_at));
    fields
}
