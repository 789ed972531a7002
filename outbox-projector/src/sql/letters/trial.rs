//! One transaction of a replay: some letters of a key, or one by itself.

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, ProjectionError},
};
use sqlx::Transaction;

use super::{
    BlockedKeys, KeptLetter, SqlDeadLetters,
    bodies::{Bodies, NoEvent},
    plan::Unit,
    store::Stored,
};
use crate::sql::{
    SqlDatabase, SqlProjection,
    projection::store_error,
    step::{after_handler, conflict},
    watermark::Watermarks,
};

/// What a unit has to offer next.
pub(super) enum Next {
    /// Nothing more.
    Nothing,
    /// A letter that has to wait for an earlier one of its key.
    TooEarly,
    /// A letter that there is no event of, and why.
    WithoutEvent(Box<KeptLetter>, NoEvent),
    Letters(Trial),
}

/// Letters whose key is locked, in order.
pub(super) struct Trial(pub(super) Vec<(KeptLetter, ReceivedEvent)>);

pub(super) const TOO_EARLY: &str = "an earlier event of its key is a dead letter: replay that first, or the whole key";

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// At most `limit` letters of the unit. The key is locked before its letters, as a step does.
    pub(super) async fn next(
        &self,
        tx: &mut Transaction<'_, DB>,
        unit: &Unit,
        limit: u32,
        bodies: &Bodies<'_>,
    ) -> Result<Next, ProjectionError> {
        let SqlProjection { tables, name, .. } = self.projection;
        self.lock_series(tx, &unit.series).await?;
        let Some(id) = unit.only else {
            let found = DB::first_letters(tables, tx, name.as_str(), &unit.series, limit).await;
            return Ok(Trial::of(found.map_err(store_error::<DB>)?, bodies));
        };
        let found = DB::lock_letter(tables, tx, name.as_str(), id).await.map_err(store_error::<DB>)?;
        if let Some((letter, _)) = &found
            && self.is_too_early(tx, letter).await?
        {
            return Ok(Next::TooEarly);
        }
        Ok(Trial::of(found.into_iter().collect(), bodies))
    }

    /// Whether the order of its key forbids to apply this letter by itself.
    pub(super) async fn is_too_early(
        &self,
        tx: &mut Transaction<'_, DB>,
        letter: &KeptLetter,
    ) -> Result<bool, ProjectionError> {
        let SqlProjection { tables, name, letters: blocked_keys, .. } = self.projection;
        let (Some(BlockedKeys::Hold), Some(series), Some(sequence)) = (blocked_keys, &letter.series, letter.sequence)
        else {
            return Ok(false);
        };
        let earlier = DB::has_earlier(tables, tx, name.as_str(), series, sequence.get() as i64).await;
        earlier.map_err(store_error::<DB>)
    }

    /// Makes the effect of the letters, each once, and removes them.
    pub(super) async fn carry_out(
        &self,
        tx: &mut Transaction<'_, DB>,
        Trial(letters): &Trial,
    ) -> Result<Applied, ProjectionError> {
        let SqlProjection { tables, name, versioned, .. } = self.projection;
        let (mut watermarks, places) = Watermarks::of(letters.iter().map(|(_, received)| received));
        if !versioned && !watermarks.is_empty() {
            // Also locks a key that had no watermark yet, before anything is told from where it stands.
            let raised = DB::raise(tables, tx, name.as_str(), &mut watermarks).await;
            raised.map_err(store_error::<DB>)?;
        }
        // The row of such a letter does not say whether its event came again, in another letter or later on.
        let foreign = letters.iter().filter(|(letter, received)| letter.id != received.event.id);
        let mut unseen = self.projection.not_seen(tx, foreign.map(|(_, received)| received.event.id).collect()).await?;
        let fresh: Vec<&ReceivedEvent> = letters
            .iter()
            .zip(places)
            .filter(|((letter, received), place)| {
                let stands = |place| received.origin.is_some_and(|origin| watermarks.is_last(place, origin.sequence));
                letter.id == received.event.id || unseen.remove(&received.event.id) && !place.is_some_and(stands)
            })
            .map(|((_, received), _)| received)
            .collect();
        let ids = letters.iter().map(|(_, received)| received.event.id);
        let applied = self.projection.handle_all(tx, &fresh, ids).await?;
        let numbers: Vec<i64> = letters.iter().map(|(letter, _)| letter.number).collect();
        let removed = DB::remove_letters(tables, tx, name.as_str(), &numbers).await.map_err(after_handler::<DB>)?;
        if removed != numbers.len() as u64 {
            return Err(conflict("somebody else removed a dead letter at the same time"));
        }
        let duplicates = letters.len() - fresh.len();
        Ok(Applied { applied, duplicates, ignored: fresh.len() - applied, held: 0 })
    }
}

impl Trial {
    /// The letters up to the first that there is no event of.
    fn of(found: Vec<Stored>, bodies: &Bodies<'_>) -> Next {
        let mut letters = Vec::with_capacity(found.len());
        for (letter, record) in found {
            match bodies.read(&letter, record.as_ref()) {
                Ok(received) => letters.push((letter, received)),
                Err(why) if letters.is_empty() => return Next::WithoutEvent(Box::new(letter), why),
                Err(_) => break,
            }
        }
        if letters.is_empty() { Next::Nothing } else { Next::Letters(Self(letters)) }
    }
}
