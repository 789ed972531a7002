//! The suite of [`Outbox`] and [`EventLog`]: one harness serves both, since neither can be seen without the other.

mod appending;
mod concurrency;
mod members;
mod reading;

use async_trait::async_trait;
use uuid::Uuid;

pub use appending::*;
pub use concurrency::*;
pub use members::*;
pub use reading::*;

use crate::{
    event::{LaneSet, NewEvent, RecordedEvent},
    log::{ConsumerName, Cursor, EventLog, Fence, MemberId, StartAt},
    outbox::Outbox,
};

/// A fresh, empty log with [`Profile::default`](crate::profile::Profile::default), and its transactions.
///
/// Cases hold up to six transactions open at once and read beside them: give a pool at least eight connections.
#[async_trait]
pub trait LogHarness: Send + Sync {
    /// The adapter.
    type Log: Outbox + EventLog;

    /// The log under test.
    fn log(&self) -> &Self::Log;

    /// A second handle on the same log, opened as another process would.
    async fn open_again(&self) -> Self::Log;

    /// Begins a transaction.
    async fn begin(&self) -> <Self::Log as Outbox>::Tx<'static>;

    /// Commits it.
    async fn commit(&self, tx: <Self::Log as Outbox>::Tx<'static>);

    /// Rolls it back.
    async fn rollback(&self, tx: <Self::Log as Outbox>::Tx<'static>);

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// Makes one test of every case of the suite of [`Outbox`] and [`EventLog`]:
/// `outbox_log_suite!(module_name, make_harness)`; see [`testing`](crate::testing).
#[macro_export]
macro_rules! outbox_log_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::conformance_suite!(
            $name,
            $make_harness,
            outbox_and_log::LogHarness,
            [
                committed_events_are_read_once,
                rolled_back_events_are_never_read,
                an_empty_append_does_nothing,
                several_appends_are_one_transaction,
                a_refused_event_leaves_the_transaction_usable,
                one_refused_event_refuses_the_whole_append,
                events_of_one_append_keep_their_order,
                every_field_survives,
                commit_rings_the_bell,
                lanes_follow_the_key,
                lanes_divide_the_log,
                reading_again_yields_the_same,
                pages_respect_the_limit_and_reach_the_end,
                sequences_increase_per_key,
                an_empty_log_is_caught_up,
                a_foreign_cursor_is_refused,
                another_handle_sees_the_same_log,
                a_late_commit_is_not_lost,
                an_open_transaction_holds_nobody_else_back,
                commit_order_is_kept_between_two_writers_of_a_key,
                order_survives_many_writers,
                an_unknown_consumer_is_refused,
                registering_again_keeps_the_place,
                starting_at_the_end_sees_only_later_events,
                consumers_do_not_share_a_place,
                a_live_member_keeps_its_lanes,
                a_member_may_join_again,
                leaving_hands_over_at_once,
                an_expired_lease_is_taken_over,
                a_stale_fence_changes_nothing,
                renewing_keeps_the_lanes,
                the_successor_starts_at_the_checkpoint,
                progress_follows_the_checkpoint,
                dropped_calls_have_all_or_no_effect,
            ]
        );
    };
}

/// The ids of no events.
const NONE: [Uuid; 0] = [];

/// Appends and commits.
async fn write<H: LogHarness>(harness: &H, events: &[NewEvent]) {
    let mut tx = harness.begin().await;
    let receipt = harness.log().append(&mut tx, events).await.expect("append");
    assert_eq!(receipt.events(), events.len(), "the receipt counts the events appended");
    harness.commit(tx).await;
    receipt.committed();
}

fn consumer(name: &str) -> ConsumerName {
    ConsumerName::parse(name).expect("a consumer's name")
}

/// Registers a consumer and returns where it begins.
async fn register<L: EventLog>(log: &L, name: &str, start: StartAt) -> (ConsumerName, Cursor) {
    let consumer = consumer(name);
    log.register(&consumer, start).await.expect("register");
    let cursor = log.progress(&consumer).await.expect("progress").cursor;
    (consumer, cursor)
}

/// The place before the first event.
async fn beginning<L: EventLog>(log: &L) -> Cursor {
    register(log, "suite-beginning", StartAt::Beginning).await.1
}

async fn all_lanes<L: EventLog>(log: &L) -> LaneSet {
    LaneSet::all(log.identity().await.expect("identity").lanes)
}

/// Reads pages of up to `limit` until the log says that there is no more.
async fn read_pages<L: EventLog>(log: &L, from: &Cursor, lanes: LaneSet, limit: usize) -> (Vec<RecordedEvent>, Cursor) {
    const MANY: usize = 10_000;
    let (mut events, mut cursor) = (Vec::new(), from.clone());
    for _ in 0..MANY {
        let page = log.read(&cursor, lanes, limit).await.expect("read");
        assert!(page.events.len() <= limit, "{} events in a page of {limit}", page.events.len());
        events.extend(page.events);
        cursor = page.next;
        if page.caught_up {
            return (events, cursor);
        }
    }
    panic!("not caught up after {MANY} pages");
}

/// Everything of all lanes behind a cursor.
async fn read_on<L: EventLog>(log: &L, from: &Cursor) -> (Vec<RecordedEvent>, Cursor) {
    read_pages(log, from, all_lanes(log).await, 100).await
}

/// Everything in the log.
async fn read_all<L: EventLog>(log: &L) -> Vec<RecordedEvent> {
    read_on(log, &beginning(log).await).await.0
}

fn ids(events: &[RecordedEvent]) -> Vec<Uuid> {
    events.iter().map(|recorded| recorded.event.id).collect()
}

fn new_ids(events: &[NewEvent]) -> Vec<Uuid> {
    events.iter().map(|new| new.event().id).collect()
}

fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

/// The ids of one key's events, in the order given.
fn of_key<'e>(events: &'e [RecordedEvent], lane_key: &'e str) -> impl Iterator<Item = &'e RecordedEvent> {
    events.iter().filter(move |recorded| recorded.event.lane_key() == lane_key)
}

/// A fence of the same consumer that was never given out.
fn forged(fence: &Fence) -> Fence {
    Fence { member: MemberId::random(), ..fence.clone() }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_case() {
        crate::testing::suite::assert_all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("appending.rs"),
                include_str!("reading.rs"),
                include_str!("concurrency.rs"),
                include_str!("members.rs"),
            ],
        );
    }
}
