use chrono::{DateTime, Utc};
use clap::Args;
use outbox_core::{
    event::{RecordedEvent, Sequence},
    log::{ConsumerName, EventStatus, ParkState},
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    connection::Log,
    event::{before, json as event_json, lines, sequence},
    failure::Failure,
    table::Table,
    text::moment,
};

const EXAMPLES: &str = "\
Examples:
  outbox event 12345                     # the sequence, as messages carry it in outbox-sequence
  outbox event 12345 --consumer search
  outbox event 12345 --json | jq -r '.status[] | .consumer + \" \" + .status'";

/// Shows one event, and what each consumer did with it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// The event's sequence
    #[arg(value_name = "SEQ", value_parser = sequence)]
    sequence: Sequence,

    /// Only what this consumer did
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { sequence, consumer } = options;
    let log = context.open().await?;
    let recorded = find(&log, sequence).await?;
    let mut done = Vec::new();
    for consumer in log.consumers(consumer.as_ref()).await? {
        if let Some(status) = log.admin().event_status(&consumer.name, sequence).await? {
            done.push((consumer.name, status));
        }
    }
    if recorded.is_none() && done.is_empty() {
        return Err(Failure::failed(format!("the log has no event with sequence {sequence} (any more)")));
    }
    context.out.either(|| value(sequence, recorded.as_ref(), &done), || text(sequence, recorded.as_ref(), &done))
}

/// `None` when it was removed or never committed.
async fn find(log: &Log, sequence: Sequence) -> Result<Option<RecordedEvent>, Failure> {
    let next = log.admin().tail(before(sequence), 1).await?;
    Ok(next.into_iter().find(|recorded| recorded.origin.sequence == sequence))
}

fn text(sequence: Sequence, recorded: Option<&RecordedEvent>, done: &[(ConsumerName, EventStatus)]) -> String {
    let event = recorded.map_or_else(|| format!("sequence {sequence} is not in the log any more"), lines);
    if done.is_empty() {
        return event;
    }
    let mut table = Table::new(&["CONSUMER", "STATUS"]);
    for (consumer, status) in done {
        let (word, at) = words(*status);
        let at = at.map(|time| format!(", at the latest {}", moment(time))).unwrap_or_default();
        table.row([consumer.to_string(), format!("{word}{at}")]);
    }
    format!("{event}\n\n{}", table.to_text())
}

fn value(sequence: Sequence, recorded: Option<&RecordedEvent>, done: &[(ConsumerName, EventStatus)]) -> Value {
    let status = |(consumer, status): &(ConsumerName, EventStatus)| {
        let (word, at) = words(*status);
        json!({"consumer": consumer.as_str(), "status": word, "published_at": at})
    };
    json!({
        "sequence": sequence.get(),
        "event": recorded.map(event_json),
        "status": done.iter().map(status).collect::<Vec<_>>(),
    })
}

fn words(status: EventStatus) -> (&'static str, Option<DateTime<Utc>>) {
    match status {
        EventStatus::Pending => ("pending", None),
        EventStatus::Published(at) => ("published", at),
        EventStatus::Parked(ParkState::Retrying) => ("retrying", None),
        EventStatus::Parked(ParkState::Behind) => ("behind", None),
        EventStatus::Parked(_) => ("parked", None),
        EventStatus::Discarded => ("discarded", None),
        _ => ("unknown", None),
    }
}
