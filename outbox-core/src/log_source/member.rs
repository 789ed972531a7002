//! What a source does as a member of its consumer.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    Place, Settings,
    asked::Asked,
    lag::Ends,
    lease::{Lease, Places, Standing, tracks_of},
    look::Looks,
    parts::{Found, Part},
};
use crate::{
    event::LaneSet,
    log::{Cursor, EventLog, LogError, LogErrorKind, Track},
    source::{Partition, SourceEvent},
    wake::WakeListener,
};

/// What is committed of the lanes of a source that shares them is written together, this often.
const ROUND: Duration = Duration::from_millis(200);

/// A member, with the partitions that it was told of.
pub(super) struct Member {
    pub(super) place: Place,
    pub(super) lease: Lease,
    pub(super) parts: Vec<Part>,
    pub(super) looks: Looks,
    /// What looks found and was not handed out.
    pub(super) found: VecDeque<Found>,
    errand: Option<Errand>,
    /// When what is committed is to be written.
    pub(super) write_at: Option<Instant>,
    written_at: Option<Instant>,
    pub(super) ends: Option<Ends>,
}

/// Something is being written, whether somebody waits for the end or not: who does not know whether it was written
/// would have to join again.
enum Errand {
    Checkpoint { moved: Vec<Track>, answer: Asked<()> },
    Release { lanes: LaneSet, answer: Asked<()> },
}

impl Member {
    pub(super) fn new(place: Place, lease: Lease) -> Self {
        Self {
            place,
            lease,
            parts: Vec::new(),
            looks: Looks::default(),
            found: VecDeque::new(),
            errand: None,
            write_at: None,
            written_at: None,
            ends: None,
        }
    }

    pub(super) fn has(&self, partition: &Partition) -> bool {
        self.parts.iter().any(|part| part.partition == *partition && !part.leaving)
    }

    pub(super) fn part(&mut self, partition: &Partition) -> Option<&mut Part> {
        self.parts.iter_mut().find(|part| part.partition == *partition && !part.leaving)
    }

    /// Whether some partition stands at this place, so that it is known to be one of this log.
    pub(super) fn is_at(&self, cursor: &Cursor) -> bool {
        let stands =
            |part: &Part| part.committed == *cursor || part.reading.as_ref().is_some_and(|r| r.cursor == *cursor);
        self.parts.iter().any(stands)
    }

    /// Does the next thing, and waits when there is none. `None`: there may be something else to do now.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`] when the membership is over.
    pub(super) async fn act(
        &mut self,
        log: &Arc<dyn EventLog>,
        settings: &Settings,
        bell: &mut WakeListener,
    ) -> Result<Option<SourceEvent>, LogError> {
        self.finish_errand().await?;
        let standing = self.lease.standing();
        if standing.lost {
            return Err(LogError::new(LogErrorKind::Fenced, "the membership is over"));
        }
        if self.parts.iter().any(|part| part.leaving) {
            self.release();
        } else if let Some(gained) = self.gained(&standing) {
            return Ok(Some(SourceEvent::Assigned(gained)));
        } else if let Some(given) = self.surplus(standing.share) {
            return Ok(Some(SourceEvent::Revoked(given)));
        } else if self.write_at.is_some_and(|at| at <= Instant::now()) {
            self.checkpoint();
        } else if let Some(found) = self.found.pop_front() {
            let part = self.parts.iter_mut().find(|part| part.partition == *found.partition());
            return Ok(part.and_then(|part| part.hand_out(found)).map(SourceEvent::Batch));
        } else {
            self.look(log, settings, bell, standing.paused).await?;
        }
        Ok(None)
    }

    /// The log has answered, has nothing for this member, and took all that it was to write.
    pub(super) fn has_nothing(&mut self) -> bool {
        let standing = self.lease.standing();
        let is_told = !self.has_errand() && self.write_at.is_none() && !self.parts.iter().any(|part| part.leaving);
        is_told
            && !standing.lost
            && (self.looks.found_nothing() || (self.parts.is_empty() && standing.lanes.is_empty()))
    }

    /// Whether the log was asked to write something and has not answered yet.
    pub(super) fn has_errand(&self) -> bool {
        self.errand.is_some()
    }

    /// At how many places the lanes stand, where they have to be at one and are not: positions are kept by partition, and
    /// with one for all lanes the events between the places would be skipped.
    pub(super) fn apart(&mut self) -> Option<usize> {
        let places = self.lease.standing().places;
        let first = places.values().next().filter(|_| !self.place.is_shared && self.parts.is_empty())?;
        places.values().any(|place| place != first).then(|| tracks_at(&places, self.place.lanes).len())
    }

    /// Partitions that the log gave and nobody was told of.
    fn gained(&mut self, standing: &Standing) -> Option<Vec<Partition>> {
        let known = self.parts.iter().fold(LaneSet::EMPTY, |known, part| known.union(part.lanes));
        let gained = standing.lanes.difference(known);
        if gained.is_empty() {
            return None;
        }
        let parts = self.place.parts(&tracks_at(&standing.places, gained));
        let partitions = parts.iter().map(|part| part.partition.clone()).collect();
        self.parts.extend(parts);
        self.parts.sort_by_key(|part| part.lanes.mask());
        Some(partitions)
    }

    /// Partitions that the others should have: the last ones.
    fn surplus(&mut self, share: u32) -> Option<Vec<Partition>> {
        let surplus = self.parts.len().saturating_sub(share as usize);
        if !self.place.is_shared || surplus == 0 {
            return None;
        }
        let mut given = Vec::with_capacity(surplus);
        for part in self.parts.iter_mut().rev().take(surplus) {
            part.leaving = true;
            given.push(part.partition.clone());
        }
        Some(given)
    }

    /// Gives back what the caller knows to be gone: nothing of it is under way any more.
    fn release(&mut self) {
        let given = self.parts.iter().filter(|part| part.leaving);
        let given = tracks_of(given.map(|part| (part.lanes, part.done())));
        let lanes = crate::log::lanes_of(&given);
        self.errand = Some(Errand::Release { lanes, answer: Asked::of(self.lease.release(given)) });
    }

    fn checkpoint(&mut self) {
        self.write_at = None;
        self.written_at = Some(Instant::now());
        let moved = tracks_of(self.parts.iter_mut().filter_map(|part| Some((part.lanes, part.note_done()?))));
        if !moved.is_empty() {
            let answer = Asked::of(self.lease.checkpoint(moved.clone()));
            self.errand = Some(Errand::Checkpoint { moved, answer });
        }
    }

    /// Writes what is committed, now or together with what other partitions commit at about the same time.
    ///
    /// # Errors
    /// Those of [`EventLog::checkpoint`].
    pub(super) async fn commit(&mut self, partition: &Partition, cursor: Cursor) -> Result<(), LogError> {
        if let Some(part) = self.part(partition) {
            part.uncommitted = Some(cursor);
        }
        let now = Instant::now();
        let round = self.written_at.map(|at| at + ROUND).filter(|at| self.place.is_shared && *at > now);
        // Also when the writing fails, or nobody waits for it.
        self.write_at = self.write_at.or(round).or(Some(now));
        if round.is_some() { Ok(()) } else { self.write().await }
    }

    /// Writes all that is committed and was not written yet.
    ///
    /// # Errors
    /// Those of [`EventLog::checkpoint`].
    pub(super) async fn write(&mut self) -> Result<(), LogError> {
        self.finish_errand().await?;
        self.checkpoint();
        self.finish_errand().await
    }

    async fn finish_errand(&mut self) -> Result<(), LogError> {
        let result = match &mut self.errand {
            None => return Ok(()),
            Some(Errand::Checkpoint { answer, .. } | Errand::Release { answer, .. }) => answer.wait().await,
        };
        match (self.errand.take(), &result) {
            (Some(Errand::Release { lanes, .. }), Ok(())) => {
                self.parts.retain(|part| part.lanes.intersection(lanes).is_empty());
            }
            (Some(Errand::Checkpoint { moved, .. }), Ok(())) => self.was_written(&moved),
            (Some(Errand::Checkpoint { moved, .. }), Err(error)) if error.kind().passes() => {
                tracing::debug!(error = %crate::error::chain(error), tracks = moved.len(), "written later");
                self.write_at = Some(Instant::now());
            }
            (Some(Errand::Checkpoint { .. }), Err(_)) => {
                // The same answer would come for ever.
                self.parts.iter_mut().for_each(|part| part.uncommitted = None);
            }
            _ => {}
        }
        result
    }

    fn was_written(&mut self, moved: &[Track]) {
        for part in &mut self.parts {
            let track = moved.iter().find(|track| !track.lanes.intersection(part.lanes).is_empty());
            if let Some(track) = track {
                part.committed = track.cursor.clone();
                part.uncommitted.take_if(|cursor| *cursor == track.cursor);
            }
        }
    }
}

fn tracks_at(places: &Places, lanes: LaneSet) -> Vec<Track> {
    let of_lanes = places.iter().filter(|(lane, _)| lanes.contains(**lane));
    tracks_of(of_lanes.map(|(lane, cursor)| (LaneSet::from_iter([*lane]), cursor)))
}
