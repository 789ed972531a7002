//! The names of the headers that encoders write. `docs/wire-format.md` says what stands in each.

use std::{rc::Rc, sync::Arc};

use crate::event::TraceParent;

/// The log's id, a UUID as text. Absent from an unordered event.
pub const LOG: &str = "outbox-log";
/// The event's id, a UUID as text.
pub const ID: &str = "outbox-id";
/// The event's type.
pub const TYPE: &str = "outbox-type";
/// The aggregate's type.
pub const AGGREGATE_TYPE: &str = "outbox-aggregate-type";
/// The aggregate's id.
pub const AGGREGATE_ID: &str = "outbox-aggregate-id";
/// The event's place in its log, decimal. Absent from an unordered event.
pub const SEQUENCE: &str = "outbox-sequence";
/// The ordering key, when there is one.
pub const ORDERING_KEY: &str = "outbox-ordering-key";
/// `true` on an unordered event, absent from others.
pub const UNORDERED: &str = "outbox-unordered";
/// When the writer made the event, as the envelope's `created_at`. Only where the body has no room for it.
pub const CREATED_AT: &str = "outbox-created-at";
/// `true` on an event without a payload whose body has to be something all the same, absent from others.
pub const TOMBSTONE: &str = "outbox-tombstone";
/// The media type of the payload inside the body, when it is another than `application/json`.
pub const PAYLOAD_TYPE: &str = "outbox-payload-type";
/// The media type of the body.
pub const CONTENT_TYPE: &str = "content-type";

macro_rules! names {
    ($($name:ident = $text:expr,)*) => {
        /// A header's name that is made once and shared by all messages.
        #[derive(Debug, Clone, Copy)]
        pub(super) enum Name { $($name),* }

        impl Name {
            const ALL: &[Self] = &[$(Self::$name),*];

            /// The name as text.
            pub(super) const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }
        }
    };
}

names! {
    Log = LOG,
    Id = ID,
    Type = TYPE,
    AggregateType = AGGREGATE_TYPE,
    AggregateId = AGGREGATE_ID,
    Sequence = SEQUENCE,
    OrderingKey = ORDERING_KEY,
    Unordered = UNORDERED,
    CreatedAt = CREATED_AT,
    Tombstone = TOMBSTONE,
    PayloadType = PAYLOAD_TYPE,
    ContentType = CONTENT_TYPE,
    TraceParent = TraceParent::HEADER,
    CeSpecVersion = "ce_specversion",
    CeId = "ce_id",
    CeSource = "ce_source",
    CeType = "ce_type",
    CeSubject = "ce_subject",
    CeTime = "ce_time",
    CeAggregateType = "ce_aggregatetype",
    CePartitionKey = "ce_partitionkey",
    CeOrderingKey = "ce_orderingkey",
    CeLog = "ce_logid",
    CeSequence = "ce_sequence",
    CeUnordered = "ce_unordered",
    CeTraceParent = "ce_traceparent",
}

/// The names as messages hold them.
pub(super) struct Names(Vec<Arc<str>>);

impl Names {
    /// A thread has its own, lest threads that encode side by side pass reference counts to and fro.
    pub(super) fn of_this_thread() -> Rc<Self> {
        thread_local! {
            static NAMES: Rc<Names> = Rc::new(Names(Name::ALL.iter().map(|name| name.text().into()).collect()));
        }
        NAMES.with(Rc::clone)
    }

    pub(super) fn shared(&self, name: Name) -> Arc<str> {
        self.0[name as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Headers;

    #[test]
    fn a_shared_name_is_the_name() {
        for name in Name::ALL {
            assert_eq!(&*Names::of_this_thread().shared(*name), name.text());
        }
    }

    #[test]
    fn no_event_can_have_a_header_of_ours() {
        let ours = Name::ALL.iter().map(|name| name.text());
        for name in ours.filter(|name| name.starts_with("outbox-") || *name == CONTENT_TYPE) {
            Headers::default().insert(name, "x").expect_err(name);
        }
    }
}
