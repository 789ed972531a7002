//! One rebuild of a read model at a time.

use std::{sync::PoisonError, time::Duration};

use sqlx::Transaction;
use uuid::Uuid;

use super::{SqlGenerations, store_error};
use crate::{
    rebuild::{RebuildError, RebuildErrorKind},
    sql::SqlDatabase,
};

impl<DB: SqlDatabase> SqlGenerations<DB> {
    /// Writes down who rebuilds, unless that is somebody else.
    pub(super) async fn write_claim(&self, rebuild: Uuid, lease: Duration) -> Result<(), RebuildError> {
        let mut tx = self.begin().await?;
        let (name, holder) = (self.name.as_str(), rebuild.to_string());
        let taken = DB::claim_rebuild(&self.tables, &mut tx, name, &holder, lease).await.map_err(store_error)?;
        tx.commit().await.map_err(store_error)?;
        if !taken {
            return Err(self.busy());
        }
        *self.claimed.lock().unwrap_or_else(PoisonError::into_inner) = Some(rebuild);
        Ok(())
    }

    pub(super) async fn delete_claim(&self, rebuild: Uuid) -> Result<(), RebuildError> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner).take_if(|claimed| *claimed == rebuild);
        let mut tx = self.begin().await?;
        let deleted = DB::release_rebuild(&self.tables, &mut tx, self.name.as_str(), &rebuild.to_string()).await;
        deleted.map_err(store_error)?;
        tx.commit().await.map_err(store_error)
    }

    /// Whoever claimed the read model here must still have it: a process that was frozen meanwhile does not know what
    /// another has made of the generation.
    pub(super) async fn check_claim(&self, tx: &mut Transaction<'_, DB>) -> Result<(), RebuildError> {
        let claimed = *self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(claimed) = claimed else { return Ok(()) };
        let holder = DB::rebuild_holder(&self.tables, tx, self.name.as_str()).await.map_err(store_error)?;
        if holder.is_some_and(|holder| holder == claimed.to_string()) { Ok(()) } else { Err(self.busy()) }
    }

    fn busy(&self) -> RebuildError {
        let message = format!(
            "another rebuild of {} is under way; when it died, its claim ends within {:?}",
            self.name,
            crate::rebuild::CLAIM
        );
        RebuildError::new(RebuildErrorKind::Busy, message)
    }
}
