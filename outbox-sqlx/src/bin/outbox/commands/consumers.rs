use chrono::{DateTime, Utc};
use clap::{Args, Subcommand};
use outbox_core::log::{ConsumerInfo, ConsumerName, StartAt};
use serde_json::json;

use super::{
    Context,
    status::{consumer_value, lag},
};
use crate::{
    confirm::Confirm,
    connection::Log,
    failure::Failure,
    table::Table,
    text::{counted, grouped, moment},
};

const EXAMPLES: &str = "\
Examples:
  outbox consumers
  outbox consumers register search --start beginning
  outbox consumers pause search        # its members stop at their next renewal, and keep their lanes
  outbox consumers resume search
  outbox consumers drop old-search     # says what would be lost, and asks";

/// Lists, registers, pauses, resumes and drops consumers
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Option<Action>,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists them (also without any word)
    #[command(after_help = "Examples:\n  outbox consumers list\n  outbox consumers list --json | jq -r .name")]
    List,
    /// Makes a consumer known; one that is known keeps its place
    ///
    /// Relays and projections do it themselves when they start. Done earlier, retention already waits for the consumer.
    #[command(after_help = "Examples:\n  outbox consumers register search\n  \
        outbox consumers register audit --start end\n  \
        outbox consumers register mail --start 2026-03-01T00:00:00Z")]
    Register {
        /// 1 to 100 of a-z, 0-9, '-', '_' and '.'
        name: ConsumerName,
        /// beginning, end, or a time such as 2026-03-01T00:00:00Z
        #[arg(long, default_value = "beginning", value_name = "WHERE", value_parser = start_at)]
        start: StartAt,
    },
    /// Makes its members stop reading and publishing; retention stays behind it
    ///
    /// They learn it when they next renew their lease: a relay within a third of it, a source over the log within two
    /// fifths.
    #[command(after_help = "Examples:\n  outbox consumers pause search")]
    Pause {
        /// Which
        name: ConsumerName,
    },
    /// Makes its members go on
    #[command(after_help = "Examples:\n  outbox consumers resume search")]
    Resume {
        /// Which
        name: ConsumerName,
    },
    /// Forgets a consumer for ever: its place, its parked and discarded events, its history
    ///
    /// What it has not consumed it never gets. Registered again, it starts where it then asks to. Retention no longer
    /// waits for it. Stop its members first: they find themselves fenced, and a relay ends with an error.
    #[command(after_help = "Examples:\n  outbox consumers drop old-search\n  outbox consumers drop old-search --yes")]
    Drop {
        /// Which
        name: ConsumerName,
        #[command(flatten)]
        confirm: Confirm,
    },
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    match options.action.unwrap_or(Action::List) {
        Action::List => list(context, &log).await,
        Action::Register { name, start } => {
            log.admin().register(&name, start).await?;
            context.out.either(|| json!({"registered": name.as_str()}), || format!("consumer {name} is registered"))
        }
        Action::Pause { name } => pause(context, &log, &name, true).await,
        Action::Resume { name } => pause(context, &log, &name, false).await,
        Action::Drop { name, confirm } => drop_one(context, &log, &name, confirm).await,
    }
}

async fn list(context: &Context, log: &Log) -> Result<(), Failure> {
    let consumers = log.consumers(None).await?;
    if context.out.json {
        return consumers.iter().try_for_each(|consumer| context.out.value(&consumer_value(consumer)));
    }
    if consumers.is_empty() {
        return context.out.line("no consumers");
    }
    let mut table = Table::new(&["CONSUMER", "STATE", ">POSITION", ">LAG", ">PARKED", "LAST CHECKPOINT", "REGISTERED"]);
    for consumer in &consumers {
        table.row([
            consumer.name.to_string(),
            state(consumer).to_owned(),
            grouped(consumer.position),
            grouped(lag(consumer)),
            grouped(consumer.parked),
            consumer.checkpoint_at.map_or_else(|| "never".to_owned(), moment),
            moment(consumer.created_at),
        ]);
    }
    context.out.line(table.to_text())
}

fn state(consumer: &ConsumerInfo) -> &'static str {
    match (consumer.paused, consumer.members.iter().any(|member| member.live)) {
        (true, _) => "paused",
        (false, true) => "running",
        (false, false) => "not running",
    }
}

async fn pause(context: &Context, log: &Log, name: &ConsumerName, paused: bool) -> Result<(), Failure> {
    log.admin().set_paused(name, paused).await?;
    context.out.either(
        || json!({"name": name.as_str(), "paused": paused}),
        || {
            if paused {
                format!("consumer {name} is paused: its members stop when they next renew their lease")
            } else {
                format!("consumer {name} goes on")
            }
        },
    )
}

async fn drop_one(context: &Context, log: &Log, name: &ConsumerName, confirm: Confirm) -> Result<(), Failure> {
    let known = log.consumers(Some(name)).await?;
    let lost = known.iter().map(what_is_lost).collect::<String>();
    confirm.ask(&format!("Drop consumer {name}? {lost}"))?;
    log.admin().drop_consumer(name).await?;
    context.out.either(|| json!({"dropped": name.as_str()}), || format!("consumer {name} is dropped. {lost}"))
}

fn what_is_lost(consumer: &ConsumerInfo) -> String {
    let live = consumer.members.iter().filter(|member| member.live).count() as u64;
    let members = match live {
        0 => "No member of it runs.".to_owned(),
        1 => "1 member of it runs and is fenced (a relay ends with an error).".to_owned(),
        n => format!("{n} members of it run and are fenced (relays end with an error)."),
    };
    format!(
        "{members} It has {} before it that it never gets, and {} parked that are forgotten.",
        counted(lag(consumer), "position"),
        counted(consumer.parked, "event"),
    )
}

fn start_at(text: &str) -> Result<StartAt, String> {
    match text {
        "beginning" => Ok(StartAt::Beginning),
        "end" => Ok(StartAt::End),
        time => match DateTime::parse_from_rfc3339(time) {
            Ok(time) => Ok(StartAt::Time(time.with_timezone(&Utc))),
            Err(_) => Err("neither beginning nor end nor a time such as 2026-03-01T00:00:00Z".to_owned()),
        },
    }
}
