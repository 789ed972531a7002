use std::{collections::HashMap, sync::Arc};

use crate::event::{Event, Field, InvalidEvent, InvalidReason};

/// Chooses the topic of an event.
///
/// # Contract
/// A pure function of the event: the same event is routed to the same topic, by writer and relay alike.
///
/// # Ordering
/// All events that must keep their order have to go to one topic.
///
/// # Concurrency
/// Called from any thread.
///
/// # Errors
/// An event that has no topic is refused at append.
pub trait Router: Send + Sync {
    /// The topic of this event.
    ///
    /// # Errors
    /// [`InvalidEvent`] when there is none.
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent>;
}

/// One topic per aggregate type: `Tutor` → `tutor-events`. The default.
#[derive(Debug, Clone, Default)]
pub struct PerAggregateType {
    suffix: Option<Arc<str>>,
}

impl PerAggregateType {
    /// Uses another suffix than `-events`.
    #[must_use]
    pub fn with_suffix(suffix: impl Into<Arc<str>>) -> Self {
        Self { suffix: Some(suffix.into()) }
    }
}

impl Router for PerAggregateType {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        let suffix = self.suffix.as_deref().unwrap_or("-events");
        parse_topic(format!("{}{suffix}", event.aggregate_type.as_str().to_lowercase()))
    }
}

/// Topics from a table by aggregate type; a type that is not in it is refused.
#[derive(Debug, Clone, Default)]
pub struct TopicTable(HashMap<String, Arc<str>>);

impl<A: Into<String>, T: Into<Arc<str>>> FromIterator<(A, T)> for TopicTable {
    fn from_iter<I: IntoIterator<Item = (A, T)>>(rows: I) -> Self {
        Self(rows.into_iter().map(|(a, t)| (a.into(), t.into())).collect())
    }
}

impl Router for TopicTable {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        let aggregate_type = event.aggregate_type.as_str();
        match self.0.get(aggregate_type) {
            Some(topic) => parse_topic(topic.as_ref()),
            None => Err(unroutable(format!("no topic is configured for aggregate type {aggregate_type:?}"))),
        }
    }
}

impl<F: Fn(&Event) -> String + Send + Sync> Router for F {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        parse_topic(self(event))
    }
}

/// Kafka's rule: 1 to 249 of letters, digits, `.`, `_` and `-`, not `.` or `..`.
fn parse_topic(topic: impl AsRef<str>) -> Result<Arc<str>, InvalidEvent> {
    let topic = topic.as_ref();
    let good = (1..=249).contains(&topic.len())
        && topic != "."
        && topic != ".."
        && topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if good {
        Ok(topic.into())
    } else {
        Err(unroutable(format!("{topic:?} is no topic name: use 1 to 249 of letters, digits, '.', '_' and '-'")))
    }
}

fn unroutable(detail: String) -> InvalidEvent {
    InvalidEvent::new(Field::Topic, InvalidReason::Unroutable { detail })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::NewEvent;

    fn event(aggregate_type: &str) -> Event {
        NewEvent::tombstone(aggregate_type, 1, "Happened").expect("event").into_event()
    }

    #[test]
    fn routes_as_the_seed_does() {
        let topic = PerAggregateType::default().topic(&event("Tutor"));
        assert_eq!(topic.as_deref(), Ok("tutor-events"));
    }

    #[test]
    fn refuses_what_no_broker_takes() {
        for bad in ["two words", "Репетитор", &"x".repeat(250)] {
            let refused = PerAggregateType::default().topic(&event(bad)).expect_err(bad);
            assert_eq!(refused.field(), Field::Topic);
        }
    }

    #[test]
    fn a_table_and_a_closure_route_too() {
        let table: TopicTable = [("Tutor", "people")].into_iter().collect();
        assert_eq!(table.topic(&event("Tutor")).as_deref(), Ok("people"));
        assert_eq!(table.topic(&event("Booking")).expect_err("absent").field(), Field::Topic);
        let closure = |e: &Event| format!("all.{}", e.event_type);
        assert_eq!(closure.topic(&event("Tutor")).as_deref(), Ok("all.Happened"));
    }
}
