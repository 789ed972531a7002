//! What a step does within its transaction.

use std::collections::{HashMap, HashSet};

use outbox_core::{
    event::{Origin, ReceivedEvent},
    projection::{Applied, DeadLetter, DeadLetterCause, ProjectionError, ProjectionErrorKind, Step},
};
use sqlx::Transaction;
use uuid::Uuid;

use super::{
    BlockedKeys, Series, SqlDatabase, SqlProjection, availability::is_unavailable, letters::NewLetter,
    projection::store_error, watermark::Watermarks,
};

impl<DB: SqlDatabase> SqlProjection<DB> {
    pub(super) async fn apply_within(
        &self,
        tx: &mut Transaction<'_, DB>,
        step: Step<'_>,
    ) -> Result<Applied, ProjectionError> {
        if !DB::move_position(&self.tables, tx, self.name.as_str(), step).await.map_err(store_error::<DB>)? {
            return Err(conflict("somebody else moved the position"));
        }
        let (mut watermarks, places) = self.raise(tx, step).await?;
        let mut unseen = self.unseen(tx, step).await?;
        // One that came before, as a letter or as an event that was applied, is no letter any more.
        let mut letter_places = places.iter().skip(step.events.len()).copied();
        let letters: Vec<&DeadLetter> = step
            .dead_letters
            .iter()
            .filter(|letter| {
                let Some(received) = &letter.event else { return true };
                let place = letter_places.next().flatten();
                match (received.origin, place) {
                    (None, _) => unseen.remove(&received.event.id),
                    (Some(origin), Some(place)) if !self.versioned => watermarks.is_news(place, origin.sequence),
                    (Some(_), _) => true,
                }
            })
            .collect();
        // A second copy of an event that is given up must not reach the handler: it could succeed there by now.
        let given_up: HashSet<Uuid> = step.dead_letters.iter().map(DeadLetter::id).collect();
        let blocked = self.blocked(tx, &watermarks, &letters).await?;

        let (mut fresh, mut held) = (Vec::with_capacity(step.events.len()), Vec::new());
        for (index, (received, place)) in step.events.iter().zip(&places).enumerate() {
            if given_up.contains(&received.event.id) {
                continue;
            }
            let new = match (received.origin, place) {
                (None, _) => unseen.remove(&received.event.id),
                (Some(origin), Some(place)) if !self.versioned => watermarks.pass(*place, origin.sequence),
                (Some(_), _) => true,
            };
            if new && blocked.holds(received) {
                held.push(held_back(step, index, received));
            } else if new {
                fresh.push(received);
            }
        }
        let duplicates = step.events.len() - fresh.len() - held.len();

        let applied = self.handle_all(tx, &fresh, step.events.iter().map(|received| received.event.id)).await?;
        if !letters.is_empty() || !held.is_empty() {
            self.keep(tx, &letters, &held).await?;
        } else if !fresh.is_empty() {
            DB::probe(tx).await.map_err(after_handler::<DB>)?;
        }
        Ok(Applied { applied, duplicates, ignored: fresh.len() - applied, held: held.len() })
    }

    /// Says how many had an effect; `ids` are those that an error may name.
    pub(super) async fn handle_all(
        &self,
        tx: &mut Transaction<'_, DB>,
        events: &[&ReceivedEvent],
        ids: impl Iterator<Item = Uuid>,
    ) -> Result<usize, ProjectionError> {
        if events.is_empty() {
            return Ok(0);
        }
        let handled = self.handler.handle_all(tx, events).await;
        Ok(handled.map_err(|error| error.into_projection_error(ids))?.min(events.len()))
    }

    /// The watermarks of the step's events and then of its letters, raised unless the handler compares versions, and for
    /// each of those the index of its own.
    async fn raise(
        &self,
        tx: &mut Transaction<'_, DB>,
        step: Step<'_>,
    ) -> Result<(Watermarks, Vec<Option<usize>>), ProjectionError> {
        let given_up = step.dead_letters.iter().filter_map(|letter| letter.event.as_ref());
        let all = step.events.iter().chain(given_up);
        if self.versioned && self.letters != Some(BlockedKeys::Hold) {
            return Ok((Watermarks::default(), all.map(|_| None).collect()));
        }
        let (mut watermarks, places) = Watermarks::of(all);
        if !self.versioned && !watermarks.is_empty() {
            let raised = DB::raise(&self.tables, tx, self.name.as_str(), &mut watermarks).await;
            raised.map_err(store_error::<DB>)?;
        }
        Ok((watermarks, places))
    }

    async fn unseen(&self, tx: &mut Transaction<'_, DB>, step: Step<'_>) -> Result<HashSet<Uuid>, ProjectionError> {
        let given_up = step.dead_letters.iter().filter_map(|letter| letter.event.as_ref());
        let without = step.events.iter().chain(given_up).filter(|received| received.origin.is_none());
        self.not_seen(tx, without.map(|received| received.event.id).collect()).await
    }

    /// Remembers events by their ids, and says which were not known.
    pub(super) async fn not_seen(
        &self,
        tx: &mut Transaction<'_, DB>,
        mut ids: Vec<Uuid>,
    ) -> Result<HashSet<Uuid>, ProjectionError> {
        ids.sort_unstable();
        ids.dedup();
        if ids.is_empty() {
            return Ok(HashSet::new());
        }
        DB::unseen(&self.tables, tx, self.name.as_str(), &ids).await.map_err(store_error::<DB>)
    }

    /// Which events have to wait. Asked in a statement of its own: the one that waited for the locks saw the letters as
    /// they were before.
    async fn blocked(
        &self,
        tx: &mut Transaction<'_, DB>,
        watermarks: &Watermarks,
        letters: &[&DeadLetter],
    ) -> Result<Blocked, ProjectionError> {
        let mut blocked = Blocked::default();
        if self.letters != Some(BlockedKeys::Hold) {
            return Ok(blocked);
        }
        for received in letters.iter().filter_map(|letter| letter.event.as_ref()) {
            if let Some(origin) = received.origin {
                blocked.behind(Series::of_received(received), origin.sequence.get());
            }
        }
        if !watermarks.is_empty() {
            let found = DB::blocked(&self.tables, tx, self.name.as_str(), watermarks).await;
            let found: HashSet<usize> = found.map_err(store_error::<DB>)?.into_iter().collect();
            for (_, mark) in watermarks.iter().enumerate().filter(|(index, _)| found.contains(index)) {
                blocked.behind(mark.series.clone(), 0);
            }
        }
        Ok(blocked)
    }

    async fn keep(
        &self,
        tx: &mut Transaction<'_, DB>,
        letters: &[&DeadLetter],
        held: &[DeadLetter],
    ) -> Result<(), ProjectionError> {
        let here = self.letters.is_some();
        let new: Vec<_> = letters.iter().copied().chain(held).map(|letter| NewLetter::of(letter, here)).collect();
        DB::add_letters(&self.tables, tx, self.name.as_str(), &new).await.map_err(after_handler::<DB>)
    }
}

/// From which sequence on the events of a key wait; events without a sequence never do.
#[derive(Default)]
struct Blocked(HashMap<Series, u64>);

impl Blocked {
    fn behind(&mut self, series: Series, sequence: u64) {
        let from = self.0.entry(series).or_insert(sequence);
        *from = sequence.min(*from);
    }

    fn holds(&self, received: &ReceivedEvent) -> bool {
        let Some(Origin { log, sequence }) = received.origin.filter(|_| !self.0.is_empty()) else { return false };
        self.0.get(&Series::of(log, &received.event)).is_some_and(|letter| sequence.get() > *letter)
    }
}

fn held_back(step: Step<'_>, index: usize, received: &ReceivedEvent) -> DeadLetter {
    let reason = "an earlier event of its key is a dead letter";
    let letter = DeadLetter::rejected(step.partition, received.clone(), step.raw(index).cloned(), reason, 0);
    DeadLetter { cause: DeadLetterCause::Held, ..letter }
}

pub(super) fn conflict(message: &'static str) -> ProjectionError {
    ProjectionError::new(ProjectionErrorKind::Conflict, message)
}

/// A statement that fails once the handler has been at work may fail because of what the handler did: it broke the
/// transaction and did not say so, or it left a constraint that is checked at the end.
pub(crate) fn after_handler<DB: SqlDatabase>(error: sqlx::Error) -> ProjectionError {
    if error.as_database_error().is_none() || is_unavailable(&error) {
        return store_error::<DB>(error);
    }
    let message = "the transaction could not be ended: the handler hid a failed statement, or broke a constraint";
    ProjectionError::new(ProjectionErrorKind::Failed, message).with_source(error)
}
