use std::{collections::BTreeSet, time::Duration};

use clap::Args;
use outbox_core::{
    event::{RecordedEvent, Sequence},
    log::LogIdentity,
};

use super::Context;
use crate::{
    connection::Log,
    event::{self, Aggregate},
    failure::Failure,
    interrupt::until_interrupted,
};

const EXAMPLES: &str = "\
Examples:
  outbox tail
  outbox tail -n 100 --type BookingConfirmed
  outbox tail --follow --aggregate Tutor/42
  outbox tail --json | jq -r '.payload | fromjson'

For people to look at. Events come in the order of their positions. A follower shows events that commit late out of
order, and misses one that commits after 1,000 later positions; consumers of the log miss none.";

/// Positions read at a time.
const PAGE: usize = 1_000;

/// How far back events are looked for.
const REACH: u64 = 1_000_000;

/// How far behind the newest event a follower looks for those that commit late.
const LATE: u64 = 1_000;

const PAUSE: Duration = Duration::from_millis(500);

/// Prints the newest events
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Goes on with events as they come, until Ctrl-C
    #[arg(long, short)]
    follow: bool,

    /// How many of the newest events
    #[arg(short = 'n', long = "lines", default_value_t = 20, value_name = "N")]
    count: usize,

    /// Only of this aggregate
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<Aggregate>,

    /// Only of this event type
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
}

impl Options {
    fn wants(&self, recorded: &RecordedEvent) -> bool {
        let event = &recorded.event;
        let aggregate = self.aggregate.as_ref().is_none_or(|wanted| {
            event.aggregate_type.as_str() == wanted.aggregate_type && event.aggregate_id.as_str() == wanted.aggregate_id
        });
        aggregate && self.event_type.as_ref().is_none_or(|wanted| event.event_type.as_str() == wanted)
    }
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    let identity = log.admin().identity().await?;
    let head = log.head().await?;
    let newest = newest(&log, &identity, head, &options).await?;
    newest.iter().try_for_each(|recorded| print(context, recorded))?;
    if !options.follow {
        return Ok(());
    }
    until_interrupted(follow(context, &log, head, &options)).await
}

/// Goes back page by page until there are enough.
async fn newest(
    log: &Log,
    identity: &LogIdentity,
    head: u64,
    options: &Options,
) -> Result<Vec<RecordedEvent>, Failure> {
    let mut found: Vec<RecordedEvent> = Vec::new();
    let (mut end, last) = (head, head.saturating_sub(REACH));
    while end > last && found.len() < options.count {
        let start = end.saturating_sub(PAGE as u64);
        let mut page = log.admin().tail(Log::after(identity, start), PAGE).await?;
        page.retain(|recorded| recorded.origin.sequence.position() <= end && options.wants(recorded));
        page.append(&mut found);
        found = page;
        end = start;
    }
    Ok(found.split_off(found.len().saturating_sub(options.count)))
}

/// Asks again and again. The events behind the newest one are asked for too, and those already seen are left out.
async fn follow(context: &Context, log: &Log, head: u64, options: &Options) -> Result<(), Failure> {
    let mut newest = head;
    let mut seen: BTreeSet<Sequence> = BTreeSet::new();
    let mut first = true;
    let mut ticks = tokio::time::interval(PAUSE);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let identity = log.admin().identity().await?;
        let mut after = Log::after(&identity, newest.saturating_sub(LATE));
        loop {
            let page = log.admin().tail(after, PAGE).await?;
            for recorded in &page {
                let sequence = recorded.origin.sequence;
                // What was there before following began has been shown, or was left out on purpose.
                let known = !seen.insert(sequence) || (first && sequence.position() <= head);
                if !known && options.wants(recorded) {
                    print(context, recorded)?;
                }
                newest = newest.max(sequence.position());
            }
            if page.len() < PAGE {
                break;
            }
            after = page.last().map(|recorded| recorded.origin.sequence);
        }
        first = false;
        seen.retain(|sequence| sequence.position() > newest.saturating_sub(LATE));
    }
}

fn print(context: &Context, recorded: &RecordedEvent) -> Result<(), Failure> {
    context.out.either(|| event::json(recorded).into(), || event::line(recorded, context.out.width()))
}
