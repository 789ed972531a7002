//! Dead letters of side effects, applied after all.

use async_trait::async_trait;
use outbox_core::projection::{Applied, ProjectionError};

use super::{InboxDatabase, InboxProjection};
use crate::{
    dead_letters::{ReadLetter, Replayable},
    runner::guarded,
    sql::begin,
};

/// A letter that was replayed before counts as a duplicate for as long as its claim is kept: see
/// [Retention](super#retention). Trying letters calls the handler, in a transaction that is rolled back; what it does
/// outside of the database stays done.
#[async_trait]
impl<DB: InboxDatabase> Replayable for InboxProjection<DB> {
    async fn apply_letter(&self, letter: &ReadLetter<'_>) -> Result<Applied, ProjectionError> {
        self.apply_one(&letter.event).await
    }

    async fn try_letters(&self, letters: &[ReadLetter<'_>]) -> Vec<Result<Applied, ProjectionError>> {
        let mut tx = match begin::<DB>(&self.inbox.pool).await {
            Ok(tx) => tx,
            Err(error) => return vec![Err(error)],
        };
        let mut tried = Vec::with_capacity(letters.len());
        for letter in letters {
            tried.push(guarded(self.apply_within(&mut tx, &letter.event)).await);
            if tried.last().is_some_and(Result::is_err) {
                break;
            }
        }
        // Otherwise the claims wait until the connection is back in its pool; a lost one rolled back already.
        let _lost = tx.rollback().await;
        tried
    }
}
