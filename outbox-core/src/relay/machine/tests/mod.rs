//! Each rule of the machine by itself; [`property`] checks all of them together in random runs.

mod inspection;
mod lagging;
mod membership;
mod parking;
mod property;
mod sending;
mod world;

use std::borrow::Cow;

use super::*;

/// Lane, key within the lane, position.
type Ev = (u8, u8, u64);

#[derive(Debug, Clone, Default)]
struct Events(Vec<Ev>);

impl Body for Events {
    fn lane_key(&self, index: u32) -> Cow<'_, str> {
        let (lane, key, _) = self.0[index as usize];
        Cow::Owned(key_of(lane, key))
    }

    fn place(&self, index: u32) -> Option<(Lane, u64)> {
        self.0.get(index as usize).map(|&(n, _, position)| (lane(n), position))
    }
}

fn key_of(lane: u8, key: u8) -> String {
    format!("{lane}/{key}")
}

/// Keys 0 and 2 of a lane have the same hash, and 1 and 3.
fn hash_of(key: u8) -> u64 {
    u64::from(key % 2)
}

fn rules() -> Rules {
    Rules {
        window: 40,
        window_bytes: 2_000,
        lane_in_flight: 6,
        keeps_order_after_failure: true,
        backoff: Backoff::new(Duration::from_millis(10), Duration::from_millis(100)),
        retry: RetryPolicy::new(3, Backoff::new(Duration::from_millis(20), Duration::from_millis(50))),
        checkpoint_every: Duration::from_millis(50),
        checkpoint_events: 25,
        idle_checkpoint_every: Duration::from_secs(30),
    }
}

fn lane(n: u8) -> Lane {
    Lane::new(n).expect("lane")
}

fn lanes(members: &[u8]) -> LaneSet {
    members.iter().map(|n| lane(*n)).collect()
}

fn cursor(n: u64) -> Cursor {
    Cursor::from_text(n.to_string())
}

fn track(at: u64, members: &[u8]) -> Track {
    Track { cursor: cursor(at), lanes: lanes(members) }
}

fn arrivals(events: &[Ev]) -> Vec<Arrival> {
    let arrival = |&(l, key, position): &Ev| Arrival { lane: lane(l), hash: hash_of(key), position, bytes: 20 };
    events.iter().map(arrival).collect()
}

/// A member with these lanes, whose blocked keys are known to be none.
fn member(rules: Rules, tracks: &[Track]) -> Machine<Events> {
    let mut machine = Machine::new(rules, 1);
    let now = Instant::now();
    machine.gain(tracks.to_vec());
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Keys));
    machine.keys_known([]);
    assert_eq!(machine.next_parking(true, now), Some(ParkingCall::Due));
    machine.due(Events::default(), Vec::new());
    machine
}

impl Machine<Events> {
    /// Answers a read of this track.
    fn found(&mut self, asked: &Track, events: &[Ev], next: u64, now: Instant) -> bool {
        let found = Found { body: Events(events.to_vec()), next: cursor(next), caught_up: true };
        self.page(asked, found, arrivals(events), now)
    }

    fn positions(&self, send: &Send) -> Vec<u64> {
        send.events.iter().map(|e| self.body(*e).expect("page").0[e.index as usize].2).collect()
    }

    fn send(&mut self, now: Instant) -> Send {
        self.next_send(now).expect("something to send")
    }

    fn delivered(&mut self, send: &Send, now: Instant) {
        for index in 0..send.events.len() {
            self.report(send.lane, send.batch, index, Report::Delivered, now);
        }
    }

    fn report(&mut self, lane: Lane, batch: u64, index: usize, report: Report, now: Instant) {
        self.reports(lane, batch, [(index..index + 1, report)], now);
    }

    fn refused(&mut self, send: &Send, index: usize, now: Instant) {
        self.report(send.lane, send.batch, index, Report::Refused("bad".into()), now);
    }

    /// The positions of the next call, which has to be about parking.
    fn park_call(&mut self, now: Instant) -> Vec<(u64, Option<u32>)> {
        let Some(ParkingCall::Park(items)) = self.next_parking(true, now) else { panic!("nothing to park") };
        let position = |e: EventRef| self.body(e).expect("page").0[e.index as usize].2;
        items.iter().map(|item| (position(item.event), item.failure.as_ref().map(|f| f.attempts))).collect()
    }
}
