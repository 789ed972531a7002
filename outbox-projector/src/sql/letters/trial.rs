//! One transaction of a replay: some letters of a key, or one by itself.

use outbox_core::{
    event::ReceivedEvent,
    profile::Decoder,
    projection::{Applied, DeadLetterCause, ProjectionError},
};
use sqlx::Transaction;
use uuid::Uuid;

use super::{KeptLetter, KeptRecord, SqlDeadLetters};
use crate::sql::{
    Series, SqlDatabase, SqlProjection,
    projection::store_error,
    step::{after_handler, conflict},
    watermark::Watermarks,
};

/// What is replayed by itself.
pub(super) enum Unit {
    /// The letters of a key, in order.
    Key(Series),
    /// One letter; with `in_order` only once its key has no earlier one.
    One { id: Uuid, series: Option<Series>, in_order: bool },
}

/// What a unit has to offer next.
pub(super) enum Next {
    /// Nothing more.
    Nothing,
    /// A letter that has to wait for an earlier one of its key.
    TooEarly,
    /// A letter that cannot be read, and why.
    Unreadable(Box<KeptLetter>, String),
    Letters(Trial),
}

/// Letters whose key is locked, in order.
pub(super) struct Trial {
    pub(super) letters: Vec<(KeptLetter, ReceivedEvent)>,
    /// Where the watermark of the key stands.
    pub(super) last: Option<i64>,
}

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// At most `limit` letters of the unit. The key is locked before its letters, as a step does.
    pub(super) async fn next(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &Unit,
        limit: u32,
        decoder: &dyn Decoder,
    ) -> Result<Next, ProjectionError> {
        let SqlProjection { tables, name, .. } = self.projection;
        let (id, known, in_order) = match unit {
            Unit::Key(series) => {
                let last = self.lock_series(tx, Some(series)).await?;
                let found = DB::first_letters(tables, tx, name.as_str(), series, limit).await;
                return Ok(Trial::of(found.map_err(store_error::<DB>)?, last, decoder));
            }
            Unit::One { id, series, in_order } => (*id, series.as_ref(), *in_order),
        };
        let mut last = self.lock_series(tx, known).await?;
        let found = DB::lock_letter(tables, tx, name.as_str(), id).await.map_err(store_error::<DB>)?;
        let next = Trial::of(found.into_iter().collect(), None, decoder);
        let Next::Letters(trial) = next else { return Ok(next) };
        let Some((letter, _)) = trial.letters.first() else { return Ok(Next::Nothing) };
        if known.is_none() {
            last = self.lock_series(tx, letter.series.as_ref()).await?;
        }
        if let (true, Some(series), Some(sequence)) = (in_order, &letter.series, letter.sequence) {
            let earlier = DB::has_earlier(tables, tx, name.as_str(), series, sequence.get() as i64).await;
            if earlier.map_err(store_error::<DB>)? {
                return Ok(Next::TooEarly);
            }
        }
        Ok(Next::Letters(Trial { last, ..trial }))
    }

    /// Makes the effect of the letters, each once, and removes them.
    pub(super) async fn carry_out(
        &self,
        tx: &mut Transaction<'_, DB>,
        trial: &Trial,
    ) -> Result<Applied, ProjectionError> {
        let Trial { letters, last } = trial;
        let SqlProjection { tables, name, versioned, .. } = self.projection;
        // The row of such a letter does not say whether its event came again, in another letter or later on.
        let foreign = letters.iter().filter(|(letter, received)| letter.id != received.event.id);
        let mut unseen = self.projection.not_seen(tx, foreign.map(|(_, received)| received.event.id).collect()).await?;
        let fresh: Vec<&ReceivedEvent> = letters
            .iter()
            .filter(|(letter, received)| {
                let known = letter.id == received.event.id || unseen.remove(&received.event.id);
                known && (letter.id == received.event.id || !is_last(*last, received))
            })
            .map(|(_, received)| received)
            .collect();
        let ids = letters.iter().map(|(_, received)| received.event.id);
        let applied = self.projection.handle_all(tx, &fresh, ids).await?;
        if !versioned {
            let (mut watermarks, _) = Watermarks::of(letters.iter().map(|(_, received)| received));
            let raised = DB::raise(tables, tx, name.as_str(), &mut watermarks).await;
            raised.map_err(after_handler::<DB>)?;
        }
        let numbers: Vec<i64> = letters.iter().map(|(letter, _)| letter.number).collect();
        let removed = DB::remove_letters(tables, tx, name.as_str(), &numbers).await.map_err(after_handler::<DB>)?;
        if removed != numbers.len() as u64 {
            return Err(conflict("somebody else removed a dead letter at the same time"));
        }
        let duplicates = letters.len() - fresh.len();
        Ok(Applied { applied, duplicates, ignored: fresh.len() - applied, held: 0 })
    }
}

fn is_last(last: Option<i64>, received: &ReceivedEvent) -> bool {
    received.origin.is_some_and(|origin| last == Some(origin.sequence.get() as i64))
}

impl Trial {
    /// The letters up to the first that cannot be read.
    fn of(found: Vec<(KeptLetter, Option<KeptRecord>)>, last: Option<i64>, decoder: &dyn Decoder) -> Next {
        let mut letters = Vec::with_capacity(found.len());
        for (mut letter, record) in found {
            match read(&letter, record.as_ref(), decoder) {
                Ok(received) => {
                    if letter.series.is_none() {
                        letter.series = Some(Series::of_received(&received));
                        letter.sequence = received.origin.map(|origin| origin.sequence);
                    }
                    letters.push((letter, received));
                }
                Err(reason) if letters.is_empty() => return Next::Unreadable(Box::new(letter), reason),
                Err(_) => break,
            }
        }
        if letters.is_empty() { Next::Nothing } else { Next::Letters(Self { letters, last }) }
    }
}

fn read(letter: &KeptLetter, record: Option<&KeptRecord>, decoder: &dyn Decoder) -> Result<ReceivedEvent, String> {
    let Some(record) = record else {
        return Err("its body is not kept here: read it where it is, and replay it from there".to_owned());
    };
    let received = record.decode(decoder).map_err(|why| format!("it cannot be decoded: {why}"))?;
    if letter.cause != DeadLetterCause::Undecodable && letter.id != received.event.id {
        return Err("it decodes to another event: give the decoder that its source has".to_owned());
    }
    Ok(received)
}
