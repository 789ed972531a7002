//! A member that was taken over writes nothing any more, whatever it is doing at that moment, and keeps nobody waiting.

use outbox_core::log::{
    Assignment, Claim, ConsumerName, Cursor, EventLog as _, LogAdmin as _, LogError, LogErrorKind, MemberId, Park,
    ParkFailure, ParkedEvent, Redriven, Republished, lanes_of,
};
use outbox_sqlx::PostgresLog;
use sqlx::{AssertSqlSafe, Postgres, Row as _, Transaction};
use tokio::task::JoinHandle;

use crate::support::{Bed, LEASE, consumer, expired_member, join, moved, on_postgres, only, read, waiting_for_locks};

on_postgres! {
    async fn a_stale_member_changes_nothing(bed: &Bed) {
        let zombie = Zombie::with_a_parked_event(bed).await;
        let owner = join(&bed.log, &zombie.name).await;
        assert!(owner.fence.epoch > zombie.assignment.fence.epoch);

        let before = rows_of(bed).await;
        for write in Write::ALL {
            assert_eq!(zombie.write(&bed.log, write).await.expect_err("stale").kind(), LogErrorKind::Fenced, "{write:?}");
            assert_eq!(rows_of(bed).await, before, "{write:?}");
        }
        let fence = &zombie.assignment.fence;
        assert_eq!(bed.log.blocked_keys(fence).await.expect_err("stale").kind(), LogErrorKind::Fenced);
        assert_eq!(bed.log.due_parked(fence, 10).await.expect_err("stale").kind(), LogErrorKind::Fenced);
        bed.log.checkpoint(&owner.fence, &owner.tracks).await.expect("the owner's fence is good");
    }

    /// The take-over has deleted the member's row and is not committed: the write waits, with a snapshot in which that
    /// row still stands, and then does nothing.
    async fn a_write_that_waits_for_a_take_over_does_nothing(bed: &Bed) {
        for write in Write::ALL {
            let zombie = Zombie::with_a_parked_event(bed).await;
            let stopper = hold_up_the_keeping_of_places(bed, &zombie.name).await;
            let taking = take_over(bed, &zombie.name);
            waiting_for_locks(&bed.pool, 1).await;
            let writing = zombie.start(bed, write);
            waiting_for_locks(&bed.pool, 2).await;
            stopper.rollback().await.expect("rollback");
            let owner = taking.await.expect("taking over");
            assert_eq!(writing.await.expect("writing").expect_err("stale").kind(), LogErrorKind::Fenced, "{write:?}");

            assert_eq!(owner.lanes().len(), 64, "{write:?}");
            assert_eq!(only(&owner.tracks).cursor, zombie.track().cursor, "{write:?}: nothing was checkpointed");
            let keys = bed.log.blocked_keys(&owner.fence).await.expect("keys");
            assert_eq!(keys, ["Agg/1"], "{write:?}: nothing was unblocked or blocked");
            assert_eq!(bed.log.parked(&zombie.name, None, 10).await.expect("parked").len(), 1, "{write:?}");
        }
    }

    /// The write holds its fence and is stuck in its middle: the take-over waits for it, and finds what it wrote.
    async fn a_take_over_sees_the_write_it_waited_for(bed: &Bed) {
        for write in [Write::Checkpoint, Write::Release, Write::Leave, Write::Park, Write::Redriven] {
            let zombie = Zombie::with_a_parked_event(bed).await;
            let stopper = zombie.hold_up(bed, write).await;
            let writing = zombie.start(bed, write);
            waiting_for_locks(&bed.pool, 1).await;
            let taking = take_over(bed, &zombie.name);
            waiting_for_locks(&bed.pool, 2).await;
            stopper.rollback().await.expect("rollback");
            writing.await.expect("writing").unwrap_or_else(|error| panic!("{write:?} came first: {error:?}"));
            let owner = taking.await.expect("taking over");

            assert_eq!(owner.lanes().len(), 64, "{write:?}");
            let keys = bed.log.blocked_keys(&owner.fence).await.expect("keys");
            match write {
                Write::Checkpoint | Write::Release => {
                    assert_eq!(only(&owner.tracks).cursor, zombie.later, "{write:?}: the place is the one it wrote");
                }
                Write::Park => assert_eq!(keys.len(), 2, "the newly blocked key is known"),
                Write::Redriven => assert!(keys.is_empty(), "the key is free"),
                Write::Leave | Write::Renew => assert_eq!(only(&owner.tracks).cursor, zombie.track().cursor),
            }
        }
    }

    async fn the_epoch_decides_and_not_the_clock(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let late = expired_member(&bed.log, &name).await;
        bed.log.checkpoint(&late.fence, &late.tracks).await.expect("nobody took over yet");
        bed.log.renew(&late.fence, LEASE).await.expect("nor now");
        let second = join(&bed.log, &name).await;
        assert!(second.tracks.is_empty(), "the renewed lease holds");
    }

    /// A renewal that comes while somebody is about to expel the member, counts.
    async fn a_renewal_at_the_last_moment_counts(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let late = expired_member(&bed.log, &name).await;
        let mut renewing = bed.begin().await;
        sqlx::query("UPDATE outbox.outbox_member SET expires = clock_timestamp() + interval '1 hour'")
            .execute(&mut *renewing)
            .await
            .expect("renew");
        let taking = take_over(bed, &name);
        waiting_for_locks(&bed.pool, 1).await;
        renewing.commit().await.expect("commit");
        assert!(taking.await.expect("joining").tracks.is_empty(), "a live member keeps its lanes");
        bed.log.checkpoint(&late.fence, &late.tracks).await.expect("still a member");
    }

    async fn leaving_hands_over_at_once(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let first = join(&bed.log, &name).await;
        let second = join(&bed.log, &name).await;
        assert!(second.tracks.is_empty());
        bed.log.leave(&first.fence).await.expect("leave");
        let gained = bed.log.renew(&second.fence, LEASE).await.expect("renew").gained;
        assert_eq!(lanes_of(&gained).len(), 64);
    }

    /// Of many that ask at once, one gets what the dead member had, and the epochs are all different.
    async fn only_one_of_many_takes_over(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        expired_member(&bed.log, &name).await;
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..12 {
            let (log, name) = (bed.log.clone(), name.clone());
            asking.spawn(async move { log.join(&name, MemberId::random(), Claim::All, LEASE).await.expect("join") });
        }
        let assigned: Vec<Assignment> = asking.join_all().await;
        assert_eq!(assigned.iter().filter(|assignment| !assignment.tracks.is_empty()).count(), 1);
        let mut epochs: Vec<u64> = assigned.iter().map(|assignment| assignment.fence.epoch).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, (2..=13).collect::<Vec<_>>());
    }

    /// The takeover either sees the old member's checkpoint or keeps it from being written.
    async fn a_checkpoint_and_a_takeover_at_the_same_time(bed: &Bed) {
        for n in 0..40 {
            bed.bump_and_commit(1).await;
            let name = consumer(&bed.log, &format!("relay-{n}")).await;
            let old = expired_member(&bed.log, &name).await;
            let track = only(&old.tracks);
            let page = read(&bed.log, &track, 100).await;
            let there = moved(&track, &page.next);
            let (written, new) = tokio::join!(bed.log.checkpoint(&old.fence, &there), join(&bed.log, &name));
            match written {
                Ok(()) => assert_eq!(new.tracks, there, "written, but the new member begins before it"),
                Err(error) => {
                    assert_eq!(error.kind(), LogErrorKind::Fenced);
                    assert_eq!(new.tracks, old.tracks);
                }
            }
            assert_eq!(bed.log.progress(&name).await.expect("progress").tracks, new.tracks);
        }
    }

    async fn cursors_of_others_are_refused(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let member = join(&bed.log, &name).await;
        let track = only(&member.tracks);
        let foreign = Cursor::from_text("12");
        let refused = bed.log.checkpoint(&member.fence, &moved(&track, &foreign)).await.expect_err("foreign");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);

        let schema = outbox_sqlx::postgres::SchemaName::parse("other").expect("name");
        let other = outbox_sqlx::PostgresLog::builder(bed.pool.clone()).schema(schema).migrate().await.expect("migrate");
        let refused = other.read(&member.tracks, 1).await.expect_err("another log's");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        let theirs = consumer(&other, "relay").await;
        let theirs = join(&other, &theirs).await;
        let refused = other.checkpoint(&theirs.fence, &member.tracks).await.expect_err("another log's");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
        let refused = other.release(&theirs.fence, &member.tracks).await.expect_err("another log's");
        assert_eq!(refused.kind(), LogErrorKind::BadCursor);
    }
}

/// What a member writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Write {
    Checkpoint,
    Renew,
    Release,
    Leave,
    /// A new event that fails, so that its key is blocked.
    Park,
    /// The parked event, so that its key is unblocked.
    Redriven,
}

impl Write {
    const ALL: [Self; 6] = [Self::Checkpoint, Self::Renew, Self::Release, Self::Leave, Self::Park, Self::Redriven];
}

/// A member whose lease is over, with everything that it might still want to write.
#[derive(Clone)]
struct Zombie {
    name: ConsumerName,
    assignment: Assignment,
    /// Behind all that it read.
    later: Cursor,
    parked: ParkedEvent,
    fails: Park,
}

impl Zombie {
    /// The first event is parked, the second one will fail.
    async fn with_a_parked_event(bed: &Bed) -> Self {
        bed.bump_and_commit(1).await;
        bed.bump_and_commit(2).await;
        let name = consumer(&bed.log, &format!("relay-{}", uuid::Uuid::now_v7())).await;
        let assignment = expired_member(&bed.log, &name).await;
        let page = read(&bed.log, &only(&assignment.tracks), 1_000).await;
        let last = |aggregate: &str| {
            let events = page.events.iter().rev();
            let event =
                events.into_iter().find(|event| event.event.aggregate_id.as_str() == aggregate).expect("an event");
            Park { sequence: event.origin.sequence, lane: event.lane, failure: Some(failure()) }
        };
        bed.log.park(&assignment.fence, &[last("1")]).await.expect("park");
        let parked = bed.log.parked(&name, None, 1).await.expect("parked").remove(0);
        Self { name, later: page.next, parked, fails: last("2"), assignment }
    }

    fn track(&self) -> outbox_core::log::Track {
        only(&self.assignment.tracks)
    }

    async fn write(&self, log: &PostgresLog, write: Write) -> Result<(), LogError> {
        let fence = &self.assignment.fence;
        let there = moved(&self.track(), &self.later);
        match write {
            Write::Checkpoint => log.checkpoint(fence, &there).await,
            Write::Renew => log.renew(fence, LEASE).await.map(drop),
            Write::Release => log.release(fence, &there).await,
            Write::Leave => log.leave(fence).await,
            Write::Park => log.park(fence, std::slice::from_ref(&self.fails)).await.map(drop),
            Write::Redriven => {
                let republished = Republished {
                    sequence: self.parked.event.origin.sequence,
                    lane: self.parked.event.lane,
                    lane_key: self.parked.event.event.lane_key().into_owned(),
                };
                let freed = log.redriven(fence, &[republished]).await?;
                assert_eq!(freed, [Redriven::KeyFree]);
                Ok(())
            }
        }
    }

    fn start(&self, bed: &Bed, write: Write) -> JoinHandle<Result<(), LogError>> {
        let (zombie, log) = (self.clone(), bed.log.clone());
        tokio::spawn(async move { zombie.write(&log, write).await })
    }

    /// Keeps a write from going on once it holds its fence: something that it is to write is there, and not committed.
    async fn hold_up(&self, bed: &Bed, write: Write) -> Transaction<'static, Postgres> {
        let epoch = self.assignment.fence.epoch;
        let sql = match write {
            Write::Checkpoint => format!(
                "INSERT INTO outbox.outbox_checkpoint (consumer, member, epoch, nth, lanes, cursor, position)
                SELECT consumer, member, epoch, nth + 1, lanes, cursor, position FROM outbox.outbox_checkpoint
                WHERE consumer = $1 AND epoch = {epoch} ORDER BY nth DESC LIMIT 1"
            ),
            Write::Release | Write::Leave => "INSERT INTO outbox.outbox_lane VALUES ($1, 63, '')".into(),
            Write::Park => "INSERT INTO outbox.outbox_blocked VALUES ($1, 'Agg/2', 0)".into(),
            Write::Redriven => "SELECT 1 FROM outbox.outbox_blocked WHERE consumer = $1 FOR UPDATE".into(),
            Write::Renew => unreachable!("it only touches the member's row"),
        };
        let mut tx = bed.begin().await;
        sqlx::query(AssertSqlSafe(sql)).bind(self.name.as_str()).execute(&mut *tx).await.expect("hold up");
        tx
    }
}

fn failure() -> ParkFailure {
    ParkFailure { reason: "refused".into(), attempts: 1, retry_in: None }
}

/// Keeps a take-over from going on once it has deleted the members' rows.
async fn hold_up_the_keeping_of_places(bed: &Bed, name: &ConsumerName) -> Transaction<'static, Postgres> {
    let mut tx = bed.begin().await;
    let sql = "INSERT INTO outbox.outbox_lane VALUES ($1, 0, '')";
    sqlx::query(sql).bind(name.as_str()).execute(&mut *tx).await.expect("hold up");
    tx
}

fn take_over(bed: &Bed, name: &ConsumerName) -> JoinHandle<Assignment> {
    let (log, name) = (bed.log.clone(), name.clone());
    tokio::spawn(async move { join(&log, &name).await })
}

async fn rows_of(bed: &Bed) -> Vec<String> {
    let tables = ["member", "lane", "checkpoint", "consumer", "parked", "blocked", "discarded"];
    let rows = tables.map(|table| format!("SELECT t::text FROM outbox.outbox_{table} AS t")).join(" UNION ALL ");
    let sql = AssertSqlSafe(format!("{rows} ORDER BY 1"));
    sqlx::query(sql).fetch_all(&bed.pool).await.expect("rows").iter().map(|row| row.get(0)).collect()
}
