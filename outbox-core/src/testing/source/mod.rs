//! The suite of [`EventSource`].

mod delivery;
mod group;
mod lag;
mod positions;

use std::{collections::HashMap, future::Future, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

pub use delivery::*;
pub use group::*;
pub use lag::*;
pub use positions::*;

use super::{
    event::{number_of, numbered},
    suite::within,
};
use crate::{
    event::NewEvent,
    source::{Batch, EventSource, Partition, SourceEvent, SourcePosition, SourceRecord},
};

/// Something to consume from that is empty at first, and one consumer (or group) of it.
#[async_trait]
pub trait SourceHarness: Send + Sync {
    /// The adapter.
    type Source: EventSource;

    /// A new source of the consumer, which begins at the first record where nothing was committed. Cases close or drop
    /// the one before it.
    async fn open(&self) -> Self::Source;

    /// Makes the events available, those of one key in this order and in one partition.
    /// [`Sequencer`](super::Sequencer) gives them origins where no log does.
    async fn produce(&self, events: Vec<NewEvent>);

    /// Makes a record with this body available that is no event. Called only if the source declares
    /// [`foreign_records`](crate::source::SourceCapabilities::foreign_records).
    async fn produce_foreign(&self, payload: Bytes);

    /// Deletes what the events are in and creates it again, empty, under the same name. Returns whether it did, which is
    /// asked for if the source declares
    /// [`checked_positions`](crate::source::SourceCapabilities::checked_positions). Does nothing by default.
    async fn recreate(&self) -> bool {
        false
    }

    /// Removes every event that is there, as retention does. Returns whether it did, which is asked for if the source
    /// declares [`checked_positions`](crate::source::SourceCapabilities::checked_positions). Does nothing by default.
    async fn expire(&self) -> bool {
        false
    }

    /// Called after a case that passed. Does nothing by default.
    async fn tear_down(self)
    where
        Self: Sized,
    {
    }
}

/// Makes one test of every case of the suite of [`EventSource`]: `source_suite!(module_name, make_harness)`; see
/// [`testing`](crate::testing).
#[macro_export]
macro_rules! source_suite {
    ($name:ident, $make_harness:expr $(,)?) => {
        $crate::conformance_suite!(
            $name,
            $make_harness,
            source::SourceHarness,
            [
                nothing_is_delivered_before_start,
                every_event_is_delivered_in_order,
                events_that_come_later_are_delivered,
                events_arrive_as_they_were_written,
                a_dropped_next_loses_nothing,
                a_paused_partition_is_silent,
                what_is_no_event_is_handed_over,
                the_lag_says_how_much_is_to_come,
                uncommitted_events_come_again,
                committed_events_do_not_come_again,
                a_position_given_counts_more_than_the_commit,
                a_foreign_position_is_refused,
                closing_gives_the_partitions_back,
                a_partition_started_again_goes_there,
                a_rewind_delivers_everything_again,
                a_recreated_partition_is_told_at_the_start,
                a_shorter_partition_is_told_at_the_start,
                a_commit_before_a_recreation_is_no_place_to_start,
                a_recreation_under_a_running_source_is_told,
                events_that_expired_unread_are_told,
                events_that_expire_under_a_running_source_are_told,
                a_position_outlives_the_records_before_it,
                a_closed_source_commits_nothing,
            ]
        );
    };
}

/// A source, and where its partitions are.
struct Reader<S> {
    source: S,
    positions: HashMap<Partition, SourcePosition>,
}

impl<S: EventSource> Reader<S> {
    async fn open<H: SourceHarness<Source = S>>(harness: &H) -> Self {
        Self::open_at(harness, HashMap::new()).await
    }

    /// Starts behind these positions, in other partitions where the source knows.
    async fn open_at<H: SourceHarness<Source = S>>(harness: &H, positions: HashMap<Partition, SourcePosition>) -> Self {
        Self { source: within("a source", harness.open()).await, positions }
    }

    /// The next batch; starts what is assigned meanwhile.
    async fn batch(&mut self) -> Batch {
        loop {
            match self.source.next().await.expect("next") {
                SourceEvent::Assigned(partitions) => {
                    for partition in partitions {
                        let after = self.positions.get(&partition);
                        self.source.start(&partition, after).await.expect("start");
                    }
                }
                SourceEvent::Batch(batch) => {
                    self.positions.insert(batch.partition.clone(), batch.position.clone());
                    if !batch.records.is_empty() {
                        return batch;
                    }
                }
                SourceEvent::Revoked(_) => {}
            }
        }
    }

    /// Batches until so many records came, or more.
    async fn records(&mut self, count: usize) -> Vec<SourceRecord> {
        let reading = async {
            let mut records = Vec::new();
            while records.len() < count {
                records.extend(self.batch().await.records);
            }
            records
        };
        within(&format!("{count} records"), reading).await
    }

    /// The numbers of the next events, in the order they came.
    async fn numbers(&mut self, count: usize) -> Vec<u64> {
        numbers(&self.records(count).await)
    }

    async fn commit(&mut self) {
        for (partition, position) in &self.positions {
            within("a commit", self.source.commit(partition, position)).await.expect("commit");
        }
    }

    /// The partition, and where it is: of sources that have one.
    fn position(&self) -> (Partition, SourcePosition) {
        let position = self.positions.iter().next().expect("one partition");
        (position.0.clone(), position.1.clone())
    }

    async fn close(mut self) -> HashMap<Partition, SourcePosition> {
        within("close", self.source.close()).await.expect("close");
        self.positions
    }
}

fn numbers(records: &[SourceRecord]) -> Vec<u64> {
    let events = records.iter().filter_map(|record| match record {
        SourceRecord::Event { event, .. } => Some(&event.event),
        SourceRecord::Undecodable { .. } => None,
    });
    events.map(|event| number_of(event).expect("a number")).collect()
}

/// Events of one key, and so of one partition.
fn events(numbers: std::ops::Range<u64>) -> Vec<NewEvent> {
    numbers.map(|n| numbered("key", n)).collect()
}

/// Watches for a while in which no batch may come. Absence gives no signal: long enough for a fetch from a broker that
/// should not have been made.
async fn assert_none(batch: impl Future<Output = Batch>, why: &str) {
    let batch = tokio::time::timeout(Duration::from_secs(1), batch).await;
    assert!(batch.is_err(), "{why}, but {batch:?} came");
}

/// The next batch, starting nothing.
async fn unstarted<S: EventSource>(source: &mut S) -> Batch {
    loop {
        if let SourceEvent::Batch(batch) = source.next().await.expect("next") {
            return batch;
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_macro_lists_every_case() {
        crate::testing::suite::assert_all_listed(
            include_str!("mod.rs"),
            &[
                include_str!("delivery.rs"),
                include_str!("group.rs"),
                include_str!("lag.rs"),
                include_str!("positions.rs"),
            ],
        );
    }
}
