//! The outcomes of all rounds as tables and pictures.

use serde_json::json;

use crate::{
    contest::{Outcome, Result},
    figures::{chart::Chart, report::Report, table::Table},
};

#[derive(Default)]
pub(crate) struct Costs {
    rates: Table,
    process: Table,
    database: Table,
    broker: Table,
    others: Table,
    memory: Table,
    /// Of the last round.
    last: Vec<(&'static str, Outcome)>,
}

impl Costs {
    pub(crate) fn add(&mut self, row: &'static str, outcome: Outcome) {
        let events = outcome.events as f64;
        let each = |seconds: f64| 1e6 * seconds / events;
        self.rates.record_figure(row, events / outcome.seconds);
        self.process.keep(row, each(outcome.process));
        self.database.keep(row, outcome.database.map_or(f64::NAN, each));
        self.broker.keep(row, outcome.broker.map_or(f64::NAN, each));
        self.others.keep(row, outcome.others.unwrap_or(f64::NAN));
        self.memory.keep(row, outcome.most_memory as f64 / MIB);
        self.last.retain(|(name, _)| *name != row);
        self.last.push((row, outcome));
    }

    pub(crate) fn tell(&self, report: &mut Report, yardsticks: &[&str]) -> Result<()> {
        report.table("Events a second", "events/s", &self.rates, yardsticks);
        report.table("Processor time of the process", "µs/event", &self.process, yardsticks);
        report.table("Processor time of its sessions in the database", "µs/event", &self.database, yardsticks);
        report.table("Processor time of the broker", "µs/event", &self.broker, yardsticks);
        report.table("Processors busy with anything else", "processors", &self.others, &[]);
        report.table("The most memory of the process", "MiB", &self.memory, &[]);
        let over_time = self.last.iter().map(|(row, outcome)| json!({"row": row, "moments": outcome.moments}));
        report.keep("last_round", over_time.collect());

        let chart = |title, up, line: fn(&Outcome) -> Vec<(f64, f64)>| Chart {
            title,
            across: "seconds",
            up,
            lines: self.last.iter().map(|(row, outcome)| ((*row).to_owned(), line(outcome))).collect(),
        };
        let picture = report.picture("throughput")?;
        chart("Draining a backlog", "thousand events a second", throughput).draw(&picture)?;
        chart("Memory while draining", "MiB", memory).draw(&report.picture("memory")?)
    }
}

const MIB: f64 = 1024.0 * 1024.0;

/// Thousands a second over about half a second each: acknowledgements come in bursts.
fn throughput(outcome: &Outcome) -> Vec<(f64, f64)> {
    const LOOKS: usize = 5;
    let moments: Vec<_> = outcome.moments.iter().step_by(LOOKS).collect();
    let rate = |pair: &[&crate::contest::Moment]| {
        let seconds = pair[1].seconds - pair[0].seconds;
        let middle = f64::midpoint(pair[0].seconds, pair[1].seconds);
        (middle, (pair[1].done - pair[0].done) as f64 / seconds / 1e3)
    };
    moments.windows(2).map(rate).collect()
}

fn memory(outcome: &Outcome) -> Vec<(f64, f64)> {
    outcome.moments.iter().map(|moment| (moment.seconds, moment.memory as f64 / MIB)).collect()
}
