//! Projections into stores outside of SQL, such as search engines and embedded indexes: the sequence of an event is the
//! version of its document.
//!
//! [`Documents`] says what an event means: a document's new state, or that it is gone. The rest depends on what the store
//! can do:
//!
//! | The store | implement | and run |
//! |---|---|---|
//! | compares versions, but knows nothing of positions, as a search engine behind HTTP does | [`VersionedStore`] | a [`VersionedProjection`]: the source keeps the position, and what comes twice is stale |
//! | commits documents and a position together, as an index in a directory does | [`PositionedStore`] | a [`PositionedProjection`]: a step is there as a whole or not at all |
//!
//! A new store passes the suite `versioned_store_suite!`, see *Testing a store* below.
//!
//! # Deletions
//! A relay that was cut off may repeat an event long after newer ones, so a store has to remember that a document was
//! deleted, and at which version. A deletion becomes a tombstone: a document with a mark and the version, left out by every
//! query. It costs a few bytes for each document that ever was. To sweep tombstones, delete those that are older than the
//! latest duplicate that can come: older than what the topic and the log still hold. Without that limit a late duplicate
//! revives a document; so nothing sweeps them by itself.
//!
//! # A search engine behind HTTP
//! Written out for OpenSearch's bulk requests. `Http` stands for whatever client there is.
//!
//! ```
//! # use std::sync::Arc;
//! use async_trait::async_trait;
//! use outbox_core::{error::BoxError, event::ReceivedEvent};
//! use outbox_projector::external::{
//!     Change, StoreError, StoreErrorKind, VersionedProjection, VersionedStore, VersionedWrite, Written,
//! };
//! use serde_json::{Value, json};
//!
//! # #[async_trait]
//! # trait Http: Send + Sync {
//! #     async fn post(&self, path: &str, body: String) -> Result<(u16, Value), std::io::Error>;
//! # }
//! struct Engine {
//!     http: Box<dyn Http>,
//! }
//!
//! #[async_trait]
//! impl VersionedStore for Engine {
//!     async fn write(&self, writes: &[VersionedWrite]) -> Result<Vec<Written>, StoreError> {
//!         let mut body = String::new();
//!         for write in writes {
//!             // Wrong: {"delete": …}. The engine forgets the version of what it deleted.
//!             let document = match &write.document {
//!                 Some(line) => String::from_utf8_lossy(line),
//!                 None => r#"{ "deleted": true }"#.into(),
//!             };
//!             let index = json!({ "_id": write.id, "version": write.version, "version_type": "external" });
//!             body.push_str(&format!("{}\n{document}\n", json!({ "index": index })));
//!         }
//!         let (status, answer) = self.http.post("/tutors/_bulk", body).await.map_err(|error| {
//!             StoreError::new(StoreErrorKind::Unavailable, "the search engine cannot be reached").with_source(error)
//!         })?;
//!         match status {
//!             200 => {}
//!             413 => return Err(StoreError::new(StoreErrorKind::TooLarge, "the request is too large")),
//!             429 | 500.. => return Err(StoreError::new(StoreErrorKind::Unavailable, format!("it answered {status}"))),
//!             _ => return Err(StoreError::new(StoreErrorKind::Refused, format!("it answered {status}"))),
//!         }
//!         let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
//!         Ok(items.iter().map(|item| written(&item["index"])).collect())
//!     }
//! }
//!
//! fn written(item: &Value) -> Written {
//!     match item["status"].as_u64() {
//!         Some(200..=299) => Written::Stored,
//!         Some(409) => Written::Stale, // what is there is newer: done
//!         Some(status @ 400..=499) if status != 429 => Written::Refused(item["error"].to_string()),
//!         _ => Written::Busy(item["error"].to_string()),
//!     }
//! }
//!
//! fn tutor(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> {
//!     let event = &received.event;
//!     Ok(match event.event_type.as_str() {
//!         // Every event carries the whole tutor: then the newest one alone says all.
//!         "TutorCreated" | "TutorUpdated" => {
//!             // Read here, so that bad JSON rejects this event alone; and written on one line, as bulk requests want it.
//!             let tutor: Value = serde_json::from_slice(event.payload.as_deref().ok_or("it carries no tutor")?)?;
//!             Some(Change::store(event.aggregate_id.as_str(), tutor.to_string()))
//!         }
//!         "TutorDeleted" => Some(Change::delete(event.aggregate_id.as_str())),
//!         _ => None,
//!     })
//! }
//!
//! # fn run(http: Box<dyn Http>) {
//! let projection = VersionedProjection::builder("tutors", Engine { http }, tutor).build();
//! # let _for = Arc::new(projection);
//! # }
//! ```
//!
//! Hand the projection to a [`Projector`](crate::Projector). Queries leave out what is `deleted`.
//!
//! # Testing a store
//! With the feature `testing` there is a suite that every store passes: `versioned_store_suite!` takes a harness that can
//! look into the store, and restart it.

mod bulk;
mod change;
mod letters;
mod memory;
mod newest;
mod positioned;
mod store;
#[cfg(feature = "testing")]
pub mod testing;
mod tried;
mod versioned;

pub use change::{Change, Documents};
pub use memory::MemoryDocuments;
pub use positioned::{Commit, CommitError, PositionedProjection, PositionedStore};
pub use store::{StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written};
pub use versioned::{VersionedProjection, VersionedProjectionBuilder};
