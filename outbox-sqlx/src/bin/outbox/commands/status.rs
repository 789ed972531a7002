use std::time::Duration;

use clap::Args;
use outbox_core::{
    event::Lane,
    log::{ConsumerInfo, LogIdentity, MemberInfo},
};
use serde_json::{Value, json};

use super::Context;
use crate::{
    connection::Log,
    failure::Failure,
    interrupt::until_interrupted,
    table::Table,
    text::{age_or_dash, counted, grouped},
};

const EXAMPLES: &str = "\
Examples:
  outbox status
  outbox status --watch        # every 2 seconds, until Ctrl-C
  outbox status --watch 10
  outbox status --json | jq '.consumers[] | {name, lag, oldest_pending_seconds}'

LAG counts positions up to the newest one issued. Positions have gaps, so it is at most about the number of events.";

/// Shows how far each consumer is
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Shows it again and again
    #[arg(long, short, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
        value_parser = clap::value_parser!(u64).range(1..=86_400))]
    watch: Option<u64>,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    let Some(seconds) = options.watch else { return show(context, &log).await };
    until_interrupted(async {
        let mut ticks = tokio::time::interval(Duration::from_secs(seconds));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            context.out.clear()?;
            show(context, &log).await?;
        }
    })
    .await
}

async fn show(context: &Context, log: &Log) -> Result<(), Failure> {
    let identity = log.admin().identity().await?;
    let consumers = log.consumers(None).await?;
    let head = log.head().await?;
    context.out.either(
        || value(context, log, &identity, head, &consumers),
        || {
            let LogIdentity { id, lanes, generation } = identity;
            let title = format!(
                "log {id}  generation {generation}  {}  head {}",
                counted(lanes.get().into(), "lane"),
                grouped(head)
            );
            if consumers.is_empty() {
                format!("{title}\n\nno consumers")
            } else {
                format!("{title}\n\n{}", table(&consumers))
            }
        },
    )
}

fn table(consumers: &[ConsumerInfo]) -> String {
    let mut table =
        Table::new(&["CONSUMER", ">LAG", "OLDEST PENDING", ">PARKED", ">BLOCKED KEYS", "MEMBERS", "LAST CHECKPOINT"]);
    for consumer in consumers {
        table.row([
            consumer.name.to_string() + if consumer.paused { " (paused)" } else { "" },
            grouped(lag(consumer)),
            age_or_dash(consumer.oldest_pending),
            grouped(consumer.parked),
            grouped(consumer.blocked_keys),
            members(consumer),
            age_or_dash(consumer.checkpoint_at),
        ]);
    }
    table.to_text()
}

fn members(consumer: &ConsumerInfo) -> String {
    let live = consumer.members.iter().filter(|member| member.live).count();
    match consumer.members.len() {
        0 => "none".to_owned(),
        all if all == live => format!("{live} live"),
        all => format!("{live} of {all} live"),
    }
}

/// How many positions lie between a consumer and the newest one.
pub(crate) fn lag(consumer: &ConsumerInfo) -> u64 {
    consumer.head.saturating_sub(consumer.position)
}

fn value(context: &Context, log: &Log, identity: &LogIdentity, head: u64, consumers: &[ConsumerInfo]) -> Value {
    let schema = matches!(log, Log::Postgres { .. }).then(|| context.schema.as_str());
    json!({
        "log": identity.id.to_string(),
        "database": log.database(),
        "schema": schema,
        "generation": identity.generation,
        "lanes": identity.lanes.get(),
        "head": head,
        "consumers": consumers.iter().map(consumer_value).collect::<Vec<_>>(),
    })
}

/// A consumer, the same in every command.
pub(crate) fn consumer_value(consumer: &ConsumerInfo) -> Value {
    let pending = consumer.oldest_pending.map(|time| (chrono::Utc::now() - time).num_seconds().max(0));
    json!({
        "name": consumer.name.as_str(),
        "created_at": consumer.created_at,
        "paused": consumer.paused,
        "position": consumer.position,
        "lag": lag(consumer),
        "oldest_pending": consumer.oldest_pending,
        "oldest_pending_seconds": pending,
        "parked": consumer.parked,
        "blocked_keys": consumer.blocked_keys,
        "checkpoint_at": consumer.checkpoint_at,
        "members": consumer.members.iter().map(member_value).collect::<Vec<_>>(),
        "free_lanes": consumer.free_lanes.iter().map(Lane::get).collect::<Vec<_>>(),
    })
}

fn member_value(member: &MemberInfo) -> Value {
    json!({
        "member": member.member.0.to_string(),
        "epoch": member.epoch,
        "lanes": member.lanes.iter().map(Lane::get).collect::<Vec<_>>(),
        "expires": member.expires,
        "live": member.live,
    })
}
