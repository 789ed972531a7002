use std::time::Duration;

use clap::Args;
use outbox_sqlx::doctor::{Finding, Level, Limits};
use serde_json::{Value, json};

use super::Context;
use crate::{
    connection::Log,
    failure::Failure,
    text::{counted, duration, on_one_line},
};

const EXAMPLES: &str = "\
Examples:
  outbox doctor
  outbox doctor --quiet || page-somebody
  outbox doctor --json | jq 'select(.level != \"ok\")'
  outbox doctor --max-transaction 30m      # where long reports are usual

Exit code 3 when there are problems, also when nobody reads them; 0 when there are only warnings. The checks change nothing. What each of them means
is in docs/operating.md.";

/// Looks for what will hurt, and says what to do about it
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct Options {
    /// Leaves out what is fine
    #[arg(long, short)]
    quiet: bool,

    /// How long a transaction may be open: 90s, 15m, 12h [default: 5m]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_transaction: Option<Duration>,

    /// How long a consumer with something to do may go without a checkpoint [default: 1d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_idle: Option<Duration>,

    /// How old consumed events may get before retention is missed [default: 14d]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    max_retained: Option<Duration>,

    /// How large the write-ahead log of a SQLite file, or what a replication slot keeps, may get, in MiB [default: 64,
    /// 1024]
    #[arg(long, value_name = "MIB")]
    max_wal: Option<u64>,
}

pub(crate) async fn run(context: &Context, options: Options) -> Result<(), Failure> {
    // Not opened: what stands in between is looked at first.
    let log = context.database()?.connect().await?;
    let limits = limits(&options);
    let mut findings = match &log {
        Log::Postgres { log, .. } => log.examine(&limits).await?,
        Log::Sqlite { log, .. } => log.examine(&limits).await?,
    };
    let problems = findings.iter().filter(|finding| finding.level == Level::Problem).count();
    let warnings = findings.iter().filter(|finding| finding.level == Level::Warning).count();
    if options.quiet {
        findings.retain(|finding| finding.level != Level::Ok);
    }
    let in_all = format!("\n{}, {}", counted(problems as u64, "problem"), counted(warnings as u64, "warning"));
    match print(context, &findings, (!options.quiet).then_some(&in_all)) {
        // The exit code is for whoever asked, who need not be the reader.
        Ok(()) | Err(Failure::NobodyReads) if problems > 0 => Err(Failure::Problems),
        printed => printed,
    }
}

fn print(context: &Context, findings: &[Finding], in_all: Option<&String>) -> Result<(), Failure> {
    for finding in findings {
        context.out.either(|| value(finding), || text(finding))?;
    }
    match in_all {
        Some(in_all) if !context.out.json => context.out.line(in_all),
        _ => Ok(()),
    }
}

fn limits(options: &Options) -> Limits {
    let mut limits = Limits::default();
    if let Some(time) = options.max_transaction {
        limits.transaction = time;
    }
    if let Some(time) = options.max_idle {
        limits.idle = time;
    }
    if let Some(time) = options.max_retained {
        limits.retained = time;
    }
    if let Some(mebibytes) = options.max_wal {
        limits.wal_bytes = mebibytes.saturating_mul(1_048_576);
        limits.slot_bytes = limits.wal_bytes;
    }
    limits
}

fn text(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok",
        Level::Warning => "WARNING",
        Level::Problem => "PROBLEM",
    };
    let said = format!("{level:<8} {:<14} {}", finding.check, on_one_line(&finding.message, None));
    match &finding.advice {
        Some(advice) => format!("{said}\n{:24}→ {}", "", on_one_line(advice, None)),
        None => said,
    }
}

fn value(finding: &Finding) -> Value {
    json!({
        "check": finding.check,
        "level": finding.level.as_str(),
        "message": finding.message,
        "advice": finding.advice,
    })
}
