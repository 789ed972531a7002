//! The attributes of an event, to and from either mode.

use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::CloudEvents;
use crate::{
    event::{ContentType, Event, ReceivedEvent, RecordedEvent, TraceParent},
    profile::{
        CodecError, CodecErrorKind, facts,
        header::Name,
        text::{self, Zone},
    },
};

/// The version of the specification.
const VERSION: &str = "1.0";

/// How many attributes an event has at most.
pub(super) const COUNT: usize = 13;

/// What an attribute says.
#[derive(Clone, Copy)]
pub(super) enum Value<'e> {
    Text(&'e str),
    /// Text that never changes.
    Fixed(&'static str),
    Id(Uuid),
    /// The log's id as a URN.
    Log(Uuid),
    Time(DateTime<Utc>),
    /// The specification wants sequences that sort as text.
    Sequence(u64),
}

impl Value<'_> {
    pub(super) fn write(self, out: &mut Vec<u8>) {
        match self {
            Self::Text(text) | Self::Fixed(text) => out.extend_from_slice(text.as_bytes()),
            Self::Id(id) => text::uuid(out, id),
            Self::Log(id) => {
                out.extend_from_slice(b"urn:uuid:");
                text::uuid(out, id);
            }
            Self::Time(time) => text::time(out, time, Zone::Letter),
            Self::Sequence(sequence) => text::number(out, sequence, 19),
        }
    }
}

impl CloudEvents {
    /// Hands over each attribute, named as its header in binary mode.
    pub(super) fn attributes<'e>(&'e self, recorded: &'e RecordedEvent, mut put: impl FnMut(Name, Value<'e>)) {
        let event = &recorded.event;
        let log = recorded.origin.log.0;
        put(Name::CeSpecVersion, Value::Fixed(VERSION));
        put(Name::CeId, Value::Id(event.id));
        put(Name::CeSource, self.source.as_deref().map_or(Value::Log(log), Value::Text));
        put(Name::CeType, Value::Text(event.event_type.as_str()));
        put(Name::CeSubject, Value::Text(event.aggregate_id.as_str()));
        put(Name::CeTime, Value::Time(event.created_at));
        put(Name::ContentType, Value::Text(event.content_type.as_str()));
        put(Name::CeAggregateType, Value::Text(event.aggregate_type.as_str()));
        put(Name::CePartitionKey, Value::Text(event.message_key()));
        if let Some(key) = &event.ordering_key {
            put(Name::CeOrderingKey, Value::Text(key.as_str()));
        }
        if event.unordered {
            put(Name::CeUnordered, Value::Fixed(facts::TRUE));
        } else {
            put(Name::CeLog, Value::Id(log));
            put(Name::CeSequence, Value::Sequence(recorded.origin.sequence.get()));
        }
        if let Some(parent) = trace_parent(event) {
            put(Name::CeTraceParent, Value::Text(parent));
        }
    }
}

/// The header `traceparent`, if it is one of the length that W3C gave the form we know.
fn trace_parent(event: &Event) -> Option<&str> {
    const BYTES: usize = 55;
    let text = std::str::from_utf8(event.headers.first(TraceParent::HEADER)?).ok()?;
    (text.len() == BYTES && TraceParent::parse(text).is_some()).then_some(text)
}

/// The attributes of a message, as they came.
pub(super) struct Received<'m> {
    pub(super) specversion: Cow<'m, str>,
    pub(super) id: Cow<'m, str>,
    pub(super) event_type: Cow<'m, str>,
    pub(super) subject: Option<Cow<'m, str>>,
    pub(super) time: Option<Cow<'m, str>>,
    pub(super) aggregate_type: Option<Cow<'m, str>>,
    pub(super) ordering_key: Option<Cow<'m, str>>,
    pub(super) log: Option<Cow<'m, str>>,
    pub(super) sequence: Option<Cow<'m, str>>,
    pub(super) unordered: bool,
    pub(super) trace_parent: Option<Cow<'m, str>>,
}

impl Received<'_> {
    /// The event, with a payload of this type.
    pub(super) fn event(
        self,
        content_type: ContentType,
        payload: Option<Bytes>,
        headers: &[(Arc<str>, Bytes)],
    ) -> Result<ReceivedEvent, CodecError> {
        if self.specversion != VERSION {
            let message = format!("CloudEvents {:?} are not known; expected {VERSION}", self.specversion);
            return Err(CodecError::new(CodecErrorKind::Field, message));
        }
        let time = required("time", self.time)?;
        let mut own = facts::own(headers.iter().filter(|(name, _)| !super::is_attribute(name)));
        if let (None, Some(parent)) = (own.first(TraceParent::HEADER), self.trace_parent) {
            let _no_room = own.insert(TraceParent::HEADER, parent.into_owned());
        }
        let origin = facts::place(self.log.as_deref(), "logid", self.sequence.as_deref(), "sequence")?;
        let event = Event {
            id: facts::id("id", &self.id)?,
            aggregate_type: facts::parse("aggregatetype", &required("aggregatetype", self.aggregate_type)?)?,
            aggregate_id: facts::parse("subject", &required("subject", self.subject)?)?,
            ordering_key: self.ordering_key.map(|key| facts::parse("orderingkey", &key)).transpose()?,
            unordered: self.unordered,
            event_type: facts::parse("type", &self.event_type)?,
            content_type,
            payload,
            headers: own,
            created_at: time.parse().map_err(|e: chrono::ParseError| facts::unreadable("time").with_source(e))?,
        };
        Ok(ReceivedEvent { origin, event })
    }
}

fn required<'m>(attribute: &str, value: Option<Cow<'m, str>>) -> Result<Cow<'m, str>, CodecError> {
    value.ok_or_else(|| CodecError::new(CodecErrorKind::Field, format!("the CloudEvent has no {attribute}")))
}
