//! In-memory adapters of every trait, for tests and examples. They pass the same conformance suites as the real ones,
//! and nothing they hold outlives the process.
//!
//! ```
//! use outbox_core::{event::NewEvent, memory::MemoryLog, outbox::Outbox};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let log = MemoryLog::default();
//! let mut tx = log.begin();
//! let receipt = log.append(&mut tx, &[NewEvent::json("Tutor", 42, "TutorCreated", "Anna")?]).await?;
//! tx.commit().await;
//! receipt.committed();
//! # Ok(()) }
//! ```

mod admin;
mod broken_keys;
mod broker;
mod clock;
mod consumers;
mod log;
mod null;
mod projection;
mod source;

#[cfg(feature = "testing")]
pub(crate) use broken_keys::BrokenKeys;
pub use broker::{MemoryBroker, MemoryPublisher};
pub use log::{MemoryLog, MemoryTx};
pub use null::NullPublisher;
pub use projection::{MemoryProjection, Verdict};
pub use source::MemorySource;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// A panic elsewhere does not make the state wrong: every change below is made in one step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
