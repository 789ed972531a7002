use std::{
    io::{self, IsTerminal as _, Write as _},
    time::Duration,
};

use clap::Args;
use outbox_core::log::{ConsumerName, Pruned, RetentionPolicy};
use serde_json::json;

use super::Context;
use crate::{
    confirm::Confirm,
    failure::Failure,
    text::{counted, duration, grouped},
};

const EXAMPLES: &str = "\
Examples:
  outbox prune --keep-for 7d --yes          # in a cron job
  outbox prune --keep-events 1000000
  outbox prune                              # everything that all consumers have passed; asks

An event that some consumer has not passed is never removed, and without consumers nothing is. Writers are never blocked.
It works in small steps and may be interrupted and repeated.";

/// How many steps until progress is shown.
const STEPS: u32 = 10;

/// Removes events that every consumer has passed
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Keeps events that are younger: 90s, 15m, 12h, 7d, 2w
    #[arg(long, value_name = "AGE", value_parser = duration)]
    keep_for: Option<Duration>,

    /// Keeps about so many of the newest events
    #[arg(long, value_name = "N")]
    keep_events: Option<u64>,

    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    let Options { keep_for, keep_events, confirm } = options;
    confirm.ask(match (keep_for, keep_events) {
        (None, None) => "Remove all events that every consumer has passed?",
        _ => "Remove the events that every consumer has passed and that are not to be kept?",
    })?;
    let mut policy = RetentionPolicy::default().steps(STEPS);
    if let Some(age) = keep_for {
        policy = policy.keep_for(age);
    }
    if let Some(events) = keep_events {
        policy = policy.keep_events(events);
    }
    let mut removed = 0;
    let held_back_by = loop {
        let Pruned { removed: now, more, held_back_by } = log.admin().prune(&policy).await?;
        removed += now;
        if !more {
            break held_back_by;
        }
        progress(removed);
    };
    context.out.either(
        || json!({"removed": removed, "held_back_by": held_back_by.as_ref().map(ConsumerName::as_str)}),
        || match &held_back_by {
            Some(consumer) => {
                format!("{} removed; consumer {consumer} has not passed older ones", counted(removed, "event"))
            }
            None => format!("{} removed", counted(removed, "event")),
        },
    )
}

/// For somebody who waits.
fn progress(removed: u64) {
    let mut err = io::stderr();
    if err.is_terminal() {
        let _shown = write!(err, "\r{} removed so far", grouped(removed)).and_then(|()| err.flush());
    }
}
