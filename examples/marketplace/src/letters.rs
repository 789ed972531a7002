//! The command `search-letters`: an operator looks at what the search index refused, and replays it.

use std::{
    fmt::{self, Write as _},
    io::{Write as _, stdout},
};

use anyhow::Context;
use outbox_projector::dead_letters::{self, Replay, ReplayReport, ReplayedKey, TopicLetter};

use crate::{
    config::{Config, Letters},
    search::{Kept, SearchDeadLetters, UnreadableLetter},
    shape::{self, OpenIndex},
};

/// Without anything else: lists them.
pub(crate) async fn run(config: &Config, what: Option<Letters>) -> anyhow::Result<()> {
    let text = match what {
        None => list(config).await?,
        Some(Letters::Replay { dry_run }) => replay(config, dry_run).await?,
    };
    stdout().lock().write_all(text.as_bytes()).context("nobody reads what is printed")
}

const TABLE: &str = "the dead letters cannot be read";

async fn list(config: &Config) -> anyhow::Result<String> {
    let db = shape::open_database(config).await?;
    let Kept { letters, unreadable } = SearchDeadLetters::of(db.clone()).all().await.context(TABLE)?;
    db.close().await;
    let mut text = format!("{} of the search index", counted(letters.len() + unreadable.len(), "dead letter"));
    if !unreadable.is_empty() {
        write!(text, ", {} of them unreadable", unreadable.len())?;
    }
    writeln!(text)?;
    for letter in &letters {
        let TopicLetter { id, projection, place, cause, reason, attempts, at, .. } = letter;
        let (cause, at, tried) =
            (cause.as_str(), at.format("%Y-%m-%d %H:%M:%S UTC"), counted(*attempts as usize, "try"));
        write!(text, "\n{id}\n  {cause} after {tried}, {at}, by {projection}\n  at {place}\n  {reason}\n")?;
    }
    for UnreadableLetter { projection, id, why } in &unreadable {
        write!(text, "\n{id}\n  unreadable, by {projection}\n  {why}\n")?;
    }
    Ok(text)
}

async fn replay(config: &Config, dry_run: bool) -> anyhow::Result<String> {
    let OpenIndex { db, projection, decoder, .. } = &shape::open_index(config).await?;
    let table = SearchDeadLetters::of(db.clone());
    let Kept { letters, unreadable } = table.all().await.context(TABLE)?;
    let others = letters.iter().filter(|letter| letter.projection != projection.name()).count();
    let all = Replay::of(dead_letters::Letters::All).from_topic(letters).decoder(decoder.clone());
    let all = if dry_run { all.dry_run() } else { all };
    let replayed = dead_letters::replay(&**projection, &all).await;
    let report =
        replayed.context("the search index cannot be written; what was replayed is harmless to replay again")?;
    if !dry_run {
        let done = report.keys.iter().flat_map(|key| key.done_letters.iter().copied());
        table
            .remove(projection.name(), done)
            .await
            .context("the letters that are done cannot be deleted; replay again")?;
    }
    db.close().await;
    let mut text = String::new();
    if dry_run {
        writeln!(text, "Tried only, nothing was changed. A replay would say:")?;
    }
    tell(&mut text, &report)?;
    if others > 0 {
        writeln!(text, "{} of another generation of the index, left as they are", counted(others, "letter"))?;
    }
    for UnreadableLetter { projection, id, why } in &unreadable {
        writeln!(text, "unreadable, left as it is: {id} by {projection}\n  {why}")?;
    }
    Ok(text)
}

fn tell(text: &mut String, report: &ReplayReport) -> fmt::Result {
    for ReplayedKey { series, letter, done_letters, left, error, .. } in &report.keys {
        let what = match (series, letter) {
            (Some(series), _) => series.ordering_key.clone(),
            (None, id) => id.map(|id| id.to_string()).unwrap_or_default(),
        };
        writeln!(text, "{what}: {} done, {left} left", done_letters.len())?;
        if let Some(error) = error {
            writeln!(text, "  {error}")?;
        }
    }
    let (totals, done) = (report.totals(), report.keys.iter().map(|key| key.done_letters.len()).sum::<usize>());
    write!(text, "{}: {} written", counted(done + report.left(), "letter"), totals.applied)?;
    for (count, what) in
        [(totals.duplicates, "no newer than what the index has"), (totals.ignored, "of no concern to the index")]
    {
        if count > 0 {
            write!(text, ", {count} {what}")?;
        }
    }
    writeln!(text, ", {} left", report.left())
}

fn counted(count: usize, one: &str) -> String {
    match (count, one.strip_suffix('y')) {
        (1, _) => format!("1 {one}"),
        (_, Some(stem)) => format!("{count} {stem}ies"),
        _ => format!("{count} {one}s"),
    }
}
