//! What a step comes down to: the newest change of each document.

use std::collections::{HashMap, hash_map::Entry};

use outbox_core::{
    event::ReceivedEvent,
    projection::{Applied, ProjectionError, ProjectionErrorKind},
};

use super::{Documents, VersionedWrite};
use crate::trace;

pub(super) struct Newest {
    /// No id twice.
    pub(super) writes: Vec<VersionedWrite>,
    /// What each write stands for.
    pub(super) behind: Vec<Behind>,
    /// The events that no write stands for.
    pub(super) counted: Applied,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Behind {
    /// The index of its event in the step.
    pub(super) event: usize,
    /// Its event, and the older ones of the step that it replaces.
    pub(super) events: usize,
}

impl Newest {
    /// # Errors
    /// [`ProjectionErrorKind::Rejected`], naming the first event that is no change, or whose sequence nobody knows.
    pub(super) fn of(documents: &(impl Documents + ?Sized), events: &[ReceivedEvent]) -> Result<Self, ProjectionError> {
        let mut newest = Self { writes: Vec::new(), behind: Vec::new(), counted: Applied::default() };
        let mut known = HashMap::with_capacity(events.len());
        for (event, received) in events.iter().enumerate() {
            match write(documents, received).map_err(|error| error.at(event))? {
                None => newest.counted.ignored += 1,
                Some(write) => match known.entry(write.id.clone()) {
                    Entry::Vacant(vacant) => {
                        vacant.insert(newest.writes.len());
                        newest.writes.push(write);
                        newest.behind.push(Behind { event, events: 1 });
                    }
                    Entry::Occupied(place) => newest.meet(*place.get(), write, event),
                },
            }
        }
        Ok(newest)
    }

    /// The write that stands for this event of the step, unless a newer one replaced it.
    pub(super) fn write_of(&self, event: usize) -> Option<&VersionedWrite> {
        let place = self.behind.iter().position(|behind| behind.event == event)?;
        self.writes.get(place)
    }

    /// First deliveries of a key are in order, so what is not above the one before was there already.
    fn meet(&mut self, place: usize, write: VersionedWrite, event: usize) {
        if write.version > self.writes[place].version {
            self.writes[place] = write;
            self.behind[place] = Behind { event, events: self.behind[place].events + 1 };
        } else {
            self.counted.duplicates += 1;
        }
    }
}

impl Behind {
    /// Counts its events by what became of the write. Those that it replaces are in it, so they share its fate.
    pub(super) fn count(self, stored: bool, applied: &mut Applied) {
        if stored {
            applied.applied += self.events;
        } else {
            applied.duplicates += self.events;
        }
    }
}

fn write(
    documents: &(impl Documents + ?Sized),
    received: &ReceivedEvent,
) -> Result<Option<VersionedWrite>, ProjectionError> {
    let rejected = |why: &str| {
        let event = &received.event;
        let message = format!("{} {} {why}", event.event_type, event.id);
        ProjectionError::new(ProjectionErrorKind::Rejected, message)
    };
    let changed = trace::handling(received).in_scope(|| documents.change(received));
    let Some(change) = changed.map_err(|error| rejected("is no change of a document").with_source(error))? else {
        return Ok(None);
    };
    let Some(origin) = received.origin else {
        return Err(rejected(
            "does not say where it stands in its log, as one that is unordered or from another writer: nobody can tell \
             whether it is newer than the document",
        ));
    };
    Ok(Some(VersionedWrite { id: change.id, version: origin.sequence.get(), document: change.document }))
}

#[cfg(test)]
mod tests {
    use outbox_core::{
        error::{BoxError, chain},
        event::{LogId, NewEvent, Origin, Sequence},
    };

    use super::*;
    use crate::external::Change;

    fn event(id: &str, event_type: &str, position: u64) -> ReceivedEvent {
        let event = NewEvent::tombstone("Tutor", id, event_type).expect("event").into_event();
        let sequence = Sequence::new(0, position).expect("sequence");
        ReceivedEvent { origin: Some(Origin { log: LogId(uuid::Uuid::nil()), sequence }), event }
    }

    fn documents(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
        match received.event.event_type.as_str() {
            "Unheard" => Ok(None),
            "Bad" => Err("it is bad".into()),
            _ => Ok(Some(Change::delete(received.event.aggregate_id.as_str()))),
        }
    }

    #[test]
    fn of_each_document_the_newest_is_written_and_every_event_counted() {
        let events = [
            event("a", "Erased", 1),
            event("b", "Erased", 2),
            event("a", "Unheard", 3),
            event("a", "Erased", 4),
            event("a", "Erased", 1),
            event("a", "Erased", 4),
        ];
        let newest = Newest::of(&documents, &events).expect("changes");
        let writes: Vec<_> = newest.writes.iter().map(|write| (&*write.id, write.version)).collect();
        assert_eq!(writes, [("a", 4), ("b", 2)]);
        assert_eq!(newest.behind, [Behind { event: 3, events: 2 }, Behind { event: 1, events: 1 }]);
        assert_eq!((newest.counted.ignored, newest.counted.duplicates), (1, 2));
    }

    #[test]
    fn what_is_no_change_is_rejected_by_its_index_and_reason() {
        let mut foreign = event("a", "Erased", 1);
        foreign.origin = None;
        let ignored = ReceivedEvent { origin: None, ..event("a", "Unheard", 1) };
        for (bad, reason) in [(event("a", "Bad", 2), "it is bad"), (foreign, "where it stands in its log")] {
            let Err(error) = Newest::of(&documents, &[ignored.clone(), bad]) else { panic!("rejected") };
            assert_eq!((error.kind(), error.event()), (ProjectionErrorKind::Rejected, Some(1)));
            assert!(chain(&error).contains(reason), "{error}");
        }
    }
}
