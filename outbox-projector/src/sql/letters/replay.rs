//! Dead letters are applied after all.

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, DeadLetterCause, ProjectionError, ProjectionErrorKind},
};
use uuid::Uuid;

use super::{
    SqlDeadLetters,
    bodies::Bodies,
    trial::{TOO_EARLY, Trial},
};
use crate::sql::{
    Replay, ReplayReport, Series, SqlDatabase, SqlProjection,
    projection::{begin, store_error},
};

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// Applies letters: those of a key in the order of their sequences, different keys one after another. Where one
    /// fails, it and the rest of its key stay, with one attempt more for it and the new reason, and the next key follows.
    /// A panic of the handler is a failure. A missing body stops its key too, and is no attempt.
    ///
    /// Records that could not be decoded and can be now take their place in their keys first, for good: with
    /// [`BlockedKeys::Hold`](super::BlockedKeys::Hold) they hold later events back from then on. ([`Letters::Id`] does
    /// so for this letter only.)
    ///
    /// With [`BlockedKeys::Hold`](super::BlockedKeys::Hold) the last letter of a key frees it in the transaction of its
    /// effect, and [`Letters::Id`] replays the first letter of a key only. With
    /// [`BlockedKeys::Pass`](super::BlockedKeys::Pass), and where letters are kept elsewhere, they take effect late, and
    /// the watermark stays where it is.
    ///
    /// # Errors
    /// The type's *Errors*. What was replayed before stays so.
    ///
    /// [`Letters::Id`]: super::super::Letters::Id
    pub async fn replay(&self, replay: &Replay) -> Result<ReplayReport, ProjectionError> {
        let bodies = Bodies::of(replay, self.projection.name.as_str());
        let not_open = self.not_open(replay, &bodies).await?;
        let mut report = ReplayReport::default();
        let units = self.plan(replay, &bodies, &mut report).await?;
        for unit in &units {
            report.keys.push(self.replay_unit(unit, &bodies, replay.dry_run).await?);
        }
        report.count_duplicates(not_open);
        Ok(report)
    }

    /// Applies an event whose letter is kept elsewhere, when it comes from somewhere else than [`Replay::from_topic`]:
    /// `letter` is [`header::ID`](crate::dead_letters::header::ID). Once, as long as the projection knows it as an open
    /// letter: after that, and when it has not passed over it in the first place, the answer counts a duplicate. The
    /// order of several is the caller's affair.
    ///
    /// # Errors
    /// As [`Projection::apply`](outbox_core::projection::Projection::apply) where the event fails: the letter stays, with
    /// one attempt more and the new reason. The type's *Errors*.
    pub async fn replay_event(&self, letter: Uuid, event: &ReceivedEvent) -> Result<Applied, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        let mut tx = begin::<DB>(pool).await?;
        let series = Series::of_received(event);
        self.lock_series(&mut tx, &series).await?;
        let found = DB::lock_letter(tables, &mut tx, name.as_str(), letter).await.map_err(store_error::<DB>)?;
        let Some((mut kept, _)) = found else { return Ok(Applied { duplicates: 1, ..Applied::default() }) };
        if kept.cause != DeadLetterCause::Undecodable && kept.id != event.event.id {
            let message = format!("letter {letter} is one of another event");
            return Err(ProjectionError::new(ProjectionErrorKind::Rejected, message));
        }
        kept.file_under(event);
        if self.is_too_early(&mut tx, &kept).await? {
            return Err(ProjectionError::new(ProjectionErrorKind::Failed, TOO_EARLY));
        }
        let trial = Trial(vec![(kept, event.clone())]);
        let tried = self.try_and_end(tx, &trial).await;
        if let (Err(error), [(kept, _)]) = (&tried, &trial.0[..])
            && error.kind().blames_an_event()
        {
            self.failed(kept, error).await?;
        }
        tried
    }
}
