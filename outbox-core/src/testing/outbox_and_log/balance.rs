//! What is promised about who gets which lanes.

use super::{
    LogHarness,
    steps::{
        LONG, all_lanes, assert_fenced, at, by_lane, expire, info, join, join_alone, join_as, join_two, read_on,
        register, whole, write,
    },
};
use crate::{
    event::LaneSet,
    log::{Claim, ConsumerName, Cursor, EventLog, Fence, LogAdmin, StartAt, lanes_of},
    testing::event::numbered,
};

/// Members that renew and give back what they have too much end with even shares, whoever came when, and then nothing
/// moves any more.
pub async fn lanes_are_shared_evenly<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let mut members: Vec<Member> = Vec::new();
    for count in 1..=3 {
        members.push(Member::join(log, &consumer).await);
        Member::settle(log, &mut members, &start).await;
        let share = all.len().div_ceil(count);
        for member in &members {
            assert!(member.lanes.len() <= share, "{} of {} lanes for one of {count}", member.lanes.len(), all.len());
        }
        Member::assert_disjoint(&members, all);
    }
    // And back again, when one of them is gone.
    let gone = members.remove(0);
    log.leave(&gone.fence).await.expect("leave");
    Member::settle(log, &mut members, &start).await;
    Member::assert_disjoint(&members, all);
    expire(log, &members.remove(0).fence).await;
    Member::settle(log, &mut members, &start).await;
    assert_eq!(members[0].lanes, all, "who is left owns everything");
}

/// A member never gets more than its share, also of lanes that are free, and is told how many it has too much.
pub async fn a_member_takes_no_more_than_its_share<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    let half = all.len().div_ceil(2);
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, _) = join_alone(log, &consumer).await;
    let second = join(log, &consumer).await;
    assert_eq!(second.tracks, [], "nothing is free");
    let surplus = log.renew(&first.fence, LONG).await.expect("renew").surplus;
    assert_eq!(surplus, all.len() - half, "what the first member has beyond its share");
    // It gives back more than that.
    let keeps: LaneSet = all.iter().take(1).collect();
    log.release(&first.fence, &at(&start, all.difference(keeps))).await.expect("release");
    let gained = log.renew(&second.fence, LONG).await.expect("renew").gained;
    assert_eq!(lanes_of(&gained).len(), half, "a share, though more is free");
    assert!(lanes_of(&gained).intersection(keeps).is_empty(), "not the lane that the first member kept");
    let renewal = log.renew(&first.fence, LONG).await.expect("renew");
    assert_eq!(lanes_of(&renewal.gained).len(), all.len() - half - 1, "the rest");
    assert_eq!(renewal.surplus, 0);
    let info = info(log, &consumer).await;
    assert_eq!(info.free_lanes, LaneSet::EMPTY);
    assert_eq!(info.members.iter().map(|m| m.lanes.len()).sum::<u32>(), all.len(), "each lane has one owner: {info:?}");
}

/// What one member gives back may be gained by one that joins then, too.
pub async fn free_lanes_go_to_whoever_joins<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, _) = join_alone(log, &consumer).await;
    let given: LaneSet = all_lanes(log).await.iter().take(1).collect();
    log.release(&first.fence, &at(&start, given)).await.expect("release");
    let second = join(log, &consumer).await;
    assert_eq!(second.tracks, at(&start, given), "what was free");
    log.checkpoint(&second.fence, &second.tracks).await.expect("the lanes are the second member's");
}

/// A member that claims all waits while another owns any lane, is given none in the meantime, and gets every lane when
/// the last is given back. The others need not know of it.
pub async fn who_claims_all_waits_for_every_lane<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, second) = join_two(log, &consumer).await;
    let waiting = join_as(log, &consumer, Claim::All).await;
    assert_eq!(waiting.tracks, [], "others own lanes");
    for member in [&first, &second] {
        assert_eq!(log.renew(&member.fence, LONG).await.expect("renew").surplus, 0, "who waits for all takes no share");
    }
    log.leave(&first.fence).await.expect("leave");
    let renewal = log.renew(&waiting.fence, LONG).await.expect("renew");
    assert_eq!((renewal.gained, renewal.surplus), (Vec::new(), 0), "the second member owns lanes");
    log.release(&second.fence, &at(&start, second.lanes())).await.expect("release");
    let gained = log.renew(&waiting.fence, LONG).await.expect("renew").gained;
    assert_eq!(gained, at(&start, all), "every lane at once");
}

/// While a member that claimed all owns the lanes, nobody else gets any and it has nothing to give back; when it leaves
/// or its lease ends, the others share again.
pub async fn who_claims_all_keeps_the_others_out<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let all = all_lanes(log).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    for leaves in [true, false] {
        let whole = join_as(log, &consumer, Claim::All).await;
        assert_eq!(whole.tracks, at(&start, all), "every lane");
        let sharer = join(log, &consumer).await;
        let rival = join_as(log, &consumer, Claim::All).await;
        assert_eq!((sharer.tracks, rival.tracks), (Vec::new(), Vec::new()), "somebody owns everything");
        let renewal = log.renew(&whole.fence, LONG).await.expect("renew");
        assert_eq!((renewal.gained, renewal.surplus), (Vec::new(), 0), "it keeps what it has");
        for fence in [&sharer.fence, &rival.fence] {
            let renewal = log.renew(fence, LONG).await.expect("renew");
            assert_eq!((renewal.gained, renewal.surplus), (Vec::new(), 0), "somebody owns everything");
        }
        if leaves {
            log.leave(&whole.fence).await.expect("leave");
        } else {
            expire(log, &whole.fence).await;
        }
        assert_eq!(log.renew(&rival.fence, LONG).await.expect("renew").gained, at(&start, all), "left: {leaves}");
        log.leave(&rival.fence).await.expect("leave");
        log.leave(&sharer.fence).await.expect("leave");
    }
}

/// Who waits for lanes without owning any is a member like others: its lease counts, and it is expelled when that ended.
pub async fn a_member_without_lanes_has_a_lease_too<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (first, _) = join_alone(log, &consumer).await;
    let second = join(log, &consumer).await;
    assert!(log.renew(&first.fence, LONG).await.expect("renew").surplus > 0, "two live members");
    expire(log, &second.fence).await;
    let renewal = log.renew(&first.fence, LONG).await.expect("renew");
    assert_eq!((renewal.gained, renewal.surplus), (Vec::new(), 0), "the only live member");
    assert_fenced(log.renew(&second.fence, LONG).await, "renewing after being expelled");
    log.checkpoint(&first.fence, &whole(log, &start).await).await.expect("the first member's fence is good");
}

/// Lanes that are gained by renewing come with the checkpoint of who was expelled.
pub async fn gained_lanes_start_at_the_checkpoint<H: LogHarness>(harness: &H) {
    let log = harness.log();
    write(harness, &[numbered("a", 1), numbered("b", 2)]).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, second) = join_two(log, &consumer).await;
    log.checkpoint(&first.fence, &at(&end, first.lanes())).await.expect("checkpoint");
    expire(log, &first.fence).await;
    let gained = log.renew(&second.fence, LONG).await.expect("renew").gained;
    assert_eq!(by_lane(&gained), by_lane(&at(&end, first.lanes())), "the lanes of the expelled, at its checkpoint");
    let mut tracks = gained;
    tracks.extend(at(&start, second.lanes()));
    log.checkpoint(&second.fence, &tracks).await.expect("a checkpoint of old and new lanes");
}

/// A member as its relay sees it.
struct Member {
    fence: Fence,
    lanes: LaneSet,
}

impl Member {
    async fn join<L: LogAdmin>(log: &L, consumer: &ConsumerName) -> Self {
        let assignment = join(log, consumer).await;
        Self { lanes: assignment.lanes(), fence: assignment.fence }
    }

    /// Each renews and gives back, until nothing moves.
    async fn settle<L: LogAdmin>(log: &L, members: &mut [Self], place: &Cursor) {
        for _ in 0..10 {
            let mut moved = false;
            for member in &mut *members {
                let renewal = log.renew(&member.fence, LONG).await.expect("renew");
                let gained = lanes_of(&renewal.gained);
                assert!(gained.intersection(member.lanes).is_empty(), "gained what it had: {gained:?}");
                member.lanes = member.lanes.union(gained);
                let given: LaneSet = member.lanes.iter().take(renewal.surplus as usize).collect();
                if !given.is_empty() {
                    log.release(&member.fence, &at(place, given)).await.expect("release");
                    member.lanes = member.lanes.difference(given);
                }
                moved |= !gained.is_empty() || !given.is_empty();
            }
            if !moved {
                return;
            }
        }
        panic!("lanes still move after ten rounds");
    }

    fn assert_disjoint(members: &[Self], all: LaneSet) {
        let mut taken = LaneSet::EMPTY;
        for member in members {
            assert!(taken.intersection(member.lanes).is_empty(), "two members own one lane");
            taken = taken.union(member.lanes);
        }
        assert_eq!(taken, all, "every lane has an owner");
    }
}
