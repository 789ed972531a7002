//! The operators' side of a log in memory.

use std::cmp::Reverse;

use async_trait::async_trait;

use super::{MemoryLog, consumers::Consumer, log::State};
use crate::{
    event::{RecordedEvent, Sequence},
    log::{
        ConsumerInfo, ConsumerName, DiscardedEvent, EventStatus, LogAdmin, LogError, LogErrorKind, MemberInfo,
        ParkedEvent, Pruned, Reanchored, Redrive, RetentionPolicy,
    },
};

/// How many events one step of pruning removes at most.
const STEP: usize = 5_000;

#[async_trait]
impl LogAdmin for MemoryLog {
    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError> {
        let state = self.state();
        let now = self.shared.clock.now();
        let info = |(name, consumer): (&ConsumerName, &Consumer)| ConsumerInfo {
            name: name.clone(),
            created_at: consumer.created_at,
            paused: consumer.paused,
            members: consumer
                .members
                .iter()
                .map(|m| MemberInfo {
                    member: m.id,
                    epoch: m.epoch,
                    lanes: m.lanes,
                    expires: m.expires,
                    live: m.is_live(now),
                })
                .collect(),
            free_lanes: consumer.free_lanes(),
            position: consumer.lowest_place() as u64,
            checkpoint_at: consumer.checkpoint_at,
            parked: consumer.parked.len() as u64,
            blocked_keys: consumer.blocked_keys(crate::event::LaneSet::all(self.shared.identity.lanes)).len() as u64,
            oldest_pending: state.oldest_pending(consumer).map(|recorded| recorded.event.created_at),
            head: state.head() as u64,
        };
        Ok(state.consumers.iter().map(info).collect())
    }

    async fn set_paused(&self, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
        self.state().known(consumer)?.paused = paused;
        Ok(())
    }

    async fn drop_consumer(&self, consumer: &ConsumerName) -> Result<(), LogError> {
        let mut state = self.state();
        state.known(consumer)?;
        state.consumers.remove(consumer);
        Ok(())
    }

    async fn parked(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<ParkedEvent>, LogError> {
        let mut state = self.state();
        let parked = state.known(consumer)?.parked.iter();
        let behind = parked.filter(|(sequence, _)| after.is_none_or(|after| **sequence > after));
        Ok(behind.take(limit).map(|(_, parked)| parked.clone()).collect())
    }

    async fn redrive(&self, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
        Ok(self.state().known(consumer)?.redrive(which))
    }

    async fn discard(&self, consumer: &ConsumerName, sequence: Sequence, reason: &str) -> Result<bool, LogError> {
        if reason.trim().is_empty() {
            let message = "a discard needs a reason, for whoever asks later where the event is";
            return Err(LogError::new(LogErrorKind::BadName, message));
        }
        Ok(self.state().known(consumer)?.discard(sequence, reason))
    }

    async fn discarded(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<DiscardedEvent>, LogError> {
        let mut state = self.state();
        let discarded = state.known(consumer)?.discarded.iter();
        let behind = discarded.filter(|(sequence, _)| after.is_none_or(|after| **sequence > after));
        Ok(behind.take(limit).map(|(_, discarded)| discarded.clone()).collect())
    }

    async fn event_status(&self, consumer: &ConsumerName, sequence: Sequence) -> Result<Option<EventStatus>, LogError> {
        let mut state = self.state();
        let event = state.event(sequence).cloned();
        let known = state.known(consumer)?;
        if known.discarded.contains_key(&sequence) {
            return Ok(Some(EventStatus::Discarded));
        }
        if let Some(parked) = known.parked.get(&sequence) {
            return Ok(Some(EventStatus::Parked(parked.state)));
        }
        Ok(event.map(|recorded| {
            let position = position(&recorded);
            if known.place_of(recorded.lane) >= position {
                EventStatus::Published(known.passed_at(recorded.lane, position))
            } else {
                EventStatus::Pending
            }
        }))
    }

    async fn tail(&self, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError> {
        let state = self.state();
        let after = after.map_or(0, Sequence::position);
        let behind = state.events.iter().filter(|recorded| recorded.origin.sequence.position() > after);
        Ok(behind.take(limit).cloned().collect())
    }

    async fn prune(&self, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
        let mut state = self.state();
        let let_go = state.let_go(policy, self.shared.clock.now());
        // Of those at one place the first by name.
        let slowest =
            state.consumers.iter().map(|(name, c)| (c.lowest_place(), name)).max_by_key(|slow| Reverse(*slow));
        let Some((passed, slowest)) = slowest else { return Ok(Pruned::default()) };
        let held_back_by = (passed < let_go).then(|| slowest.clone());
        let removable = let_go.min(passed).saturating_sub(state.removed);
        let removed = removable.min(STEP.saturating_mul(policy.steps as usize));
        state.events.drain(..removed);
        state.removed += removed;
        Ok(Pruned { removed: removed as u64, more: removed < removable, held_back_by })
    }

    async fn reanchor(&self) -> Result<Reanchored, LogError> {
        let mut state = self.state();
        let next = state.generation.checked_add(1).ok_or_else(|| {
            LogError::new(LogErrorKind::Incompatible, "the log was re-anchored 65,535 times; make a new one")
        })?;
        state.generation = next;
        state.consumers.values_mut().for_each(Consumer::fence_everybody);
        Ok(Reanchored { log: self.shared.identity.id, generation: next, from_position: state.head() as u64 + 1 })
    }
}

impl State {
    fn oldest_pending(&self, consumer: &Consumer) -> Option<&RecordedEvent> {
        self.events.iter().find(|recorded| {
            let sequence = recorded.origin.sequence;
            let set_aside = consumer.parked.contains_key(&sequence) || consumer.discarded.contains_key(&sequence);
            consumer.place_of(recorded.lane) < position(recorded) && !set_aside
        })
    }

    /// The last position that the policy does not keep, with all those in front of it.
    fn let_go(&self, policy: &RetentionPolicy, now: chrono::DateTime<chrono::Utc>) -> usize {
        let by_count = policy
            .keep_events
            .map_or(self.head(), |events| self.head().saturating_sub(usize::try_from(events).unwrap_or(usize::MAX)));
        let young = |recorded: &RecordedEvent| {
            let age = (now - recorded.event.created_at).to_std().unwrap_or_default();
            policy.keep_for.is_some_and(|keep_for| age <= keep_for)
        };
        let by_age = self.events.iter().position(young).map_or(self.head(), |first| self.removed + first);
        by_count.min(by_age)
    }
}

fn position(recorded: &RecordedEvent) -> usize {
    recorded.origin.sequence.position() as usize
}
