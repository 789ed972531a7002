//! Read models in SQL that can be rebuilt beside the one in use.

mod claim;
mod discard;
mod model;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "sqlite")]
mod sqlite;
mod store;
mod turn;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
pub use model::SqlReadModel;
use outbox_core::projection::{Projection, ProjectionError, ProjectionErrorKind};
use sqlx::{Pool, Transaction};
pub(super) use store::GenerationStore;
use turn::Turn;
use uuid::Uuid;

use super::{InvalidName, ProjectionName, SqlDatabase, SqlProjection, availability::is_unavailable, projection};
use crate::rebuild::{Generation, Generations, RebuildError, RebuildErrorKind, Stage, State};

/// [`Generations`] of a read model in a SQL database. [`SqlProjection::migrate`] has to have run.
///
/// Which generation is live stands in `projector_generation`. A swap and what the read model does for it are one
/// transaction, which also takes the old generation's positions away: a runner that still works on it has a conflict
/// with its next step, and learns that it is retired.
///
/// Who rebuilds stands in `projector_rebuild`, with an end by the database's clock. What creates, swaps or drops a
/// generation looks there in its own transaction, so that a rebuild without a claim, as one that was frozen until another
/// began, changes nothing. On PostgreSQL a claim waits for nobody; on SQLite for whoever writes to the file.
///
/// A generation that is dropped goes in two transactions: [`SqlReadModel::discard`], then what is kept under its name; on
/// SQLite some thousands of rows at a time, so that others write in between. That it was there is kept: a number is never
/// used again.
pub struct SqlGenerations<DB: SqlDatabase> {
    pool: Pool<DB>,
    name: ProjectionName,
    model: Arc<dyn SqlReadModel<DB>>,
    tables: Arc<DB::Tables>,
    turn: Turn,
}

const BUILDING: &str = "building";
const LIVE: &str = "live";
const RETIRED: &str = "retired";
const DROPPED: &str = "dropped";

impl<DB: SqlDatabase> SqlGenerations<DB> {
    /// The generations of this read model; projections are called `name`, `name.g2` and so on.
    ///
    /// # Errors
    /// [`InvalidName`] when the name with a generation behind it would be too long: at most 88 characters.
    pub fn new(pool: Pool<DB>, name: ProjectionName, model: impl SqlReadModel<DB>) -> Result<Self, InvalidName> {
        let longest = Generation::new(u32::MAX).unwrap_or(Generation::FIRST).name(name.as_str());
        ProjectionName::parse(longest)?;
        Ok(Self { pool, name, model: Arc::new(model), tables: Arc::default(), turn: Turn::default() })
    }

    #[cfg(feature = "postgres")]
    pub(super) fn with_tables(mut self, tables: DB::Tables) -> Self {
        self.tables = Arc::new(tables);
        self
    }

    async fn begin(&self) -> Result<Transaction<'static, DB>, RebuildError> {
        projection::begin::<DB>(&self.pool).await.map_err(not_begun)
    }

    /// Alone with the read model's generations.
    async fn begin_change(&self) -> Result<Transaction<'static, DB>, RebuildError> {
        let mut tx = self.begin().await?;
        DB::lock_read_model(&self.tables, &mut tx, self.name.as_str()).await.map_err(store_error::<DB>)?;
        Ok(tx)
    }

    /// As they are at the moment.
    async fn known(&self) -> Result<Vec<(Generation, String)>, RebuildError> {
        let mut tx = self.begin().await?;
        let stages = self.stages(&mut tx).await?;
        tx.commit().await.map_err(store_error::<DB>)?;
        Ok(stages)
    }

    async fn stages(&self, tx: &mut Transaction<'_, DB>) -> Result<Vec<(Generation, String)>, RebuildError> {
        let found = DB::stages(&self.tables, tx, self.name.as_str()).await.map_err(store_error::<DB>)?;
        let known = |(number, stage): (i64, String)| Some((Generation::new(u32::try_from(number).ok()?)?, stage));
        Ok(found.into_iter().filter_map(known).collect())
    }

    async fn set(
        &self,
        tx: &mut Transaction<'_, DB>,
        generation: Generation,
        stage: &'static str,
    ) -> Result<(), RebuildError> {
        let (name, projection) = (self.name.as_str(), generation.name(self.name.as_str()));
        let number = i64::from(generation.get());
        DB::set_stage(&self.tables, tx, name, number, &projection, stage).await.map_err(store_error::<DB>)
    }

    /// Its positions go too: a runner in the middle of a step is waited for, and makes no other.
    async fn retire(&self, tx: &mut Transaction<'_, DB>, generation: Generation) -> Result<(), RebuildError> {
        self.set(tx, generation, RETIRED).await?;
        let projection = generation.name(self.name.as_str());
        DB::forget_positions(&self.tables, tx, &projection).await.map_err(store_error::<DB>)
    }

    async fn run(&self, tx: &mut Transaction<'_, DB>, sql: String) -> Result<(), RebuildError> {
        DB::run_script(tx, sql).await.map_err(store_error::<DB>)
    }
}

#[async_trait]
impl<DB: SqlDatabase> Generations for SqlGenerations<DB> {
    fn name(&self) -> &str {
        self.name.as_str()
    }

    async fn state(&self) -> Result<State, RebuildError> {
        let stages = self.known().await?;
        let highest_ever = stages.iter().map(|(generation, _)| *generation).max().unwrap_or(Generation::FIRST);
        let live = highest(&stages, LIVE).unwrap_or(Generation::FIRST);
        Ok(State { live, building: highest(&stages, BUILDING), next: highest_ever.next() })
    }

    async fn before(&self, generation: Generation) -> Result<Vec<Generation>, RebuildError> {
        let stages = self.known().await?;
        Ok(stages.into_iter().filter(|(g, stage)| *g < generation && stage == RETIRED).map(|(g, _)| g).collect())
    }

    async fn claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.write_claim(rebuild, lease).await
    }

    async fn renew(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        self.renew_claim(rebuild, lease).await
    }

    async fn release(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        self.delete_claim(rebuild).await
    }

    async fn prepare(&self, generation: Generation, rebuild: Option<Uuid>) -> Result<Stage, RebuildError> {
        let mut tx = match rebuild {
            Some(rebuild) => self.begin_claimed(rebuild).await?,
            // Behind no lock: whoever goes over to it after a swap does not wait until the old one is dropped.
            None if is_at(&self.known().await?, generation, LIVE) => return Ok(Stage::Live),
            None => self.begin_change().await?,
        };
        let stages = self.stages(&mut tx).await?;
        let prepared = match (stages.iter().find(|(known, _)| *known == generation), rebuild) {
            (Some((_, stage)), _) if stage == LIVE => Stage::Live,
            (Some((_, stage)), _) if stage == BUILDING => Stage::Building,
            (Some(_), _) => {
                let message = format!("generation {generation} of {} is retired and cannot be built again", self.name);
                // By a rebuild that was under way when this one looked: the next look finds another to go on with.
                let is_news = rebuild.is_some() && highest(&stages, LIVE).is_some_and(|live| live < generation);
                let kind = if is_news { RebuildErrorKind::Unavailable } else { RebuildErrorKind::Store };
                return Err(RebuildError::new(kind, message));
            }
            // Nothing to swap with: the first generation is live as soon as it is there.
            (None, _) if generation == Generation::FIRST && highest(&stages, LIVE).is_none() => {
                self.run(&mut tx, self.model.create(generation)).await?;
                self.run(&mut tx, self.model.swap(generation)).await?;
                self.set(&mut tx, generation, LIVE).await?;
                Stage::Live
            }
            (None, Some(_)) => {
                for (begun, _) in stages.iter().filter(|(_, stage)| stage == BUILDING) {
                    self.retire(&mut tx, *begun).await?;
                }
                self.run(&mut tx, self.model.create(generation)).await?;
                self.set(&mut tx, generation, BUILDING).await?;
                Stage::Building
            }
            (None, None) => {
                let message =
                    format!("generation {generation} of {} is not there, and only a rebuild makes it", self.name);
                return Err(RebuildError::new(RebuildErrorKind::Store, message));
            }
        };
        tx.commit().await.map_err(store_error::<DB>)?;
        Ok(prepared)
    }

    fn projection(&self, generation: Generation, stage: Stage) -> Arc<dyn Projection> {
        // The longest of these names was parsed before.
        let name = ProjectionName::parse(generation.name(self.name.as_str())).unwrap_or_else(|_| self.name.clone());
        let handler = self.model.handler(generation, stage);
        let builder = SqlProjection::of(self.pool.clone(), name, handler, self.tables.clone());
        let projection = Arc::new(self.model.projection(builder).build());
        if DB::HAS_ONE_WRITER { self.turn.taken_by(projection) } else { projection }
    }

    async fn swap(&self, to: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        let mut tx = self.begin_claimed(rebuild).await?;
        let stages = self.stages(&mut tx).await?;
        if is_at(&stages, to, LIVE) {
            return Ok(());
        }
        if !is_at(&stages, to, BUILDING) {
            let message = format!("generation {to} of {} is not being built", self.name);
            return Err(RebuildError::new(RebuildErrorKind::Store, message));
        }
        // Positions first: a runner in the middle of a step is waited for before anything locks queries out.
        let olds = stages.iter().map(|(known, _)| *known).filter(|known| *known < to);
        for old in olds.chain((!stages.iter().any(|(g, _)| *g == Generation::FIRST)).then_some(Generation::FIRST)) {
            if is_at(&stages, old, DROPPED) {
                continue;
            }
            self.retire(&mut tx, old).await?;
        }
        self.set(&mut tx, to, LIVE).await?;
        self.run(&mut tx, self.model.swap(to)).await?;
        tx.commit().await.map_err(store_error::<DB>)
    }

    async fn discard(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        self.discard_in_pieces(generation, rebuild).await
    }
}

type Stages = [(Generation, String)];

fn is_at(stages: &Stages, generation: Generation, stage: &str) -> bool {
    stages.iter().any(|(known, at)| *known == generation && at == stage)
}

fn highest(stages: &Stages, wanted: &str) -> Option<Generation> {
    stages.iter().filter(|(_, stage)| stage == wanted).map(|(generation, _)| *generation).max()
}

const AWAY: &str = "the read model's database cannot be reached now";
const REFUSED: &str = "the generations of a read model cannot be read or changed; was it migrated?";

fn store_error<DB: SqlDatabase>(error: sqlx::Error) -> RebuildError {
    // Where nothing was migrated waiting does not help, however often that passes during a deployment.
    let is_not_migrated = error.as_database_error().is_some_and(DB::is_missing_table);
    let (kind, message) = if is_unavailable(&error) && !is_not_migrated {
        (RebuildErrorKind::Unavailable, AWAY)
    } else {
        (RebuildErrorKind::Store, REFUSED)
    };
    RebuildError::new(kind, message).with_source(error)
}

fn not_begun(error: ProjectionError) -> RebuildError {
    let (kind, message) = match error.kind() {
        ProjectionErrorKind::Unavailable => (RebuildErrorKind::Unavailable, AWAY),
        _ => (RebuildErrorKind::Store, REFUSED),
    };
    RebuildError::new(kind, message).with_source(error)
}
