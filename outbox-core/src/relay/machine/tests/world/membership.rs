//! Lanes and places, as a log keeps them.

use super::*;

impl World {
    pub(in crate::relay::machine::tests) fn start_membership(
        &mut self,
        machine: &mut Machine<Events>,
        gain: Option<(u64, u32)>,
    ) {
        if self.membership.is_some() {
            return;
        }
        self.membership = if let Some((gain, surplus)) = gain {
            let all = LaneSet::all(LaneCount::new(LANES).expect("count"));
            let gain = LaneSet::from_mask(gain).intersection(all).difference(self.owned);
            Some(Membership::Renew { gain, surplus: surplus.min(self.owned.len()) })
        } else if let Some(tracks) = machine.next_release(self.now) {
            Some(Membership::Release(tracks))
        } else {
            machine.take_checkpoint(self.now).map(Membership::Checkpoint)
        };
    }

    pub(in crate::relay::machine::tests) fn last_checkpoint(&mut self, machine: &mut Machine<Events>) {
        assert!(self.membership.is_none());
        if let Some(due) = machine.take_last_checkpoint() {
            self.record(&due.tracks, self.owned);
            machine.checkpoint_recorded(&due);
        }
    }

    pub(in crate::relay::machine::tests) fn answer_membership(&mut self, machine: &mut Machine<Events>, fate: Fate) {
        match self.membership.take() {
            // A member that does not know what it was given is fenced, and this run would be over.
            Some(Membership::Renew { gain, surplus }) if fate == Fate::Good => self.renew(machine, gain, surplus),
            None | Some(Membership::Renew { .. }) => {}
            Some(Membership::Release(tracks)) => {
                let lanes = crate::log::lanes_of(&tracks);
                assert!(self.under_way.iter().all(|batch| !lanes.contains(batch.lane)), "released under way");
                if let Some((ParkingCall::Park(_) | ParkingCall::Record(_), events, _)) = &self.parking {
                    assert!(events.iter().all(|e| !lanes.contains(lane(e.0))), "released while parking");
                }
                if fate == Fate::Good {
                    self.record(&tracks, lanes);
                    self.owned = self.owned.difference(lanes);
                    assert_eq!(machine.released(), lanes);
                    self.broken.retain(|lane, _| !lanes.contains(*lane));
                    let log = &self.log;
                    self.acknowledged.retain(|position| !lanes.contains(lane(log[*position as usize - 1].0)));
                }
            }
            Some(Membership::Checkpoint(due)) => {
                if fate != Fate::Fails {
                    self.record(&due.tracks, self.owned);
                }
                match fate {
                    Fate::Good => machine.checkpoint_recorded(&due),
                    Fate::Fails | Fate::AnswerLost => machine.return_checkpoint(&due, self.now),
                }
            }
        }
    }

    fn renew(&mut self, machine: &mut Machine<Events>, gain: LaneSet, surplus: u32) {
        let mut places: BTreeMap<u64, LaneSet> = BTreeMap::new();
        for lane in gain.iter() {
            let at = places.entry(self.places[usize::from(lane.get())]).or_default();
            *at = with(*at, lane);
        }
        self.owned = self.owned.union(gain);
        machine.gain(places.into_iter().map(|(at, lanes)| Track { cursor: cursor(at), lanes }).collect());
        machine.give_back(surplus);
        if !self.due().is_empty() {
            machine.want_due();
        }
    }

    /// Everything up to the cursors is settled, and the tracks are exactly of these lanes.
    fn record(&mut self, tracks: &[Track], exactly: LaneSet) {
        assert_eq!(crate::log::lanes_of(tracks), exactly, "a checkpoint of other lanes");
        assert_eq!(tracks.iter().map(|track| track.lanes.len()).sum::<u32>(), exactly.len(), "a lane twice");
        let cursors: HashSet<&Cursor> = tracks.iter().map(|track| &track.cursor).collect();
        assert_eq!(cursors.len(), tracks.len(), "two tracks at one place");
        for track in tracks {
            let upto: u64 = track.cursor.as_text().parse().expect("cursor");
            for lane in track.lanes.iter() {
                let place = &mut self.places[usize::from(lane.get())];
                assert!(upto >= *place, "lane {lane} went back");
                for (_, _, position) in self.log[*place as usize..upto as usize].iter().filter(|e| e.0 == lane.get()) {
                    let settled = self.written.contains(position)
                        || self.parked.contains_key(position)
                        || self.discarded.contains(position);
                    assert!(settled, "{position} is covered by the checkpoint {upto}, and nothing was done about it");
                }
                *place = upto;
            }
        }
    }
}
