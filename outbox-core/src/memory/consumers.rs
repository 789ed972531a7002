//! Consumers of a log in memory: members, lanes, places, parked events.

use std::{
    collections::{BTreeMap, HashMap, HashSet, VecDeque},
    time::Duration,
};

use chrono::{DateTime, Utc};

use super::clock::Clock;
use crate::{
    event::{Lane, LaneCount, LaneSet, RecordedEvent, Sequence},
    log::{
        Claim, DUE_OF_A_KEY, DiscardedEvent, Fence, LogError, LogErrorKind, MemberId, Park, ParkState, Parked,
        ParkedEvent, Redrive, Redriven, Republished,
        balance::{Plan, Standing, plan},
    },
};

/// How many checkpoints are remembered.
const HISTORY: usize = 10_000;

/// One consumer. Places are positions: everything up to and with it is done.
#[derive(Debug)]
pub(super) struct Consumer {
    clock: Clock,
    pub(super) created_at: DateTime<Utc>,
    pub(super) paused: bool,
    pub(super) checkpoint_at: Option<DateTime<Utc>>,
    /// Of each lane, owned or not.
    places: Vec<usize>,
    /// The last checkpoints, of all members, in order.
    history: VecDeque<Checkpoint>,
    pub(super) members: Vec<Member>,
    pub(super) parked: BTreeMap<Sequence, ParkedEvent>,
    pub(super) discarded: BTreeMap<Sequence, DiscardedEvent>,
    /// Keys that somebody asked to redrive, until they are free or an attempt fails that began later.
    requested: HashSet<String>,
    /// Keys given out to be published again since they last failed, and whether somebody asked for them since then.
    attempts: HashMap<String, bool>,
}

#[derive(Debug)]
struct Checkpoint {
    at: DateTime<Utc>,
    places: Vec<(usize, LaneSet)>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) epoch: u64,
    claim: Claim,
    pub(super) lanes: LaneSet,
    pub(super) expires: DateTime<Utc>,
}

impl Consumer {
    pub(super) fn new(clock: Clock, place: usize, lanes: LaneCount) -> Self {
        Self {
            clock,
            created_at: clock.now(),
            paused: false,
            checkpoint_at: None,
            places: vec![place; usize::from(lanes.get())],
            history: VecDeque::new(),
            members: Vec::new(),
            parked: BTreeMap::new(),
            discarded: BTreeMap::new(),
            requested: HashSet::new(),
            attempts: HashMap::new(),
        }
    }

    /// Returns the lanes.
    pub(super) fn join(&mut self, member: MemberId, epoch: u64, claim: Claim, lease: Duration) -> LaneSet {
        self.expel(member);
        let expires = self.clock.after(lease);
        self.members.push(Member { id: member, epoch, claim, lanes: LaneSet::EMPTY, expires });
        self.balance(member).take
    }

    /// Returns what changed.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`].
    pub(super) fn renew(&mut self, fence: &Fence, lease: Duration) -> Result<Plan, LogError> {
        let expires = self.clock.after(lease);
        self.member(fence)?.expires = expires;
        Ok(self.balance(fence.member))
    }

    /// Applies what the rule says for this member.
    fn balance(&mut self, member: MemberId) -> Plan {
        let now = self.clock.now();
        let standings: Vec<Standing> = self
            .members
            .iter()
            .map(|m| Standing { member: m.id, claim: m.claim, lanes: m.lanes, live: m.is_live(now) })
            .collect();
        let plan = plan(self.lanes(), &standings, member);
        self.members.retain(|m| !plan.expelled.contains(&m.id));
        if let Some(member) = self.members.iter_mut().find(|m| m.id == member) {
            member.lanes = member.lanes.union(plan.take);
        }
        plan
    }

    fn lanes(&self) -> LaneCount {
        LaneCount::new(self.places.len() as u8).unwrap_or_default()
    }

    pub(super) fn free_lanes(&self) -> LaneSet {
        let owned = self.members.iter().fold(LaneSet::EMPTY, |owned, m| owned.union(m.lanes));
        LaneSet::all(self.lanes()).difference(owned)
    }

    /// The member whose fence this is.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`].
    pub(super) fn member(&mut self, fence: &Fence) -> Result<&mut Member, LogError> {
        self.members.iter_mut().find(|m| m.id == fence.member && m.epoch == fence.epoch).ok_or_else(|| fenced(fence))
    }

    /// Ends a membership.
    pub(super) fn expel(&mut self, member: MemberId) {
        self.members.retain(|m| m.id != member);
    }

    pub(super) fn fence_everybody(&mut self) {
        self.members.clear();
    }

    /// Places by cursor position.
    pub(super) fn tracks(&self, lanes: LaneSet) -> Vec<(usize, LaneSet)> {
        let mut tracks: BTreeMap<usize, LaneSet> = BTreeMap::new();
        for lane in lanes.iter() {
            let track = tracks.entry(self.places[usize::from(lane.get())]).or_default();
            *track = track.union(LaneSet::from_iter([lane]));
        }
        tracks.into_iter().collect()
    }

    pub(super) fn move_to(&mut self, places: &[(usize, LaneSet)]) {
        let now = self.clock.now();
        self.checkpoint_at = Some(now);
        self.history.push_back(Checkpoint { at: now, places: places.to_vec() });
        if self.history.len() > HISTORY {
            self.history.pop_front();
        }
        for (place, lanes) in places {
            for lane in lanes.iter() {
                self.places[usize::from(lane.get())] = *place;
            }
        }
    }

    /// When the first checkpoint was written that is not in front of this position.
    pub(super) fn passed_at(&self, lane: Lane, position: usize) -> Option<DateTime<Utc>> {
        let passes = |(place, lanes): &(usize, LaneSet)| *place >= position && lanes.contains(lane);
        self.history.iter().find(|checkpoint| checkpoint.places.iter().any(passes)).map(|checkpoint| checkpoint.at)
    }

    pub(super) fn place_of(&self, lane: Lane) -> usize {
        self.places.get(usize::from(lane.get())).copied().unwrap_or_default()
    }

    /// The place of the lane that is furthest behind.
    pub(super) fn lowest_place(&self) -> usize {
        self.places.iter().copied().min().unwrap_or_default()
    }

    /// `event_of` finds events of the log.
    pub(super) fn park<'e>(
        &mut self,
        fence: &Fence,
        parks: &[Park],
        event_of: impl Fn(Sequence) -> Option<&'e RecordedEvent>,
    ) -> Result<Vec<Parked>, LogError> {
        let owned = self.member(fence)?.lanes;
        let mut events = Vec::with_capacity(parks.len());
        for park in parks {
            if !owned.contains(park.lane) {
                return Err(fenced(fence));
            }
            let parked = self.parked.get(&park.sequence).map(|parked| &parked.event);
            let discarded = self.discarded.get(&park.sequence).map(|discarded| &discarded.parked.event);
            let event =
                parked.or(discarded).or_else(|| event_of(park.sequence)).filter(|event| event.lane == park.lane);
            events.push(event.cloned().ok_or_else(|| no_event(park))?);
        }
        Ok(parks.iter().zip(events).map(|(park, event)| self.park_one(park, event)).collect())
    }

    fn park_one(&mut self, park: &Park, event: RecordedEvent) -> Parked {
        let key = event.event.lane_key().into_owned();
        let now = self.clock.now();
        match &park.failure {
            _ if self.discarded.contains_key(&park.sequence) => {}
            None if self.parked.contains_key(&park.sequence) => {}
            None if !self.is_blocked(&key) => return Parked::NotBlocked,
            None => {
                let state = ParkState::Behind;
                let parked =
                    ParkedEvent { event, state, reason: String::new(), attempts: 0, parked_at: now, retry_at: None };
                self.parked.insert(park.sequence, parked);
            }
            Some(failure) => {
                if self.attempts.remove(&key) == Some(false) {
                    self.requested.remove(&key);
                }
                let parked_at = self.parked.get(&park.sequence).map_or(now, |parked| parked.parked_at);
                let state = if failure.retry_in.is_some() { ParkState::Retrying } else { ParkState::Parked };
                let parked = ParkedEvent {
                    event,
                    state,
                    reason: failure.reason.chars().take(2_000).collect(),
                    attempts: failure.attempts,
                    parked_at,
                    retry_at: failure.retry_in.map(|wait| self.clock.after(wait)),
                };
                self.parked.insert(park.sequence, parked);
            }
        }
        Parked::Yes
    }

    fn is_blocked(&self, key: &str) -> bool {
        self.parked.values().any(|parked| parked.event.event.lane_key() == key)
    }

    pub(super) fn blocked_keys(&self, lanes: LaneSet) -> HashSet<String> {
        let of_lanes = self.parked.values().filter(|parked| lanes.contains(parked.event.lane));
        of_lanes.map(|parked| parked.event.event.lane_key().into_owned()).collect()
    }

    /// The first events of each key that is due.
    pub(super) fn due(&self, lanes: LaneSet, limit: usize) -> Vec<ParkedEvent> {
        let now = self.clock.now();
        // How many more of a key may be given.
        let mut due: HashMap<String, usize> = HashMap::new();
        let mut found = Vec::new();
        for parked in self.parked.values().filter(|parked| lanes.contains(parked.event.lane)) {
            let key = parked.event.event.lane_key().into_owned();
            // The first one of a key decides; one that no longer has a failed one before it is due at once.
            let left = due.entry(key).or_insert_with_key(|key| {
                let is_due = self.requested.contains(key)
                    || parked.state == ParkState::Behind
                    || parked.retry_at.is_some_and(|at| at <= now);
                if is_due { DUE_OF_A_KEY } else { 0 }
            });
            if *left > 0 && found.len() < limit {
                *left -= 1;
                found.push(parked.clone());
            }
        }
        found
    }

    /// Gives out what is due.
    pub(super) fn attempt(&mut self, lanes: LaneSet, limit: usize) -> Vec<ParkedEvent> {
        let due = self.due(lanes, limit);
        for parked in &due {
            self.attempts.entry(parked.event.event.lane_key().into_owned()).or_default();
        }
        due
    }

    pub(super) fn redriven(&mut self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        let owned = self.member(fence)?.lanes;
        if events.iter().any(|event| !owned.contains(event.lane)) {
            return Err(fenced(fence));
        }
        for event in events {
            self.parked.remove(&event.sequence);
            self.forget_request(&event.lane_key);
        }
        let state = |key: &String| if self.is_blocked(key) { Redriven::KeyBlocked } else { Redriven::KeyFree };
        Ok(events.iter().map(|event| state(&event.lane_key)).collect())
    }

    fn forget_request(&mut self, key: &String) {
        if !self.is_blocked(key) {
            self.requested.remove(key);
            self.attempts.remove(key);
        }
    }

    pub(super) fn redrive(&mut self, which: &Redrive) -> u64 {
        let chosen = |parked: &&ParkedEvent| match which {
            Redrive::All => true,
            Redrive::Event(sequence) => parked.event.origin.sequence == *sequence,
            Redrive::Aggregate { aggregate_type, aggregate_id } => {
                let event = &parked.event.event;
                event.aggregate_type.as_str() == aggregate_type && event.aggregate_id.as_str() == aggregate_id
            }
        };
        let keys: HashSet<String> =
            self.parked.values().filter(chosen).map(|parked| parked.event.event.lane_key().into_owned()).collect();
        let asked = keys.len() as u64;
        for key in &keys {
            self.attempts.entry(key.clone()).and_modify(|asked_since| *asked_since = true);
        }
        self.requested.extend(keys);
        asked
    }

    pub(super) fn discard(&mut self, sequence: Sequence, reason: &str) -> bool {
        let Some(parked) = self.parked.remove(&sequence) else { return false };
        let key = parked.event.event.lane_key().into_owned();
        self.forget_request(&key);
        let discarded = DiscardedEvent { parked, discard_reason: reason.to_owned(), discarded_at: self.clock.now() };
        self.discarded.insert(sequence, discarded);
        true
    }
}

impl Member {
    pub(super) fn is_live(&self, now: DateTime<Utc>) -> bool {
        now < self.expires
    }
}

pub(super) fn fenced(fence: &Fence) -> LogError {
    let Fence { consumer, epoch, .. } = fence;
    let message = format!("epoch {epoch} of consumer {consumer} is over, or the lanes are not its own: join again");
    LogError::new(LogErrorKind::Fenced, message)
}

fn no_event(park: &Park) -> LogError {
    let message = format!("the log has no event with sequence {} in lane {}", park.sequence, park.lane);
    LogError::new(LogErrorKind::Corrupt, message)
}
