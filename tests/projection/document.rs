//! The crash matrix of projectors, as a section of the documentation.

use std::fmt::Write as _;

use crate::{
    model::{Difference, Kind},
    mortal::Failpoint,
    page,
    scene::Aftermath,
};

const INTRODUCTION: &str = "\
## Projectors

A projector process is killed with SIGKILL at each step of its work, by itself, around its source, its projection, the
handler or store in that, and its dead letters. Two writers go on changing 20 aggregates meanwhile, and another process
finishes. From Kafka, a second writer repeats each message of the relay up to three times, late and behind newer ones.
One event in 37 is poison: nothing can apply it, and it has to become a dead letter in a topic. In the end the read model
is compared with what the events of the log lead to when each is applied once and in order: a list of all changes, a count
and a last value of each aggregate, or a document of each that changes and deletions write.

* **Missing**: effects that were never made. **Twice**: effects that were made again. **Out of order**: effects behind one
  that belongs behind them. **Wrong**: counts, last values and documents that are not what they should be.
* **Letters**: poison that is no dead letter, and dead letters that are no poison.
* **Seen**: events that the other process met again and passed over, in the run that wrote this section. Most are the
  second writer's copies.

This section is written by `OUTBOX_WRITE_CRASH_MATRIX=1 cargo test --test projection matrix`. Without the variable the
same test fails when a row has changed, but for what was seen.
";

const HEAD: &str = "\
| The process dies | when | Reading from | Missing | Twice | Out of order | Wrong | Letters | Seen |
|---|---|---|---|---|---|---|---|---|";

/// # Panics
/// When the page says something else, but for what differs from run to run.
pub(crate) fn keep_or_write(rows: &[Aftermath]) {
    page::keep_or_write("projectors", &section(rows));
}

fn section(rows: &[Aftermath]) -> String {
    let mut section = String::from(INTRODUCTION);
    for kind in Kind::ALL {
        write!(section, "\n### {}\n\n{HEAD}\n", title(kind)).expect("text");
        for step in Failpoint::ALL {
            for row in rows.iter().filter(|row| (row.kind, row.step) == (kind, step)) {
                writeln!(section, "{}", line(row)).expect("text");
            }
        }
    }
    section
}

fn title(kind: Kind) -> &'static str {
    match kind {
        Kind::Sql => "SQL projection: effects, position and watermarks in one transaction",
        Kind::Inbox => "Inbox: each effect in a transaction with its claim, no position",
        Kind::Versioned => "Versioned projection: documents with versions in a table of PostgreSQL, no position",
    }
}

fn line(row: &Aftermath) -> String {
    let Aftermath { feed, kind, step, difference, wrong_letters, again, .. } = row;
    let Difference { missing, twice, out_of_order, wrong } = difference;
    let (name, when, feed) = (step.name(), when(*step, *kind), feed.name());
    format!("| {name} | {when} | {feed} | {missing} | {twice} | {out_of_order} | {wrong} | {wrong_letters} | {again} |")
}

fn when(step: Failpoint, kind: Kind) -> &'static str {
    match (step, kind) {
        (Failpoint::AfterLookUp, _) => "the position of a partition was looked up, and nothing read",
        (Failpoint::AfterFetch, _) => "a batch was received, and nothing of it applied",
        (Failpoint::InEffect, Kind::Versioned) => "half of a bulk request is in the store",
        (Failpoint::InEffect, _) => "an effect is half written, and not committed",
        (Failpoint::BeforeCommit, Kind::Sql) => "all effects of the step are written, and not committed",
        (Failpoint::BeforeCommit, Kind::Inbox) => "the claim and the effect are written, and not committed",
        (Failpoint::BeforeCommit, Kind::Versioned) => "a bulk request is about to be sent",
        (Failpoint::AfterCommit, _) => "the step is there, and the projector does not know yet",
        (Failpoint::BeforeOffsetCommit, _) => "it is about to commit its place at the source",
        (Failpoint::AfterOffsetCommit, _) => "that was committed, and it does not know yet",
        (Failpoint::BeforeLetter, _) => "a dead letter is about to be written",
        (Failpoint::AfterLetter, _) => "the dead letter was written, and the event not yet passed over",
    }
}
