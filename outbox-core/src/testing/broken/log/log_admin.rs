use async_trait::async_trait;

use super::{Broken, Flaw, event_log::position};
use crate::{
    event::{RecordedEvent, Sequence},
    log::{
        ConsumerInfo, ConsumerName, DiscardedEvent, EventLog, EventStatus, LogAdmin, LogError, LogErrorKind, ParkState,
        ParkedEvent, Pruned, Reanchored, Redrive, RetentionPolicy, StartAt,
    },
};

#[async_trait]
impl LogAdmin for Broken {
    async fn consumers(&self) -> Result<Vec<ConsumerInfo>, LogError> {
        let mut consumers = self.inner.consumers().await?;
        let oldest = self.everything().await?.first().map(|recorded| recorded.event.created_at);
        for info in &mut consumers {
            match self.flaw {
                Flaw::ListsTheLiving => info.members.retain(|member| member.live),
                Flaw::ParkedIsPending if info.oldest_pending.is_some() => info.oldest_pending = oldest,
                _ => {}
            }
        }
        if self.has(Flaw::ListsBackwards) {
            consumers.reverse();
        }
        Ok(consumers)
    }

    async fn set_paused(&self, consumer: &ConsumerName, paused: bool) -> Result<(), LogError> {
        if self.has(Flaw::PausesEverybody) {
            for info in self.inner.consumers().await? {
                self.inner.set_paused(&info.name, paused).await?;
            }
        }
        match self.inner.set_paused(consumer, paused).await {
            Err(error) if error.kind() == LogErrorKind::UnknownConsumer && self.has(Flaw::PausesStrangers) => Ok(()),
            done => done,
        }
    }

    async fn drop_consumer(&self, consumer: &ConsumerName) -> Result<(), LogError> {
        if self.has(Flaw::DropsNothing) { Ok(()) } else { self.inner.drop_consumer(consumer).await }
    }

    async fn parked(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<ParkedEvent>, LogError> {
        let after = if self.has(Flaw::ListsTheFirstPage) { None } else { after };
        let mut parked = self.inner.parked(consumer, after, limit).await?;
        if self.has(Flaw::PrunesParked) {
            let left = self.everything().await?;
            parked.retain(|p| left.contains(&p.event));
        }
        for event in &mut parked {
            if let Some(reason) = self.notes().reasons.get(&event.event.origin.sequence) {
                event.reason.clone_from(reason);
            }
        }
        Ok(parked)
    }

    async fn redrive(&self, consumer: &ConsumerName, which: &Redrive) -> Result<u64, LogError> {
        if self.has(Flaw::IgnoresRequests) {
            return Ok(1);
        }
        let asked = self.inner.redrive(consumer, which).await?;
        let all = self.has(Flaw::CountsEvents) && *which == Redrive::All;
        Ok(if all { self.inner.parked(consumer, None, usize::MAX).await?.len() as u64 } else { asked })
    }

    async fn discard(&self, consumer: &ConsumerName, sequence: Sequence, reason: &str) -> Result<bool, LogError> {
        let reason = if self.has(Flaw::DiscardsWithoutReason) { "none" } else { reason };
        let discarded = self.inner.discard(consumer, sequence, reason).await?;
        let next = self.inner.parked(consumer, None, 1).await?.pop();
        let owner = self.notes().last_fence.clone();
        if let (Flaw::DiscardsOnlyTheFirst, Some(next), Some(owner)) = (self.flaw, next, owner)
            && next.state == ParkState::Behind
        {
            self.inner.park(&owner, &[super::parking::failing(&next.event)]).await?;
        }
        Ok(discarded)
    }

    async fn discarded(
        &self,
        consumer: &ConsumerName,
        after: Option<Sequence>,
        limit: usize,
    ) -> Result<Vec<DiscardedEvent>, LogError> {
        let discarded = self.inner.discarded(consumer, after, limit).await?;
        Ok(if self.has(Flaw::DiscardsWithoutTrace) { Vec::new() } else { discarded })
    }

    async fn event_status(&self, consumer: &ConsumerName, sequence: Sequence) -> Result<Option<EventStatus>, LogError> {
        let status = self.inner.event_status(consumer, sequence).await?;
        let consumers = self.inner.consumers().await?;
        let last = consumers.into_iter().find(|info| info.name == *consumer).and_then(|info| info.checkpoint_at);
        let highest = self.inner.progress(consumer).await?.tracks.iter().map(|track| position(&track.cursor)).max();
        Ok(match (self.flaw, status) {
            (Flaw::PublishesOnSight, Some(EventStatus::Pending)) => Some(EventStatus::Published(None)),
            (Flaw::PublishedByPosition, Some(EventStatus::Pending)) if highest >= Some(sequence.position()) => {
                Some(EventStatus::Published(last))
            }
            (Flaw::PublishedLast, Some(EventStatus::Published(Some(_)))) => Some(EventStatus::Published(last)),
            (_, status) => status,
        })
    }

    async fn tail(&self, after: Option<Sequence>, limit: usize) -> Result<Vec<RecordedEvent>, LogError> {
        let mut events = self.inner.tail(after, limit).await?;
        if self.has(Flaw::TailsBehind) && events.len() < limit {
            events.pop();
        }
        events.retain(|recorded| !self.notes().hidden.contains(&recorded.event.id));
        Ok(events)
    }

    async fn prune(&self, policy: &RetentionPolicy) -> Result<Pruned, LogError> {
        let mut pruned = match self.flaw {
            Flaw::PrunesEverything => self.hide_up_to(u64::MAX).await?,
            Flaw::PrunesBehindTheFastestLane => self.hide_up_to(self.fastest_lanes().await?).await?,
            Flaw::PrunesWithoutConsumers if self.inner.consumers().await?.is_empty() => {
                self.hide_up_to(u64::MAX).await?
            }
            Flaw::IgnoresPolicy => self.inner.prune(&RetentionPolicy::default()).await?,
            Flaw::PrunesInOneStep => self.inner.prune(&policy.clone().steps(u32::MAX)).await?,
            _ => self.inner.prune(policy).await?,
        };
        match self.flaw {
            Flaw::PrunesWithoutSaying => pruned.more = false,
            Flaw::HidesWhoHoldsBack => pruned.held_back_by = None,
            Flaw::PrunesWhatCommitsLate => {
                let mut notes = self.notes();
                let open = std::mem::take(&mut notes.open);
                notes.hidden.extend(open);
            }
            _ => {}
        }
        self.notes().removed += pruned.removed;
        Ok(pruned)
    }

    async fn reanchor(&self) -> Result<Reanchored, LogError> {
        let identity = self.inner.identity().await?;
        if self.has(Flaw::KeepsTheGeneration) {
            return Ok(Reanchored { log: identity.id, generation: identity.generation, from_position: 1 });
        }
        let reanchored = self.inner.reanchor().await?;
        for info in self.inner.consumers().await? {
            match self.flaw {
                Flaw::SkipsWhenReanchored => {
                    self.move_to(&info.name, &self.place_behind(&info.name, usize::MAX).await?).await?;
                }
                Flaw::ForgetsConsumersWhenReanchored => {
                    self.inner.drop_consumer(&info.name).await?;
                    self.inner.register(&info.name, StartAt::End).await?;
                }
                _ => {}
            }
        }
        Ok(reanchored)
    }
}

impl Broken {
    /// Hides events instead of removing them.
    async fn hide_up_to(&self, position: u64) -> Result<Pruned, LogError> {
        let events = self.everything().await?;
        let mut notes = self.notes();
        let before = notes.hidden.len();
        let gone = events.iter().filter(|recorded| recorded.origin.sequence.position() <= position);
        notes.hidden.extend(gone.map(|recorded| recorded.event.id));
        Ok(Pruned { removed: (notes.hidden.len() - before) as u64, more: false, held_back_by: None })
    }

    /// What the fastest lane of every consumer has passed.
    async fn fastest_lanes(&self) -> Result<u64, LogError> {
        let mut lowest = u64::MAX;
        for info in self.inner.consumers().await? {
            let tracks = self.inner.progress(&info.name).await?.tracks;
            lowest = lowest.min(tracks.iter().map(|track| position(&track.cursor)).max().unwrap_or_default());
        }
        Ok(lowest)
    }
}
