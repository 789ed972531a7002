//! Dead letters are applied after all.

use std::sync::Arc;

use outbox_core::{
    error::chain,
    event::ReceivedEvent,
    profile::{Decoder, SeedEnvelope},
    projection::{Applied, DeadLetterCause, ProjectionError, ProjectionErrorKind},
};
use sqlx::Transaction;
use uuid::Uuid;

use super::{
    BlockedKeys, KeptLetter, Letters, SqlDeadLetters,
    trial::{Next, Trial, Unit},
};
use crate::{
    runner::guarded,
    sql::{
        Series, SqlDatabase, SqlProjection,
        projection::{begin, store_error},
        step::after_handler,
    },
};

/// What to replay, and how.
#[derive(Clone)]
pub struct Replay {
    which: Letters,
    dry_run: bool,
    decoder: Arc<dyn Decoder>,
}

impl Replay {
    /// Replays these letters.
    #[must_use]
    pub fn of(which: Letters) -> Self {
        Self { which, dry_run: false, decoder: Arc::new(SeedEnvelope) }
    }

    /// Tries everything, each key in a transaction that is rolled back in the end, and says what would have happened.
    /// The transaction stays open until all letters of a key were tried; projectors wait for that key meanwhile.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Reads the records with this decoder: the one that their source has, or a mended one. Default: [`SeedEnvelope`].
    /// Letters of events that came straight from a log need none.
    #[must_use]
    pub fn decoder(mut self, decoder: Arc<dyn Decoder>) -> Self {
        self.decoder = decoder;
        self
    }
}

/// What a replay did, or would have done.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReplayReport {
    /// One entry for each key, and for each letter without a key, in the order of their first letters; letters without a
    /// key come first, unless they had to wait for others.
    pub keys: Vec<ReplayedKey>,
}

/// What became of the letters of one key.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReplayedKey {
    /// The key; `None` when the letter could not be decoded.
    pub series: Option<Series>,
    /// The letter, when it was replayed by itself.
    pub letter: Option<Uuid>,
    /// How many letters are gone: their events had an effect, are ignored by the handler, or had their effect before.
    pub done: Applied,
    /// How many letters are still there.
    pub left: usize,
    /// Why the first of those is.
    pub error: Option<String>,
}

impl ReplayReport {
    /// The sums over all keys.
    #[must_use]
    pub fn totals(&self) -> Applied {
        let mut totals = Applied::default();
        for key in &self.keys {
            totals += key.done;
        }
        totals
    }

    /// How many letters are still there.
    #[must_use]
    pub fn left(&self) -> usize {
        self.keys.iter().map(|key| key.left).sum()
    }
}

/// So many letters of a key share a transaction, as long as none of them fails.
const TOGETHER: u32 = 50;

const TOO_EARLY: &str = "an earlier event of its key is a dead letter: replay that first, or the whole key";

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// Applies letters: those of a key in the order of their sequences, different keys one after another. Where one
    /// fails, it and the rest of its key stay, with one attempt more and the new reason, and the next key follows. A
    /// panic of the handler is a failure.
    ///
    /// With [`BlockedKeys::Hold`] the last letter of a key frees it in the transaction of its effect, and
    /// [`Letters::Id`] replays the first letter of a key only. With [`BlockedKeys::Pass`] letters take effect late, and
    /// the watermark stays where it is.
    ///
    /// # Errors
    /// The type's *Errors*. What was replayed before stays so.
    pub async fn replay(&self, replay: &Replay) -> Result<ReplayReport, ProjectionError> {
        let SqlProjection { tables, pool, name, letters: blocked_keys, .. } = self.projection;
        let mut report = ReplayReport::default();
        match &replay.which {
            Letters::Key(series) => report.keys.push(self.replay_unit(replay, Unit::Key(series.clone())).await?),
            Letters::Id(id) => {
                if let Some((letter, _)) = self.get(*id).await? {
                    let in_order = *blocked_keys == Some(BlockedKeys::Hold);
                    let unit = Unit::One { id: *id, series: letter.series, in_order };
                    report.keys.push(self.replay_unit(replay, unit).await?);
                }
            }
            Letters::All => {
                // Before letters that can be decoded by now are filed under their keys: each is tried once.
                let keys = DB::series_with_letters(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
                let alone = DB::letters_without_series(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
                let mut early = Vec::new();
                for id in alone {
                    let done = self.replay_unit(replay, Unit::One { id, series: None, in_order: true }).await?;
                    if done.error.as_deref() == Some(TOO_EARLY) {
                        early.push(id);
                    } else {
                        report.keys.push(done);
                    }
                }
                for series in keys {
                    report.keys.push(self.replay_unit(replay, Unit::Key(series)).await?);
                }
                for id in early {
                    let unit = Unit::One { id, series: None, in_order: true };
                    report.keys.push(self.replay_unit(replay, unit).await?);
                }
            }
        }
        Ok(report)
    }

    /// Applies an event whose letter is kept elsewhere, as in a topic that the application reads with an
    /// [`EventSource`](outbox_core::source::EventSource): `letter` is
    /// [`header::ID`](crate::dead_letters::header::ID). Once, as long as the projection knows it as an open letter: after
    /// that, and when it has not passed over it in the first place, the answer counts a duplicate.
    ///
    /// # Errors
    /// As [`Projection::apply`](outbox_core::projection::Projection::apply) where the event fails: the letter stays, with
    /// one attempt more and the new reason. The type's *Errors*.
    pub async fn replay_event(&self, letter: Uuid, event: &ReceivedEvent) -> Result<Applied, ProjectionError> {
        let SqlProjection { tables, pool, name, letters, .. } = self.projection;
        let mut tx = begin::<DB>(pool).await?;
        let series = Series::of_received(event);
        let last = self.lock_series(&mut tx, Some(&series)).await?;
        let found = DB::lock_letter(tables, &mut tx, name.as_str(), letter).await.map_err(store_error::<DB>)?;
        let Some((mut kept, _)) = found else { return Ok(Applied { duplicates: 1, ..Applied::default() }) };
        if kept.cause != DeadLetterCause::Undecodable && kept.id != event.event.id {
            let message = format!("letter {letter} is one of another event");
            return Err(ProjectionError::new(ProjectionErrorKind::Rejected, message));
        }
        if let (Some(BlockedKeys::Hold), Some(origin)) = (letters, event.origin) {
            let sequence = origin.sequence.get() as i64;
            let earlier = DB::has_earlier(tables, &mut tx, name.as_str(), &series, sequence).await;
            if earlier.map_err(store_error::<DB>)? {
                return Err(ProjectionError::new(ProjectionErrorKind::Failed, TOO_EARLY));
            }
        }
        kept.series = Some(series);
        kept.sequence = event.origin.map(|origin| origin.sequence);
        let trial = Trial { letters: vec![(kept, event.clone())], last };
        let tried = self.try_and_end(tx, &trial).await;
        if let (Err(error), [(kept, _)]) = (&tried, &trial.letters[..])
            && error.kind().blames_an_event()
        {
            self.failed(kept, chain(error)).await?;
        }
        tried
    }

    async fn replay_unit(&self, replay: &Replay, unit: Unit) -> Result<ReplayedKey, ProjectionError> {
        let mut done = match &unit {
            Unit::Key(series) => ReplayedKey { series: Some(series.clone()), ..ReplayedKey::default() },
            Unit::One { id, series, .. } => {
                ReplayedKey { series: series.clone(), letter: Some(*id), ..ReplayedKey::default() }
            }
        };
        if replay.dry_run {
            let before = self.count(&unit).await?;
            self.try_out(replay, &unit, &mut done).await?;
            done.left = before.saturating_sub(done.done.applied + done.done.ignored + done.done.duplicates);
        } else {
            self.apply_unit(replay, &unit, &mut done).await?;
            done.left = self.count(&unit).await?;
        }
        Ok(done)
    }

    async fn apply_unit(&self, replay: &Replay, unit: &Unit, done: &mut ReplayedKey) -> Result<(), ProjectionError> {
        let mut together = TOGETHER;
        loop {
            let mut tx = begin::<DB>(&self.projection.pool).await?;
            let trial = match self.next(&mut tx, unit, together, &*replay.decoder).await? {
                Next::Letters(trial) => trial,
                Next::Nothing => return Ok(()),
                Next::TooEarly => {
                    done.error = Some(TOO_EARLY.to_owned());
                    return Ok(());
                }
                Next::Unreadable(letter, why) => {
                    // Its row is locked by it.
                    drop(tx.rollback().await);
                    self.failed(&letter, why.clone()).await?;
                    done.error = Some(why);
                    return Ok(());
                }
            };
            done.series = trial.letters.first().and_then(|(letter, _)| letter.series.clone());
            match self.try_and_end(tx, &trial).await {
                Ok(applied) => {
                    done.done += applied;
                    together = TOGETHER;
                }
                Err(error) if error.kind() == ProjectionErrorKind::Conflict => {}
                Err(error) if !error.kind().blames_an_event() => return Err(error),
                Err(error) => match error.event() {
                    // Those before it can have their effect, and then it stands first.
                    Some(index) if index > 0 && index < trial.letters.len() => together = index as u32,
                    None if trial.letters.len() > 1 => together = 1,
                    _ => {
                        if let Some((letter, _)) = trial.letters.first() {
                            self.failed(letter, chain(&error)).await?;
                        }
                        done.error = Some(chain(&error));
                        return Ok(());
                    }
                },
            }
        }
    }

    /// One by one in a transaction that comes to nothing.
    async fn try_out(&self, replay: &Replay, unit: &Unit, done: &mut ReplayedKey) -> Result<(), ProjectionError> {
        let mut tx = begin::<DB>(&self.projection.pool).await?;
        while done.error.is_none() {
            match self.next(&mut tx, unit, 1, &*replay.decoder).await? {
                Next::Nothing => break,
                Next::TooEarly => done.error = Some(TOO_EARLY.to_owned()),
                Next::Unreadable(_, why) => done.error = Some(why),
                Next::Letters(trial) => {
                    done.series = trial.letters.first().and_then(|(letter, _)| letter.series.clone());
                    match guarded(self.carry_out(&mut tx, &trial)).await {
                        Ok(applied) => done.done += applied,
                        Err(error) if error.kind().blames_an_event() => done.error = Some(chain(&error)),
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        // Otherwise the key stays locked until the connection is back in its pool; a lost one rolled back already.
        let _lost = tx.rollback().await;
        Ok(())
    }

    async fn try_and_end(&self, mut tx: Transaction<'static, DB>, trial: &Trial) -> Result<Applied, ProjectionError> {
        match guarded(self.carry_out(&mut tx, trial)).await {
            Ok(applied) => {
                tx.commit().await.map_err(after_handler::<DB>)?;
                Ok(applied)
            }
            Err(error) => {
                let _lost = tx.rollback().await;
                Err(error)
            }
        }
    }

    async fn failed(&self, letter: &KeptLetter, reason: String) -> Result<(), ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        tracing::warn!(projection = name.as_str(), id = %letter.id, place = letter.place, reason, "a replay failed");
        let letter = KeptLetter { reason, ..letter.clone() };
        DB::record_failure(tables, pool, name.as_str(), &letter).await.map_err(store_error::<DB>)
    }

    async fn count(&self, unit: &Unit) -> Result<usize, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        match unit {
            Unit::Key(series) => {
                let count = DB::count_letters(tables, pool, name.as_str(), series).await;
                Ok(count.map_err(store_error::<DB>)? as usize)
            }
            Unit::One { id, .. } => Ok(usize::from(self.get(*id).await?.is_some())),
        }
    }
}
