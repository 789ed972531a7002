//! What a bench found: tables on standard output, the same figures as JSON, and pictures beside it.

use std::{fs, path::PathBuf};

use serde_json::{Map, Value, json};

use super::table::{Table, load, spread};

/// Collects the figures of one run.
pub(crate) struct Report {
    path: PathBuf,
    facts: Map<String, Value>,
    tables: Vec<Value>,
}

impl Report {
    /// Notes how busy the machine is before anything runs. The figures go to `OUTBOX_BENCH_JSON`, or else to
    /// `target/benchmarks/<name>.json`.
    pub(crate) fn begin(name: &str, settings: Value) -> Self {
        let default = || PathBuf::from(format!("target/benchmarks/{name}.json"));
        let path = std::env::var_os("OUTBOX_BENCH_JSON").map_or_else(default, PathBuf::from);
        let load = load();
        eprintln!("{name}: {settings}; load {load}");
        let facts = [("bench", json!(name)), ("settings", settings), ("load_before", json!(load))];
        Self { path, facts: facts.map(|(name, value)| (name.to_owned(), value)).into_iter().collect(), tables: vec![] }
    }

    /// Prints a table and keeps its figures. Beside each row stands its share of the yardsticks, round by round.
    pub(crate) fn table(&mut self, title: &str, unit: &str, table: &Table, yardsticks: &[&str]) {
        print(title, unit, table, yardsticks);
        let rows = table.0.iter().map(|(row, rounds)| {
            let (low, median, high) = spread(rounds);
            json!({"row": row, "median": median, "min": low, "max": high, "rounds": rounds})
        });
        self.tables.push(json!({"title": title, "unit": unit, "rows": rows.collect::<Vec<_>>()}));
    }

    /// Prints a table with several figures a row, each the median of its rounds with the lowest and the highest.
    pub(crate) fn grid(&mut self, title: &str, columns: &[&str], rows: &[(String, Vec<Vec<f64>>)]) {
        println!("\n{title}:\n\n| | {} |\n|---|{}", columns.join(" | "), "---:|".repeat(columns.len()));
        for (row, cells) in rows {
            let cell = |rounds: &Vec<f64>| {
                let (low, median, high) = spread(rounds);
                format!(" {median:.2} ({low:.2} – {high:.2}) |")
            };
            println!("| {row} |{}", cells.iter().map(cell).collect::<String>());
        }
        let rows = rows.iter().map(|(row, cells)| {
            let cells = columns.iter().zip(cells).map(|(column, rounds)| {
                let (low, median, high) = spread(rounds);
                ((*column).to_owned(), json!({"median": median, "min": low, "max": high, "rounds": rounds}))
            });
            json!({"row": row, "columns": cells.collect::<Map<_, _>>()})
        });
        self.tables.push(json!({"title": title, "rows": rows.collect::<Vec<_>>()}));
    }

    /// Keeps something that is no table, such as what happened over time.
    pub(crate) fn keep(&mut self, name: &str, value: Value) {
        self.facts.insert(name.to_owned(), value);
    }

    /// Where a picture of this run goes: beside the figures.
    pub(crate) fn picture(&self, of: &str) -> std::io::Result<PathBuf> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let stem = self.path.file_stem().unwrap_or_default().to_string_lossy();
        Ok(self.path.with_file_name(format!("{stem}-{of}.svg")))
    }

    /// Writes the figures.
    pub(crate) fn end(mut self) -> Result<(), Box<dyn std::error::Error>> {
        self.keep("load_after", json!(load()));
        self.facts.insert("tables".to_owned(), self.tables.into());
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(&self.path, serde_json::to_string_pretty(&self.facts)? + "\n")?;
        eprintln!("figures: {}", self.path.display());
        Ok(())
    }
}

fn print(title: &str, unit: &str, table: &Table, yardsticks: &[&str]) {
    let shares: Vec<String> = yardsticks.iter().map(|name| format!(" of \"{name}\" | min – max |")).collect();
    println!("\n{title}:\n\n| | median {unit} | min – max |{}", shares.concat());
    println!("|---|---:|---:|{}", "---:|---:|".repeat(yardsticks.len()));
    for (row, figures) in &table.0 {
        let (low, middle, high) = spread(figures);
        let digits = match middle.abs() {
            1_000.0.. => 0,
            10.0.. => 1,
            _ => 2,
        };
        let shares: String = yardsticks.iter().map(|name| share(table, name, figures)).collect();
        println!("| {row} | {middle:.digits$} | {low:.digits$} – {high:.digits$} |{shares}");
    }
}

fn share(table: &Table, yardstick: &str, figures: &[f64]) -> String {
    let Some((_, base)) = table.0.iter().find(|(row, _)| row == yardstick) else { return " | |".to_owned() };
    // Round by round: both sides of one then saw the same machine.
    let ratios: Vec<f64> = base.iter().zip(figures).map(|(base, figure)| 100.0 * figure / base).collect();
    let (low, middle, high) = spread(&ratios);
    format!(" {middle:.1} % | {low:.1} – {high:.1} % |")
}
