//! Removing a generation in pieces, so that a claim is renewed in between also where a database has one writer. Elsewhere
//! what is kept under its name is one piece.

use sqlx::Transaction;
use uuid::Uuid;

use super::{BUILDING, DROPPED, RETIRED, SqlGenerations, is_at, store_error};
use crate::{
    rebuild::{CLAIM, Generation, RebuildError},
    sql::SqlDatabase,
};

/// So many rows by one statement: few enough to keep locks for some tens of milliseconds.
const AT_ONCE: u32 = 5_000;

impl<DB: SqlDatabase> SqlGenerations<DB> {
    /// Each piece is a transaction that looks at the claim. From the first one on the generation is retired, so that
    /// nobody goes on with what an interrupted discard left; the last one says that nothing is left.
    pub(super) async fn discard_in_pieces(&self, generation: Generation, rebuild: Uuid) -> Result<(), RebuildError> {
        if self.drop_tables(generation, rebuild).await? {
            while !self.forget_piece(generation, rebuild).await? {}
        }
        Ok(())
    }

    /// The application's statements: one piece, of which nobody knows how long it takes. `false`: there is nothing that
    /// may be discarded.
    async fn drop_tables(&self, generation: Generation, rebuild: Uuid) -> Result<bool, RebuildError> {
        let _turn = self.turn_of_change().await;
        let mut tx = self.begin_claimed(rebuild).await?;
        let stages = self.stages(&mut tx).await?;
        if ![RETIRED, BUILDING].iter().any(|stage| is_at(&stages, generation, stage)) {
            return Ok(false);
        }
        // Before anything locks tables.
        self.retire(&mut tx, generation).await?;
        self.run(&mut tx, self.model.discard(generation)).await?;
        self.commit_claimed(tx, rebuild).await?;
        Ok(true)
    }

    /// Some of what is kept under the projection's name. `true`: nothing is left that may be discarded.
    async fn forget_piece(&self, generation: Generation, rebuild: Uuid) -> Result<bool, RebuildError> {
        let _turn = self.turn_of_change().await;
        let mut tx = self.begin_claimed(rebuild).await?;
        if !is_at(&self.stages(&mut tx).await?, generation, RETIRED) {
            return Ok(true);
        }
        let projection = generation.name(self.name.as_str());
        let is_all = DB::forget_some(&self.tables, &mut tx, &projection, AT_ONCE).await.map_err(store_error::<DB>)?;
        if is_all {
            self.set(&mut tx, generation, DROPPED).await?;
        }
        self.commit_claimed(tx, rebuild).await?;
        Ok(is_all)
    }

    /// Alone with the generations, as the rebuild that has the claim.
    pub(super) async fn begin_claimed(&self, rebuild: Uuid) -> Result<Transaction<'static, DB>, RebuildError> {
        let mut tx = self.begin_change().await?;
        self.check_claim(&mut tx, rebuild).await?;
        Ok(tx)
    }

    /// Where a database has one writer nobody can renew the claim while this transaction is open, and nobody can take it:
    /// a claim is a write. But whoever waits to write would find it ended, when this took longer than its lease. So it
    /// counts anew from here, in the same transaction, and there is no moment in which another could have it. Elsewhere it
    /// is renewed meanwhile.
    async fn commit_claimed(&self, mut tx: Transaction<'static, DB>, rebuild: Uuid) -> Result<(), RebuildError> {
        if DB::HAS_ONE_WRITER {
            self.renew_within(&mut tx, rebuild, CLAIM).await?;
        }
        tx.commit().await.map_err(store_error::<DB>)
    }
}
