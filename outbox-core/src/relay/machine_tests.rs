use proptest::prelude::*;

use super::*;

fn rules() -> Rules {
    Rules {
        window: 40,
        window_bytes: 1_000,
        lane_in_flight: 6,
        keeps_order_after_failure: true,
        backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(100)),
        checkpoint_every: Duration::from_millis(50),
        checkpoint_events: 25,
        idle_checkpoint_every: Duration::from_secs(30),
    }
}

fn lane(n: u8) -> Lane {
    Lane::new(n).expect("lane")
}

fn arrival(n: u8, key: u64, position: u64) -> Arrival {
    Arrival { lane: lane(n), key, position, bytes: 20 }
}

fn cursor(n: u64) -> Cursor {
    Cursor::from_text(n.to_string())
}

#[test]
fn the_checkpoint_is_the_contiguous_prefix() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), 1);
    machine.page([arrival(0, 1, 1), arrival(1, 2, 2)], cursor(2), now);
    machine.page([arrival(0, 1, 3)], cursor(3), now);
    let first = machine.next_send(now).expect("lane 0");
    let second = machine.next_send(now).expect("lane 1");
    assert_eq!((first.events.len(), second.events.len()), (2, 1));
    assert_eq!(machine.next_send(now), None);

    machine.report(lane(0), first.batch, 1, Report::Delivered, now);
    machine.report(lane(0), first.batch, 0, Report::Delivered, now);
    assert_eq!(machine.take_last_checkpoint(), None, "lane 1 of the first page is missing");
    machine.report(lane(1), second.batch, 0, Report::Delivered, now);
    let due = machine.take_last_checkpoint().expect("both pages");
    assert_eq!((due.cursor, due.position), (cursor(3), 3));
    assert_eq!(machine.oldest_page(), 2);
}

#[test]
fn a_failed_lane_waits_for_its_reports_and_then_starts_at_the_failed_event() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), 1);
    machine.page((1..=4).map(|p| arrival(0, p, p)), cursor(4), now);
    let send = machine.next_send(now).expect("send");
    machine.page([arrival(0, 5, 5)], cursor(5), now);
    machine.report(lane(0), send.batch, 1, Report::Failed, now);
    assert_eq!(machine.next_send(now), None, "three events are still under way");
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    machine.report(lane(0), send.batch, 2, Report::Aborted, now);
    machine.report(lane(0), send.batch, 3, Report::Delivered, now);
    assert_eq!(machine.paused().iter().collect::<Vec<_>>(), [lane(0)]);

    let later = machine.resume_at().expect("a pause");
    machine.tick(later);
    let again = machine.next_send(later).expect("resumed");
    assert!(again.reopen);
    let indexes: Vec<(u64, u32)> = again.events.iter().map(|e| (e.page, e.index)).collect();
    assert_eq!(indexes, [(0, 1), (0, 2), (1, 0)], "the failed one, the aborted one, what came since");
}

#[test]
fn without_the_promise_one_event_per_key_is_under_way() {
    let now = Instant::now();
    let mut machine = Machine::new(Rules { keeps_order_after_failure: false, ..rules() }, 1);
    machine.page([arrival(0, 7, 1), arrival(0, 7, 2), arrival(0, 8, 3)], cursor(3), now);
    let send = machine.next_send(now).expect("send");
    assert_eq!(send.events.iter().map(|e| e.index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(machine.next_send(now), None);
}

#[test]
fn a_cursor_that_passed_no_event_is_recorded_seldom() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), 1);
    machine.page([], cursor(1), now);
    assert_eq!(machine.take_checkpoint(now + Duration::from_secs(29)), None);
    machine.page([], cursor(2), now + Duration::from_secs(29));
    assert_eq!(machine.take_checkpoint(now + Duration::from_secs(30)).map(|due| due.cursor), Some(cursor(2)));
}

#[test]
fn large_events_fill_the_window_before_many_do() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), 1);
    machine.page([Arrival { bytes: 999, ..arrival(0, 1, 1) }], cursor(1), now);
    assert!(machine.wants_page());
    machine.page([Arrival { bytes: 1, ..arrival(1, 2, 2) }], cursor(2), now);
    assert!(!machine.wants_page());
    let send = machine.next_send(now).expect("lane 0");
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    assert!(machine.wants_page(), "what is done takes no room");
}

#[test]
fn a_report_that_repeats_changes_nothing() {
    let now = Instant::now();
    let mut machine = Machine::new(rules(), 1);
    machine.page([arrival(0, 1, 1), arrival(0, 2, 2)], cursor(2), now);
    let send = machine.next_send(now).expect("send");
    machine.report(lane(0), send.batch, 0, Report::Delivered, now);
    machine.report(lane(0), send.batch, 0, Report::Failed, now);
    machine.report(lane(0), send.batch, 9, Report::Failed, now);
    assert_eq!(machine.in_flight(), 1);
    assert!(machine.paused().is_empty());
}

/// What a random run does next.
#[derive(Debug, Clone)]
enum Step {
    Page(Vec<(u8, u64)>),
    Send,
    /// Reports the oldest unreported event of a batch, and fails it or not.
    Report {
        pick: usize,
        fail: bool,
    },
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        2 => proptest::collection::vec((0_u8..3, 0_u64..4), 0..8).prop_map(Step::Page),
        4 => Just(Step::Send),
        8 => (any::<usize>(), proptest::bool::weighted(0.15)).prop_map(|(pick, fail)| Step::Report { pick, fail }),
        2 => (0_u64..60).prop_map(Step::Wait),
    ]
}

/// A publisher that keeps the contract: what follows a failure in its stream is aborted.
#[derive(Default)]
struct Model {
    now: Option<Instant>,
    /// Position of every event by page and index.
    pages: Vec<Vec<(u8, u64, u64)>>,
    written: Vec<(u8, u64, u64)>,
    under_way: Vec<(Send, usize)>,
    broken: HashSet<Lane>,
    position: u64,
    recorded: u64,
}

impl Model {
    fn now(&mut self) -> Instant {
        *self.now.get_or_insert_with(Instant::now)
    }

    fn run(&mut self, machine: &mut Machine, step: Step) {
        let now = self.now();
        match step {
            Step::Page(events) if machine.wants_page() => {
                let page: Vec<_> = events
                    .into_iter()
                    .map(|(lane, key)| {
                        self.position += 1;
                        (lane, key, self.position)
                    })
                    .collect();
                let arrivals: Vec<_> = page.iter().map(|&(l, key, position)| arrival(l, key, position)).collect();
                let number = machine.page(arrivals, cursor(self.position), now);
                assert_eq!(number, self.pages.len() as u64);
                self.pages.push(page);
            }
            Step::Page(_) => {}
            Step::Send => {
                while let Some(send) = machine.next_send(now) {
                    if send.reopen {
                        self.broken.remove(&send.lane);
                        assert!(self.under_way.iter().all(|(s, _)| s.lane != send.lane), "reopened too early");
                    }
                    assert!(!self.broken.contains(&send.lane), "sent through a broken stream");
                    self.under_way.push((send, 0));
                }
            }
            Step::Report { pick, fail } => self.report(machine, pick, fail),
            Step::Wait(ms) => {
                let later = now + Duration::from_millis(ms);
                self.now = Some(later);
                machine.tick(later);
                if let Some(due) = machine.take_checkpoint(later) {
                    self.record(&due);
                }
            }
        }
    }

    fn report(&mut self, machine: &mut Machine, pick: usize, fail: bool) {
        let now = self.now();
        if self.under_way.is_empty() {
            return;
        }
        // Batches of one lane are reported in order, as one stream does.
        let lanes: Vec<Lane> = self.under_way.iter().map(|(send, _)| send.lane).collect();
        let wanted = lanes[pick % lanes.len()];
        let at = lanes.iter().position(|l| *l == wanted).expect("a batch of it");
        let (send, index) = &mut self.under_way[at];
        let report = if self.broken.contains(&send.lane) {
            Report::Aborted
        } else if fail {
            self.broken.insert(send.lane);
            Report::Failed
        } else {
            let event = send.events[*index];
            self.written.push(self.pages[event.page as usize][event.index as usize]);
            Report::Delivered
        };
        machine.report(send.lane, send.batch, *index, report, now);
        *index += 1;
        if *index == send.events.len() {
            self.under_way.remove(at);
        }
    }

    /// Everything up to the cursor was written.
    fn record(&mut self, due: &Due) {
        let upto: u64 = due.cursor.as_text().parse().expect("cursor");
        assert!(upto >= self.recorded, "the checkpoint went back");
        let written: HashSet<u64> = self.written.iter().map(|&(_, _, position)| position).collect();
        for position in self.recorded + 1..=upto {
            assert!(written.contains(&position), "{position} is covered by the checkpoint {upto} but not written");
        }
        self.recorded = upto;
    }

    fn first_deliveries_are_in_order(&self) {
        let mut last: HashMap<(u8, u64), u64> = HashMap::new();
        for &(lane, key, position) in &self.written {
            let last = last.entry((lane, key)).or_default();
            assert!(position > *last, "{position} after {last} in lane {lane}, key {key}");
            *last = position;
        }
    }
}

proptest! {
    #[test]
    fn nothing_is_lost_overtaken_or_recorded_too_early(
        steps in proptest::collection::vec(step(), 1..200),
        seed in any::<u64>(),
    ) {
        let mut machine = Machine::new(rules(), seed);
        let mut model = Model::default();
        for step in steps {
            model.run(&mut machine, step);
            model.first_deliveries_are_in_order();
            prop_assert!(machine.in_flight() <= 3 * rules().lane_in_flight);
        }
        // Once failures stop, everything is delivered and recorded.
        for _ in 0..2_000 {
            model.run(&mut machine, Step::Send);
            if model.under_way.is_empty() {
                if machine.resume_at().is_none() {
                    break;
                }
                model.run(&mut machine, Step::Wait(100));
            }
            model.run(&mut machine, Step::Report { pick: 0, fail: false });
        }
        model.first_deliveries_are_in_order();
        if let Some(due) = machine.take_last_checkpoint() {
            model.record(&due);
        }
        prop_assert_eq!(model.recorded, model.position);
    }
}
