//! A log with one consumer: events, members, lanes, places.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;
use uuid::Uuid;

use super::{
    Ev,
    broker::Broker,
    cursor,
    invariant::{Checked, Invariant},
    lane,
    parked::ParkedEvents,
    position,
};
use crate::{
    event::{LaneCount, LaneSet},
    log::{
        Claim, MemberId, Track,
        balance::{Plan, Standing, plan},
        lanes_of,
    },
    relay::simulation::Flaw,
};

#[derive(Debug, Clone, Hash)]
pub(super) struct Log {
    pub(super) lanes: u8,
    /// In commit order; the event at index `i` has position `i + 1`.
    pub(super) events: Vec<Ev>,
    members: BTreeMap<u32, Member>,
    epoch: u64,
    places: Vec<u64>,
    pub(super) parked: ParkedEvents,
    pub(super) flaw: Option<Flaw>,
}

#[derive(Debug, Clone, Hash)]
struct Member {
    epoch: u64,
    lanes: LaneSet,
    expires: Instant,
}

/// Who writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fence {
    pub(super) member: u32,
    pub(super) epoch: u64,
}

/// The membership is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Fenced;

#[derive(Debug, Clone, Hash)]
pub(super) struct Renewal {
    pub(super) gained: Vec<Track>,
    pub(super) owned: LaneSet,
    pub(super) surplus: u32,
    pub(super) redrive: bool,
}

impl Log {
    pub(super) fn new(lanes: u8, flaw: Option<Flaw>) -> Self {
        Self {
            lanes,
            events: Vec::new(),
            members: BTreeMap::new(),
            epoch: 0,
            places: vec![0; usize::from(lanes)],
            parked: ParkedEvents::default(),
            flaw,
        }
    }

    pub(super) fn append(&mut self, lane: u8, key: u8) -> Ev {
        let before = self.events.iter().rev().find(|e| (e.lane, e.key) == (lane, key)).map(|e| e.position);
        let event = Ev { lane, key, position: self.head() + 1, before };
        self.events.push(event);
        event
    }

    pub(super) fn head(&self) -> u64 {
        self.events.len() as u64
    }

    pub(super) fn event(&self, position: u64) -> Ev {
        self.events[position as usize - 1]
    }

    pub(super) fn place(&self, lane: u8) -> u64 {
        self.places[usize::from(lane)]
    }

    /// Up to `limit` events of a track, where to read on, and whether that is the end.
    pub(super) fn page(&self, track: &Track, limit: usize) -> (Vec<Ev>, u64, bool) {
        let mut next = position(&track.cursor);
        let mut events = Vec::new();
        for event in &self.events[next as usize..] {
            if events.len() == limit {
                break;
            }
            if track.lanes.contains(lane(event.lane)) {
                events.push(*event);
            }
            next = event.position;
        }
        (events, next, next == self.head())
    }

    // Membership.

    pub(super) fn join(&mut self, member: u32, lease: Duration, now: Instant) -> (Fence, Vec<Track>) {
        self.members.remove(&member);
        self.epoch += 1;
        let epoch = self.epoch;
        self.members.insert(member, Member { epoch, lanes: LaneSet::EMPTY, expires: now + lease });
        let gained = self.balance(member, now).take;
        (Fence { member, epoch }, self.tracks(gained))
    }

    pub(super) fn renew(&mut self, fence: Fence, lease: Duration, now: Instant) -> Result<Renewal, Fenced> {
        self.member(fence)?.expires = now + lease;
        let Plan { take, surplus, .. } = self.balance(fence.member, now);
        let owned = self.owned(fence);
        let redrive = !self.parked.due(owned, 1, now).is_empty();
        Ok(Renewal { gained: self.tracks(take), owned, surplus, redrive })
    }

    /// Whether a renewal would tell this member anything.
    pub(super) fn has_news(&self, fence: Fence, now: Instant) -> bool {
        let is_current = self.members.get(&fence.member).is_some_and(|member| member.epoch == fence.epoch);
        let plan = self.plan(fence.member, now);
        !is_current || plan.changes_anything() || plan.surplus > 0 || self.parked.is_requested(self.owned(fence))
    }

    pub(super) fn expire(&mut self, member: u32, now: Instant) {
        if let Some(member) = self.members.get_mut(&member) {
            member.expires = now;
        }
    }

    pub(super) fn is_live(&self, member: u32, now: Instant) -> bool {
        self.members.get(&member).is_some_and(|member| now < member.expires)
    }

    pub(super) fn members(&self) -> impl Iterator<Item = u32> {
        self.members.keys().copied()
    }

    pub(super) fn leave(&mut self, fence: Fence) -> Result<(), Fenced> {
        self.member(fence)?;
        self.members.remove(&fence.member);
        Ok(())
    }

    /// What this membership owns; nothing when it is over.
    pub(super) fn owned(&self, fence: Fence) -> LaneSet {
        let mine = self.members.get(&fence.member).filter(|member| member.epoch == fence.epoch);
        mine.map_or(LaneSet::EMPTY, |member| member.lanes)
    }

    fn member(&mut self, fence: Fence) -> Result<&mut Member, Fenced> {
        self.members.get_mut(&fence.member).filter(|member| member.epoch == fence.epoch).ok_or(Fenced)
    }

    fn balance(&mut self, me: u32, now: Instant) -> Plan {
        let plan = self.plan(me, now);
        self.members.retain(|id, _| !plan.expelled.contains(&member_id(*id)));
        if let Some(member) = self.members.get_mut(&me) {
            member.lanes = member.lanes.union(plan.take);
        }
        plan
    }

    fn plan(&self, me: u32, now: Instant) -> Plan {
        let standing = |(id, member): (&u32, &Member)| Standing {
            member: member_id(*id),
            claim: Claim::Share,
            lanes: member.lanes,
            live: now < member.expires,
        };
        let standings: Vec<Standing> = self.members.iter().map(standing).collect();
        plan(LaneCount::new(self.lanes).expect("a lane count"), &standings, member_id(me))
    }

    fn tracks(&self, lanes: LaneSet) -> Vec<Track> {
        let mut places: BTreeMap<u64, LaneSet> = BTreeMap::new();
        for lane in lanes.iter() {
            let at = places.entry(self.place(lane.get())).or_default();
            *at = at.union(LaneSet::from_iter([lane]));
        }
        places.into_iter().map(|(at, lanes)| Track { cursor: cursor(at), lanes }).collect()
    }

    // Fenced writes.

    /// Whether the fence lets a write about these lanes through.
    pub(super) fn admits(&self, fence: Fence, lanes: LaneSet) -> Checked<Result<(), Fenced>> {
        let is_current = self.members.get(&fence.member).is_some_and(|member| member.epoch == fence.epoch);
        if is_current && lanes.difference(self.owned(fence)).is_empty() {
            return Ok(Ok(()));
        }
        if self.flaw == Some(Flaw::FenceIsIgnored) {
            return Invariant::FencedRelaysHaveNoEffect.broken(format!("{fence:?} wrote about {lanes:?}"));
        }
        Ok(Err(Fenced))
    }

    pub(super) fn checkpoint(
        &mut self,
        fence: Fence,
        tracks: &[Track],
        broker: &Broker,
    ) -> Checked<Result<(), Fenced>> {
        let lanes = lanes_of(tracks);
        if let Err(fenced) = self.admits(fence, lanes)? {
            return Ok(Err(fenced));
        }
        if lanes != self.owned(fence) {
            return Ok(Err(Fenced));
        }
        self.record(tracks, broker).map(Ok)
    }

    pub(super) fn release(&mut self, fence: Fence, tracks: &[Track], broker: &Broker) -> Checked<Result<(), Fenced>> {
        let lanes = lanes_of(tracks);
        if let Err(fenced) = self.admits(fence, lanes)? {
            return Ok(Err(fenced));
        }
        self.record(tracks, broker)?;
        if let Ok(member) = self.member(fence) {
            member.lanes = member.lanes.difference(lanes);
        }
        Ok(Ok(()))
    }

    fn record(&mut self, tracks: &[Track], broker: &Broker) -> Checked {
        let rule = Invariant::CheckpointsCoverWhatIsDone;
        let lanes: u32 = tracks.iter().map(|track| track.lanes.len()).sum();
        rule.holds(lanes == lanes_of(tracks).len(), || format!("a lane is in two of {tracks:?}"))?;
        for track in tracks {
            let upto = position(&track.cursor);
            for lane in track.lanes.iter() {
                let from = self.place(lane.get());
                rule.holds(from <= upto, || format!("lane {lane} goes back from {from} to {upto}"))?;
                let passed = self.events[from as usize..upto as usize].iter().filter(|e| e.lane == lane.get());
                for event in passed.map(|event| event.position) {
                    let settled = broker.is_acknowledged(event) || self.parked.knows(event);
                    rule.holds(settled, || format!("{event} is not done, and {upto} is recorded"))?;
                }
                self.places[usize::from(lane.get())] = upto;
            }
        }
        Ok(())
    }
}

fn member_id(member: u32) -> MemberId {
    MemberId(Uuid::from_u128(u128::from(member)))
}
