//! One step: a short transaction of its own.

use outbox_core::log::{ConsumerName, LogError, LogErrorKind, RetentionPolicy};
use sqlx::PgConnection;

use super::{
    course::{Course, GivenUp, Marks, Work},
    ring::{self, Counted, Emptied},
};
use crate::postgres::{
    Inner, consumers,
    cursor::{Drawn, Horizon, Place, Seen},
    error,
    reader::{self, State},
    transaction,
};

/// The plans are pinned, as the reader's are: of the rows to remove, statistics know least.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; \
    SET LOCAL max_parallel_workers_per_gather = 0; \
    SET LOCAL jit = off; \
    SET LOCAL enable_seqscan = off; \
    SET LOCAL enable_bitmapscan = off";

pub(super) enum Done {
    /// Somebody else is in the middle of a step.
    Elsewhere,
    /// There is nothing to do now.
    Nothing { held_back_by: Option<ConsumerName> },
    /// So many events are gone.
    Removed { events: u64, more: bool, given_up: GivenUp },
    /// A reader uses the leaf to empty at this moment.
    LeafInUse(Counted),
}

pub(super) async fn step(
    log: &Inner,
    policy: &RetentionPolicy,
    positions: u64,
    given_up: GivenUp,
    counted: Option<Counted>,
) -> Result<Done, LogError> {
    let mut tx = transaction::begin(&log.pool, BEGIN).await?;
    // Re-anchoring moves places and changes rows: either it is over now, or waits for the end of this step.
    sqlx::query(log.retention.keep_anchored.clone()).execute(&mut *tx).await.map_err(error::log)?;
    // Before the lock, because a transaction that has an id of its own cannot ask for the next one.
    let state = reader::state(log, &mut tx).await?;
    let Some(marks) = lock(log, &mut tx).await? else { return Ok(Done::Elsewhere) };
    // Behind the lock: whoever registers from now on waits for the end of this step.
    let places = Places::read(log, &mut tx, &state).await?;
    if let Some(stale) = places.stale {
        drop(tx);
        return still_stale(log, stale).await.map(|()| Done::Removed { events: 0, more: true, given_up });
    }
    let step = Step { log, policy, positions, given_up, counted, seen: places.seen(&state) };
    let done = step.take(&mut tx, &places, marks, &state.horizon).await?;
    if !matches!(done, Done::LeafInUse(_)) {
        tx.commit().await.map_err(error::log)?;
    }
    Ok(done)
}

pub(super) struct Step<'s> {
    pub(super) log: &'s Inner,
    pub(super) policy: &'s RetentionPolicy,
    positions: u64,
    given_up: GivenUp,
    /// By the last try at a leaf.
    pub(super) counted: Option<Counted>,
    /// By every consumer.
    pub(super) seen: Seen,
}

impl Step<'_> {
    async fn take(
        &self,
        tx: &mut PgConnection,
        places: &Places,
        marks: Marks,
        now: &Horizon,
    ) -> Result<Done, LogError> {
        let (marks, head) = (marks.on(Drawn::at(now)), now.head);
        let by_count = head.saturating_sub(self.policy.keep_events.unwrap_or(0));
        let target = if places.each.is_empty() { 0 } else { self.seen.upto().min(by_count) };
        let course = Course { marks, head, target, settled: self.seen.settled(marks.awaited, &now.snapshot) };
        let mut given_up = self.given_up;
        let (events, marks) = match course.next(self.positions, given_up) {
            None => {
                self.finish(tx).await?;
                let oldest = self.oldest(tx, marks, by_count).await?;
                return Ok(Done::Nothing { held_back_by: oldest.and_then(|oldest| places.behind(oldest)) });
            }
            Some(Work::Delete { after, upto, sweeps }) => {
                let (events, reached) = self.delete(tx, marks, (after, upto, sweeps)).await?;
                let stopped = reached < upto;
                given_up.sweeping |= stopped && sweeps;
                given_up.pruning |= stopped && !sweeps;
                let swept = if sweeps { reached } else { marks.swept };
                (events, Marks { pruned: marks.pruned.max(reached), swept, ..marks })
            }
            Some(Work::Empty { leaf, end }) => match ring::empty(self, tx, marks, leaf, end).await? {
                Emptied::Yes { events } => (events, Marks { pruned: marks.pruned.max(end), swept: end, ..marks }),
                Emptied::Kept => {
                    given_up.emptying = true;
                    (0, marks)
                }
                Emptied::InUse(counted) => return Ok(Done::LeafInUse(counted)),
            },
        };
        let more = Course { marks, ..course }.next(self.positions, given_up).is_some();
        Ok(Done::Removed { events, more, given_up })
    }

    /// Returns how many are gone, and up to which position the policy allowed it.
    async fn delete(
        &self,
        tx: &mut PgConnection,
        marks: Marks,
        (after, upto, sweeps): (u64, u64, bool),
    ) -> Result<(u64, u64), LogError> {
        let (events, reached): (i64, i64) = sqlx::query_as(self.log.retention.delete.clone())
            .bind(after as i64)
            .bind(upto as i64)
            .bind(self.seen.snapshot().to_string())
            .bind(self.keep_seconds())
            .bind(sweeps)
            .bind(marks.pruned as i64)
            .bind(marks.swept as i64)
            .bind(marks.awaited.position as i64)
            .bind(marks.awaited.next_xid as i64)
            .fetch_one(tx)
            .await
            .map_err(error::log)?;
        Ok((events as u64, reached as u64))
    }

    async fn finish(&self, tx: &mut PgConnection) -> Result<(), LogError> {
        sqlx::query(self.log.retention.forget_memberships.clone()).execute(&mut *tx).await.map_err(error::log)?;
        sqlx::query(self.log.retention.finish.clone()).execute(tx).await.map_err(error::log)?;
        Ok(())
    }

    /// The position and the xid of the first event that is left, if the policy would let it go.
    async fn oldest(&self, tx: &mut PgConnection, marks: Marks, by_count: u64) -> Result<Option<(u64, u64)>, LogError> {
        // A walk that was given up ended right before it.
        let after = if self.given_up.sweeping { marks.swept } else { marks.pruned.max(marks.swept) };
        let oldest: Option<(i64, i64, bool)> = sqlx::query_as(self.log.retention.oldest.clone())
            .bind(after as i64)
            .bind(by_count as i64)
            .bind(self.keep_seconds())
            .fetch_optional(tx)
            .await
            .map_err(error::log)?;
        Ok(oldest.filter(|(_, _, old)| *old).map(|(position, xid, _)| (position as u64, xid as u64)))
    }

    /// An age before which nothing can have been created is as good as any larger one.
    pub(super) fn keep_seconds(&self) -> Option<f64> {
        self.policy.keep_for.map(|age| age.as_secs_f64().min(100_000_000_000.0))
    }
}

/// `None` when somebody else holds them.
async fn lock(log: &Inner, tx: &mut PgConnection) -> Result<Option<Marks>, LogError> {
    let row: Option<(i64, i64, i64, i64, bool)> =
        sqlx::query_as(log.retention.lock.clone()).fetch_optional(tx).await.map_err(error::log)?;
    Ok(row.map(|(pruned, swept, position, next_xid, ring)| {
        let awaited = Drawn { position: position as u64, next_xid: next_xid as u64 };
        Marks { pruned: pruned as u64, swept: swept as u64, awaited, ring }
    }))
}

/// Where the lanes of each consumer stand.
struct Places {
    each: Vec<(ConsumerName, Vec<Seen>)>,
    /// Those that the server seems not to know yet.
    stale: Option<Vec<Place>>,
}

impl Places {
    async fn read(log: &Inner, tx: &mut PgConnection, state: &State) -> Result<Self, LogError> {
        let (mut each, mut beyond) = (Vec::new(), Vec::new());
        for (name, places) in consumers::all_places(log, tx, state.identity.lanes, None).await? {
            let mut seen = Vec::new();
            for track in places.tracks() {
                let place = Place::parse(&track.cursor)?;
                seen.push(place.seen());
                if place.check(state.identity.id, &state.horizon).is_err() {
                    beyond.push(place);
                }
            }
            each.push((name, seen));
        }
        Ok(Self { each, stale: (!beyond.is_empty()).then_some(beyond) })
    }

    /// What all of them have seen, and is visible.
    fn seen(&self, state: &State) -> Seen {
        let all = self.each.iter().flat_map(|(_, seen)| seen);
        all.fold(Seen::before(&state.horizon), Seen::and)
    }

    /// The consumer that is furthest behind this event.
    fn behind(&self, (position, xid): (u64, u64)) -> Option<ConsumerName> {
        let lanes = self.each.iter().flat_map(|(name, seen)| seen.iter().map(move |seen| (name, seen)));
        let waiting = lanes.filter(|(_, seen)| !seen.contains(xid, position));
        waiting.min_by_key(|(_, seen)| seen.upto()).map(|(name, _)| name.clone())
    }
}

/// A place that was recorded after this step had looked at the server is beyond what it saw; one look later it must not
/// be.
async fn still_stale(log: &Inner, places: Vec<Place>) -> Result<(), LogError> {
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    let state = reader::state(log, &mut conn).await?;
    let message = "retention cannot tell what a consumer has passed";
    let explain = |error| LogError::new(LogErrorKind::BadCursor, message).with_source(error);
    places.iter().try_for_each(|place| place.check(state.identity.id, &state.horizon).map_err(explain))
}
