use clap::Args;
use outbox_core::log::Reanchored;
use serde_json::json;

use super::Context;
use crate::{confirm::Confirm, failure::Failure, text::grouped};

const EXAMPLES: &str = "\
Examples:
  outbox reanchor
  outbox reanchor --yes --json

When: the database was restored to an earlier time, moved by dump and restore, or failed over to a standby that lacked
transactions. Positions are then issued again, and consumers that keep only what is newer than the last they saw would
take new events for old. A higher generation makes them new. Stop the writers first: they wait while it runs. Members are
fenced and join again; consumers may get some events again, and miss none.";

/// Makes consumers' places valid again after a restore, a move or a fail-over that lost transactions
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    #[command(flatten)]
    confirm: Confirm,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let log = context.open().await?;
    let identity = log.admin().identity().await?;
    options.confirm.ask(&format!(
        "Re-anchor log {} (now of generation {})? All members are fenced, and consumers may get events again.",
        identity.id, identity.generation
    ))?;
    let Reanchored { log, generation, from_position } = log.admin().reanchor().await?;
    context.out.either(
        || json!({"log": log.to_string(), "generation": generation, "from_position": from_position}),
        || format!("log {log} is of generation {generation} from position {} on", grouped(from_position)),
    )
}
