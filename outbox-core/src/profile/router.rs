use std::{collections::HashMap, sync::Arc};

use super::{
    ProfileError, ProfileErrorKind,
    topics::{KnownTopics, parse_topic, unroutable},
};
use crate::event::{Event, InvalidEvent};

/// Chooses the topic of an event.
///
/// A topic name is 1 to 249 of letters, digits, `.`, `_` and `-`, and not `.` or `..`. The routers here refuse others.
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
    known: Arc<KnownTopics>,
}

impl PerAggregateType {
    /// Uses another suffix than `-events`.
    #[must_use]
    pub fn with_suffix(suffix: impl Into<Arc<str>>) -> Self {
        Self { suffix: Some(suffix.into()), ..Self::default() }
    }
}

impl Router for PerAggregateType {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        let aggregate_type = event.aggregate_type.as_str();
        self.known.get_or_make(aggregate_type, || {
            let suffix = self.suffix.as_deref().unwrap_or("-events");
            parse_topic(&format!("{}{suffix}", aggregate_type.to_lowercase()))
        })
    }
}

/// Topics from a table by aggregate type; a type that is not in it is refused.
///
/// [`TopicTable::parse`] refuses a table with a topic that no broker takes. Collected from an iterator, the table keeps
/// such a row, and refuses the events of its type.
#[derive(Debug, Clone, Default)]
pub struct TopicTable(HashMap<Box<str>, Result<Arc<str>, InvalidEvent>>);

impl TopicTable {
    /// The table of these rows: aggregate type and topic. The last row of a type counts.
    ///
    /// # Errors
    /// [`ProfileError`] of the kind [`ProfileErrorKind::Topic`] that names the first bad topic.
    pub fn parse<A: AsRef<str>, T: AsRef<str>>(rows: impl IntoIterator<Item = (A, T)>) -> Result<Self, ProfileError> {
        let parse = |(aggregate_type, topic): (A, T)| {
            let aggregate_type = aggregate_type.as_ref();
            let topic = parse_topic(topic.as_ref()).map_err(|e| {
                let message = format!("the topic of aggregate type {aggregate_type:?} cannot be used");
                ProfileError::new(ProfileErrorKind::Topic, message).with_source(e)
            })?;
            Ok((aggregate_type.into(), Ok(topic)))
        };
        Ok(Self(rows.into_iter().map(parse).collect::<Result<_, ProfileError>>()?))
    }
}

impl<A: Into<String>, T: Into<Arc<str>>> FromIterator<(A, T)> for TopicTable {
    fn from_iter<I: IntoIterator<Item = (A, T)>>(rows: I) -> Self {
        Self(rows.into_iter().map(|(a, t)| (a.into().into(), parse_topic(&t.into()))).collect())
    }
}

impl Router for TopicTable {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        let aggregate_type = event.aggregate_type.as_str();
        self.0
            .get(aggregate_type)
            .cloned()
            .unwrap_or_else(|| Err(unroutable(format!("no topic is configured for aggregate type {aggregate_type:?}"))))
    }
}

impl<F: Fn(&Event) -> String + Send + Sync> Router for F {
    fn topic(&self, event: &Event) -> Result<Arc<str>, InvalidEvent> {
        parse_topic(&self(event))
    }
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;
    use crate::event::{Field, NewEvent};

    fn event(aggregate_type: &str) -> Event {
        NewEvent::tombstone(aggregate_type, 1, "Happened").expect("event").into_event()
    }

    #[test]
    fn routes_as_the_seed_does() {
        let router = PerAggregateType::default();
        for _ in 0..2 {
            assert_eq!(router.topic(&event("Tutor")).as_deref(), Ok("tutor-events"));
            assert_eq!(router.topic(&event("TUTOR")).as_deref(), Ok("tutor-events"));
        }
        assert_eq!(PerAggregateType::with_suffix(".v2").topic(&event("Tutor")).as_deref(), Ok("tutor.v2"));
    }

    #[test]
    fn refuses_what_no_broker_takes() {
        let router = PerAggregateType::default();
        for bad in ["two words", "Репетитор", &"x".repeat(250)] {
            for _ in 0..2 {
                assert_eq!(router.topic(&event(bad)).expect_err(bad).field(), Field::Topic);
            }
        }
    }

    #[test]
    fn a_table_and_a_closure_route_too() {
        let table: TopicTable = [("Tutor", "people"), ("Booking", "b/c")].into_iter().collect();
        assert_eq!(table.topic(&event("Tutor")).as_deref(), Ok("people"));
        for refused in ["Booking", "absent"] {
            assert_eq!(table.topic(&event(refused)).expect_err(refused).field(), Field::Topic);
        }
        let closure = |e: &Event| format!("all.{}", e.event_type);
        assert_eq!(closure.topic(&event("Tutor")).as_deref(), Ok("all.Happened"));
        let closure = |_: &Event| "..".to_owned();
        assert_eq!(closure.topic(&event("Tutor")).expect_err("no topic").field(), Field::Topic);
    }

    #[test]
    fn a_table_is_parsed_before_it_is_used() {
        let table = TopicTable::parse([("Tutor", "people"), ("Tutor", "tutors")]).expect("table");
        assert_eq!(table.topic(&event("Tutor")).as_deref(), Ok("tutors"));
        let refused = TopicTable::parse([("Tutor", "people"), ("Booking", "b/c")]).expect_err("b/c");
        assert_eq!(refused.kind(), ProfileErrorKind::Topic);
        assert!(refused.to_string().contains("Booking"), "{refused}");
        assert!(refused.source().is_some_and(|cause| cause.to_string().contains("b/c")), "{refused:?}");
    }
}
