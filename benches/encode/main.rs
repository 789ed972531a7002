//! What it costs to make a message of an event: routing, encoding, and giving it all back.
//!
//! ```sh
//! cargo bench --bench encode                # 200,000 events a contestant and round, 9 rounds
//! OUTBOX_BENCH_EVENTS=1000000 OUTBOX_BENCH_ROUNDS=15 cargo bench --bench encode
//! ```
//!
//! Nothing leaves the process. Rounds are interleaved. The figures are processor time of a thread for one event, which a
//! busy machine changes less than the clock; that of two threads, each making half of the messages, grows where they get
//! in each other's way.

#[allow(dead_code, reason = "each bench uses a part of it")]
#[path = "../figures/table.rs"]
mod table;

use std::hint::black_box;

use bytes::Bytes;
use outbox_core::{
    event::{LaneCount, LogId, NewEvent, Origin, RecordedEvent, Sequence},
    profile::{CloudEvents, Profile, RawPayload},
};
use rustix::time::{ClockId, clock_gettime};
use serde_json::{json, value::RawValue};
use table::{Table, load, number};
use uuid::Uuid;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Enough for their payloads to leave the processor's nearest cache, as those of a page do.
const DIFFERENT: usize = 2_000;

fn main() -> Result<()> {
    let events = number("OUTBOX_BENCH_EVENTS", 200_000)?.max(1);
    let rounds = number("OUTBOX_BENCH_ROUNDS", 9)?.max(1);
    let page: Vec<RecordedEvent> = (0..DIFFERENT).map(recorded).collect::<Result<_>>()?;
    let profiles = [
        ("seed envelope", Profile::default()),
        ("CloudEvents, structured", Profile::default().with_encoder(CloudEvents::structured())),
        ("CloudEvents, binary", Profile::default().with_encoder(CloudEvents::binary())),
        ("raw payload", Profile::default().with_encoder(RawPayload)),
    ];
    eprintln!("{events} events, {rounds} rounds; load {}", load());
    let (mut one, mut two) = (Table::default(), Table::default());
    for round in 1..=rounds {
        eprintln!("round {round} of {rounds}");
        for (threads, table) in [(1, &mut one), (2, &mut two)] {
            let mut measure = |name: &str, make: &(dyn Fn(&RecordedEvent) + Sync)| {
                table.record_figure(name, nanoseconds(&page, events, threads, make));
            };
            measure(COPY, &|event| {
                black_box(Bytes::copy_from_slice(payload(event)));
            });
            measure("check that the payload is JSON", &|event| {
                black_box(serde_json::from_slice::<&RawValue>(payload(event)).is_ok());
            });
            measure("parse the payload and write it again", &|event| {
                let parsed = serde_json::from_slice::<serde_json::Value>(payload(event)).ok();
                black_box(serde_json::to_vec(&parsed).is_ok());
            });
            for (name, profile) in &profiles {
                measure(name, &|event| {
                    black_box(profile.message(event).is_ok());
                });
            }
        }
    }
    one.print("One thread", "ns/event", COPY);
    two.print("Two threads", "ns/event", COPY);
    eprintln!("load {}", load());
    Ok(())
}

const COPY: &str = "copy the payload";

fn nanoseconds(page: &[RecordedEvent], events: usize, threads: usize, make: &(dyn Fn(&RecordedEvent) + Sync)) -> f64 {
    let thread = || {
        let start = processor_time();
        page.iter().cycle().take(events / threads).for_each(make);
        processor_time() - start
    };
    let took: f64 = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(thread)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or(f64::NAN)).sum()
    });
    took / events as f64
}

/// Of this thread, in nanoseconds.
fn processor_time() -> f64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

fn payload(event: &RecordedEvent) -> &[u8] {
    event.event.payload.as_deref().unwrap_or_default()
}

/// About 300 bytes with everything, 230 of them a payload of the marketplace's kind.
fn recorded(n: usize) -> Result<RecordedEvent> {
    let payload = json!({
        "id": n, "slug": format!("tutor-{n}"), "full_name": "Анна Иванова", "headline": "Mathematics, physics",
        "subjects": ["mathematics", "physics"], "hourly_rate": 1500.0, "rating": 4.8, "reviews_count": n % 100,
        "is_verified": true, "formats": ["online"], "version": n,
    });
    let event = NewEvent::json("Tutor", n, "TutorUpdated", &payload)?.into_event();
    let sequence = Sequence::new(0, n as u64 + 1_000_000).ok_or("a position")?;
    let origin = Origin { log: LogId(Uuid::from_u128(7)), sequence };
    Ok(RecordedEvent { origin, lane: LaneCount::default().lane_of(&event.lane_key()), event })
}
