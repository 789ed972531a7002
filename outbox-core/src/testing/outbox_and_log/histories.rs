//! Random histories of members, compared with the simplest model there is.

use proptest::{
    prelude::{Just, Strategy, any},
    prop_oneof,
    test_runner::{Config, TestRunner},
};

use super::{
    LogHarness,
    model::Model,
    steps::{all_lanes, beginning, ids, read_page, write},
};
use crate::{
    event::RecordedEvent,
    log::{Claim, ConsumerName, Cursor, EventLog, StartAt},
    testing::event::numbered,
};

/// Whatever members join, renew, release, leave, lose their lease, write checkpoints, park and redrive, with good fences
/// and with stale ones: every lane has at most one owner, no place is lost, keys are blocked exactly while something of
/// them is parked, and nothing is written by who is fenced.
///
/// Needs the multi-thread runtime that the suite's macro sets up.
pub async fn random_histories_agree_with_the_model<H: LogHarness>(harness: &H) {
    let config = Config { cases: 12, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    let ground = Ground::lay(harness).await;
    let history_number = std::cell::Cell::new(0_u32);
    let steps = proptest::collection::vec(step(), 20..50);
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&steps, |history| {
            // Histories share a log, so each has a consumer of its own.
            history_number.set(history_number.get() + 1);
            let name = format!("history-{}", history_number.get());
            runtime.block_on(follow(harness, &ground, &name, &history));
            Ok(())
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

async fn follow<H: LogHarness>(harness: &H, ground: &Ground, name: &str, history: &[Step]) {
    let log = harness.log();
    let consumer = ConsumerName::parse(name).expect("a consumer's name");
    log.register(&consumer, StartAt::Beginning).await.expect("register");
    let mut model = Model::new(log, consumer, ground).await;
    for step in history {
        model.take(log, step).await;
        model.compare(log, step).await;
    }
}

/// The events of all histories, and the places between them.
#[derive(Debug)]
pub(super) struct Ground {
    pub(super) events: Vec<RecordedEvent>,
    pub(super) places: Vec<Cursor>,
}

impl Ground {
    async fn lay<H: LogHarness>(harness: &H) -> Self {
        let log = harness.log();
        for n in 0..EVENTS as u64 {
            write(harness, &[numbered(&format!("key-{}", n % 3), n)]).await;
        }
        let (mut events, mut places) = (Vec::new(), vec![beginning(log).await]);
        loop {
            let page = read_page(log, &places[places.len() - 1], all_lanes(log).await, 1).await;
            if !places.contains(&page.next) {
                places.push(page.next);
            }
            events.extend(page.events);
            if page.caught_up {
                break;
            }
        }
        events.sort_unstable_by_key(|recorded: &RecordedEvent| recorded.origin.sequence);
        assert_eq!(events.len(), EVENTS, "every event is read: {:?}", ids(&events));
        Self { events, places }
    }
}

const EVENTS: usize = 9;
pub(super) const MEMBERS: usize = 3;

/// What happens next. Members and events are meant by number.
#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Joins, also when it is a member already.
    Join(usize, Claim),
    /// Leases are long or over at once.
    Renew {
        by: Writer,
        over_at_once: bool,
    },
    /// Of the member's lanes among these; `all_of_them`: also of those that are not its own.
    Release {
        by: Writer,
        lanes: u64,
        all_of_them: bool,
        place: usize,
    },
    Leave(Writer),
    /// The member's lanes among these are at one place, its others at another; `everybodys`: and those of all others, too.
    Checkpoint {
        by: Writer,
        lanes: u64,
        everybodys: bool,
        places: [usize; 2],
    },
    /// Each event fails, or is to wait behind another.
    Park {
        by: Writer,
        events: Vec<(usize, bool)>,
    },
    Redriven {
        by: Writer,
        event: usize,
    },
    /// An operator asks for the key of this event.
    Redrive(usize),
    /// An operator gives this event up.
    Discard(usize),
}

/// A member, with the fence it has or the one it had before.
#[derive(Debug, Clone, Copy)]
pub(super) struct Writer {
    pub(super) member: usize,
    pub(super) with_an_old_fence: bool,
}

fn step() -> impl Strategy<Value = Step> {
    let writer = || {
        let stale = proptest::bool::weighted(0.15);
        (0..MEMBERS, stale).prop_map(|(member, with_an_old_fence)| Writer { member, with_an_old_fence })
    };
    let rarely = || proptest::bool::weighted(0.15);
    let (place, event) = (|| 0..=EVENTS, || 0..EVENTS);
    let claim = prop_oneof![4 => Just(Claim::Share), 1 => Just(Claim::All)];
    let parks = proptest::collection::vec((event(), any::<bool>()), 1..4);
    prop_oneof![
        4 => (0..MEMBERS, claim).prop_map(|(member, claim)| Step::Join(member, claim)),
        6 => (writer(), proptest::bool::weighted(0.3)).prop_map(|(by, over_at_once)| Step::Renew { by, over_at_once }),
        3 => (writer(), any::<u64>(), rarely(), place())
            .prop_map(|(by, lanes, all_of_them, place)| Step::Release { by, lanes, all_of_them, place }),
        1 => writer().prop_map(Step::Leave),
        5 => (writer(), any::<u64>(), rarely(), [place(), place()])
            .prop_map(|(by, lanes, everybodys, places)| Step::Checkpoint { by, lanes, everybodys, places }),
        5 => (writer(), parks).prop_map(|(by, events)| Step::Park { by, events }),
        3 => (writer(), event()).prop_map(|(by, event)| Step::Redriven { by, event }),
        1 => event().prop_map(Step::Redrive),
        1 => event().prop_map(Step::Discard),
    ]
}
