//! The letters of a key are applied, or tried only.

use outbox_core::{
    error::chain,
    projection::{Applied, ProjectionError, ProjectionErrorKind},
};
use sqlx::Transaction;

use super::{
    KeptLetter, SqlDeadLetters,
    bodies::{Bodies, NoEvent},
    plan::Unit,
    trial::{Next, TOO_EARLY, Trial},
};
use crate::{
    dead_letters::reading::warn,
    runner::guarded,
    sql::{
        ReplayedKey, SqlDatabase, SqlProjection,
        projection::{begin, end, store_error},
    },
};

/// So many letters of a key share a transaction, as long as none of them fails.
const TOGETHER: u32 = 50;

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    pub(super) async fn replay_unit(
        &self,
        unit: &Unit,
        bodies: &Bodies<'_>,
        dry_run: bool,
    ) -> Result<ReplayedKey, ProjectionError> {
        let series = Some(unit.series.clone());
        let mut done = ReplayedKey { series, letter: unit.only, ..ReplayedKey::default() };
        if dry_run {
            done.left = self.count(unit).await?;
            if unit.only.is_none() {
                done.left += unit.unfiled.len();
            }
            self.try_out(unit, bodies, &mut done).await?;
            let Applied { applied, ignored, duplicates, .. } = done.done;
            done.left = done.left.saturating_sub(applied + ignored + duplicates);
        } else {
            if !unit.unfiled.is_empty() {
                let mut tx = begin::<DB>(&self.projection.pool).await?;
                self.file(&mut tx, unit).await?;
                tx.commit().await.map_err(store_error::<DB>)?;
            }
            self.apply_unit(unit, bodies, &mut done).await?;
            done.left = self.count(unit).await?;
        }
        Ok(done)
    }

    /// From here on the key's letters are all of it.
    async fn file(&self, tx: &mut Transaction<'_, DB>, unit: &Unit) -> Result<(), ProjectionError> {
        let SqlProjection { tables, name, .. } = self.projection;
        self.lock_series(tx, &unit.series).await?;
        for letter in &unit.unfiled {
            DB::file_letter(tables, tx, name.as_str(), letter).await.map_err(store_error::<DB>)?;
        }
        Ok(())
    }

    async fn apply_unit(
        &self,
        unit: &Unit,
        bodies: &Bodies<'_>,
        done: &mut ReplayedKey,
    ) -> Result<(), ProjectionError> {
        let mut together = TOGETHER;
        loop {
            let mut tx = begin::<DB>(&self.projection.pool).await?;
            let trial = match self.next(&mut tx, unit, together, bodies).await? {
                Next::Letters(trial) => trial,
                Next::Nothing => return Ok(()),
                Next::TooEarly => {
                    done.error = Some(TOO_EARLY.to_owned());
                    return Ok(());
                }
                Next::WithoutEvent(letter, why) => {
                    done.error = Some(chain(&why));
                    // Its row is locked by it.
                    drop(tx.rollback().await);
                    if let NoEvent::Unreadable(why) = &why {
                        self.failed(&letter, why).await?;
                    }
                    return Ok(());
                }
            };
            match self.try_and_end(tx, &trial).await {
                Ok(applied) => {
                    done.done += applied;
                    done.done_letters.extend(trial.0.iter().map(|(letter, _)| letter.id));
                    together = TOGETHER;
                }
                Err(error) if error.kind() == ProjectionErrorKind::Conflict => {}
                Err(error) if !error.kind().blames_an_event() => return Err(error),
                Err(error) => match error.event() {
                    // Those before it can have their effect, and then it stands first.
                    Some(index) if index > 0 && index < trial.0.len() => together = index as u32,
                    None if trial.0.len() > 1 => together = 1,
                    _ => {
                        if let Some((letter, _)) = trial.0.first() {
                            self.failed(letter, &error).await?;
                        }
                        done.error = Some(chain(&error));
                        return Ok(());
                    }
                },
            }
        }
    }

    /// One by one in a transaction that comes to nothing.
    async fn try_out(&self, unit: &Unit, bodies: &Bodies<'_>, done: &mut ReplayedKey) -> Result<(), ProjectionError> {
        let mut tx = begin::<DB>(&self.projection.pool).await?;
        self.file(&mut tx, unit).await?;
        while done.error.is_none() {
            match self.next(&mut tx, unit, 1, bodies).await? {
                Next::Nothing => break,
                Next::TooEarly => done.error = Some(TOO_EARLY.to_owned()),
                Next::WithoutEvent(_, why) => done.error = Some(chain(&why)),
                Next::Letters(trial) => match guarded(self.carry_out(&mut tx, &trial)).await {
                    Ok(applied) => {
                        done.done += applied;
                        done.done_letters.extend(trial.0.iter().map(|(letter, _)| letter.id));
                    }
                    Err(error) if error.kind().blames_an_event() => done.error = Some(chain(&error)),
                    Err(error) => return Err(error),
                },
            }
        }
        // Otherwise the key stays locked until the connection is back in its pool; a lost one rolled back already.
        let _lost = tx.rollback().await;
        Ok(())
    }

    pub(super) async fn try_and_end(
        &self,
        mut tx: Transaction<'static, DB>,
        trial: &Trial,
    ) -> Result<Applied, ProjectionError> {
        let done = guarded(self.carry_out(&mut tx, trial)).await;
        end(tx, done).await
    }

    pub(super) async fn failed(
        &self,
        letter: &KeptLetter,
        error: &(impl std::error::Error + 'static),
    ) -> Result<(), ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        warn(name.as_str(), letter.id, &letter.place, error);
        let recorded = DB::record_failure(tables, pool, name.as_str(), letter.number, &chain(error)).await;
        recorded.map_err(store_error::<DB>)
    }

    async fn count(&self, unit: &Unit) -> Result<usize, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        if let Some(id) = unit.only {
            return Ok(usize::from(self.get(id).await?.is_some()));
        }
        let count = DB::count_letters(tables, pool, name.as_str(), &unit.series).await;
        Ok(count.map_err(store_error::<DB>)? as usize)
    }
}
