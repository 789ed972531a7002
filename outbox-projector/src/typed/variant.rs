//! An event as serde's externally tagged enum.

use std::fmt;

use outbox_core::event::Event;
use serde::{
    Deserializer,
    de::{self, DeserializeSeed, EnumAccess, VariantAccess, Visitor, value::BorrowedStrDeserializer},
    forward_to_deserialize_any,
};

/// The event type is the tag, the payload the content.
#[derive(Clone, Copy)]
pub(super) struct Tagged<'de> {
    event: &'de Event,
}

#[derive(Debug)]
pub(super) enum Error {
    NoSuchVariant,
    Payload(serde_json::Error),
}

impl<'de> Tagged<'de> {
    pub(super) fn of(event: &'de Event) -> Self {
        Self { event }
    }

    /// Reads the whole payload.
    fn read<T>(
        self,
        read: impl FnOnce(&mut serde_json::Deserializer<serde_json::de::SliceRead<'de>>) -> Result<T, serde_json::Error>,
    ) -> Result<T, Error> {
        let content_type = &self.event.content_type;
        let payload = match &self.event.payload {
            Some(payload) if content_type.is_json() => payload,
            Some(_) => return Err(de::Error::custom(format_args!("it is {content_type} and not JSON"))),
            None => NOTHING,
        };
        let mut json = serde_json::Deserializer::from_slice(payload);
        let content = read(&mut json).and_then(|content| json.end().map(|()| content)).map_err(Error::Payload);
        match content {
            Err(Error::Payload(_)) if self.event.payload.is_none() => Err(de::Error::custom("it has no payload")),
            content => content,
        }
    }
}

/// A tombstone's payload.
const NOTHING: &[u8] = b"null";

impl<'de> Deserializer<'de> for Tagged<'de> {
    type Error = Error;

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let expected = &visitor as &dyn de::Expected;
        Err(de::Error::custom(format_args!("events are decoded into externally tagged enums, not into {expected}")))
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct seq
        tuple tuple_struct map struct identifier ignored_any
    }
}

impl<'de> EnumAccess<'de> for Tagged<'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        let tag = BorrowedStrDeserializer::new(self.event.event_type.as_str());
        Ok((seed.deserialize(tag)?, self))
    }
}

impl<'de> VariantAccess<'de> for Tagged<'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.read(|json| seed.deserialize(json))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.read(|json| json.deserialize_tuple(len, visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.read(|json| json.deserialize_struct("", fields, visitor))
    }
}

impl de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::Payload(de::Error::custom(message))
    }

    fn unknown_variant(_: &str, _: &'static [&'static str]) -> Self {
        Self::NoSuchVariant
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSuchVariant => f.write_str("no such variant"),
            Self::Payload(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for Error {}
