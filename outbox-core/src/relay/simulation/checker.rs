//! Takes every path through a small world that deviates from a plain one no more than so often.
//!
//! On the plain path everything happens as soon as it can, and nothing fails. A deviation is a fault, something that
//! happens out of turn, or something that is kept waiting until nothing else is left. Most defects of concurrent programs
//! need very few of them. Breadth first, so that what is found is found on a shortest path.

use std::{
    collections::{BTreeSet, HashSet, VecDeque},
    fmt,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
};

use super::{
    broker::Fate,
    invariant::{Checked, Invariant, Violation},
    tenure::{Kind, Membership, Tenure},
    world::{Action, Relay, World},
};

/// The most states that are looked at: about a gigabyte.
const MOST: usize = 300_000;
/// From every so many-th state a run has to come to rest.
const RESTS: usize = 50;

/// A world, and what may still happen to it.
#[derive(Debug, Clone, Hash)]
pub(super) struct State {
    pub(super) world: World,
    pub(super) faults: Faults,
    /// What writers and operators do, in this order.
    pub(super) script: &'static [Action],
    /// How many more deviations there may be, faults included.
    pub(super) deviations: u8,
    /// What is kept waiting.
    pub(super) late: BTreeSet<Source>,
}

/// Where actions come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Source {
    Stream(usize, u8),
    Call(usize, Kind),
    Renewal(usize),
    Joining(usize),
    Stray(usize),
    Lease(u32),
    Script,
}

/// A step of the checker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Plain(Action),
    Deviation(Action),
    Postpone(Source),
}

/// How often what may happen.
#[derive(Debug, Clone, Copy, Default, Hash)]
pub(super) struct Faults {
    pub(super) kills: u8,
    pub(super) stops: u8,
    pub(super) starts: u8,
    pub(super) guests: u8,
    /// Leases of relays that live and do not know.
    pub(super) expiries: u8,
    /// Calls that fail, or whose answer is lost.
    pub(super) calls: u8,
    /// Calls that take effect a while before they are answered.
    pub(super) slow: u8,
    /// Messages whose outcome is unknown.
    pub(super) away: u8,
}

/// What was seen.
#[derive(Debug, Default)]
pub(super) struct Explored {
    pub(super) states: usize,
    pub(super) steps: usize,
    pub(super) depth: usize,
    pub(super) rested: usize,
    /// Nothing is left that was not seen.
    pub(super) exhausted: bool,
}

/// A shortest path to what may not happen.
pub(super) struct Trace {
    pub(super) violation: Violation,
    pub(super) steps: Vec<Step>,
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:3}  {step:?}", n + 1)?;
        }
        write!(f, "     {}", self.violation)
    }
}

/// Looks at up to [`MOST`] states. From every so many-th one, and from each last one, a run without further faults has to
/// come to rest. With `only` one invariant in view a path ends where another one is broken.
pub(super) fn explore(start: State, only: Option<Invariant>) -> Result<Explored, Trace> {
    let mut seen = Seen { paths: vec![(0, None)], known: HashSet::from([start.fingerprint()]) };
    let mut explored = Explored::default();
    let mut frontier = VecDeque::from([(start, 0, 0)]);
    let minds = |violation: &Violation| only.is_none_or(|only| only == violation.invariant);
    while let Some((state, number, depth)) = frontier.pop_front() {
        explored.states += 1;
        explored.depth = depth;
        let steps = state.steps();
        if steps.is_empty() || explored.states % RESTS == 0 {
            explored.rested += 1;
            let mut calm = state.clone();
            if let Some(violation) = unless_it_panics(|| calm.come_to_rest()).err().filter(minds) {
                return Err(seen.trace(number, None, violation));
            }
        }
        if explored.states >= MOST {
            return Ok(explored);
        }
        for step in steps {
            let mut next = state.clone();
            explored.steps += 1;
            match unless_it_panics(|| next.take(step)) {
                Err(violation) if minds(&violation) => return Err(seen.trace(number, Some(step), violation)),
                Err(_) => {}
                Ok(()) => {
                    if let Some(number) = seen.is_new(&next, number, step) {
                        frontier.push_back((next, number, depth + 1));
                    }
                }
            }
        }
    }
    explored.exhausted = true;
    Ok(explored)
}

/// The machine's own checks, such as those of its indices, are worth a trace too.
fn unless_it_panics(work: impl FnOnce() -> Checked) -> Checked {
    let done = catch_unwind(AssertUnwindSafe(work));
    done.unwrap_or_else(|_| Invariant::NothingPanics.broken("see standard error"))
}

struct Seen {
    /// How each state was reached: from which one, by what.
    paths: Vec<(u32, Option<Step>)>,
    known: HashSet<u64>,
}

impl Seen {
    fn is_new(&mut self, state: &State, from: u32, by: Step) -> Option<u32> {
        self.known.insert(state.fingerprint()).then(|| {
            self.paths.push((from, Some(by)));
            self.paths.len() as u32 - 1
        })
    }

    fn trace(&self, mut at: u32, last: Option<Step>, violation: Violation) -> Trace {
        let mut steps: Vec<Step> = last.into_iter().collect();
        while let (from, Some(step)) = self.paths[at as usize] {
            steps.push(step);
            at = from;
        }
        steps.reverse();
        Trace { violation, steps }
    }
}

impl State {
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        hasher.finish()
    }

    fn come_to_rest(&mut self) -> Checked {
        for action in std::mem::take(&mut self.script) {
            self.world.apply(*action)?;
        }
        self.world.come_to_rest()
    }

    /// Takes the plain path to its end.
    pub(super) fn run_plainly(&mut self) -> Checked {
        while let Some((_, action)) = self.plain() {
            self.act(action)?;
        }
        Ok(())
    }

    fn take(&mut self, step: Step) -> Checked {
        match step {
            Step::Plain(action) => {
                if self.plain().is_some_and(|(source, _)| self.late.contains(&source)) {
                    self.late.clear();
                }
                self.act(action)
            }
            Step::Deviation(action) => {
                self.deviations -= 1;
                self.act(action)
            }
            Step::Postpone(source) => {
                self.deviations -= 1;
                self.late.insert(source);
                Ok(())
            }
        }
    }

    fn act(&mut self, action: Action) -> Checked {
        let faults = &mut self.faults;
        match action {
            Action::Kill(_) => faults.kills -= 1,
            Action::Stop(_) => faults.stops -= 1,
            Action::Guest(_) => faults.guests -= 1,
            Action::Join(relay) if self.world.relays[relay].member.is_none() => faults.starts -= 1,
            Action::Expire(member) if !self.world.abandoned().contains(&member) => faults.expiries -= 1,
            Action::Fail(..) | Action::Lose(..) => faults.calls -= 1,
            Action::Land(..) => faults.slow -= 1,
            Action::Settle { fate: Fate::Away { .. }, .. } => faults.away -= 1,
            Action::Append { .. } | Action::Heal | Action::Redrive | Action::Discard(_) => {
                self.script = &self.script[1..];
            }
            _ => {}
        }
        self.world.apply(action)
    }

    /// All that may happen next.
    fn steps(&self) -> Vec<Step> {
        let Some((source, plain)) = self.plain() else { return Vec::new() };
        let mut steps = vec![Step::Plain(plain)];
        if self.deviations > 0 {
            steps.extend((!self.late.contains(&source)).then_some(Step::Postpone(source)));
            let others = self.in_turn().into_iter().map(|(_, action)| action).chain(self.faults());
            steps.extend(others.filter(|action| *action != plain).map(Step::Deviation));
        }
        steps
    }

    fn plain(&self) -> Option<(Source, Action)> {
        let in_turn = self.in_turn();
        in_turn.iter().find(|(source, _)| !self.late.contains(source)).or(in_turn.first()).copied()
    }

    /// What happens without any fault, in the order in which it is its turn.
    fn in_turn(&self) -> Vec<(Source, Action)> {
        let Self { world, script, .. } = self;
        let mut found = Vec::new();
        for (relay, tenure) in world.tenures() {
            for (lane, _) in tenure.streams.iter().filter(|(_, stream)| !stream.is_idle()) {
                let settle = Action::Settle { relay, lane: *lane, fate: Fate::Good, others: false };
                found.push((Source::Stream(relay, *lane), settle));
            }
        }
        for (relay, tenure) in world.tenures() {
            let calls = [Kind::Parking, Kind::Membership, Kind::Read].into_iter().filter(|kind| tenure.has(*kind));
            found.extend(calls.map(|kind| (Source::Call(relay, kind), Action::Answer(relay, kind))));
            let renewing = tenure.membership.as_ref().is_some_and(|call| matches!(call.asked, Membership::Renew));
            if !tenure.renews && !renewing && world.has_news(relay) {
                found.push((Source::Renewal(relay), Action::Renew(relay)));
            }
        }
        for (n, relay) in world.relays.iter().enumerate() {
            if relay.member.is_some() && relay.tenure.is_none() {
                found.push((Source::Joining(n), Action::Join(n)));
            }
        }
        let stray = |stream| (Source::Stray(stream), Action::Stray { stream, written: true });
        found.extend((0..world.strays.len()).map(stray));
        found.extend(world.abandoned().into_iter().map(|member| (Source::Lease(member), Action::Expire(member))));
        found.extend(script.first().map(|action| (Source::Script, *action)));
        found
    }

    fn faults(&self) -> Vec<Action> {
        let Self { world, faults, .. } = self;
        let mut found: Vec<Action> =
            (0..world.strays.len()).map(|stream| Action::Stray { stream, written: false }).collect();
        found.extend((faults.guests > 0).then_some(Action::Guest(world.terms.lease)));
        for (relay, Relay { member, tenure, .. }) in world.relays.iter().enumerate() {
            let Some(member) = *member else {
                found.extend((faults.starts > 0).then_some(Action::Join(relay)));
                continue;
            };
            found.extend((faults.kills > 0).then_some(Action::Kill(relay)));
            let Some(tenure) = tenure else { continue };
            found.extend((faults.stops > 0 && !tenure.stops).then_some(Action::Stop(relay)));
            let may_expire = faults.expiries > 0 && world.log.is_live(member, world.now);
            found.extend(may_expire.then_some(Action::Expire(member)));
            self.faults_of(relay, tenure, &mut found);
        }
        found
    }

    fn faults_of(&self, relay: usize, tenure: &Tenure, found: &mut Vec<Action>) {
        let Self { world, faults, .. } = self;
        for kind in [Kind::Membership, Kind::Parking, Kind::Read].into_iter().filter(|kind| tenure.has(*kind)) {
            let landed = tenure.has_landed(kind);
            found.extend((faults.slow > 0 && !landed).then_some(Action::Land(relay, kind)));
            if faults.calls > 0 && kind != Kind::Read {
                found.push(Action::Lose(relay, kind));
                found.extend((!landed).then_some(Action::Fail(relay, kind)));
            }
        }
        for (lane, stream) in &tenure.streams {
            let front: Vec<_> = stream.front().collect();
            let Some(first) = front.first().filter(|first| !stream.is_broken_for(**first)) else { continue };
            let settle = |fate, others| Action::Settle { relay, lane: *lane, fate, others };
            found.extend(world.broker.is_poison(*first).then_some(settle(Fate::Good, true)));
            if faults.away > 0 {
                let both = [true, false];
                found.extend(both.map(|others| settle(Fate::Away { written: true }, others)));
                found.extend(both.map(|others| settle(Fate::Away { written: false }, others)));
            }
            if !stream.isolated && front.iter().any(|event| world.broker.is_poison(*event)) {
                found.push(settle(Fate::RefusesTogether { messages: front.len() }, true));
            }
        }
    }
}

/// `OUTBOX_CHECK_DEPTH` says how many deviations there may be.
#[test]
fn nothing_goes_wrong_on_any_path() {
    let deviations = std::env::var("OUTBOX_CHECK_DEPTH").map_or(2, |depth| depth.parse().expect("a small number"));
    for scenario in super::scenarios::all() {
        let began = std::time::Instant::now();
        match explore(scenario.start(None, deviations), None) {
            Ok(explored) => {
                println!("{}: {explored:?}, {:?}", scenario.name, began.elapsed());
                assert!(explored.exhausted || deviations > 2, "{} has become too large", scenario.name);
            }
            Err(trace) => panic!("{}\n{trace}", scenario.name),
        }
    }
}
