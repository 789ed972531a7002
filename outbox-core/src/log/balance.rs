//! Who gets which lanes: the rule that every adapter applies under its own lock.

use super::{Claim, MemberId};
use crate::event::{LaneCount, LaneSet};

/// A member, as its log knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// Who.
    pub member: MemberId,
    /// What it asked for.
    pub claim: Claim,
    /// What it owns.
    pub lanes: LaneSet,
    /// Whether its lease runs.
    pub live: bool,
}

/// What a member may do now.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// These lost their membership; their lanes are free.
    pub expelled: Vec<MemberId>,
    /// Free lanes to take.
    pub take: LaneSet,
    /// Lanes to give back.
    pub surplus: u32,
}

impl Plan {
    /// Whether the log has to be changed.
    #[must_use]
    pub fn changes_anything(&self) -> bool {
        !self.expelled.is_empty() || !self.take.is_empty()
    }
}

/// Decides for the member `me`, which is among `members` and counts as live.
///
/// * Those whose lease ended are expelled.
/// * A live member with [`Claim::All`] that owns lanes keeps everybody else out. One that owns none waits until nobody
///   owns any.
/// * Otherwise the share of a member is the number of lanes over the number of live members with [`Claim::Share`],
///   rounded up. It takes free lanes up to its share, the lowest first; what it has beyond is its surplus.
#[must_use]
pub fn plan(lanes: LaneCount, members: &[Standing], me: MemberId) -> Plan {
    let mine = members.iter().find(|m| m.member == me);
    let Some(mine) = mine.copied() else { return Plan::default() };
    let others = || members.iter().filter(|m| m.member != me);
    let expelled = others().filter(|m| !m.live).map(|m| m.member).collect();
    let live = || others().filter(|m| m.live);
    let taken = live().fold(mine.lanes, |taken, m| taken.union(m.lanes));
    let free = LaneSet::all(lanes).difference(taken);

    let kept_out = live().any(|m| m.claim == Claim::All && !m.lanes.is_empty());
    let (take, surplus) = match mine.claim {
        _ if kept_out => (LaneSet::EMPTY, 0),
        Claim::All if live().all(|m| m.lanes.is_empty()) => (free, 0),
        Claim::All => (LaneSet::EMPTY, 0),
        Claim::Share => {
            let sharers = 1 + live().filter(|m| m.claim == Claim::Share).count() as u32;
            let share = u32::from(lanes.get()).div_ceil(sharers);
            let missing = share.saturating_sub(mine.lanes.len());
            (free.iter().take(missing as usize).collect(), mine.lanes.len().saturating_sub(share))
        }
    };
    Plan { expelled, take, surplus }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(claim: Claim, lanes: u64, live: bool) -> Standing {
        Standing { member: MemberId::random(), claim, lanes: LaneSet::from_mask(lanes), live }
    }

    fn lanes(count: u8) -> LaneCount {
        LaneCount::new(count).expect("a lane count")
    }

    #[test]
    fn a_lone_member_takes_everything_and_expels_the_dead() {
        let (me, dead) = (standing(Claim::Share, 0, true), standing(Claim::Share, 0b1111, false));
        let plan = plan(lanes(4), &[me, dead], me.member);
        assert_eq!(plan, Plan { expelled: vec![dead.member], take: LaneSet::all(lanes(4)), surplus: 0 });
        assert!(plan.changes_anything());
    }

    #[test]
    fn shares_are_even_and_rounded_up() {
        let (a, b, c) =
            (standing(Claim::Share, 0b1111, true), standing(Claim::Share, 0, true), standing(Claim::Share, 0, true));
        let all = [a, b, c];
        assert_eq!(plan(lanes(4), &all, a.member), Plan { surplus: 2, ..Plan::default() });
        assert_eq!(plan(lanes(4), &all, b.member), Plan::default(), "nothing is free yet");
        let all = [Standing { lanes: LaneSet::from_mask(0b0011), ..a }, b, c];
        let given = plan(lanes(4), &all, b.member);
        assert_eq!(given.take, LaneSet::from_mask(0b1100));
        let all = [all[0], Standing { lanes: given.take, ..b }, c];
        for member in [a, b, c] {
            assert_eq!(plan(lanes(4), &all, member.member), Plan::default(), "at rest");
        }
    }

    #[test]
    fn all_or_nothing_waits_for_the_others_and_keeps_them_out() {
        let (all, share) = (standing(Claim::All, 0, true), standing(Claim::Share, 0b1, true));
        assert_eq!(plan(lanes(4), &[all, share], all.member), Plan::default());
        let share = Standing { lanes: LaneSet::EMPTY, ..share };
        assert_eq!(plan(lanes(4), &[all, share], all.member).take, LaneSet::all(lanes(4)));
        let all = Standing { lanes: LaneSet::all(lanes(4)), ..all };
        assert_eq!(plan(lanes(4), &[all, share], share.member), Plan::default());
    }

    #[test]
    fn a_stranger_gets_nothing() {
        assert_eq!(plan(lanes(4), &[standing(Claim::Share, 0, true)], MemberId::random()), Plan::default());
    }
}
