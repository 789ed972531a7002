//! Calls about parked events, one at a time, as the machine asks for them.

use tokio::time::Instant;

use super::{Halt, Job, Tenure};
use crate::{
    log::{LogError, LogErrorKind, Park, Parked, ParkedEvent, Redriven, Republished},
    relay::{
        driver::bounded,
        events::Events,
        machine::{DueEvent, ParkItem, ParkingCall, RecordItem, key_hash},
    },
};

/// The most parked events that are published again at a time.
const REDRIVE: usize = 200;
/// How many of those that are under way already may come again in one answer.
const MOST_HELD: usize = 2_000;

pub(super) enum ParkingAnswer {
    Keys(Result<Vec<String>, LogError>),
    Parked(Result<Vec<Parked>, LogError>),
    Recorded(Result<Vec<Redriven>, LogError>),
    Due(Result<Vec<ParkedEvent>, LogError>),
}

impl<'a> Tenure<'a> {
    pub(super) fn next_parking(&mut self, now: Instant) -> Job<'a, ParkingAnswer> {
        if !self.log_is_open(now) {
            return None;
        }
        let (relay, fence) = (self.relay, self.fence.clone());
        Some(match self.machine.next_parking(self.is_working(now), now)? {
            ParkingCall::Keys => {
                Box::pin(async move { ParkingAnswer::Keys(bounded(relay, relay.log.blocked_keys(&fence)).await) })
            }
            ParkingCall::Park(items) => {
                let parks: Vec<Park> = items.into_iter().filter_map(|item| self.park(item)).collect();
                Box::pin(async move {
                    let answers = bounded(relay, relay.log.park(&fence, &parks)).await;
                    ParkingAnswer::Parked(answers.and_then(|answers| all_of(answers, parks.len())))
                })
            }
            ParkingCall::Record(items) => {
                let events: Vec<Republished> = items.into_iter().filter_map(|item| self.republished(item)).collect();
                Box::pin(async move {
                    let answers = bounded(relay, relay.log.redriven(&fence, &events)).await;
                    ParkingAnswer::Recorded(answers.and_then(|answers| all_of(answers, events.len())))
                })
            }
            ParkingCall::Due => {
                // Those that wait for a lane come again with every answer, and must not be all of it.
                let held = self.machine.redrives_held().min(MOST_HELD);
                let limit = REDRIVE.min(self.reading.call_events()) + held;
                Box::pin(async move { ParkingAnswer::Due(bounded(relay, relay.log.due_parked(&fence, limit)).await) })
            }
        })
    }

    pub(super) fn parking(&mut self, answer: ParkingAnswer) -> Result<(), Halt> {
        let now = Instant::now();
        let failed = match answer {
            ParkingAnswer::Keys(Ok(keys)) => {
                let lanes = self.lane_count;
                let known = keys.iter().map(|key| (lanes.lane_of(key), key_hash([&**key]), &**key));
                self.machine.keys_known(known);
                None
            }
            ParkingAnswer::Parked(Ok(answers)) => {
                self.machine.parked(&answers, now);
                None
            }
            ParkingAnswer::Recorded(Ok(answers)) => {
                self.machine.recorded(&answers, now);
                None
            }
            ParkingAnswer::Due(Ok(parked)) => {
                self.redrive(parked);
                None
            }
            ParkingAnswer::Keys(Err(error))
            | ParkingAnswer::Parked(Err(error))
            | ParkingAnswer::Recorded(Err(error))
            | ParkingAnswer::Due(Err(error)) => Some(error),
        };
        match failed {
            None => self.log_recovered(),
            Some(error) => {
                self.machine.parking_failed();
                self.log_failed(error)?;
            }
        }
        Ok(())
    }

    fn redrive(&mut self, parked: Vec<ParkedEvent>) {
        let due = parked.iter().map(|parked| {
            let key = parked.event.event.lane_key().into_owned().into_boxed_str();
            DueEvent { lane: parked.event.lane, hash: key_hash([&*key]), key, attempts: parked.attempts }
        });
        let due = due.collect();
        let body: Vec<_> = parked.into_iter().map(|parked| parked.event).collect();
        self.machine.due(Events::from(body), due);
    }

    fn park(&self, item: ParkItem) -> Option<Park> {
        let sequence = self.machine.body(item.event)?.get(item.event.index)?.origin.sequence;
        if let Some(failure) = &item.failure {
            tracing::warn!(%sequence, lane = %item.lane, reason = %failure.reason, "an event is parked");
        }
        Some(Park { sequence, lane: item.lane, failure: item.failure })
    }

    fn republished(&self, item: RecordItem) -> Option<Republished> {
        let sequence = self.machine.body(item.event)?.get(item.event.index)?.origin.sequence;
        Some(Republished { sequence, lane: item.lane, lane_key: item.key.into() })
    }
}

/// Answers that miss some events would be given to others.
fn all_of<T>(answers: Vec<T>, events: usize) -> Result<Vec<T>, LogError> {
    if answers.len() == events {
        return Ok(answers);
    }
    let message = format!("the log answered for {} of {events} events", answers.len());
    Err(LogError::new(LogErrorKind::Database, message))
}
