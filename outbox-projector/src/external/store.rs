use std::borrow::Cow;

use async_trait::async_trait;
use bytes::Bytes;
use outbox_core::error::BoxError;

/// A document at a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionedWrite {
    /// Which document.
    pub id: String,
    /// The event's sequence: of two writes of one id the higher is the newer. Uses up to 63 bits, so that it always fits a
    /// signed 64-bit integer, and not always a floating-point number.
    pub version: u64,
    /// The whole document. `None`: a tombstone, see [`VersionedStore`].
    pub document: Option<Bytes>,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// It is in the store.
    Stored,
    /// What is there is as new, or newer: nothing was changed, and nothing has to be.
    Stale,
    /// The store cannot take it at the moment, for this reason: the same may succeed later.
    Busy(String),
    /// The store never takes it, for this reason.
    Refused(String),
}

/// A store of documents that compares versions itself, such as a search engine with external versions.
///
/// # Contract
/// A write takes effect if its version is above that of the document which has its id, and is durable before it is
/// answered. No request has an id twice.
///
/// A write without a document leaves a *tombstone*: a document with nothing but its id, a mark and the version, which
/// every query leaves out. It is not the store's own deletion. That one forgets the version sooner or later: in OpenSearch
/// after `index.gc_deletes`, and with every restart of the node. A late duplicate of an older event would then find
/// nothing above it and bring the document back. Whoever sweeps tombstones decides how late a duplicate may be.
///
/// There is one answer for each write, in their order, and one write's fate does not decide another's.
///
/// # Duplicates
/// Every write may come again, at once or years later. It is [`Written::Stale`] then.
///
/// # Ordering
/// Writes of one id arrive in any order; versions decide.
///
/// # Concurrency
/// Tasks and processes write side by side, the same ids too: comparing and writing are one step inside the store.
///
/// # Cancellation
/// Dropping `write` leaves any of the writes done. They come again.
///
/// # Errors
/// A [`StoreError`] is about the request as a whole; any of its writes may be done. All of them come again. What is
/// wrong with one document is told by its [`Written`].
///
/// # Example
/// See the [module's page](crate::external). The suite `versioned_store_suite!` checks all of this.
#[async_trait]
pub trait VersionedStore: Send + Sync {
    /// Writes documents with one request.
    ///
    /// # Errors
    /// See the trait's *Errors*.
    async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError>;
}

/// Why a store could not serve.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StoreError {
    kind: StoreErrorKind,
    message: Cow<'static, str>,
    source: Option<BoxError>,
}

/// The kinds of [`StoreError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum StoreErrorKind {
    /// It cannot be reached or is overloaded: the same is tried again, for ever.
    Unavailable,
    /// It refuses whatever is written, as when the index was made for something else or a permission is missing. No event
    /// is to blame, so the same is tried again, for ever; somebody has to act.
    Refused,
    /// It takes no requests of this size: the writes are sent in smaller ones. A write that is alone is refused.
    TooLarge,
}

impl StoreError {
    /// An error of this kind; `message` says what happened and what to do about it.
    #[must_use]
    pub fn new(kind: StoreErrorKind, message: impl Into<Cow<'static, str>>) -> Self {
        Self { kind, message: message.into(), source: None }
    }

    /// Keeps the error that caused this one.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<BoxError>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// What a caller can match on.
    #[must_use]
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}
