//! The crash matrix as a page of the documentation.

use std::fmt::Write as _;

use crate::{mortal::Failpoint, page, scene::Aftermath, shop::Kind};

const INTRODUCTION: &str = "\
## Relays

A relay process is killed with SIGKILL at each step of its work, by itself, between one call of the log or the publisher
and the next. Four writers go on changing 50 aggregates meanwhile, and other relay processes finish. Then the whole topic
is read and compared with the database.

* **Lost**: events that were committed and never came.
* **Inverted**: first deliveries that came after a later event of their aggregate.
* **Blocked**: keys whose events were set aside when the others had taken over. The event in front is larger than the
  topic's `max.message.bytes`; the limit is raised then, the key redriven, and everything arrives in order.
* **Repeated, allowed**: messages that may come again. The window of these relays is 100 events and their batch 20, so
  a process that dies can have published 119 events and not recorded them, and 20 parked ones. None of the repeated
  messages is of an event that a recorded checkpoint had passed.
* **Seen**: messages that came again in the run that wrote this page.

This section is written by `OUTBOX_WRITE_CRASH_MATRIX=1 cargo test --test crash matrix`. Without the variable the same test
fails when a row has changed, but for what was seen.
";

const HEAD: &str = "\
| The process dies | when | Lost | Inverted | Blocked | Repeated, allowed | Seen |
|---|---|---|---|---|---|---|";

/// # Panics
/// When the page says something else, but for what differs from run to run.
pub(crate) fn keep_or_write(rows: &[Aftermath]) {
    page::keep_or_write("relays", &section(rows));
}

fn section(rows: &[Aftermath]) -> String {
    let mut section = String::from(INTRODUCTION);
    for kind in [Kind::Postgres, Kind::Sqlite] {
        write!(section, "\n### {} to Kafka\n\n{HEAD}\n", kind.name()).expect("text");
        for row in rows.iter().filter(|row| row.kind == kind) {
            writeln!(section, "{}", line(row)).expect("text");
        }
    }
    section
}

fn line(row: &Aftermath) -> String {
    let Aftermath { step, lost, inverted, blocked, repeated, .. } = row;
    let (name, when) = (step.name(), when(*step));
    let (least, most) = step.repeats().into_inner();
    let allowed = if least == 0 { most.to_string() } else { format!("{least} to {most}") };
    format!("| {name} | {when} | {lost} | {inverted} | {blocked} | {allowed} | {repeated} |")
}

fn when(step: Failpoint) -> &'static str {
    match step {
        Failpoint::AfterJoin => "it became the owner of all lanes, and does not know yet",
        Failpoint::AfterRead => "a page was read, and nothing of it sent",
        Failpoint::AfterEnqueue => "messages were handed to the producer",
        Failpoint::AfterAck => "messages were acknowledged, and the relay does not know yet",
        Failpoint::BeforeCheckpoint => "messages were acknowledged, and it is about to record that",
        Failpoint::AfterCheckpoint => "that was recorded, and it does not know yet",
        Failpoint::BeforePark => "an event was refused, and it is about to set it aside",
        Failpoint::AfterPark => "the event was set aside, and it does not know yet",
        Failpoint::BeforeParkBehind => "it is about to set later events of the key aside",
        Failpoint::AfterParkBehind => "they were set aside, and it does not know yet",
        Failpoint::BeforeRedriven => "parked events were redriven and acknowledged, and it is about to record that",
        Failpoint::AfterRedriven => "redriven events were recorded as published, and it does not know yet",
        Failpoint::BeforeRelease => "a third relay came, and it is about to give lanes back",
        Failpoint::AfterRelease => "lanes were given back, and it does not know yet",
        Failpoint::AfterGaining => "it was the second and got lanes from the first, and does not know yet",
        Failpoint::BeforeLeave => "asked to stop, it recorded everything and is about to leave",
        Failpoint::AfterLeave => "asked to stop, it has left",
    }
}
