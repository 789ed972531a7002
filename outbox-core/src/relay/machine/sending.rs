//! Batches out, outcomes in.

use std::ops::Range;

use tokio::time::Instant;

use super::{
    Machine, Report, Send,
    guard::Guard,
    pages::Body,
    parking::Refusal,
    queue::{Breakage, Slot},
    redrive::RedriveState,
    with,
};
use crate::event::{Lane, LaneSet};

impl<B: Body> Machine<B> {
    /// The next batch to hand over, or `None` when there is nothing to send now.
    pub(in crate::relay) fn next_send(&mut self, now: Instant) -> Option<Send> {
        loop {
            let lane = self.ready.difference(self.leaving).iter().next()?;
            match self.send_of(lane, now) {
                Some(send) => return Some(send),
                None => self.ready = self.ready.difference(LaneSet::from_iter([lane])),
            }
        }
    }

    fn send_of(&mut self, lane: Lane, now: Instant) -> Option<Send> {
        let queue = &mut self.lanes[usize::from(lane.get())];
        if queue.broken.is_some() || queue.paused_until.is_some_and(|until| now < until) {
            return None;
        }
        queue.paused_until = None;
        let one_per_key = !self.rules.keeps_order_after_failure;
        let limit = match queue.in_flight {
            0 => self.rules.lane_in_flight,
            _ if one_per_key => return None,
            n => self.rules.lane_in_flight.saturating_sub(n),
        };
        let batch = self.next_batch;
        let mut behind = Vec::new();
        let events = queue.start_batch(batch, limit, one_per_key, &self.pages, &mut behind);
        self.parking.behind.extend(behind.into_iter().map(|number| (lane, number)));
        let (events, isolated) = events?;
        self.next_batch += 1;
        self.in_flight += events.len();
        Some(Send { lane, batch, events, reopen: std::mem::take(&mut queue.reopen), isolated })
    }

    /// Takes reports of one batch in, each with the indices of its events.
    pub(in crate::relay) fn reports(
        &mut self,
        lane: Lane,
        batch: u64,
        reports: impl IntoIterator<Item = (Range<usize>, Report)>,
        now: Instant,
    ) {
        let queue = &mut self.lanes[usize::from(lane.get())];
        let Some(mut batch) = queue.take_batch(batch) else { return };
        let mut page_done = false;
        for (index, report) in reports.into_iter().flat_map(|(run, report)| run.zip(std::iter::repeat(report))) {
            let Some(slot) = queue.reported(&mut batch, index) else { continue };
            self.in_flight -= 1;
            match (report, slot) {
                (Report::Delivered, Slot::Entry(number)) => {
                    queue.attempts = 0;
                    page_done |= queue.finish(number, &mut self.pages);
                }
                (Report::Delivered, Slot::Redrive(number)) => {
                    queue.attempts = 0;
                    if let Some(redrive) = queue.redrives.get(number) {
                        redrive.state = RedriveState::Delivered;
                        self.parking.republished.push_back((lane, number));
                    }
                }
                (Report::Refused(reason), slot) => {
                    queue.broken.get_or_insert_default();
                    queue.refuse(slot);
                    queue.refused.push((slot, reason));
                }
                // By itself there are no others: the publisher does not know, and is asked again after a pause.
                (Report::Suspect, slot) if !batch.isolated && Guard::SuspectsGoAlone.stands() => {
                    queue.broken.get_or_insert_default().suspected = true;
                    queue.suspect(slot);
                }
                (failed @ (Report::Failed | Report::Suspect | Report::Aborted), slot) => {
                    queue.broken.get_or_insert_default().setback |= failed != Report::Aborted;
                    queue.wait_again(slot);
                }
            }
        }
        queue.put_back(batch);
        let drained = queue.in_flight == 0 || !Guard::LanesDrain.stands();
        if drained && queue.broken.is_some() {
            // Only now, with nothing of the lane under way, can it start again without overtaking itself.
            self.mend(lane, now);
        }
        self.ready = with(self.ready, lane);
        if page_done {
            self.tracks.advance(&mut self.pages, now);
        }
    }

    /// Everything of a broken stream is reported: what was refused is parked, the rest is sent again.
    fn mend(&mut self, lane: Lane, now: Instant) {
        let queue = &mut self.lanes[usize::from(lane.get())];
        let refused = std::mem::take(&mut queue.refused);
        let Breakage { setback, suspected } = queue.broken.take().unwrap_or_default();
        // Every failure that gets nowhere pauses, or a publisher that keeps failing would be asked without end.
        if setback || refused.is_empty() && !suspected {
            queue.paused_until = Some(now + self.rules.backoff.delay(queue.attempts, &mut self.random));
            queue.attempts = queue.attempts.saturating_add(1);
        } else {
            // The destination answers.
            queue.attempts = 0;
        }
        queue.reopen = true;
        queue.look_again();
        for (slot, reason) in refused {
            let attempts = match slot {
                Slot::Entry(number) => {
                    if let Some(entry) = queue.entry(number) {
                        let (hash, event) = (entry.hash, entry.event);
                        queue.blocked.insert(hash, &self.pages.lane_key(event));
                    }
                    1
                }
                Slot::Redrive(number) => {
                    let Some(redrive) = queue.redrives.get(number) else { continue };
                    let (hash, key, attempts) = (redrive.hash, redrive.key.clone(), redrive.attempts.saturating_add(1));
                    // An operator who discarded it meanwhile freed the key, which is blocked again by this.
                    queue.blocked.insert(hash, &key);
                    // They stay parked behind it.
                    if Guard::RedrivesStayBehind.stands() {
                        queue.redrives.drop_waiting(Some(&key), &mut self.pages);
                    }
                    attempts
                }
            };
            self.parking.refusals.push_back(Refusal { lane, slot, attempts, reason });
        }
    }
}
