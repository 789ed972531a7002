//! When each event reached each stage.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant, SystemTime},
};

use uuid::Uuid;

/// The moments of an event. Its transaction was to arrive at the first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Due,
    Committed,
    /// The relay has read it and begins to encode it; or the projector has it and begins to apply it.
    Read,
    HandedOver,
    Appended,
    /// The relay knows that the broker has it.
    Acknowledged,
    /// Its effect is committed to the read model.
    Visible,
}

const STAGES: usize = 7;

/// Microseconds since the beginning, by event and stage; zero while it has not come.
pub(crate) struct Stamps {
    begun: Instant,
    /// The same moment by the broker's clock, which is this machine's.
    at: SystemTime,
    events: Vec<[AtomicU64; STAGES]>,
}

impl Stamps {
    pub(crate) fn new(events: u64) -> Self {
        let events = (0..events).map(|_| Default::default()).collect();
        Self { begun: Instant::now(), at: SystemTime::now(), events }
    }

    pub(crate) fn begun(&self) -> Instant {
        self.begun
    }

    /// It happens now.
    pub(crate) fn stamp(&self, event: u64, stage: Stage) {
        self.stamp_at(event, stage, self.begun.elapsed());
    }

    /// Only the first time counts.
    pub(crate) fn stamp_at(&self, event: u64, stage: Stage, since_begun: Duration) {
        if let Some(stages) = self.events.get(event as usize) {
            let micros = (since_begun.as_micros() as u64).max(1);
            let _came_before = stages[stage as usize].compare_exchange(0, micros, Ordering::AcqRel, Ordering::Acquire);
        }
    }

    /// The broker says in which millisecond it appended the event. The end of that millisecond counts, or the
    /// acknowledgement if that came earlier: rather too late than too early.
    pub(crate) fn appended(&self, event: u64, unix_millis: i64) {
        let end = SystemTime::UNIX_EPOCH + Duration::from_millis(unix_millis.max(0) as u64 + 1);
        let mut at = end.duration_since(self.at).unwrap_or_default();
        if let Some(acknowledged) = self.at(event, Stage::Acknowledged) {
            at = at.min(acknowledged);
        }
        self.stamp_at(event, Stage::Appended, at);
    }

    pub(crate) fn at(&self, event: u64, stage: Stage) -> Option<Duration> {
        let micros = self.events.get(event as usize)?[stage as usize].load(Ordering::Acquire);
        (micros > 0).then(|| Duration::from_micros(micros))
    }

    pub(crate) fn events(&self) -> u64 {
        self.events.len() as u64
    }

    /// How many have come so far.
    pub(crate) fn count(&self, stage: Stage) -> u64 {
        self.events.iter().filter(|stages| stages[stage as usize].load(Ordering::Acquire) > 0).count() as u64
    }
}

/// Events are numbered by their ids.
pub(crate) fn id_of(event: u64) -> Uuid {
    Uuid::from_u128(0x0190_0000_0000_7000_8000_0000_0000_0000 | u128::from(event))
}

pub(crate) fn number_of(id: Uuid) -> u64 {
    id.as_u128() as u64 & (u64::MAX >> 2)
}

/// The number of the event in a body of the default encoding.
pub(crate) fn number_in(body: &[u8]) -> Option<u64> {
    let id = body.strip_prefix(br#"{"event_id":""#)?.get(..36)?;
    Uuid::try_parse_ascii(id).ok().map(number_of)
}
