//! What a consumer should look like, whatever happened to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use super::{
    histories::{Ground, MEMBERS, Step, Writer},
    steps::{self, LONG, all_lanes, assert_fenced, at, by_lane, forged, info, lease_over, places, republished},
};
use crate::{
    event::{Lane, LaneCount, LaneSet, RecordedEvent, Sequence},
    log::{
        Claim, ConsumerName, Cursor, EventLog, Fence, LogAdmin, MemberId, Park, ParkState, Parked, Redrive, Redriven,
        Track,
        balance::{Plan, Standing, plan},
    },
};

/// A consumer, as it should be.
pub(super) struct Model<'g> {
    ground: &'g Ground,
    consumer: ConsumerName,
    lanes: LaneCount,
    ids: [MemberId; MEMBERS],
    members: BTreeMap<usize, Member>,
    /// Fences of memberships that are over.
    old: BTreeMap<usize, Fence>,
    places: BTreeMap<Lane, Cursor>,
    parked: BTreeMap<Sequence, ParkState>,
    discarded: BTreeSet<Sequence>,
    requested: BTreeSet<String>,
    /// Keys that were given out since they last failed, and whether somebody asked for them since then.
    attempts: BTreeMap<String, bool>,
}

#[derive(Debug, Clone)]
struct Member {
    fence: Fence,
    claim: Claim,
    lanes: LaneSet,
    live: bool,
}

impl<'g> Model<'g> {
    pub(super) async fn new<L: EventLog>(log: &L, consumer: ConsumerName, ground: &'g Ground) -> Self {
        let places = by_lane(&at(&ground.places[0], all_lanes(log).await));
        Self {
            ground,
            consumer,
            lanes: log.identity().await.expect("identity").lanes,
            ids: std::array::from_fn(|_| MemberId::random()),
            members: BTreeMap::new(),
            old: BTreeMap::new(),
            places,
            parked: BTreeMap::new(),
            discarded: BTreeSet::new(),
            requested: BTreeSet::new(),
            attempts: BTreeMap::new(),
        }
    }

    /// Takes the step with the log, and as it should be.
    pub(super) async fn take<L: LogAdmin>(&mut self, log: &L, step: &Step) {
        match step {
            Step::Join(member, claim) => self.join(log, *member, *claim).await,
            Step::Renew { by, over_at_once } => self.renew(log, *by, *over_at_once).await,
            Step::Release { by, lanes, all_of_them, place } => {
                let wanted = LaneSet::from_mask(*lanes).intersection(LaneSet::all(self.lanes));
                let owned = self.owned(*by);
                let lanes = if *all_of_them { wanted } else { wanted.intersection(owned) };
                self.release(log, *by, &at(self.place(*place), lanes)).await;
            }
            Step::Leave(by) => match self.fence(*by) {
                Ok(fence) => {
                    log.leave(&fence).await.expect("leave");
                    self.end(by.member);
                }
                Err(fence) => assert_fenced(log.leave(&fence).await, "leaving"),
            },
            Step::Checkpoint { by, lanes, everybodys, places: [one, other] } => {
                let all = if *everybodys { LaneSet::all(self.lanes) } else { self.owned(*by) };
                let lanes = LaneSet::from_mask(*lanes).intersection(all);
                let tracks = joined([(self.place(*one), lanes), (self.place(*other), all.difference(lanes))]);
                self.checkpoint(log, *by, &tracks).await;
            }
            Step::Park { by, events } => self.park(log, *by, events).await,
            Step::Redriven { by, event } => self.redriven(log, *by, *event).await,
            Step::Redrive(event) => self.redrive(log, *event).await,
            Step::Discard(event) => {
                let sequence = self.event(*event).origin.sequence;
                let discarded = log.discard(&self.consumer, sequence, "given up").await.expect("discard");
                assert_eq!(discarded, self.parked.remove(&sequence).is_some(), "whether it was parked");
                if discarded {
                    self.discarded.insert(sequence);
                }
                self.forget_requests();
            }
        }
    }

    /// Fails when the log's consumer is not as it should be.
    pub(super) async fn compare<L: LogAdmin>(&mut self, log: &L, step: &Step) {
        let info = info(log, &self.consumer).await;
        let listed: BTreeSet<_> = info.members.iter().map(|m| (m.epoch, m.lanes.mask(), m.live)).collect();
        let expected: BTreeSet<_> = self.members.values().map(|m| (m.fence.epoch, m.lanes.mask(), m.live)).collect();
        assert_eq!(listed, expected, "epoch, lanes and lease of every member after {step:?}");
        assert_eq!(info.free_lanes, self.free(), "free lanes after {step:?}");
        assert_eq!(places(log, &self.consumer).await, self.places, "places after {step:?}");
        let parked = log.parked(&self.consumer, None, 100).await.expect("parked");
        let parked: BTreeMap<_, _> = parked.iter().map(|p| (p.event.origin.sequence, p.state)).collect();
        assert_eq!(parked, self.parked, "parked events after {step:?}");
        let mut given = Vec::new();
        for member in self.members.values() {
            let blocked = log.blocked_keys(&member.fence).await.expect("blocked keys");
            assert_eq!(blocked.into_iter().collect::<BTreeSet<_>>(), self.blocked(member.lanes), "after {step:?}");
            let due = log.due_parked(&member.fence, 100).await.expect("due");
            let mut of_keys: BTreeMap<String, Vec<Sequence>> = BTreeMap::new();
            for parked in due {
                of_keys.entry(key(&parked.event)).or_default().push(parked.event.origin.sequence);
            }
            assert_eq!(of_keys, self.due(member.lanes), "due events after {step:?}");
            given.extend(of_keys.into_keys());
        }
        for key in given {
            self.attempts.entry(key).or_default();
        }
    }

    async fn join<L: LogAdmin>(&mut self, log: &L, member: usize, claim: Claim) {
        let assignment = log.join(&self.consumer, self.ids[member], claim, LONG).await.expect("join");
        let highest = self.members.values().map(|m| &m.fence).chain(self.old.values()).map(|fence| fence.epoch).max();
        assert!(highest < Some(assignment.fence.epoch), "epochs rise: {highest:?}, {assignment:?}");
        self.end(member);
        let joined = Member { fence: assignment.fence, claim, lanes: LaneSet::EMPTY, live: true };
        self.members.insert(member, joined);
        let Plan { take, .. } = self.balance(member);
        assert_eq!(by_lane(&assignment.tracks), self.places_of(take), "what it is given");
    }

    async fn renew<L: LogAdmin>(&mut self, log: &L, by: Writer, over_at_once: bool) {
        let lease = if over_at_once { Duration::ZERO } else { LONG };
        let fence = match self.fence(by) {
            Ok(fence) => fence,
            Err(fence) => return assert_fenced(log.renew(&fence, lease).await, "renewing"),
        };
        let renewal = log.renew(&fence, lease).await.expect("renew");
        if let Some(member) = self.members.get_mut(&by.member) {
            member.live = !over_at_once;
        }
        let Plan { take, surplus, .. } = self.balance(by.member);
        assert_eq!(by_lane(&renewal.gained), self.places_of(take), "what it gained");
        assert_eq!((renewal.surplus, renewal.paused), (surplus, false));
        if take.is_empty() {
            assert_eq!(renewal.redrive, !self.due(self.owned(by)).is_empty(), "whether something is due");
        }
        if over_at_once {
            lease_over(log, &fence).await;
        }
    }

    async fn release<L: LogAdmin>(&mut self, log: &L, by: Writer, tracks: &[Track; 1]) {
        let lanes = tracks[0].lanes;
        match self.fence(by) {
            Ok(fence) if lanes.difference(self.owned(by)).is_empty() => {
                if !lanes.is_empty() {
                    log.release(&fence, tracks).await.expect("release");
                    self.places.extend(by_lane(tracks));
                    if let Some(member) = self.members.get_mut(&by.member) {
                        member.lanes = member.lanes.difference(lanes);
                    }
                }
            }
            Ok(fence) | Err(fence) => assert_fenced(log.release(&fence, tracks).await, "releasing"),
        }
    }

    async fn checkpoint<L: LogAdmin>(&mut self, log: &L, by: Writer, tracks: &[Track]) {
        let named = crate::log::lanes_of(tracks);
        match self.fence(by) {
            Ok(_) if named.is_empty() => {}
            Ok(fence) if named == self.owned(by) => {
                log.checkpoint(&fence, tracks).await.expect("checkpoint");
                self.places.extend(by_lane(tracks));
            }
            Ok(fence) | Err(fence) => assert_fenced(log.checkpoint(&fence, tracks).await, "a checkpoint"),
        }
    }

    async fn park<L: LogAdmin>(&mut self, log: &L, by: Writer, events: &[(usize, bool)]) {
        let named = events.iter().map(|(n, fails)| (self.event(*n).clone(), *fails));
        let named: Vec<_> = named.collect();
        let fence = match self.fence(by) {
            Ok(fence) if named.iter().all(|(event, _)| self.owned(by).contains(event.lane)) => fence,
            Ok(fence) | Err(fence) => {
                let parks: Vec<Park> = named.iter().map(|(event, fails)| park(event, *fails)).collect();
                return assert_fenced(log.park(&fence, &parks).await, "parking");
            }
        };
        let (mut parks, mut expected) = (Vec::new(), Vec::new());
        for (event, fails) in named {
            if !self.happens(&event, fails) || parks.iter().any(|p: &Park| p.sequence == event.origin.sequence) {
                continue;
            }
            let blocked = self.blocked(LaneSet::all(self.lanes)).contains(&key(&event));
            parks.push(park(&event, fails));
            if self.discarded.contains(&event.origin.sequence) {
                // It was given up for good, whoever reads it again.
                expected.push(Parked::Yes);
                continue;
            }
            expected.push(if blocked || fails { Parked::Yes } else { Parked::NotBlocked });
            if fails {
                if self.attempts.remove(&key(&event)) == Some(false) {
                    self.requested.remove(&key(&event));
                }
                self.parked.insert(event.origin.sequence, ParkState::Parked);
            } else if blocked {
                self.parked.entry(event.origin.sequence).or_insert(ParkState::Behind);
            }
        }
        let answers = log.park(&fence, &parks).await.expect("park");
        assert_eq!(answers, expected, "what became of {parks:?}");
    }

    async fn redriven<L: LogAdmin>(&mut self, log: &L, by: Writer, event: usize) {
        let recorded = self.event(event).clone();
        let done = [republished(&recorded)];
        let fence = match self.fence(by) {
            Ok(fence) if self.owned(by).contains(recorded.lane) => fence,
            Ok(fence) | Err(fence) => return assert_fenced(log.redriven(&fence, &done).await, "redriving"),
        };
        let answers = log.redriven(&fence, &done).await.expect("redriven");
        self.parked.remove(&recorded.origin.sequence);
        self.forget_requests();
        let blocked = self.blocked(LaneSet::all(self.lanes)).contains(&key(&recorded));
        assert_eq!(answers, [if blocked { Redriven::KeyBlocked } else { Redriven::KeyFree }]);
    }

    async fn redrive<L: LogAdmin>(&mut self, log: &L, event: usize) {
        let recorded = self.event(event).clone();
        let asked = log.redrive(&self.consumer, &Redrive::Event(recorded.origin.sequence)).await.expect("redrive");
        let parked = self.parked.contains_key(&recorded.origin.sequence);
        assert_eq!(asked, u64::from(parked), "keys asked for");
        if parked {
            self.requested.insert(key(&recorded));
            self.attempts.entry(key(&recorded)).and_modify(|asked| *asked = true);
        }
    }
}

/// How it should be.
impl Model<'_> {
    fn event(&self, n: usize) -> &RecordedEvent {
        &self.ground.events[n % self.ground.events.len()]
    }

    fn place(&self, n: usize) -> &Cursor {
        &self.ground.places[n % self.ground.places.len()]
    }

    /// The fence of a membership; the error is one that is over, or never was.
    fn fence(&self, by: Writer) -> Result<Fence, Fence> {
        let never = Fence { consumer: self.consumer.clone(), member: self.ids[by.member], epoch: 0 };
        let old = || Err(self.old.get(&by.member).cloned().unwrap_or_else(|| forged(&never)));
        match self.members.get(&by.member) {
            Some(member) if !by.with_an_old_fence => Ok(member.fence.clone()),
            _ => old(),
        }
    }

    fn owned(&self, by: Writer) -> LaneSet {
        self.members.get(&by.member).map_or(LaneSet::EMPTY, |member| member.lanes)
    }

    fn free(&self) -> LaneSet {
        self.members.values().fold(LaneSet::all(self.lanes), |free, member| free.difference(member.lanes))
    }

    fn places_of(&self, lanes: LaneSet) -> BTreeMap<Lane, Cursor> {
        self.places.iter().filter(|(lane, _)| lanes.contains(**lane)).map(|(l, place)| (*l, place.clone())).collect()
    }

    fn end(&mut self, member: usize) {
        if let Some(over) = self.members.remove(&member) {
            self.old.insert(member, over.fence);
        }
    }

    fn balance(&mut self, member: usize) -> Plan {
        let standings: Vec<Standing> = self
            .members
            .iter()
            .map(|(n, m)| Standing { member: self.ids[*n], claim: m.claim, lanes: m.lanes, live: m.live })
            .collect();
        let plan = plan(self.lanes, &standings, self.ids[member]);
        assert!(plan.take.difference(self.free_of_the_dead(&plan)).is_empty(), "the rule gives what is free");
        for over in 0..MEMBERS {
            if plan.expelled.contains(&self.ids[over]) {
                self.end(over);
            }
        }
        if let Some(member) = self.members.get_mut(&member) {
            member.lanes = member.lanes.union(plan.take);
        }
        plan
    }

    fn free_of_the_dead(&self, plan: &Plan) -> LaneSet {
        let dead = (0..MEMBERS).filter(|n| plan.expelled.contains(&self.ids[*n])).filter_map(|n| self.members.get(&n));
        dead.fold(self.free(), |free, member| free.union(member.lanes))
    }

    fn parked_of(&self, lanes: LaneSet) -> impl Iterator<Item = (&RecordedEvent, ParkState)> {
        let of = move |event: &&RecordedEvent| lanes.contains(event.lane);
        let events = self.ground.events.iter().filter(of);
        events.filter_map(|event| Some((event, *self.parked.get(&event.origin.sequence)?)))
    }

    /// Members park in the order of a key: the first parked event of a key may fail again, others wait behind the last.
    fn happens(&self, event: &RecordedEvent, fails: bool) -> bool {
        let mut of_key = self.parked_of(LaneSet::all(self.lanes)).filter(|(parked, _)| key(parked) == key(event));
        let sequence = |(parked, _): (&RecordedEvent, ParkState)| parked.origin.sequence;
        match of_key.next().map(sequence) {
            None => true,
            Some(first) if fails => first == event.origin.sequence,
            Some(first) => of_key.last().map_or(first, sequence) <= event.origin.sequence,
        }
    }

    fn blocked(&self, lanes: LaneSet) -> BTreeSet<String> {
        self.parked_of(lanes).map(|(event, _)| key(event)).collect()
    }

    fn due(&self, lanes: LaneSet) -> BTreeMap<String, Vec<Sequence>> {
        let mut due: BTreeMap<String, Option<Vec<Sequence>>> = BTreeMap::new();
        for (event, state) in self.parked_of(lanes) {
            let key = key(event);
            // The first one of a key decides.
            let is_due = self.requested.contains(&key) || state == ParkState::Behind;
            let of_key = due.entry(key).or_insert_with(|| is_due.then(Vec::new));
            if let Some(of_key) = of_key {
                of_key.push(event.origin.sequence);
            }
        }
        due.into_iter().filter_map(|(key, events)| Some((key, events?))).collect()
    }

    fn forget_requests(&mut self) {
        let blocked = self.blocked(LaneSet::all(self.lanes));
        self.requested.retain(|key| blocked.contains(key));
        self.attempts.retain(|key, _| blocked.contains(key));
    }
}

fn park(event: &RecordedEvent, fails: bool) -> Park {
    if fails { steps::fails(event) } else { steps::behind(event) }
}

fn key(recorded: &RecordedEvent) -> String {
    recorded.event.lane_key().into_owned()
}

/// Tracks of these lanes, one for each place.
fn joined([one, other]: [(&Cursor, LaneSet); 2]) -> Vec<Track> {
    if one.0 == other.0 {
        return at(one.0, one.1.union(other.1)).into();
    }
    let tracks = [one, other].map(|(cursor, lanes)| Track { cursor: cursor.clone(), lanes });
    tracks.into_iter().filter(|track| !track.lanes.is_empty()).collect()
}
