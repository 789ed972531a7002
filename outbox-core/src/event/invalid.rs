use std::fmt;

/// An event that cannot be written, and why. Nothing was sent to the database; the transaction stays usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct InvalidEvent {
    field: Field,
    reason: InvalidReason,
}

impl InvalidEvent {
    /// An event refused because of this field.
    #[must_use]
    pub fn new(field: Field, reason: InvalidReason) -> Self {
        Self { field, reason }
    }

    /// The field at fault.
    #[must_use]
    pub fn field(&self) -> Field {
        self.field
    }

    /// What is wrong with it.
    #[must_use]
    pub fn reason(&self) -> &InvalidReason {
        &self.reason
    }
}

/// A part of an event that can be refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Field {
    /// The aggregate type.
    AggregateType,
    /// The aggregate id.
    AggregateId,
    /// The event type.
    EventType,
    /// The ordering key.
    OrderingKey,
    /// The content type.
    ContentType,
    /// The payload.
    Payload,
    /// A header's name or value, or all headers together.
    Header,
    /// The topic the router chose.
    Topic,
    /// The whole message as it would be published.
    Message,
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AggregateType => "aggregate_type",
            Self::AggregateId => "aggregate_id",
            Self::EventType => "event_type",
            Self::OrderingKey => "ordering_key",
            Self::ContentType => "content_type",
            Self::Payload => "payload",
            Self::Header => "header",
            Self::Topic => "topic",
            Self::Message => "message",
        })
    }
}

/// Why a field was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidReason {
    /// The field is empty.
    #[error("is empty; give at least one character")]
    Empty,
    /// The field is too long.
    #[error("is {bytes} bytes long; the limit is {limit}")]
    TooLong {
        /// How long it is.
        bytes: usize,
        /// How long it may be.
        limit: usize,
    },
    /// The field holds a control character, such as NUL or a line break.
    #[error("holds a control character; names are printable text")]
    ControlCharacter,
    /// The payload is declared as JSON and is not one JSON value.
    #[error("is not valid JSON ({detail}); mend it or declare another content type")]
    NotJson {
        /// What the JSON parser said.
        detail: String,
    },
    /// The header's name begins with a prefix that the library keeps for itself.
    #[error("name {name:?} is reserved; choose one that does not begin with \"outbox-\" and is not \"content-type\"")]
    Reserved {
        /// The refused name.
        name: String,
    },
    /// An unordered event has an ordering key.
    #[error("is set on an event that is declared unordered; leave one of the two out")]
    Unordered,
    /// The destination cannot carry this value.
    #[error("{detail}")]
    Unroutable {
        /// What the destination accepts.
        detail: String,
    },
}
