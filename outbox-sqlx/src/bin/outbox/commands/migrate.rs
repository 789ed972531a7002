use clap::Args;
use outbox_core::{event::LaneCount, log::EventLog as _};
use outbox_sqlx::{PostgresLog, SqliteLog};
use serde_json::json;

use super::Context;
use crate::{
    connection::{Database, Log},
    failure::Failure,
};

const EXAMPLES: &str = "\
Examples:
  outbox migrate
  outbox --schema orders_outbox migrate --lanes 16
  outbox migrate --print > outbox.sql          # for another migration tool; run it in one transaction
  outbox --database-url sqlite:shop.db migrate --print";

/// Creates the log's tables or brings them up to date
///
/// Does nothing when they are. Several processes may do it at once.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Prints the SQL for an empty database instead of running it; asks no database
    ///
    /// For PostgreSQL, unless the database URL is one of SQLite.
    #[arg(long)]
    print: bool,

    /// How many lanes a new log gets, 1 to 64, fixed for ever; an existing one must have as many [default: 64]
    #[arg(long, value_name = "N", value_parser = lane_count)]
    lanes: Option<LaneCount>,

    /// Makes a new log a ring, for very high volume (PostgreSQL only); see docs/operating.md
    #[arg(long)]
    ring: bool,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    let Options { print, lanes, ring } = options;
    if print {
        return context.out.line(script(context, lanes.unwrap_or_default(), ring)?.trim_end());
    }
    let database = context.database()?;
    if ring && matches!(database, Database::Sqlite { .. }) {
        return Err(no_ring());
    }
    let identity = match database.create().await? {
        Log::Postgres { log, pool } => {
            let mut builder = PostgresLog::builder(pool).schema(log.schema().clone());
            if let Some(lanes) = lanes {
                builder = builder.lanes(lanes);
            }
            if ring {
                builder = builder.ring();
            }
            builder.migrate().await?.identity().await?
        }
        Log::Sqlite { pool, .. } => {
            let mut builder = SqliteLog::builder(pool);
            if let Some(lanes) = lanes {
                builder = builder.lanes(lanes);
            }
            builder.migrate().await?.identity().await?
        }
    };
    context.out.either(
        || json!({"log": identity.id.to_string(), "lanes": identity.lanes.get(), "generation": identity.generation}),
        || {
            format!(
                "log {} is up to date: {} lanes, generation {}",
                identity.id,
                identity.lanes.get(),
                identity.generation
            )
        },
    )
}

fn script(context: &Context, lanes: LaneCount, ring: bool) -> Result<String, Failure> {
    match (context.database(), ring) {
        (Ok(Database::Sqlite { .. }), true) => Err(no_ring()),
        (Ok(Database::Sqlite { .. }), false) => Ok(SqliteLog::migration_sql(lanes)),
        (_, true) => Ok(PostgresLog::ring_migration_sql(&context.schema, lanes)),
        (_, false) => Ok(PostgresLog::migration_sql(&context.schema, lanes)),
    }
}

fn no_ring() -> Failure {
    Failure::usage("a log in SQLite cannot be a ring")
}

fn lane_count(text: &str) -> Result<LaneCount, String> {
    let count = text.parse().ok().and_then(LaneCount::new);
    count.ok_or_else(|| format!("a log has 1 to {} lanes", LaneCount::MAX))
}
