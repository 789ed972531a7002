use std::time::Duration;

use async_trait::async_trait;

use super::{Broken, Flaw};
use crate::{
    event::{Headers, Lane, LaneSet, RecordedEvent, Sequence},
    log::{
        Assignment, Claim, ConsumerName, Cursor, EventLog, Fence, LogAdmin, LogCapabilities, LogError, LogErrorKind,
        LogIdentity, MemberId, Page, Park, Parked, ParkedEvent, Progress, Redrive, Redriven, Renewal, Republished,
        StartAt, Track, lanes_of,
    },
    wake::Wake,
};

#[async_trait]
impl EventLog for Broken {
    fn capabilities(&self) -> LogCapabilities {
        self.inner.capabilities()
    }

    async fn identity(&self) -> Result<LogIdentity, LogError> {
        self.inner.identity().await
    }

    async fn register(&self, consumer: &ConsumerName, start: StartAt) -> Result<(), LogError> {
        if let (Flaw::StartsBehindTheLastOlderEvent, StartAt::Time(time)) = (self.flaw, start) {
            self.inner.register(consumer, StartAt::Beginning).await?;
            let events = self.everything().await?;
            let older = events.iter().rposition(|r| r.event.created_at < time).map_or(0, |last| last + 1);
            return self.move_to(consumer, &self.place_behind(consumer, older).await?).await;
        }
        let start = if self.has(Flaw::StartsAtTheBeginning) { StartAt::Beginning } else { start };
        self.inner.register(consumer, start).await?;
        if self.has(Flaw::RestartsOnRegister) && start == StartAt::End {
            return self.move_to(consumer, &self.place_behind(consumer, usize::MAX).await?).await;
        }
        Ok(())
    }

    async fn join(
        &self,
        consumer: &ConsumerName,
        member: MemberId,
        claim: Claim,
        lease: Duration,
    ) -> Result<Assignment, LogError> {
        if self.has(Flaw::RegistersStrangers) {
            self.inner.register(consumer, StartAt::Beginning).await?;
        }
        let last = self.notes().last_fence.take();
        if let (Flaw::IgnoresLeases, Some(last)) = (self.flaw, last) {
            let _gone_already = self.inner.leave(&last).await;
        }
        self.revive(member).await;
        let claim = match self.flaw {
            Flaw::GivesAllOrNothing => Claim::All,
            Flaw::SharesWithWhoClaimsAll => Claim::Share,
            _ => claim,
        };
        let mut assignment = self.inner.join(consumer, member, claim, lease).await?;
        let fence = assignment.fence.clone();
        self.notes().last_fence = Some(fence.clone());
        self.notes().fences.insert((consumer.clone(), member), fence);
        if self.has(Flaw::PausesInSilence) {
            assignment.paused = false;
        }
        Ok(assignment)
    }

    async fn renew(&self, fence: &Fence, lease: Duration) -> Result<Renewal, LogError> {
        self.revive(fence.member).await;
        let lease = if self.has(Flaw::ForgetsRenewals) { Duration::ZERO } else { lease };
        let before = self.members().await?;
        let mut renewal = self.or_silent(self.inner.renew(&self.taken_for(fence), lease).await)?;
        let expelled = self.members().await? < before;
        match self.flaw {
            Flaw::NeverSurplus => renewal.surplus = 0,
            Flaw::RenewsInSilence => renewal.redrive = false,
            Flaw::PausesInSilence => renewal.paused = false,
            Flaw::TakesOverByHalves if expelled => renewal.gained.iter_mut().for_each(|track| {
                track.lanes = track.lanes.iter().take(track.lanes.len() as usize / 2).collect();
            }),
            _ => {}
        }
        Ok(renewal)
    }

    async fn release(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        let mut tracks = tracks.to_vec();
        if self.has(Flaw::ForgetsReleasedPlaces) {
            let given = lanes_of(&tracks);
            tracks = self.inner.progress(&fence.consumer).await?.tracks;
            for track in &mut tracks {
                track.lanes = track.lanes.intersection(given);
            }
        }
        self.or_silent(self.inner.release(&self.taken_for(fence), &tracks).await)
    }

    async fn leave(&self, fence: &Fence) -> Result<(), LogError> {
        self.or_silent(self.inner.leave(&self.taken_for(fence)).await)
    }

    async fn read(&self, tracks: &[Track], limit: usize) -> Result<Vec<Page>, LogError> {
        let mut tracks = tracks.to_vec();
        let identity = self.inner.identity().await?;
        for track in &mut tracks {
            if self.has(Flaw::IgnoresLanes) {
                track.lanes = LaneSet::all(identity.lanes);
            }
            if self.has(Flaw::RefusesOldCursors) && position(&track.cursor) < self.notes().removed {
                return Err(LogError::new(LogErrorKind::BadCursor, "the event behind it is gone"));
            }
        }
        let mut pages = match self.inner.read(&tracks, limit).await {
            Err(_) if self.has(Flaw::TakesAnyCursor) => tracks.iter().map(nothing_behind).collect(),
            read => read?,
        };
        for (n, page) in pages.iter_mut().enumerate() {
            let full = page.events.len() == limit;
            match self.flaw {
                Flaw::Backwards => page.events.reverse(),
                Flaw::LosesAtPageEnd if full => drop(page.events.pop()),
                Flaw::Twice => page.events = page.events.iter().flat_map(|r| [r.clone(), r.clone()]).collect(),
                Flaw::Once => {
                    page.events.retain(|r| !self.notes().hidden.contains(&r.event.id));
                    self.notes().reads.push(page.events.iter().map(|r| r.event.id).collect());
                }
                Flaw::InOrderOfAppend => page.events.sort_by_key(|r| crate::testing::number_of(&r.event)),
                Flaw::NeverAtTheEnd => page.caught_up &= !page.events.is_empty(),
                Flaw::KeepsTracksApart => {
                    page.next = Cursor::from_text(format!("{}{}", "0".repeat(n), page.next.as_text()));
                }
                _ => {}
            }
            page.events.iter_mut().for_each(|event| self.spoil(event, identity.generation));
            page.events.retain(|recorded| !self.notes().hidden.contains(&recorded.event.id));
        }
        let read = std::mem::take(&mut self.notes().reads);
        self.notes().hidden.extend(read.into_iter().flatten());
        if self.has(Flaw::MixesTracks) {
            pages.reverse();
        }
        Ok(pages)
    }

    async fn checkpoint(&self, fence: &Fence, tracks: &[Track]) -> Result<(), LogError> {
        let mut tracks = tracks.to_vec();
        if self.has(Flaw::ForgetsCheckpoints) {
            return Ok(());
        }
        if self.has(Flaw::ForgetsLaggingLanes) {
            let first = tracks[0].cursor.clone();
            tracks = vec![Track { cursor: first, lanes: lanes_of(&tracks) }];
        }
        if self.has(Flaw::SharesPlaces) {
            for other in self.fences_of_others(&fence.consumer) {
                self.inner.checkpoint(&other, &tracks).await?;
            }
        }
        if self.has(Flaw::ChecksByHalves) {
            let all = LaneSet::all(self.inner.identity().await?.lanes);
            let half: LaneSet = all.iter().take(all.len() as usize / 2).collect();
            let mut places = self.inner.progress(&fence.consumer).await?.tracks;
            for track in &mut places {
                track.lanes = track.lanes.difference(half);
            }
            places.push(Track { cursor: tracks[0].cursor.clone(), lanes: half });
            self.inner.checkpoint(fence, &places).await?;
            tokio::task::yield_now().await;
        }
        let done = self.inner.checkpoint(&self.taken_for(fence), &tracks).await;
        let owner = self.notes().last_fence.clone();
        if let (Flaw::LateFence, Err(_), Some(owner)) = (self.flaw, &done, owner) {
            self.inner.checkpoint(&owner, &tracks).await?;
        }
        self.or_silent(done)
    }

    async fn park(&self, fence: &Fence, events: &[Park]) -> Result<Vec<Parked>, LogError> {
        let fence = &self.taken_for(fence);
        let mut events = events.to_vec();
        match self.flaw {
            Flaw::BlocksNothing => events.retain(|park| park.failure.is_some()),
            Flaw::BlocksEverything => events.iter_mut().for_each(|park| {
                let failure = super::parking::a_failure();
                park.failure.get_or_insert(failure);
            }),
            Flaw::ParksByHalves => {
                let mut answers = Vec::new();
                for park in &events {
                    answers.extend(self.inner.park(fence, std::slice::from_ref(park)).await?);
                }
                return Ok(answers);
            }
            Flaw::ParksBehindFirst => {
                let (failed, behind): (Vec<Park>, Vec<Park>) = events.into_iter().partition(|p| p.failure.is_some());
                let behind = self.inner.park(fence, &behind).await?;
                let mut answers = self.inner.park(fence, &failed).await?;
                answers.extend(behind);
                return Ok(answers);
            }
            Flaw::ParksAnew | Flaw::KeepsTheFirstFailure | Flaw::RequestsForEver => {
                let parked = self.inner.parked(&fence.consumer, None, usize::MAX).await?;
                self.fail_again(fence, &parked, &mut events).await?;
            }
            Flaw::KeepsLongReasons => {
                let reasons = events.iter().filter_map(|p| Some((p.sequence, p.failure.as_ref()?.reason.clone())));
                self.notes().reasons.extend(reasons);
            }
            _ => {}
        }
        let mut answers = self.or_silent(self.inner.park(fence, &events).await)?;
        if self.has(Flaw::ForgetsNewRequests) {
            // As if one more attempt had begun just now, and failed.
            self.inner.due_parked(fence, usize::MAX).await?;
            events.retain(|park| park.failure.is_some());
            self.inner.park(fence, &events).await?;
        }
        if self.has(Flaw::RequestsForEver) {
            for park in events.iter().filter(|park| park.failure.as_ref().is_some_and(|f| f.attempts > 1)) {
                self.inner.redrive(&fence.consumer, &Redrive::Event(park.sequence)).await?;
            }
        }
        if self.has(Flaw::BlocksNothing) && events.is_empty() {
            answers.push(Parked::NotBlocked);
        }
        Ok(answers)
    }

    async fn blocked_keys(&self, fence: &Fence) -> Result<Vec<String>, LogError> {
        let mut keys = self.or_silent(self.inner.blocked_keys(&self.taken_for(fence)).await)?;
        if self.has(Flaw::TellsOfAllLanes) {
            let fences: Vec<Fence> = self.notes().fences.values().cloned().collect();
            for other in fences.iter().filter(|other| *other != fence) {
                keys.extend(self.inner.blocked_keys(other).await?);
            }
        }
        if self.has(Flaw::RemembersBlockedKeys) {
            self.notes().blocked.extend(keys);
            keys = self.notes().blocked.iter().cloned().collect();
        }
        if self.has(Flaw::BlocksTheAggregate) {
            let parked = self.inner.parked(&fence.consumer, None, usize::MAX).await?;
            keys = parked.iter().map(|p| format!("Suite/{}", p.event.event.aggregate_id)).collect();
        }
        Ok(keys)
    }

    async fn due_parked(&self, fence: &Fence, limit: usize) -> Result<Vec<ParkedEvent>, LogError> {
        let mut due = self.or_silent(self.inner.due_parked(&self.taken_for(fence), limit).await)?;
        match self.flaw {
            Flaw::EverythingIsDue => due = self.inner.parked(&fence.consumer, None, limit).await?,
            Flaw::DueBackwards => due.reverse(),
            _ => {}
        }
        Ok(due)
    }

    async fn redriven(&self, fence: &Fence, events: &[Republished]) -> Result<Vec<Redriven>, LogError> {
        let mut events = events.to_vec();
        let asked = events.len();
        if self.has(Flaw::ForgetsThoseBehind) {
            let parked = self.inner.parked(&fence.consumer, None, usize::MAX).await?;
            let of_key = parked.iter().filter(|p| events.iter().any(|e| e.lane_key == p.event.event.lane_key()));
            let more: Vec<Republished> = of_key.map(|p| super::parking::published(&p.event)).collect();
            events.extend(more);
        }
        let mut answers = self.or_silent(self.inner.redriven(&self.taken_for(fence), &events).await)?;
        answers.truncate(asked);
        match self.flaw {
            Flaw::NeverFrees => answers.fill(Redriven::KeyBlocked),
            Flaw::FreesAtOnce | Flaw::ForgetsThoseBehind => answers.fill(Redriven::KeyFree),
            _ => {}
        }
        Ok(answers)
    }

    async fn progress(&self, consumer: &ConsumerName) -> Result<Progress, LogError> {
        self.inner.progress(consumer).await
    }

    fn wake(&self) -> &Wake {
        self.inner.wake()
    }
}

impl Broken {
    async fn members(&self) -> Result<usize, LogError> {
        Ok(self.inner.consumers().await?.iter().map(|info| info.members.len()).sum())
    }

    /// A flaw in how fences are compared.
    fn taken_for(&self, fence: &Fence) -> Fence {
        if self.has(Flaw::LooksAtTheMemberOnly) {
            let newest = self.notes().fences.get(&(fence.consumer.clone(), fence.member)).cloned();
            return newest.unwrap_or_else(|| fence.clone());
        }
        fence.clone()
    }

    /// A flaw in who is told that it is fenced.
    fn or_silent<T: Default>(&self, done: Result<T, LogError>) -> Result<T, LogError> {
        match done {
            Err(error) if error.kind() == LogErrorKind::Fenced && self.has(Flaw::SilentFence) => Ok(T::default()),
            Err(error) if error.kind() == LogErrorKind::Fenced && self.has(Flaw::TakesAnyLanes) => Ok(T::default()),
            done => done,
        }
    }

    /// A flaw in leases: those of all others begin anew.
    async fn revive(&self, but: MemberId) {
        if self.has(Flaw::LeasesNeverEnd) {
            let fences: Vec<Fence> = self.notes().fences.values().filter(|f| f.member != but).cloned().collect();
            for fence in fences {
                let _gone_already = self.inner.renew(&fence, Duration::from_hours(1)).await;
            }
        }
    }

    /// Flaws in an event that is read.
    fn spoil(&self, recorded: &mut RecordedEvent, generation: u16) {
        let position = recorded.origin.sequence.position();
        let sequence = |generation, position| Sequence::new(generation, position).expect("sequence");
        match self.flaw {
            Flaw::LanesFromOne => recorded.lane = Lane::new((recorded.lane.get() + 1) % 64).expect("lane"),
            Flaw::ForgetsHeaders => recorded.event.headers = Headers::default(),
            Flaw::ForgetsThatNothingOrders => recorded.event.unordered = false,
            Flaw::ReusesPositions => recorded.origin.sequence = sequence(generation, position - self.notes().removed),
            Flaw::RaisesOldEvents => recorded.origin.sequence = sequence(generation, position),
            _ => {}
        }
    }

    /// Flaws in what becomes of a failure of an event that is parked already.
    async fn fail_again(&self, fence: &Fence, parked: &[ParkedEvent], events: &mut Vec<Park>) -> Result<(), LogError> {
        for park in events.iter().filter(|park| park.failure.is_some()) {
            if let Some(known) = parked.iter().find(|p| p.event.origin.sequence == park.sequence)
                && self.has(Flaw::ParksAnew)
            {
                self.inner.redriven(fence, &[super::parking::published(&known.event)]).await?;
            }
        }
        if self.has(Flaw::KeepsTheFirstFailure) {
            for park in events {
                let known = parked.iter().any(|p| p.event.origin.sequence == park.sequence);
                park.failure = park.failure.take().filter(|_| !known);
            }
        }
        Ok(())
    }
}

fn nothing_behind(track: &Track) -> Page {
    Page { events: Vec::new(), next: track.cursor.clone(), caught_up: true }
}

/// The position of a cursor of a log in memory.
pub(super) fn position(cursor: &Cursor) -> u64 {
    let position = cursor.as_text().split_once('@').and_then(|(position, _)| position.parse().ok());
    position.expect("a cursor of a log in memory")
}
