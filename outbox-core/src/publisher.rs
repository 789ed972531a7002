//! Publishing: messages to a broker, in order per key.

use std::{ops::Range, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{error::kinded_error, event::Lane};

/// What a broker carries: an event after routing and encoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Where to.
    pub topic: Arc<str>,
    /// Messages of one key keep their order within a topic.
    pub key: Bytes,
    /// The body; `None` is a tombstone.
    pub payload: Option<Bytes>,
    /// Headers in order; a name may repeat.
    pub headers: Vec<(Arc<str>, Bytes)>,
}

impl Message {
    /// Key, body and headers in bytes.
    #[must_use]
    pub fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(n, v)| n.len() + v.len()).sum();
        self.key.len() + self.payload.as_ref().map_or(0, Bytes::len) + headers
    }
}

/// Sends messages and reports what became of each.
///
/// # Contract
/// Every message of a permit gets exactly one [`Outcome`], and [`Outcome::Delivered`] only when the destination
/// acknowledged it as durably as it was configured to.
///
/// # Duplicates
/// A message reported as failed may have been written all the same.
///
/// # Ordering
/// Messages of one key that were accepted through one [`LaneStream`] reach the destination in that order. Once a message
/// of a stream failed, the stream is broken: everything later of that key, accepted already or from then on, is not
/// written but [`Outcome::Aborted`]; messages of other keys may be aborted with it. An adapter
/// that cannot promise this for messages already accepted clears
/// [`PublisherCapabilities::keeps_order_after_failure`]. After *every* message of the broken stream was reported, the
/// caller drops it and opens a new one; what that accepts is written after all of the old one.
///
/// # Concurrency
/// One stream per lane, used by one task; streams of different lanes work side by side.
///
/// # Cancellation
/// Waiting for a permit or a delivery may be dropped. Dropping a [`Delivery`] cancels nothing: messages accepted may
/// still be written.
///
/// # Errors
/// The classes of [`PublishErrorKind`] decide what a relay does next.
#[async_trait]
pub trait Publisher: Send + Sync {
    /// What this adapter does differently.
    fn capabilities(&self) -> PublisherCapabilities;

    /// Opens the stream of a lane. There is one at a time per lane and relay.
    ///
    /// # Errors
    /// [`PublishError`] when the publisher cannot be set up as configured.
    async fn open(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError>;

    /// Opens a stream of a lane that writes each message by itself, in no batch with any other: what fails here is
    /// [`PublishErrorKind::Event`] or nobody's fault, never [`PublishErrorKind::Suspect`], and costs no other message
    /// anything. For what was refused before. The caller hands over one message at a time, and has nothing else of the
    /// lane under way.
    ///
    /// Default: [`Publisher::open`], for adapters that batch nothing.
    ///
    /// # Errors
    /// As [`Publisher::open`].
    async fn open_isolated(&self, lane: Lane) -> Result<Box<dyn LaneStream>, PublishError> {
        self.open(lane).await
    }

    /// Waits until everything accepted is reported, at most for `grace`; then gives up what is left, which is reported
    /// as failed and may still be written. Returns whether everything was reported in time.
    async fn shut_down(&self, grace: Duration) -> bool;
}

/// Where publishers may differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PublisherCapabilities {
    /// After a failure nothing later of the same key that was already accepted is written. Without it a relay keeps
    /// one message per key in flight.
    pub keeps_order_after_failure: bool,
}

impl PublisherCapabilities {
    /// Keeps order after a failure.
    #[must_use]
    pub fn full() -> Self {
        Self { keeps_order_after_failure: true }
    }

    /// Sets [`PublisherCapabilities::keeps_order_after_failure`].
    #[must_use]
    pub fn with_keeps_order_after_failure(mut self, yes: bool) -> Self {
        self.keeps_order_after_failure = yes;
        self
    }
}

/// The way of one lane's messages to the destination.
#[async_trait]
pub trait LaneStream: Send {
    /// Waits until so many messages of so many bytes in all fit. Cancel safe.
    ///
    /// # Errors
    /// [`PublishError`] when the destination cannot be used now ([`PublishErrorKind::Environment`]) or as configured.
    async fn reserve(&mut self, messages: usize, bytes: usize) -> Result<Box<dyn Permit>, PublishError>;
}

/// Room for the messages that were announced to [`LaneStream::reserve`].
pub trait Permit: Send {
    /// Hands the messages over: all are accepted, in order. Never waits. More than was reserved is accepted too.
    fn send(self: Box<Self>, messages: Vec<Message>) -> Box<dyn Delivery>;
}

/// What becomes of the messages of one permit.
#[async_trait]
pub trait Delivery: Send {
    /// The next outcomes, each with the index of its message; empty when all were reported. Cancel safe.
    async fn next(&mut self) -> Vec<(usize, Outcome)>;

    /// The next outcomes as [`Delivery::next`] gives them, those of neighbours with the same fate as one: each with the
    /// range of its messages. A message that failed stands by itself. A full batch delivered is then one outcome
    /// instead of hundreds. Both methods take from the same outcomes. Cancel safe.
    ///
    /// Default: [`Delivery::next`], and each message by itself.
    async fn next_runs(&mut self) -> Vec<(Range<usize>, Outcome)> {
        self.next().await.into_iter().map(|(index, outcome)| (index..index + 1, outcome)).collect()
    }
}

/// What became of a message.
#[derive(Debug)]
pub enum Outcome {
    /// Acknowledged.
    Delivered,
    /// Not acknowledged.
    Failed(PublishError),
    /// Not written, because an earlier message of its stream failed.
    Aborted,
}

kinded_error! {
    /// Why a message was not acknowledged.
    PublishError, PublishErrorKind
}

/// Whose fault a failure is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum PublishErrorKind {
    /// The destination is away or overloaded, or the outcome is unknown: pause and try again, for ever. No fault of
    /// the message.
    Environment,
    /// The message was refused together with others: it must be tried alone before it is blamed.
    Suspect,
    /// The message was refused alone, or can never be sent.
    Event,
    /// The publisher cannot work as configured. Nothing passes until somebody acts.
    Configuration,
}
