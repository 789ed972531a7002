use std::time::Duration;

use async_trait::async_trait;
use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, Projection, ProjectionCapabilities, ProjectionError, Step},
    source::{Partition, SourcePosition},
};
use sqlx::{Pool, Transaction};
use tracing::Instrument;

use super::{
    Claimed, Inbox, InboxDatabase,
    retention::Retention,
    turns::{Turns, side_by_side},
};
use crate::{
    sql::{Handled, Handler, ProjectionName, after_handler, begin, end, store_error},
    trace::{self, LinkTrace},
};

/// Side effects of events, each made once by a [`Handler`].
///
/// Each event has a transaction of its own: claim, handler, commit. So the rows that the handler writes are there once,
/// whoever crashes and however late a duplicate comes; for effects outside of the database see the [module](super).
/// [`Handler::handle`] is called, never [`Handler::handle_all`]; it may take its time, but its transaction and a
/// connection are open meanwhile.
///
/// # Ordering
/// Events of one key are handled strictly one after another, those of different keys up to
/// [`InboxProjectionBuilder::concurrency`] at a time. Behind an event that failed nothing of its key is handled in that
/// step; other keys go on, unless it is the database that is away.
///
/// # Duplicates
/// They are told by the event's id, not by its sequence. Two runners that have the same event at the same time: one
/// handles it, the other waits for its commit and goes on behind it.
///
/// It keeps no position: after a failed step all its events come again, and those that had their effect count as
/// duplicates. An ignored event is claimed as well, so it stays ignored when a later version knows its type.
///
/// # Failures
/// An event that is given up as a dead letter is not claimed: brought again, as by
/// [`replay`](crate::dead_letters::replay), it has its effect. Its key is not held back meanwhile. A handler that panics,
/// or a step that is dropped, rolls back the events that are being handled at that moment, also of other keys; they come
/// again.
pub struct InboxProjection<DB: InboxDatabase> {
    pub(super) inbox: Inbox<DB>,
    handler: Box<dyn Handler<DB>>,
    concurrency: usize,
    retention: Retention,
    link: Option<LinkTrace>,
}

/// Settings of an [`InboxProjection`].
pub struct InboxProjectionBuilder<DB: InboxDatabase>(pub(super) InboxProjection<DB>);

impl<DB: InboxDatabase> InboxProjection<DB> {
    /// Side effects of this name, claimed in the database behind `pool`. Its tables have to be there when it is run.
    #[must_use]
    pub fn builder(
        pool: Pool<DB>,
        name: ProjectionName,
        handler: impl Handler<DB> + 'static,
    ) -> InboxProjectionBuilder<DB> {
        InboxProjectionBuilder(Self {
            inbox: Inbox::new(pool, name),
            handler: Box::new(handler),
            concurrency: 1,
            retention: Retention::new(),
            link: None,
        })
    }
}

impl<DB: InboxDatabase> InboxProjectionBuilder<DB> {
    /// How many keys of a step are handled at a time, each with a connection of the pool: at least 1, by default 1, which
    /// handles the events in the order of the step. SQLite has one writer at a time, and there it is always 1.
    #[must_use]
    pub fn concurrency(mut self, keys: usize) -> Self {
        self.0.concurrency = if DB::WRITES_SIDE_BY_SIDE { keys.max(1) } else { 1 };
        self
    }

    /// How long claims are kept: at least an hour, by default 30 days; 100 years or more are for ever. Longer than
    /// anything can come again, see the [module](super). About every five minutes, while events come, those that are
    /// older are removed by short statements on a task of their own.
    #[must_use]
    pub fn keep_for(mut self, time: Duration) -> Self {
        self.0.retention.keep_for = time.max(Retention::SHORTEST);
        self
    }

    /// Joins each event's span to the trace of its producer; see [`trace`](crate::trace). Default: not.
    #[must_use]
    pub fn link_traces(mut self, link: LinkTrace) -> Self {
        self.0.link = Some(link);
        self
    }

    /// The projection. Nothing is sent to the database.
    #[must_use]
    pub fn build(self) -> InboxProjection<DB> {
        self.0
    }
}

#[async_trait]
impl<DB: InboxDatabase> Projection for InboxProjection<DB> {
    fn name(&self) -> &str {
        self.inbox.consumer.as_str()
    }

    fn capabilities(&self) -> ProjectionCapabilities {
        ProjectionCapabilities::new(false)
    }

    async fn position(&self, _: &Partition) -> Result<Option<SourcePosition>, ProjectionError> {
        Ok(None)
    }

    async fn apply(&self, step: Step<'_>) -> Result<Applied, ProjectionError> {
        let applied = trace::projecting(self.name(), step, self.link, self.apply_all(step.events)).await?;
        self.retention.look_after(&self.inbox);
        Ok(applied)
    }
}

impl<DB: InboxDatabase> InboxProjection<DB> {
    async fn apply_all(&self, events: &[ReceivedEvent]) -> Result<Applied, ProjectionError> {
        let turns = Turns::of(events);
        let hands = self.concurrency.min(events.len());
        side_by_side((0..hands).map(|_| self.take_turns(&turns, events))).await;
        turns.outcome()
    }

    async fn take_turns(&self, turns: &Turns, events: &[ReceivedEvent]) {
        while let Some(index) = turns.take() {
            turns.settle(index, self.apply_one(&events[index]).await);
        }
    }

    pub(super) async fn apply_one(&self, received: &ReceivedEvent) -> Result<Applied, ProjectionError> {
        let mut tx = begin::<DB>(&self.inbox.pool).await?;
        let done = self.apply_within(&mut tx, received).await;
        end(tx, done).await
    }

    pub(super) async fn apply_within(
        &self,
        tx: &mut Transaction<'_, DB>,
        received: &ReceivedEvent,
    ) -> Result<Applied, ProjectionError> {
        match self.inbox.claim(tx, received.event.id).await.map_err(store_error::<DB>)? {
            Claimed::Seen => return Ok(Applied { duplicates: 1, ..Applied::default() }),
            Claimed::New => {}
        }
        let id = received.event.id;
        let handled = self.handler.handle(tx, received).instrument(trace::handling(received)).await;
        let handled = handled.map_err(|error| error.at(id).into_projection_error(std::iter::once(id)))?;
        DB::probe(tx).await.map_err(after_handler::<DB>)?;
        Ok(match handled {
            Handled::Done => Applied { applied: 1, ..Applied::default() },
            Handled::Ignored => Applied { ignored: 1, ..Applied::default() },
        })
    }
}
