//! From stamps to percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde_json::json;

use crate::{
    Load, Result, WARM_UP,
    figures::{chart::Chart, report::Report},
    stamps::{Stage, Stamps},
};

pub(crate) const RAW_ALONE: &str = "bare producer, alone";
pub(crate) const RAW_BESIDE: &str = "bare producer, beside the same inserts";
const RELAY: &str = "relay";
const PERCENTILES: [(&str, f64); 3] = [("p50", 50.0), ("p99", 99.0), ("p99.9", 99.9)];

/// What takes longer counts as this long.
const LONGEST: Duration = Duration::from_mins(2);

/// Percentiles of each stretch, round by round, in milliseconds.
#[derive(Default)]
pub(crate) struct Stages {
    rows: Vec<Row>,
    /// Of the last round: who, and percentiles second by second.
    seconds: Vec<(String, Vec<[f64; 3]>)>,
}

struct Row {
    name: String,
    rounds: Vec<[f64; 3]>,
}

impl Stages {
    pub(crate) fn relay(&mut self, stamps: &Stamps) {
        use Stage::{Acknowledged, Appended, Committed, Due, HandedOver, Read};
        self.round(RELAY, stamps);
        for (name, from, to) in [
            ("insert → committed", Due, Committed),
            ("committed → read", Committed, Read),
            ("read → handed over", Read, HandedOver),
            ("handed over → appended", HandedOver, Appended),
            ("appended → acknowledged", Appended, Acknowledged),
            ("committed → appended", Committed, Appended),
            ("insert → acknowledged", Due, Acknowledged),
        ] {
            self.add(format!("{RELAY}: {name}"), percentiles(&between(stamps, from, to)));
        }
    }

    /// A way to a read model.
    pub(crate) fn projected(&mut self, who: &str, stamps: &Stamps) {
        use Stage::{Committed, Due, Read, Visible};
        for (name, from, to) in [
            ("commit → visible", Committed, Visible),
            ("insert → committed", Due, Committed),
            ("committed → projector", Committed, Read),
            ("projector → visible", Read, Visible),
        ] {
            self.add(format!("{who}: {name}"), percentiles(&between(stamps, from, to)));
        }
    }

    pub(crate) fn raw(&mut self, who: &str, stamps: &Stamps) {
        self.round(who, stamps);
        let acknowledged = between(stamps, Stage::Due, Stage::Acknowledged);
        self.add(format!("{who}: due → acknowledged"), percentiles(&acknowledged));
    }

    /// What the relay added in the round that ends: each percentile of the one less that of the other.
    pub(crate) fn round_ends(&mut self) {
        let last = |name: &str| {
            let name = whole(name);
            self.rows.iter().find(|row| row.name == name).and_then(|row| row.rounds.last().copied())
        };
        let added = |who| Some((who, last(RELAY)?, last(who)?));
        for (who, relay, raw) in [RAW_ALONE, RAW_BESIDE].map(added).into_iter().flatten() {
            let difference = std::array::from_fn(|n| relay[n] - raw[n]);
            self.add(format!("relay less {who}"), difference);
        }
    }

    pub(crate) fn table(&self, load: Load, report: &mut Report) {
        let Load { rate, burst, .. } = load;
        let rows = self.rows.iter().map(|row| {
            let rounds = |n: usize| row.rounds.iter().map(|round| round[n]).collect();
            (row.name.clone(), (0..PERCENTILES.len()).map(rounds).collect())
        });
        let title = format!("{rate} events/s, {burst} a transaction, milliseconds");
        report.grid(&title, &PERCENTILES.map(|(name, _)| name), &rows.collect::<Vec<_>>());
    }

    pub(crate) fn tell(&self, load: Load, report: &mut Report) -> Result<()> {
        self.table(load, report);
        let rate = load.rate;
        let over_time = self.seconds.iter().map(|(who, seconds)| json!({"row": who, "seconds": seconds}));
        report.keep(&format!("over_time_{rate}"), over_time.collect());
        let line = |who: &str, n: usize, seconds: &[[f64; 3]]| {
            let points = seconds.iter().zip(1..).map(|(second, at)| (f64::from(at), second[n])).collect();
            (format!("{who}, {}", PERCENTILES[n].0), points)
        };
        let drawn = self.seconds.iter().filter(|(who, _)| who != RAW_BESIDE);
        Chart {
            title: &format!("From insert to broker at {rate} events a second"),
            across: "seconds",
            up: "milliseconds",
            lines: drawn.flat_map(|(who, seconds)| [line(who, 0, seconds), line(who, 1, seconds)]).collect(),
        }
        .draw(&report.picture(&format!("{rate}"))?)
    }

    /// The whole way of all events of a round, also second by second.
    fn round(&mut self, who: &str, stamps: &Stamps) {
        let way = between(stamps, Stage::Due, Stage::Appended);
        self.add(whole(who), percentiles(&way));
        let seconds = way.chunk_by(|a, b| a.0.as_secs() == b.0.as_secs()).map(percentiles).collect();
        self.seconds.retain(|(name, _)| name != who);
        self.seconds.push((who.to_owned(), seconds));
    }

    fn add(&mut self, name: String, percentiles: [f64; 3]) {
        match self.rows.iter_mut().find(|row| row.name == name) {
            Some(row) => row.rounds.push(percentiles),
            None => self.rows.push(Row { name, rounds: vec![percentiles] }),
        }
    }
}

fn whole(who: &str) -> String {
    if who == RELAY { format!("{who}: insert → appended") } else { format!("{who}: due → appended") }
}

/// When each event was due, and how long it took, after the warm-up, in the order of arrival.
fn between(stamps: &Stamps, from: Stage, to: Stage) -> Vec<(Duration, Duration)> {
    let Some(begun) = stamps.at(0, Stage::Due) else { return Vec::new() };
    let way = |event| {
        let due = stamps.at(event, Stage::Due)?.saturating_sub(begun).checked_sub(WARM_UP)?;
        // The broker's word may be a millisecond later than the acknowledgement was seen.
        Some((due, stamps.at(event, to)?.saturating_sub(stamps.at(event, from)?)))
    };
    (0..stamps.events()).filter_map(way).collect()
}

fn percentiles(took: &[(Duration, Duration)]) -> [f64; 3] {
    // Microseconds, three digits.
    let Ok(mut histogram) = Histogram::<u64>::new_with_max(LONGEST.as_micros() as u64, 3) else { return [f64::NAN; 3] };
    for (_, took) in took {
        histogram.saturating_record(took.as_micros() as u64);
    }
    PERCENTILES.map(|(_, percentile)| histogram.value_at_percentile(percentile) as f64 / 1e3)
}
