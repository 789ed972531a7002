//! What no member can do: write after its membership is over, or about lanes that are not its own.

use super::{
    LogHarness,
    steps::{
        LONG, Picture, all_lanes, assert_fenced, at, behind, expire, fails, forged, in_order_of, join_alone, join_two,
        names_in, picture, place, read_on, register, republished, whole, write,
    },
};
use crate::{
    event::{LaneSet, RecordedEvent},
    log::{Assignment, ConsumerName, Cursor, EventLog, Fence, StartAt, Track},
    testing::event::numbered,
};

/// A former member's checkpoint changes nothing.
pub async fn a_former_member_cannot_checkpoint<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    for fence in &stale.fences {
        assert_fenced(harness.log().checkpoint(fence, &stale.end).await, "a former member's checkpoint");
    }
    stale.assert_nothing_changed(harness).await;
}

/// A former member gives nothing back, and moves no lane.
pub async fn a_former_member_cannot_release<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    for fence in &stale.fences {
        assert_fenced(harness.log().release(fence, &stale.end).await, "a former member's release");
    }
    stale.assert_nothing_changed(harness).await;
}

/// A former member finds out when it renews, and takes no lane.
pub async fn a_former_member_cannot_renew<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    for fence in &stale.fences {
        assert_fenced(harness.log().renew(fence, LONG).await, "a former member's renewal");
    }
    stale.assert_nothing_changed(harness).await;
}

/// A former member cannot leave for its successor.
pub async fn a_former_member_cannot_leave<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    for fence in &stale.fences {
        assert_fenced(harness.log().leave(fence).await, "a former member's leaving");
    }
    stale.assert_nothing_changed(harness).await;
}

/// A former member sets no event aside, fails none again and blocks no key.
pub async fn a_former_member_cannot_park<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    let (parked, next, other) = (&stale.events[0], &stale.events[1], &stale.events[2]);
    for fence in &stale.fences {
        for park in [fails(parked), behind(next), fails(other)] {
            assert_fenced(harness.log().park(fence, &[park]).await, "a former member's parking");
        }
    }
    stale.assert_nothing_changed(harness).await;
}

/// A former member frees no parked event, and learns of none.
pub async fn a_former_member_cannot_redrive<H: LogHarness>(harness: &H) {
    let stale = Takeover::happened(harness).await;
    for fence in &stale.fences {
        assert_fenced(
            harness.log().redriven(fence, &[republished(&stale.events[0])]).await,
            "a former member's redrive",
        );
        assert_fenced(harness.log().due_parked(fence, 10).await, "a former member's look at due events");
        assert_fenced(harness.log().blocked_keys(fence).await, "a former member's look at blocked keys");
    }
    stale.assert_nothing_changed(harness).await;
}

/// A checkpoint that does not name exactly the member's lanes, too few or too many, is refused as a whole.
pub async fn a_checkpoint_names_exactly_the_members_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, second) = join_two(log, &consumer).await;
    let before = picture(log, &consumer).await;
    let few: LaneSet = first.lanes().iter().skip(1).collect();
    for (lanes, which) in [
        (second.lanes(), "another member's lanes"),
        (all_lanes(log).await, "everybody's lanes"),
        (few, "all of its lanes but one"),
        (LaneSet::EMPTY, "no lanes"),
    ] {
        let tracks: &[Track] = &at(&end, lanes);
        assert_fenced(log.checkpoint(&first.fence, tracks).await, &format!("a checkpoint of {which}"));
    }
    assert_eq!(picture(log, &consumer).await, before, "a refused checkpoint changes nothing");
    log.checkpoint(&first.fence, &at(&end, first.lanes())).await.expect("a checkpoint of its own lanes");
}

/// Releasing, parking and redriving in another member's lanes is refused as a whole.
pub async fn a_member_cannot_write_in_lanes_of_others<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, second) = join_two(log, &consumer).await;
    let own = names_in(log, first.lanes(), 2).await;
    let others = names_in(log, second.lanes(), 2).await;
    let names = [&own[0], &own[1], &others[0], &others[1]];
    write(harness, &names.map(|name| numbered(name, 1))).await;
    let (read, end) = read_on(log, &start).await;
    let event = |name: &str| read.iter().find(|r| r.event.aggregate_id.as_str() == name).expect("an event of it");
    log.park(&first.fence, &[fails(event(&own[0]))]).await.expect("park in its own lane");
    log.park(&second.fence, &[fails(event(&others[0]))]).await.expect("park in its own lane");

    let before = picture(log, &consumer).await;
    let stolen = at(&end, all_lanes(log).await);
    assert_fenced(log.release(&first.fence, &stolen).await, "a release of everybody's lanes");
    let parks = [fails(event(&own[1])), fails(event(&others[1]))];
    assert_fenced(log.park(&first.fence, &parks).await, "parking in another member's lane");
    let parks = [behind(event(&own[1])), behind(event(&others[1]))];
    assert_fenced(log.park(&first.fence, &parks).await, "parking behind in another member's lane");
    let done = [republished(event(&own[0])), republished(event(&others[0]))];
    assert_fenced(log.redriven(&first.fence, &done).await, "redriving in another member's lane");
    assert_eq!(picture(log, &consumer).await, before, "a refused write changes nothing");
}

/// A consumer after a takeover: one event of key `a` is parked, another of it follows, and there is one of key `b`.
struct Takeover {
    consumer: ConsumerName,
    /// The expelled member's; one never given out; one that is newer than the owner's.
    fences: [Fence; 3],
    owner: Assignment,
    start: Cursor,
    end: [Track; 1],
    events: Vec<RecordedEvent>,
    before: Picture,
}

impl Takeover {
    async fn happened<H: LogHarness>(harness: &H) -> Self {
        let log = harness.log();
        let written = [numbered("a", 1), numbered("a", 2), numbered("b", 3)];
        write(harness, &written).await;
        let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
        let (read, end) = read_on(log, &start).await;
        let events = in_order_of(&written, &read);
        let (former, _) = join_alone(log, &consumer).await;
        log.park(&former.fence, &[fails(&events[0])]).await.expect("park");
        expire(log, &former.fence).await;
        let (owner, _) = join_alone(log, &consumer).await;
        let newer = Fence { epoch: owner.fence.epoch + 1, ..owner.fence.clone() };
        Self {
            fences: [former.fence, forged(&owner.fence), newer],
            end: whole(log, &end).await,
            before: picture(log, &consumer).await,
            consumer,
            owner,
            start,
            events,
        }
    }

    async fn assert_nothing_changed<H: LogHarness>(&self, harness: &H) {
        let log = harness.log();
        assert_eq!(picture(log, &self.consumer).await, self.before, "a former member changed something");
        assert_eq!(place(log, &self.consumer).await, self.start);
        log.checkpoint(&self.owner.fence, &self.end).await.expect("the owner's fence is good");
    }
}
