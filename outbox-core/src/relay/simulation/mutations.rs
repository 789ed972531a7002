//! Each promise is broken when what keeps it is left out: otherwise either the guard is idle or the checker is blind.

use super::{
    Flaw,
    checker::{Trace, explore},
    invariant::Invariant,
    scenarios,
};
use crate::relay::machine::Guard;

/// What is left out.
#[derive(Debug, Clone, Copy)]
enum Mutation {
    Without(Guard),
    With(Flaw),
}

use Mutation::{With, Without};

/// What is left out, what that breaks, and where.
const MUTATIONS: [(Mutation, Invariant, &str); 19] = [
    (Without(Guard::LanesDrain), Invariant::FirstDeliveriesAreInOrder, "outages"),
    (Without(Guard::BlockedKeysWait), Invariant::ParkedKeysKeepOrder, "a poison"),
    (Without(Guard::KeysAreKnown), Invariant::ParkedKeysKeepOrder, "a second relay"),
    (Without(Guard::PlacesWait), Invariant::CheckpointsCoverWhatIsDone, "a poison"),
    (Without(Guard::LanesAreQuiet), Invariant::NothingIsSentAfterRelease, "a second relay"),
    (Without(Guard::WindowIsBounded), Invariant::DuplicatesAreBounded, "a relay dies"),
    (Without(Guard::ReadsAreMatched), Invariant::CheckpointsCoverWhatIsDone, "a relay dies"),
    (Without(Guard::SuspectsGoAlone), Invariant::RunsEnd, "a poison"),
    (Without(Guard::IsolationLasts), Invariant::SuspectsAreSentAlone, "a poison"),
    (Without(Guard::RedrivesAreUnique), Invariant::DuplicatesAreBounded, "an operator mends"),
    (Without(Guard::RedrivesStayBehind), Invariant::ParkedKeysKeepOrder, "a poison"),
    (With(Flaw::FenceIsIgnored), Invariant::FencedRelaysHaveNoEffect, "a zombie"),
    (With(Flaw::BlockedKeysAreNotSeen), Invariant::ParkedKeysKeepOrder, "a poison"),
    (With(Flaw::KeysAreFreedTooEarly), Invariant::ParkedKeysKeepOrder, "an operator mends"),
    (With(Flaw::NothingIsAborted), Invariant::FirstDeliveriesAreInOrder, "outages"),
    (With(Flaw::AcknowledgedIsNotWritten), Invariant::NothingIsLost, "a poison"),
    (With(Flaw::SuspectsAreBlamed), Invariant::InnocentsAreNeverParked, "a poison"),
    (With(Flaw::OutagesAreBlamed), Invariant::InnocentsAreNeverParked, "outages"),
    (With(Flaw::RefusalsToParkAreNotHeard), Invariant::CheckpointsCoverWhatIsDone, "an operator gives up"),
];

#[test]
fn each_guard_is_missed() {
    let mut idle = Vec::new();
    for (mutation, invariant, name) in MUTATIONS {
        match found(mutation, invariant, name) {
            Some(trace) => println!("{mutation:?}, {name}:\n{trace}\n"),
            None => idle.push(format!("{mutation:?} does not break {invariant:?}")),
        }
    }
    assert!(idle.is_empty(), "{idle:#?}");
}

fn found(mutation: Mutation, invariant: Invariant, name: &str) -> Option<Trace> {
    let (guard, flaw) = match mutation {
        Without(guard) => (Some(guard), None),
        With(flaw) => (None, Some(flaw)),
    };
    let all = scenarios::all();
    let scenario = all.iter().find(|scenario| scenario.name == name).expect("a scenario of this name");
    Guard::without(guard, || explore(scenario.start(flaw, 2), Some(invariant))).err()
}
