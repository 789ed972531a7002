//! The small worlds that the checker looks at.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use super::{
    Flaw,
    checker::{Faults, State},
    timeless,
    world::{Action, Terms, World},
};
use crate::{event::LaneCount, relay::machine::Rules};

/// What is in the log at the start: one poison, with more of its key behind it and another key beside it.
const AT_FIRST: &[Action] =
    &[append(1, 0, true), append(1, 1, false), append(1, 0, false), append(0, 0, false), append(0, 1, false)];
/// What writers do later.
const LATER: &[Action] = &[append(1, 1, false), append(1, 0, false)];
/// More of the key that has the poison.
const MORE: &[Action] = &[append(1, 0, false), append(1, 0, false)];
/// The same, with operators at work.
const OPERATED: &[Action] =
    &[append(1, 0, false), Action::Redrive, Action::Discard(1), Action::Heal, append(1, 0, false)];
const HEALED: &[Action] =
    &[append(1, 0, false), Action::Heal, Action::Redrive, append(1, 0, false), append(1, 0, false)];

pub(super) struct Scenario {
    pub(super) name: &'static str,
    relays: usize,
    /// How many of them share the lanes from the beginning.
    run: usize,
    faults: Faults,
    script: &'static [Action],
    rules: Rules,
}

/// All of them, the quickest first.
pub(super) fn all() -> Vec<Scenario> {
    let none = Faults::default();
    let of = |name, relays, run, faults, script| Scenario { name, relays, run, faults, script, rules: timeless() };
    let one_per_key = Rules { keeps_order_after_failure: false, ..timeless() };
    let small = Rules { window: 2, ..timeless() };
    let narrow = Rules { lane_in_flight: 2, ..timeless() };
    vec![
        of("a poison", 1, 1, none, LATER),
        of("an operator gives up", 1, 1, none, OPERATED),
        of("an operator mends", 1, 1, none, HEALED),
        of("outages", 1, 1, Faults { away: 2, ..none }, LATER),
        Scenario { rules: one_per_key, ..of("no order after failures", 1, 1, Faults { away: 2, ..none }, LATER) },
        of("calls fail", 1, 1, Faults { calls: 2, slow: 2, ..none }, HEALED),
        of("a guest", 1, 1, Faults { guests: 1, ..none }, MORE),
        of("a second relay", 2, 1, Faults { starts: 1, away: 1, slow: 1, ..none }, LATER),
        Scenario { rules: narrow, ..of("a full lane", 2, 1, Faults { starts: 1, away: 1, ..none }, LATER) },
        of("a relay stops", 2, 2, Faults { stops: 1, starts: 1, calls: 1, ..none }, LATER),
        Scenario { rules: small, ..of("a relay dies", 2, 2, Faults { kills: 1, starts: 1, away: 1, ..none }, HEALED) },
        of("a zombie", 2, 2, Faults { expiries: 1, slow: 1, calls: 1, ..none }, HEALED),
        of(
            "anything",
            2,
            2,
            Faults { starts: 1, kills: 1, expiries: 1, calls: 1, slow: 1, away: 1, stops: 1, guests: 1 },
            LATER,
        ),
    ]
}

impl Scenario {
    /// How it begins.
    pub(super) fn start(&self, flaw: Option<Flaw>, deviations: u8) -> State {
        let terms = Terms {
            lanes: LaneCount::new(2).expect("lanes"),
            rules: self.rules,
            lease: Duration::from_hours(1),
            page: 3,
            due: 3,
        };
        let world = World::new(terms, self.relays, flaw, Instant::now());
        let mut state = State { world, faults: self.faults, script: &[], deviations, late: BTreeSet::new() };
        let joined = (0..self.run).try_for_each(|relay| state.world.apply(Action::Join(relay)));
        let shared = joined.and_then(|()| state.run_plainly());
        let ready = shared.and_then(|()| AT_FIRST.iter().try_for_each(|action| state.world.apply(*action)));
        ready.expect("nothing has happened yet");
        state.script = self.script;
        state
    }
}

const fn append(lane: u8, key: u8, poison: bool) -> Action {
    Action::Append { lane, key, poison }
}
