//! Calls about the membership: renewals, checkpoints and releases, one at a time, since each has to know which lanes
//! the log takes for ours.

use tokio::time::Instant;

use super::{Halt, Job, Tenure};
use crate::{
    log::{LogError, Renewal, lanes_of},
    relay::{driver::bounded_by, machine::Due},
};

pub(super) enum MembershipAnswer {
    Renewed { asked: Instant, answer: Result<Renewal, LogError> },
    Released(Result<(), LogError>),
    Recorded(Due, Result<(), LogError>),
}

impl<'a> Tenure<'a> {
    pub(super) fn next_membership(&mut self, now: Instant) -> Job<'a, MembershipAnswer> {
        let (relay, fence, limit) = (self.relay, self.fence.clone(), self.lease.call_limit());
        if self.lease.renew_at() <= now {
            return Some(Box::pin(async move {
                let answer = bounded_by(limit, relay.log.renew(&fence, relay.settings.lease)).await;
                MembershipAnswer::Renewed { asked: now, answer }
            }));
        }
        if !self.log_is_open(now) {
            return None;
        }
        // Who stops gives everything back in the end.
        if self.stop_at.is_none()
            && let Some(tracks) = self.machine.next_release(now)
        {
            return Some(Box::pin(async move {
                MembershipAnswer::Released(bounded_by(limit, relay.log.release(&fence, &tracks)).await)
            }));
        }
        let due = self.machine.take_checkpoint(now)?;
        Some(Box::pin(async move {
            let answer = bounded_by(limit, relay.log.checkpoint(&fence, &due.tracks)).await;
            MembershipAnswer::Recorded(due, answer)
        }))
    }

    pub(super) fn membership(&mut self, answer: MembershipAnswer) -> Result<(), Halt> {
        match answer {
            MembershipAnswer::Renewed { asked, answer: Ok(renewal) } => {
                self.log_recovered();
                self.lease.renewed(asked);
                self.renewed(renewal)?;
            }
            MembershipAnswer::Renewed { answer: Err(error), .. } => {
                let pause = self.relay.settings.backoff.delay(self.log_failures, &mut rand::rng());
                self.lease.not_renewed(pause);
                self.log_failed(error)?;
            }
            MembershipAnswer::Released(Ok(())) => {
                self.log_recovered();
                let lanes = self.machine.released();
                self.streams.close(lanes);
                tracing::info!(consumer = %self.fence.consumer, lanes = lanes.len(), "lanes given back to others");
            }
            MembershipAnswer::Released(Err(error)) => self.log_failed(error)?,
            MembershipAnswer::Recorded(due, Ok(())) => {
                self.log_recovered();
                self.checkpointed(&due);
            }
            MembershipAnswer::Recorded(due, Err(error)) => {
                self.machine.return_checkpoint(&due, Instant::now());
                self.log_failed(error)?;
            }
        }
        Ok(())
    }

    fn renewed(&mut self, renewal: Renewal) -> Result<(), Halt> {
        let Renewal { gained, owned, surplus, paused, redrive } = renewal;
        if !self.machine.agrees(owned, &gained) {
            // The answer to an earlier call was lost that gave us lanes.
            tracing::warn!(consumer = %self.fence.consumer, "the log knows other lanes as ours than we do");
            return Err(Halt::Fenced);
        }
        if self.machine.has_released(owned) {
            let lanes = self.machine.released();
            self.streams.close(lanes);
        }
        if !gained.is_empty() {
            tracing::info!(consumer = %self.fence.consumer, lanes = lanes_of(&gained).len(), "lanes gained");
            self.machine.gain(gained);
        }
        self.machine.give_back(surplus);
        self.paused = paused;
        if redrive {
            self.machine.want_due();
        }
        Ok(())
    }

    pub(super) fn checkpointed(&mut self, due: &Due) {
        self.machine.checkpoint_recorded(due);
        self.relay.status.send_modify(|status| {
            status.checkpoints += 1;
            status.checkpoint_position = due.position;
        });
    }
}
