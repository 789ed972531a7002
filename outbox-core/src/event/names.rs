//! Names as types that cannot hold a bad value.

use std::{fmt, sync::Arc};

use super::{Field, InvalidEvent, InvalidReason};

/// The longest name accepted, in bytes of UTF-8.
pub const MAX_NAME_BYTES: usize = 255;

fn parse(field: Field, text: &str) -> Result<Arc<str>, InvalidEvent> {
    if text.is_empty() {
        return Err(InvalidEvent::new(field, InvalidReason::Empty));
    }
    if text.len() > MAX_NAME_BYTES {
        let reason = InvalidReason::TooLong { bytes: text.len(), limit: MAX_NAME_BYTES };
        return Err(InvalidEvent::new(field, reason));
    }
    if text.chars().any(char::is_control) {
        return Err(InvalidEvent::new(field, InvalidReason::ControlCharacter));
    }
    Ok(text.into())
}

macro_rules! name {
    ($(#[$meta:meta])* $name:ident, $field:expr) => {
        $(#[$meta])*
        ///
        /// 1 to [`MAX_NAME_BYTES`] bytes of UTF-8 without control characters. Cloning is cheap.
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses a name.
            ///
            /// # Errors
            /// [`InvalidEvent`] naming this field when the text is empty, longer than
            /// [`MAX_NAME_BYTES`] or holds a control character.
            pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidEvent> {
                parse($field, text.as_ref()).map(Self)
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidEvent;

            fn from_str(text: &str) -> Result<Self, InvalidEvent> {
                Self::parse(text)
            }
        }
    };
}

name!(
    /// What kind of thing an event is about, such as `Tutor`.
    AggregateType, Field::AggregateType
);
name!(
    /// Which one of its kind an event is about, such as `42`.
    AggregateId, Field::AggregateId
);
name!(
    /// What happened, such as `TutorCreated`.
    EventType, Field::EventType
);
name!(
    /// A key that orders events across aggregates; in its absence the aggregate orders them.
    OrderingKey, Field::OrderingKey
);
name!(
    /// The media type of a payload, such as `application/json`.
    ContentType, Field::ContentType
);

impl ContentType {
    /// `application/json`.
    #[must_use]
    pub fn json() -> Self {
        static JSON: std::sync::LazyLock<Arc<str>> = std::sync::LazyLock::new(|| "application/json".into());
        Self(JSON.clone())
    }

    /// Whether the payload must be one JSON value: `application/json`, with or without parameters, or a `+json` suffix.
    #[must_use]
    pub fn is_json(&self) -> bool {
        let essence = self.0.split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json") || essence.to_ascii_lowercase().ends_with("+json")
    }
}
