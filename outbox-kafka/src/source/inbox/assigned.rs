use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use super::{Assignment, Limits, Raw};
use crate::source::position::Position;

/// A partition is paused when so many batches of it are waiting, and resumed at half of that: a partition that is resumed
/// has to wait for the fetch request under way, so there must be something left to work on.
const AHEAD: usize = 8;

/// A partition is paused at so many bytes, however few records they are.
const MOST_BYTES: usize = 8 * 1024 * 1024;

/// A record that comes after so long may be of another topic than the one before it: it was created again, or the address
/// leads to another cluster. librdkafka mostly notices and says so, which is faster; but not of old brokers, whose topics
/// have no ids.
const SILENCE: Duration = Duration::from_secs(1);

/// An assigned partition.
#[derive(Debug)]
pub(super) struct Assigned {
    pub(super) is: Assignment,
    phase: Phase,
    pub(super) held: bool,
    /// What librdkafka was told last.
    pub(super) paused: bool,
    pub(super) delivered: Option<Position>,
    /// The offset it was started at.
    pub(super) started: Option<i64>,
    /// What the application told to commit and the broker has not acknowledged.
    pub(super) told: Option<Position>,
    records: VecDeque<Waiting>,
    bytes: usize,
    /// When something of it was received last, or it was started.
    heard: Option<Instant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Stopped,
    Started,
    /// Started, and delivers nothing until it is known whether it is still the same.
    Checking,
}

#[derive(Debug)]
struct Waiting {
    raw: Raw,
    since: Instant,
    /// It came after a silence: it may be of another topic than the record before it.
    doubtful: bool,
}

impl Assigned {
    pub(super) fn new(is: Assignment) -> Self {
        Self {
            is,
            phase: Phase::Stopped,
            held: false,
            paused: true,
            delivered: None,
            started: None,
            told: None,
            records: VecDeque::new(),
            bytes: 0,
            heard: None,
        }
    }

    /// As assigned anew: it has to be started again.
    pub(super) fn renew(&mut self, id: u64) {
        let is = Assignment { id, ..self.is.clone() };
        *self = Self { paused: self.paused, ..Self::new(is) };
    }

    pub(super) fn is_started(&self) -> bool {
        self.phase != Phase::Stopped
    }

    /// Between the two marks it stays as it is.
    pub(super) fn should_pause(&self, limits: &Limits) -> bool {
        let full = self.records.len() >= AHEAD * limits.records || self.bytes >= MOST_BYTES;
        let roomy = self.records.len() <= AHEAD * limits.records / 2 && self.bytes <= MOST_BYTES / 2;
        !self.is_started() || self.held || full || (self.paused && !roomy)
    }

    pub(super) fn push(&mut self, raw: Raw, now: Instant) {
        let silent = self.heard.is_some_and(|heard| now.saturating_duration_since(heard) > SILENCE);
        self.heard = Some(now);
        self.bytes += raw.bytes();
        self.records.push_back(Waiting { raw, since: now, doubtful: silent });
    }

    pub(super) fn is_ready(&self, limits: &Limits, now: Instant) -> bool {
        self.ready_at(limits).is_some_and(|at| at <= now)
    }

    /// When the next batch is due; `None`: there is nothing to take.
    pub(super) fn ready_at(&self, limits: &Limits) -> Option<Instant> {
        let first = self.records.front().filter(|_| self.phase == Phase::Started && !self.held)?;
        let full = self.records.len() >= limits.records || self.bytes >= limits.bytes;
        Some(if full || self.paused { first.since } else { first.since + limits.wait })
    }

    /// Where to look whether the partition is still the same, if its next record raises the question.
    pub(super) fn begin_check(&mut self) -> Option<Position> {
        let position = self.delivered.clone().filter(|position| position.last.is_some())?;
        if !self.records.front().is_some_and(|first| first.doubtful) {
            return None;
        }
        self.phase = Phase::Checking;
        Some(position)
    }

    /// The partition is the same; or nobody knows yet, and it will be asked again.
    pub(super) fn end_check(&mut self, known: bool) {
        if self.phase != Phase::Checking {
            return;
        }
        self.phase = Phase::Started;
        if let Some(first) = self.records.front_mut() {
            first.doubtful = !known;
        }
    }

    /// A batch: at least one record.
    pub(super) fn take(&mut self, limits: &Limits) -> Vec<Raw> {
        let mut batch = Vec::with_capacity(self.records.len().min(limits.records));
        let mut bytes = 0;
        while let Some(next) = self.records.front() {
            bytes += next.raw.bytes();
            if !batch.is_empty() && (batch.len() >= limits.records || bytes > limits.bytes || next.doubtful) {
                break;
            }
            self.bytes -= next.raw.bytes();
            batch.extend(self.records.pop_front().map(|next| next.raw));
        }
        batch
    }

    pub(super) fn stop(&mut self) -> Assignment {
        self.phase = Phase::Stopped;
        self.records.clear();
        self.bytes = 0;
        self.is.clone()
    }

    pub(super) fn start(&mut self, position: Position, now: Instant) {
        self.phase = Phase::Started;
        self.started = Some(position.next);
        self.delivered = Some(position);
        self.heard = Some(now);
    }
}
