//! Events that are set aside.

use std::collections::BTreeSet;

use outbox_core::{
    event::{NewEvent, RecordedEvent},
    log::{
        EventLog as _, EventStatus, LogAdmin as _, Park, ParkFailure, ParkState, Parked, Redrive, Redriven,
        Republished, RetentionPolicy,
    },
};

use super::bed::{Member, SqliteBed};
use crate::support::{changed, version, versions};

fn park(event: &RecordedEvent, failure: Option<ParkFailure>) -> Park {
    Park { sequence: event.origin.sequence, lane: event.lane, failure }
}

fn failed(reason: &str) -> ParkFailure {
    ParkFailure { reason: reason.into(), attempts: 3, retry_in: None }
}

fn republished(event: &RecordedEvent) -> Republished {
    let lane_key = event.event.lane_key().into_owned();
    Republished { sequence: event.origin.sequence, lane: event.lane, lane_key }
}

/// A destination that refuses one aggregate's events.
struct Delivery {
    refused: BTreeSet<i64>,
    delivered: Vec<(String, i64)>,
}

impl Delivery {
    /// As a relay does: what is refused and what is behind it is set aside, everything else flows.
    async fn deliver(&mut self, bed: &SqliteBed, member: &mut Member<'_>) {
        let events = super::bed::read_on(&bed.log, &mut member.assignment.tracks).await;
        let mut parks = Vec::new();
        for event in &events {
            let refused = self.refused.contains(&version(event).0.parse().expect("number"));
            let first = !parks.iter().any(|park: &Park| park.lane == event.lane && park.failure.is_some());
            if refused {
                parks.push(park(event, first.then(|| failed("refused"))));
            } else {
                self.delivered.push(version(event));
            }
        }
        let answers = bed.log.park(member.fence(), &parks).await.expect("park");
        assert_eq!(answers, vec![Parked::Yes; parks.len()]);
        member.checkpoint().await;
    }

    /// Publishes what is due until nothing is left, a few at a time.
    async fn redrive(&mut self, bed: &SqliteBed, member: &Member<'_>) -> Redriven {
        let mut last = Redriven::KeyBlocked;
        loop {
            let due = bed.log.due_parked(member.fence(), 3).await.expect("due");
            if due.is_empty() {
                return last;
            }
            self.delivered.extend(due.iter().map(|parked| version(&parked.event)));
            let events: Vec<Republished> = due.iter().map(|parked| republished(&parked.event)).collect();
            last = *bed.log.redriven(member.fence(), &events).await.expect("redriven").last().expect("an answer");
        }
    }
}

/// One aggregate waits, 999 flow; redriven in order, while writers go on.
#[tokio::test]
async fn a_poison_event_holds_back_its_aggregate_only() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let mut delivery = Delivery { refused: BTreeSet::from([500]), delivered: Vec::new() };
    for v in 1..=3 {
        let events: Vec<NewEvent> = (1..=1_000).map(|aggregate| changed(aggregate, v)).collect();
        bed.write(&events).await;
    }
    delivery.deliver(&bed, &mut member).await;
    assert_eq!(delivery.delivered.len(), 999 * 3);
    let states: Vec<ParkState> =
        bed.log.parked(&member.name, None, 10).await.expect("parked").iter().map(|parked| parked.state).collect();
    assert_eq!(states, [ParkState::Parked, ParkState::Behind, ParkState::Behind]);
    assert_eq!(bed.log.blocked_keys(member.fence()).await.expect("blocked"), ["Agg/500"]);

    // More of it is written: they go behind the others, though nobody refuses them any more.
    delivery.refused.clear();
    bed.write_versions(500, 4..=5).await;
    let late = super::bed::read_on(&bed.log, &mut member.assignment.tracks).await;
    let parks: Vec<Park> = late.iter().map(|event| park(event, None)).collect();
    assert_eq!(bed.log.park(member.fence(), &parks).await.expect("park"), [Parked::Yes; 2]);
    member.checkpoint().await;
    assert!(bed.log.due_parked(member.fence(), 10).await.expect("due").is_empty(), "nobody asked");

    assert_eq!(bed.log.redrive(&member.name, &Redrive::All).await.expect("redrive"), 1);
    assert_eq!(delivery.redrive(&bed, &member).await, Redriven::KeyFree);
    bed.write_versions(500, 6..=6).await;
    delivery.deliver(&bed, &mut member).await;
    let of_500: Vec<i64> = delivery.delivered.iter().filter(|(id, _)| id == "500").map(|(_, v)| *v).collect();
    assert_eq!(of_500, [1, 2, 3, 4, 5, 6]);
    assert_eq!(bed.number("SELECT count(*) FROM outbox_blocked").await, 0);
    assert_eq!(bed.number("SELECT count(*) FROM outbox_parked").await, 0);
}

/// In one call, as if they came one after the other.
#[tokio::test]
async fn events_are_parked_in_the_order_given() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    bed.write_versions(1, 1..=3).await;
    bed.write_versions(2, 1..=1).await;
    let events = super::bed::read_on(&bed.log, &mut member.assignment.tracks).await;
    let parks = [
        park(&events[0], None),
        park(&events[1], Some(failed("first"))),
        park(&events[2], None),
        park(&events[3], None),
        park(&events[1], Some(failed("again"))),
        park(&events[2], Some(failed("itself"))),
    ];
    let answers = bed.log.park(member.fence(), &parks).await.expect("park");
    let set_aside = answers.iter().map(|answer| *answer == Parked::Yes);
    assert_eq!(set_aside.collect::<Vec<_>>(), [false, true, true, false, true, true]);
    let parked = bed.log.parked(&member.name, None, 10).await.expect("parked");
    let reasons: Vec<&str> = parked.iter().map(|parked| parked.reason.as_str()).collect();
    assert_eq!(reasons, ["again", "itself"]);
}

/// Retention does not wait for parked events: they are copies, and all of them is kept.
#[tokio::test]
async fn a_parked_event_outlives_its_row() {
    let bed = SqliteBed::create().await;
    let mut member = bed.member("relay").await;
    let event = NewEvent::json("Agg", 1, "AggChanged", &serde_json::json!({"v": 1})).expect("event");
    bed.write(&[event.with_header("tenant", "a,b").expect("header"), changed(1, 2), changed(2, 1)]).await;
    let events = super::bed::read_on(&bed.log, &mut member.assignment.tracks).await;
    let parks = [park(&events[0], Some(failed("refused"))), park(&events[1], None)];
    bed.log.park(member.fence(), &parks).await.expect("park");
    member.checkpoint().await;
    let pruned = bed.log.prune(&RetentionPolicy::default()).await.expect("prune");
    assert_eq!((pruned.removed, pruned.held_back_by), (3, None));

    let parked = bed.log.parked(&member.name, None, 10).await.expect("parked");
    assert_eq!(parked.iter().map(|parked| parked.event.clone()).collect::<Vec<_>>(), events[..2]);
    let again = [park(&events[0], Some(failed("refused again")))];
    assert_eq!(bed.log.park(member.fence(), &again).await.expect("park"), [Parked::Yes]);
    let status = bed.log.event_status(&member.name, events[0].origin.sequence).await.expect("status");
    assert_eq!(status, Some(EventStatus::Parked(ParkState::Parked)));

    // Given up while it is being published again: a failure finds it neither parked nor in the log.
    let sequence = events[0].origin.sequence;
    assert!(bed.log.discard(&member.name, sequence, "a typo").await.expect("discard"));
    assert_eq!(bed.log.park(member.fence(), &again).await.expect("park"), [Parked::Yes]);
    let discarded = bed.log.discarded(&member.name, None, 10).await.expect("discarded").remove(0);
    assert_eq!((&discarded.parked.event, discarded.discard_reason.as_str()), (&events[0], "a typo"));
    assert_eq!(discarded.parked.reason, "refused again");
    let due = bed.log.due_parked(member.fence(), 10).await.expect("due");
    assert_eq!(versions(&[due[0].event.clone()]), [("1".to_owned(), 2)], "the one behind it is due at once");
}
