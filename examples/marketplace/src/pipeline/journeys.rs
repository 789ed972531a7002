//! The last events and when they reached each stage, for watching.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use chrono::{DateTime, TimeDelta, Utc};
use outbox_core::event::Event;
use serde::Deserialize;
use tokio::sync::watch;
use uuid::Uuid;

/// The last dozen events that this process wrote, relayed or indexed. Cloning shares them.
#[derive(Clone)]
pub(crate) struct Journeys(Arc<Shared>);

struct Shared {
    /// By id, and so by age: the ids are UUIDv7.
    last: Mutex<BTreeMap<Uuid, Journey>>,
    moved: watch::Sender<()>,
}

const KEPT: usize = 12;

/// An event's way.
#[derive(Debug, Clone)]
pub(crate) struct Journey {
    pub(crate) event_type: String,
    /// Whom it is about: the name where the payload has one, else the aggregate's id.
    pub(crate) about: String,
    pub(crate) created_at: DateTime<Utc>,
    /// Since its creation.
    pub(crate) relayed: Option<TimeDelta>,
    pub(crate) indexed: Option<TimeDelta>,
}

#[derive(Deserialize)]
struct Named {
    full_name: String,
}

impl Default for Journeys {
    fn default() -> Self {
        Self(Arc::new(Shared { last: Mutex::default(), moved: watch::Sender::default() }))
    }
}

impl Journeys {
    /// Events of a transaction that was committed.
    pub(crate) fn written(&self, events: impl IntoIterator<Item = Event>) {
        self.note(events, |_| {});
    }

    /// Events that took effect in the index. They may come before `written`: the projector is quick.
    pub(crate) fn indexed(&self, events: impl IntoIterator<Item = Event>) {
        let now = Utc::now();
        self.note(events, |journey| {
            journey.indexed.get_or_insert(now - journey.created_at);
        });
    }

    /// An event that the broker acknowledged. One written by another process is unknown here and passed over.
    #[cfg(feature = "production")]
    pub(crate) fn relayed(&self, id: Uuid) {
        if let Some(journey) = self.lock().get_mut(&id) {
            journey.relayed.get_or_insert(Utc::now() - journey.created_at);
        }
        self.0.moved.send_replace(());
    }

    /// The newest first.
    pub(crate) fn newest(&self) -> Vec<Journey> {
        self.lock().values().rev().cloned().collect()
    }

    /// Changes with every step of any event.
    pub(crate) fn moved(&self) -> watch::Receiver<()> {
        self.0.moved.subscribe()
    }

    fn note(&self, events: impl IntoIterator<Item = Event>, step: impl Fn(&mut Journey)) {
        let mut last = self.lock();
        for event in events {
            step(last.entry(event.id).or_insert_with(|| Journey::of(&event)));
            if last.len() > KEPT {
                last.pop_first();
            }
        }
        drop(last);
        self.0.moved.send_replace(());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Uuid, Journey>> {
        self.0.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Journey {
    fn of(event: &Event) -> Self {
        let named = event.payload.as_deref().and_then(|p| serde_json::from_slice::<Named>(p).ok());
        Self {
            event_type: event.event_type.to_string(),
            about: named.map_or_else(|| format!("{} {}", event.aggregate_type, event.aggregate_id), |n| n.full_name),
            created_at: event.created_at,
            relayed: None,
            indexed: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use outbox_core::event::NewEvent;
    use serde_json::json;

    use super::*;

    fn event(id: i64) -> Event {
        let payload = json!({"full_name": format!("Tutor {id}")});
        NewEvent::json("Tutor", id, "TutorCreated", &payload).expect("event").into_event()
    }

    #[test]
    fn the_last_dozen_is_kept_newest_first() {
        let journeys = Journeys::default();
        let events: Vec<Event> = (1..=20).map(event).collect();
        journeys.written(events.clone());
        journeys.indexed(events);
        let newest = journeys.newest();
        assert_eq!(newest.len(), KEPT);
        assert_eq!((newest[0].about.as_str(), newest[11].about.as_str()), ("Tutor 20", "Tutor 9"));
        assert!(newest.iter().all(|j| j.indexed.is_some()));
    }

    #[test]
    fn indexed_before_written_is_one_journey_and_the_first_time_counts() {
        let journeys = Journeys::default();
        let event = event(1);
        journeys.indexed([event.clone()]);
        let first = journeys.newest()[0].indexed;
        journeys.written([event.clone()]);
        journeys.indexed([event]);
        assert_eq!(journeys.newest().len(), 1);
        assert_eq!(journeys.newest()[0].indexed, first);
    }
}
