//! One rebuild of a read model at a time.

use std::time::Duration;

use sqlx::Transaction;
use tokio::sync::RwLockReadGuard;
use uuid::Uuid;

use super::{SqlGenerations, store_error};
use crate::{
    rebuild::{RebuildError, RebuildErrorKind},
    sql::SqlDatabase,
};

impl<DB: SqlDatabase> SqlGenerations<DB> {
    /// Writes down who rebuilds, unless that is somebody else. Not behind the lock: it is held for as long as another's
    /// swap takes, and one row is written at once or not at all.
    pub(super) async fn write_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        let _turn = if DB::HAS_ONE_WRITER { Some(self.turn.of_claim().await) } else { None };
        let mut tx = self.begin().await?;
        let (name, holder) = (self.name.as_str(), rebuild.to_string());
        let taken = DB::claim_rebuild(&self.tables, &mut tx, name, &holder, lease).await.map_err(store_error::<DB>)?;
        tx.commit().await.map_err(store_error::<DB>)?;
        if taken { Ok(()) } else { Err(self.busy()) }
    }

    /// Only what is still this rebuild's, though it may have ended.
    pub(super) async fn renew_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        let _turn = if DB::HAS_ONE_WRITER { Some(self.turn.of_claim().await) } else { None };
        let mut tx = self.begin().await?;
        self.renew_within(&mut tx, rebuild, lease).await?;
        tx.commit().await.map_err(store_error::<DB>)
    }

    pub(super) async fn renew_within(
        &self,
        tx: &mut Transaction<'_, DB>,
        rebuild: Uuid,
        lease: Duration,
    ) -> Result<(), RebuildError> {
        let (name, holder) = (self.name.as_str(), rebuild.to_string());
        let renewed = DB::renew_rebuild(&self.tables, tx, name, &holder, lease).await.map_err(store_error::<DB>)?;
        if renewed { Ok(()) } else { Err(self.busy()) }
    }

    pub(super) async fn delete_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        let deleted = DB::release_rebuild(&self.tables, &mut tx, self.name.as_str(), &rebuild.to_string()).await;
        deleted.map_err(store_error::<DB>)?;
        tx.commit().await.map_err(store_error::<DB>)
    }

    /// Nobody else may have claimed the read model: a process that was frozen meanwhile does not know what another has
    /// made of the generation.
    pub(super) async fn check_claim(&self, tx: &mut Transaction<'_, DB>, rebuild: Uuid) -> Result<(), RebuildError> {
        let holder = DB::rebuild_holder(&self.tables, tx, self.name.as_str()).await.map_err(store_error::<DB>)?;
        if holder.is_some_and(|holder| holder == rebuild.to_string()) { Ok(()) } else { Err(self.busy()) }
    }

    /// Lets claims in between, as steps do.
    pub(super) async fn turn_of_change(&self) -> Option<RwLockReadGuard<'_, ()>> {
        if DB::HAS_ONE_WRITER { Some(self.turn.of_change().await) } else { None }
    }

    fn busy(&self) -> RebuildError {
        let message = format!(
            "another rebuild of {} is under way, or this one has no claim; when the other died, its claim ends within {:?}",
            self.name,
            crate::rebuild::CLAIM
        );
        RebuildError::new(RebuildErrorKind::Busy, message)
    }
}
