//! Random runs against a log and a publisher that use all the freedom of their contracts.

use proptest::prelude::*;

use super::{
    world::{Fate, LANES, World},
    *,
};

#[derive(Debug, Clone)]
enum Step {
    Append(Vec<(u8, u8, bool)>),
    Send,
    Report {
        pick: usize,
        fate: Fate,
        others: bool,
    },
    Read(bool),
    Look(usize),
    ReadAnswered,
    Park,
    Parked,
    ParkAnswered(Fate),
    Renew {
        gain: u64,
        surplus: u32,
    },
    Tell,
    Told(Fate),
    Wait(u64),
    Discard(usize),
    Redrive,
    Heal,
    /// From now on these lanes, and no others, fail at every attempt.
    Stick(u64),
}

fn fate() -> impl Strategy<Value = Fate> {
    prop_oneof![8 => Just(Fate::Good), 1 => Just(Fate::Fails), 1 => Just(Fate::AnswerLost)]
}

fn step() -> impl Strategy<Value = Step> {
    let event = (0..LANES, 0_u8..4, proptest::bool::weighted(0.08));
    prop_oneof![
        4 => proptest::collection::vec(event, 0..10).prop_map(Step::Append),
        8 => Just(Step::Send),
        16 => (any::<usize>(), fate(), any::<bool>()).prop_map(|(pick, fate, others)| Step::Report { pick, fate, others }),
        5 => any::<bool>().prop_map(Step::Read),
        3 => (1_usize..9).prop_map(Step::Look),
        5 => Just(Step::ReadAnswered),
        5 => Just(Step::Park),
        3 => Just(Step::Parked),
        5 => fate().prop_map(Step::ParkAnswered),
        2 => (any::<u64>(), 0_u32..3).prop_map(|(gain, surplus)| Step::Renew { gain, surplus }),
        4 => Just(Step::Tell),
        4 => fate().prop_map(Step::Told),
        4 => (0_u64..60).prop_map(Step::Wait),
        1 => any::<usize>().prop_map(Step::Discard),
        1 => Just(Step::Redrive),
        1 => Just(Step::Heal),
        1 => (0..1_u64 << LANES).prop_map(Step::Stick),
    ]
}

fn run(world: &mut World, machine: &mut Machine<Events>, step: Step) {
    match step {
        Step::Append(events) => world.append(&events),
        Step::Send => world.send(machine),
        Step::Report { pick, fate, others } => world.report(machine, pick, fate, others),
        Step::Read(all) => world.start_read(machine, all),
        Step::Look(limit) => world.look(limit),
        Step::ReadAnswered => world.answer_read(machine),
        Step::Park => world.start_parking(machine),
        Step::Parked => world.do_parking(),
        Step::ParkAnswered(fate) => world.answer_parking(machine, fate),
        Step::Renew { gain, surplus } => world.start_membership(machine, Some((gain, surplus))),
        Step::Tell => world.start_membership(machine, None),
        Step::Told(fate) => world.answer_membership(machine, fate),
        Step::Wait(ms) => {
            world.now += Duration::from_millis(ms);
            machine.tick(world.now);
        }
        Step::Discard(pick) => world.discard(pick),
        Step::Redrive => world.redrive_all(),
        Step::Heal => world.heal(),
        Step::Stick(lanes) => world.stuck = LaneSet::from_mask(lanes),
    }
}

/// The member gets all lanes, and nothing fails any more.
fn calm_down(world: &mut World, machine: &mut Machine<Events>) {
    world.heal();
    world.stuck = LaneSet::EMPTY;
    let mut calm = 0;
    for _ in 0..400 {
        // What is not to be seen from outside, such as a question that is still open, needs some more rounds.
        calm = if world.everything_is_written() && machine.tracks() == 1 { calm + 1 } else { 0 };
        if calm == 10 {
            break;
        }
        world.answer_membership(machine, Fate::Good);
        world.start_membership(machine, Some((u64::MAX, 0)));
        world.answer_membership(machine, Fate::Good);
        world.start_membership(machine, None);
        world.redrive_all();
        world.start_parking(machine);
        world.answer_parking(machine, Fate::Good);
        world.start_read(machine, true);
        world.answer_read(machine);
        world.send(machine);
        while !world.under_way.is_empty() {
            world.report(machine, 0, Fate::Good, false);
        }
        run(world, machine, Step::Wait(30));
    }
    world.answer_membership(machine, Fate::Good);
    world.last_checkpoint(machine);
}

proptest! {
    #[test]
    fn nothing_is_lost_overtaken_sent_too_late_or_recorded_too_early(
        steps in proptest::collection::vec(step(), 1..400),
        keeps_order in any::<bool>(),
        seed in any::<u64>(),
    ) {
        let mut machine = Machine::new(Rules { keeps_order_after_failure: keeps_order, ..rules() }, seed);
        let mut world = World::new(Instant::now(), keeps_order);
        for step in steps {
            run(&mut world, &mut machine, step);
            prop_assert!(machine.in_flight() <= usize::from(LANES) * rules().lane_in_flight);
        }
        calm_down(&mut world, &mut machine);
        world.everything_is_written_and_recorded();
        prop_assert_eq!(machine.tracks(), 1, "lanes that caught up are read together");
        // The machine learns of a discard only from the next event of the key.
        prop_assert!(machine.parking_counts().2 == 0 || world.has_discarded(), "keys stay blocked");
    }
}
