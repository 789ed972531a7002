//! Random runs on virtual time: relays come, stop and die, calls and messages take their time, logs and brokers are away,
//! answers are lost, processes freeze and wake up as zombies. The same seed is the same run.

use std::{collections::BTreeMap, fmt, ops::Range, time::Duration};

use rand::{RngExt, SeedableRng, rngs::SmallRng};
use tokio::time::Instant;

use super::{
    broker::Fate,
    checker::Source,
    invariant::{Checked, Violation},
    tenure::{Kind, Membership},
    world::{Action, Terms, World},
};
use crate::{
    event::LaneCount,
    relay::machine::Rules,
    retry::{Backoff, RetryPolicy},
};

/// After this much virtual time faults end.
const LENGTH: Duration = Duration::from_millis(1_500);
const LEASE: Duration = Duration::from_millis(200);

/// What a seed makes.
pub(super) struct Run {
    pub(super) world: World,
    random: SmallRng,
    began: Instant,
    mood: Mood,
    /// What is to happen next of each source.
    agenda: BTreeMap<Source, (Instant, Action)>,
    relays: Vec<Clock>,
    next_fault: Instant,
    next_append: Instant,
    log_away: Instant,
    broker_away: Instant,
    /// Lanes of which nothing gets through, and until when.
    stuck: (u8, Instant),
    taken: Vec<(Duration, Action)>,
}

/// How a run is.
struct Mood {
    keys: u8,
    poison: f64,
    /// Milliseconds that a call or a message takes.
    call: Range<u64>,
    read: Range<u64>,
    message: Range<u64>,
    call_fails: f64,
    answer_lost: f64,
    message_fails: f64,
    refuses_together: f64,
    faults: Range<u64>,
    /// Relays do not notice that their lease is over.
    wrong_clocks: bool,
}

/// A relay's own sense of time.
#[derive(Debug, Clone, Copy)]
struct Clock {
    asked: Instant,
    lease_ends: Instant,
    frozen_until: Instant,
}

/// What was broken, and the way there.
pub(super) struct Failure {
    violation: Violation,
    taken: Vec<(Duration, Action)>,
}

impl fmt::Debug for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, action) in &self.taken {
            writeln!(f, "{:>7.1} ms  {action:?}", at.as_secs_f64() * 1e3)?;
        }
        write!(f, "{}", self.violation)
    }
}

impl Run {
    pub(super) fn new(seed: u64, now: Instant) -> Self {
        let mut random = SmallRng::seed_from_u64(seed);
        let ms = Duration::from_millis;
        let lanes = random.random_range(1..=4);
        let terms = Terms {
            lanes: LaneCount::new(lanes).expect("lanes"),
            rules: Rules {
                window: random.random_range(2..20),
                window_bytes: if random.random_bool(0.2) { 100 } else { usize::MAX },
                lane_in_flight: random.random_range(1..6),
                keeps_order_after_failure: random.random_bool(0.8),
                backoff: Backoff::new(ms(5), ms(40)),
                retry: RetryPolicy::new(random.random_range(1..4), Backoff::new(ms(20), ms(50))),
                checkpoint_every: ms(20),
                checkpoint_events: random.random_range(1..10),
                idle_checkpoint_every: ms(300),
            },
            lease: LEASE,
            page: random.random_range(1..8),
            due: random.random_range(1..6),
        };
        let relays = random.random_range(1..=3);
        let slow = random.random_bool(0.2);
        let often = |random: &mut SmallRng, most: f64| {
            if random.random_bool(0.5) { random.random_range(0.0..most) } else { 0.0 }
        };
        let mood = Mood {
            keys: random.random_range(1..=4),
            poison: often(&mut random, 0.15),
            call: if slow { 1..80 } else { 1..15 },
            read: if random.random_bool(0.3) { 1..400 } else { 1..15 },
            message: if random.random_bool(0.2) { 1..60 } else { 1..12 },
            call_fails: often(&mut random, 0.2),
            answer_lost: often(&mut random, 0.2),
            message_fails: often(&mut random, 0.2),
            refuses_together: random.random_range(0.0..1.0),
            faults: if random.random_bool(0.2) { 2_000..3_000 } else { 20..random.random_range(60..300) },
            wrong_clocks: random.random_bool(0.3),
        };
        let clock = Clock { asked: now, lease_ends: now, frozen_until: now };
        let mut run = Self {
            world: World::new(terms, relays, None, now),
            random,
            began: now,
            mood,
            agenda: BTreeMap::new(),
            relays: vec![clock; relays],
            next_fault: now,
            next_append: now,
            log_away: now,
            broker_away: now,
            stuck: (0, now),
            taken: Vec::new(),
        };
        run.next_fault = now + run.after(run.mood.faults.clone());
        run
    }

    pub(super) fn run(mut self) -> Result<World, Failure> {
        match self.live().and_then(|()| self.world.come_to_rest()) {
            Ok(()) => Ok(self.world),
            Err(violation) => Err(Failure { violation, taken: self.taken }),
        }
    }

    fn live(&mut self) -> Checked {
        self.take(Action::Join(0))?;
        while self.world.now < self.began + LENGTH {
            self.plan();
            let (source, at) = self.next();
            if at > self.world.now {
                self.take(Action::Wait(at - self.world.now))?;
            }
            match source {
                Next::Agenda(source) => self.happen(source)?,
                Next::Fault => self.fault()?,
                Next::Append => self.append()?,
                Next::Timer => {}
            }
            self.mind_the_clocks();
        }
        for relay in &mut self.world.relays {
            (relay.frozen, relay.rests) = (false, false);
        }
        Ok(())
    }

    /// Says of everything that is under way when it goes on, and how.
    fn plan(&mut self) {
        let mut present = Vec::new();
        for (n, relay) in self.world.relays.iter().enumerate() {
            match &relay.tenure {
                None => present.extend(relay.member.map(|_| Source::Joining(n))),
                Some(tenure) => {
                    let sends = tenure.streams.iter().filter(|(_, stream)| !stream.is_idle());
                    present.extend(sends.map(|(lane, _)| Source::Stream(n, *lane)));
                    let kinds = [Kind::Read, Kind::Membership, Kind::Parking].into_iter();
                    present.extend(kinds.filter(|kind| tenure.has(*kind)).map(|kind| Source::Call(n, kind)));
                    present.push(Source::Renewal(n));
                }
            }
        }
        present.extend((0..self.world.strays.len()).map(Source::Stray));
        self.agenda.retain(|source, _| present.contains(source));
        for source in present {
            if !self.agenda.contains_key(&source) {
                let planned = self.planned(source);
                self.agenda.insert(source, planned);
            }
        }
    }

    fn planned(&mut self, source: Source) -> (Instant, Action) {
        let Mood { call, read, message, .. } = &self.mood;
        let (call, read, message) = (call.clone(), read.clone(), message.clone());
        let (wait, action) = match source {
            Source::Stream(relay, lane) => {
                (self.after(message), Action::Settle { relay, lane, fate: Fate::Good, others: false })
            }
            Source::Call(relay, kind) => {
                let landed = self.world.relays[relay].tenure.as_ref().is_some_and(|tenure| tenure.has_landed(kind));
                (
                    self.after(if kind == Kind::Read { read } else { call }),
                    if landed { Action::Answer(relay, kind) } else { Action::Land(relay, kind) },
                )
            }
            Source::Renewal(relay) => {
                (self.after(LEASE.as_millis() as u64 / 8..LEASE.as_millis() as u64 / 3), Action::Renew(relay))
            }
            Source::Joining(relay) => (self.after(call), Action::Join(relay)),
            Source::Stray(stream) => {
                let written = self.random.random_bool(0.7);
                (self.after(1..200), Action::Stray { stream, written })
            }
            Source::Lease(member) => (LEASE, Action::Expire(member)),
            Source::Script => (Duration::ZERO, Action::Heal),
        };
        (self.world.now + wait, action)
    }

    fn next(&self) -> (Next, Instant) {
        let agenda = self.agenda.iter().map(|(source, (at, _))| (Next::Agenda(*source), *at));
        let timers = self.world.tenures().flat_map(|(_, tenure)| tenure.times()).filter(|at| *at > self.world.now);
        let timers = timers.map(|at| (Next::Timer, at));
        let others = [(Next::Fault, self.next_fault), (Next::Append, self.next_append)];
        let soonest = agenda.chain(timers).chain(others).min_by_key(|(_, at)| *at);
        soonest.unwrap_or((Next::Fault, self.next_fault))
    }

    fn happen(&mut self, source: Source) -> Checked {
        let Some((_, action)) = self.agenda.remove(&source) else { return Ok(()) };
        let now = self.world.now;
        let action = match action {
            Action::Answer(relay, _) | Action::Settle { relay, .. } | Action::Renew(relay) | Action::Join(relay)
                if now < self.relays[relay].frozen_until =>
            {
                self.agenda.insert(source, (self.relays[relay].frozen_until, action));
                return Ok(());
            }
            Action::Land(relay, kind) if now < self.log_away || self.random.random_bool(self.mood.call_fails) => {
                Action::Fail(relay, kind)
            }
            Action::Answer(relay, kind) if self.random.random_bool(self.mood.answer_lost) => Action::Lose(relay, kind),
            Action::Join(relay) if now < self.log_away => Action::JoinInVain(relay),
            Action::Settle { relay, lane, .. } => self.settled(relay, lane),
            other => other,
        };
        self.note(action);
        self.take(action)
    }

    fn settled(&mut self, relay: usize, lane: u8) -> Action {
        let now = self.world.now;
        let is_stuck = now < self.stuck.1 && self.stuck.0 >> lane & 1 == 1;
        let fails = is_stuck || now < self.broker_away || self.random.random_bool(self.mood.message_fails);
        let others = self.random.random_bool(0.5);
        let fate = if fails {
            Fate::Away { written: self.random.random_bool(0.3) }
        } else if self.random.random_bool(self.mood.refuses_together) {
            Fate::RefusesTogether { messages: self.random.random_range(1..6) }
        } else {
            Fate::Good
        };
        Action::Settle { relay, lane, fate, others }
    }

    /// Keeps a relay's own clock.
    fn note(&mut self, action: Action) {
        let now = self.world.now;
        match action {
            Action::Renew(relay) => self.relays[relay].asked = now,
            Action::Join(relay) => self.relays[relay].lease_ends = now + LEASE,
            Action::Answer(relay, Kind::Membership) => {
                let call = self.world.relays[relay].tenure.as_ref().and_then(|tenure| tenure.membership.as_ref());
                if call.is_some_and(|call| matches!(call.asked, Membership::Renew)) {
                    self.relays[relay].lease_ends = self.relays[relay].asked + LEASE;
                }
            }
            _ => {}
        }
    }

    fn mind_the_clocks(&mut self) {
        let now = self.world.now;
        for (relay, clock) in self.world.relays.iter_mut().zip(&self.relays) {
            relay.frozen = now < clock.frozen_until;
            relay.rests = !self.mood.wrong_clocks && clock.lease_ends <= now;
        }
    }

    fn append(&mut self) -> Checked {
        let burst = self.random.random_range(1..12);
        for _ in 0..burst {
            let lane = self.random.random_range(0..self.world.terms.lanes.get());
            let key = self.random.random_range(0..self.mood.keys);
            let poison = self.random.random_bool(self.mood.poison);
            self.take(Action::Append { lane, key, poison })?;
        }
        self.next_append = self.world.now + self.after(1..300);
        Ok(())
    }

    fn fault(&mut self) -> Checked {
        let now = self.world.now;
        let relay = self.random.random_range(0..self.relays.len());
        let is_up = self.world.relays[relay].member.is_some();
        let while_ = now + self.after(10..400);
        self.next_fault = now + self.after(self.mood.faults.clone());
        match self.random.random_range(0..12) {
            0..3 if !is_up => {
                self.relays[relay].frozen_until = now;
                self.take(Action::Join(relay))?;
                self.note(Action::Join(relay));
            }
            0 => self.take(Action::Kill(relay))?,
            1 => self.take(Action::Stop(relay))?,
            2 | 3 => self.relays[relay].frozen_until = while_,
            4 => self.log_away = while_,
            5 => self.broker_away = while_,
            6 => self.stuck = (self.random.random_range(0..16), while_),
            7 => self.take(Action::Heal)?,
            8 => self.take(Action::Redrive)?,
            9 => {
                let parked: Vec<u64> = self.world.log.parked.positions().collect();
                if !parked.is_empty() {
                    let pick = self.random.random_range(0..parked.len());
                    self.take(Action::Discard(parked[pick]))?;
                }
            }
            10 => {
                let lease = self.after(10..150);
                self.take(Action::Guest(lease))?;
            }
            _ if is_up => self.take(Action::JoinInVain(relay))?,
            _ => {}
        }
        Ok(())
    }

    fn take(&mut self, action: Action) -> Checked {
        if !matches!(action, Action::Wait(_)) {
            self.taken.push((self.world.now - self.began, action));
        }
        self.world.apply(action)
    }

    fn after(&mut self, ms: Range<u64>) -> Duration {
        Duration::from_micros(self.random.random_range(ms.start * 1_000..ms.end * 1_000))
    }
}

enum Next {
    Agenda(Source),
    Fault,
    Append,
    /// A relay has something to do.
    Timer,
}

/// In two halves, so that two cores share them.
const SEEDS: u64 = 5_000;

#[test]
fn nothing_goes_wrong_in_random_runs() {
    run_all(0..SEEDS / 2);
}

#[test]
fn nothing_goes_wrong_in_other_random_runs() {
    run_all(SEEDS / 2..SEEDS);
}

/// `OUTBOX_SIM_SEED` replays one run.
fn run_all(seeds: Range<u64>) {
    let asked: Option<u64> = std::env::var("OUTBOX_SIM_SEED").ok().map(|seed| seed.parse().expect("a seed"));
    let seeds = asked.map_or(seeds, |seed| seed..seed + 1);
    let now = Instant::now();
    for seed in seeds {
        if let Err(failure) = Run::new(seed, now).run() {
            panic!("OUTBOX_SIM_SEED={seed} replays this run:\n{failure:?}");
        }
    }
}
