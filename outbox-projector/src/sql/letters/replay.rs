//! Dead letters are applied after all.

use std::sync::Arc;

use outbox_core::{
    error::chain,
    event::ReceivedEvent,
    profile::{Decoder, SeedEnvelope},
    projection::{Applied, DeadLetterCause, ProjectionError, ProjectionErrorKind},
};
use uuid::Uuid;

use super::{
    Letters, ReplayReport, SqlDeadLetters,
    bodies::Bodies,
    trial::{TOO_EARLY, Trial},
};
use crate::{
    dead_letters::TopicLetter,
    sql::{
        Series, SqlDatabase, SqlProjection,
        projection::{begin, store_error},
    },
};

/// What to replay, and how.
#[derive(Clone)]
pub struct Replay {
    pub(super) which: Letters,
    pub(super) dry_run: bool,
    pub(super) decoder: Arc<dyn Decoder>,
    pub(super) elsewhere: Arc<[TopicLetter]>,
}

impl Replay {
    /// Replays these letters.
    #[must_use]
    pub fn of(which: Letters) -> Self {
        Self { which, dry_run: false, decoder: Arc::new(SeedEnvelope), elsewhere: Arc::default() }
    }

    /// Tries everything, each key in a transaction that is rolled back in the end, and says what would have happened.
    /// The transaction stays open until all letters of a key were tried; projectors wait for that key meanwhile.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Reads the records with this decoder: the one that their source has, or a mended one. Default: [`SeedEnvelope`].
    /// Letters of events that came straight from a log need none, unless they are kept elsewhere: those are read by
    /// [`RawPayload`](outbox_core::profile::RawPayload).
    #[must_use]
    pub fn decoder(mut self, decoder: Arc<dyn Decoder>) -> Self {
        self.decoder = decoder;
        self
    }

    /// Takes the bodies of letters that are kept elsewhere from these, in any order; they are held in memory. See
    /// [`read_to_end`](crate::dead_letters::read_to_end) for how to get them. They are no more than that: which letters
    /// are open, the projection knows. So those of other projections are passed over, as are those that are not open,
    /// which count as duplicates: the projection has replayed or discarded them, or has not passed over their records
    /// yet. An open letter that is missing here keeps its place: its key stops there. Default: none.
    #[must_use]
    pub fn from_topic(mut self, letters: impl IntoIterator<Item = TopicLetter>) -> Self {
        self.elsewhere = letters.into_iter().collect();
        self
    }
}

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
            self.failed(kept, chain(error)).await?;
        }
        tried
    }
}
