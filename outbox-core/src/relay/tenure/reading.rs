//! When and how much to read.

use std::time::Duration;

use rand::RngExt;
use tokio::time::Instant;

use super::{Halt, Job, Tenure};
use crate::{
    log::{LogError, LogErrorKind, Page, Track},
    relay::{
        driver::bounded,
        events::{self, Events},
        machine::Found,
    },
    wake::WakeListener,
};

/// About so many bytes are read at a time, whatever the configured number of events.
const PAGE_BYTES: usize = 8 * 1024 * 1024;
/// The first page tells how large events are; it should not be large itself.
const FIRST_PAGE: usize = 100;
/// The first pause of an idle reader; it doubles up to the configured poll.
const FIRST_IDLE: Duration = Duration::from_millis(20);
/// By how much a pause may be shorter or longer, so that relays do not march in step.
const JITTER: f64 = 0.05;

/// What was asked for, and what the log said.
pub(super) struct ReadAnswer {
    tracks: Vec<Track>,
    pages: Result<Vec<Page>, LogError>,
}

/// The pace of reading.
#[derive(Debug)]
pub(super) struct Reading {
    next: Instant,
    idle: Duration,
    poll: Duration,
    /// How many events of the last read's average size make [`PAGE_BYTES`].
    page_events: usize,
}

impl Reading {
    pub(super) fn new(poll: Duration) -> Self {
        Self { next: Instant::now(), idle: FIRST_IDLE.min(poll), poll, page_events: FIRST_PAGE }
    }

    /// When to look whether something is new.
    pub(super) fn next(&self) -> Instant {
        self.next
    }

    pub(super) fn rung(&mut self, now: Instant) {
        self.next = now;
        self.idle = FIRST_IDLE.min(self.poll);
    }

    /// About so many events fit into a call that brings full payloads.
    pub(super) fn call_events(&self) -> usize {
        self.page_events
    }

    fn found(&mut self, pages: &[Page], now: Instant) {
        let events = || pages.iter().flat_map(|page| &page.events);
        let count = events().count();
        if let Some(average) = events().map(events::bytes_of).sum::<usize>().checked_div(count) {
            self.page_events = (PAGE_BYTES / average.max(1)).max(1);
        }
        self.idle = if count == 0 { (self.idle * 2).min(self.poll) } else { FIRST_IDLE.min(self.poll) };
        let jitter = rand::rng().random_range(1.0 - JITTER..=1.0 + JITTER);
        self.next = now + self.idle.mul_f64(jitter);
    }
}

impl<'a> Tenure<'a> {
    pub(super) fn next_read(&mut self, bell: &mut WakeListener, now: Instant) -> Job<'a, ReadAnswer> {
        if !self.is_working(now) || !self.log_is_open(now) {
            return None;
        }
        let tracks = self.machine.reads(self.reading.next <= now, now);
        if tracks.is_empty() {
            return None;
        }
        bell.arm();
        let relay = self.relay;
        let limit = (relay.settings.batch.min(self.reading.page_events) / tracks.len()).max(1);
        Some(Box::pin(async move {
            let pages = bounded(relay, relay.log.read(&tracks, limit)).await;
            ReadAnswer { tracks, pages }
        }))
    }

    pub(super) fn read(&mut self, answer: ReadAnswer) -> Result<(), Halt> {
        let ReadAnswer { tracks, pages } = answer;
        let pages = match pages {
            Ok(pages) if pages.len() == tracks.len() => pages,
            Ok(pages) => {
                let message = format!("the log answered {} of {} tracks", pages.len(), tracks.len());
                return self.log_failed(LogError::new(LogErrorKind::Database, message));
            }
            Err(error) => return self.log_failed(error),
        };
        self.log_recovered();
        let now = Instant::now();
        self.reading.found(&pages, now);
        let (mut read, mut highest) = (0, 0);
        for (track, Page { events, next, caught_up }) in tracks.iter().zip(pages) {
            let count = events.len() as u64;
            let last = events.iter().map(|recorded| recorded.origin.sequence.position()).max();
            let body = Events::from(events);
            let arrivals = body.clone();
            if self.machine.page(track, Found { body, next, caught_up }, arrivals.arrivals(), now) {
                read += count;
                highest = highest.max(last.unwrap_or_default());
            }
        }
        if read > 0 {
            self.relay.status.send_modify(|status| {
                status.read += read;
                status.read_position = status.read_position.max(highest);
            });
        }
        Ok(())
    }
}
