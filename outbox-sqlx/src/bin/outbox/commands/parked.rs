use clap::{Args, Subcommand};
use outbox_core::{
    event::Sequence,
    log::{ConsumerName, Redrive},
};
use serde_json::json;

use super::Context;
use crate::{
    confirm::Confirm,
    connection::Log,
    event::{Aggregate, sequence},
    failure::Failure,
    text::counted,
};

mod show;

const EXAMPLES: &str = "\
Examples:
  outbox parked list
  outbox parked show 12345
  outbox parked redrive --all --consumer search
  outbox parked redrive --aggregate Tutor/42
  outbox parked discard 12345 --reason \"test data, see ticket 77\"

An event that could not be published is parked, and later events of its key wait behind it; everybody else's flow. To
redrive is to ask the relay that owns the lane to publish the events of a key again, in order: this command publishes
nothing itself.";

/// Lists, shows, redrives and discards events that could not be published
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Lists parked events, oldest first
    #[command(after_help = "Examples:\n  outbox parked list\n  outbox parked list --consumer search --json")]
    List {
        #[command(flatten)]
        of: Of,
        /// The most to list
        #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Lists discarded events, oldest first, with the reasons given
    #[command(after_help = "Examples:\n  outbox parked discarded --consumer search")]
    Discarded {
        #[command(flatten)]
        of: Of,
        /// The most to list
        #[arg(short = 'n', long, default_value_t = 100, value_name = "N")]
        limit: usize,
    },
    /// Shows one parked event whole, and why it is parked
    #[command(after_help = "Examples:\n  outbox parked show 12345\n  outbox parked show 12345 --json | jq -r .payload")]
    Show {
        /// The event's sequence
        #[arg(value_name = "SEQ", value_parser = sequence)]
        sequence: Sequence,
        #[command(flatten)]
        of: Of,
    },
    /// Asks the owners of the lanes to publish parked events again, whole keys at a time, in order
    #[command(after_help = "Examples:\n  outbox parked redrive --all --consumer search\n  \
        outbox parked redrive --event 12345\n  outbox parked redrive --aggregate Tutor/42")]
    Redrive {
        #[command(flatten)]
        which: Which,
        #[command(flatten)]
        of: Of,
    },
    /// Gives a parked event up: it is not published to this consumer; kept with the reason
    ///
    /// The events behind it are published then. One that is being redriven at this moment may be published all the same.
    #[command(after_help = "Examples:\n  outbox parked discard 12345 --reason \"test data\"\n  \
        outbox parked discard 12345 --consumer search --reason \"test data\" --yes")]
    Discard {
        /// The event's sequence
        #[arg(value_name = "SEQ", value_parser = sequence)]
        sequence: Sequence,
        /// Why; kept with the event
        #[arg(long, value_name = "TEXT")]
        reason: String,
        #[command(flatten)]
        of: Of,
        #[command(flatten)]
        confirm: Confirm,
    },
}

/// Whose parked events.
#[derive(Debug, Args)]
struct Of {
    /// Of this consumer; may be left out where the answer is clear
    #[arg(long, value_name = "NAME")]
    consumer: Option<ConsumerName>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Which {
    /// Everything parked
    #[arg(long)]
    all: bool,
    /// The key of this event
    #[arg(long, value_name = "SEQ", value_parser = sequence)]
    event: Option<Sequence>,
    /// Every key of this aggregate
    #[arg(long, value_name = "TYPE/ID")]
    aggregate: Option<Aggregate>,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    match options.action {
        Action::List { of, limit } => show::list(context, &log, of.consumer.as_ref(), limit).await,
        Action::Discarded { of, limit } => show::discarded(context, &log, of.consumer.as_ref(), limit).await,
        Action::Show { sequence, of } => show::one(context, &log, of.consumer.as_ref(), sequence).await,
        Action::Redrive { which, of } => redrive(context, &log, of.consumer.as_ref(), which).await,
        Action::Discard { sequence, reason, of, confirm } => {
            discard(context, &log, of.consumer.as_ref(), sequence, &reason, confirm).await
        }
    }
}

async fn redrive(context: &Context, log: &Log, named: Option<&ConsumerName>, which: Which) -> Result<(), Failure> {
    let consumer = log.consumer(named).await?;
    let which = match which {
        Which { event: Some(sequence), .. } => Redrive::Event(sequence),
        Which { aggregate: Some(Aggregate { aggregate_type, aggregate_id }), .. } => {
            Redrive::Aggregate { aggregate_type, aggregate_id }
        }
        Which { .. } => Redrive::All,
    };
    let keys = log.admin().redrive(&consumer, &which).await?;
    context.out.either(
        || json!({"consumer": consumer.as_str(), "keys": keys}),
        || match keys {
            0 => format!("nothing of it is parked for consumer {consumer}"),
            keys => format!("{} asked for; the members of {consumer} publish them in order", counted(keys, "key")),
        },
    )
}

async fn discard(
    context: &Context,
    log: &Log,
    named: Option<&ConsumerName>,
    sequence: Sequence,
    reason: &str,
    confirm: Confirm,
) -> Result<(), Failure> {
    let (consumer, parked) = show::find(log, named, sequence).await?;
    let event = &parked.event.event;
    confirm.ask(&format!(
        "Give event {sequence} up ({} of {}/{})? Consumer {consumer} never gets it.",
        event.event_type, event.aggregate_type, event.aggregate_id
    ))?;
    if !log.admin().discard(&consumer, sequence, reason).await? {
        return Err(Failure::failed(format!("event {sequence} is no longer parked for consumer {consumer}")));
    }
    context.out.either(
        || json!({"consumer": consumer.as_str(), "discarded": sequence.get()}),
        || format!("event {sequence} is given up for consumer {consumer}; what waits behind it is published"),
    )
}
