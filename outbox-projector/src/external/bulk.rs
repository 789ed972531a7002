//! Many writes to a store that takes so many at once, and not every one at the first try.

use std::time::Duration;

use bytes::Bytes;
use outbox_core::{
    error::chain,
    retry::{Backoff, RetryPolicy},
};
use tokio::time::sleep;

use super::{StoreError, StoreErrorKind, VersionedStore, VersionedWrite, Written};

/// How writes are sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bulk {
    pub(super) writes: usize,
    pub(super) bytes: usize,
    /// For writes that the store is too busy for.
    pub(super) retry: RetryPolicy,
}

impl Default for Bulk {
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(50), Duration::from_millis(400));
        Self { writes: 1_000, bytes: 5 * 1024 * 1024, retry: RetryPolicy::new(5, backoff) }
    }
}

/// Writes under way.
pub(super) struct Writing<'a, S: ?Sized> {
    store: &'a S,
    bulk: Bulk,
    /// What became of each write; `None`: nobody knows yet.
    pub(super) fates: Vec<Option<Written>>,
}

impl<'a, S: VersionedStore + ?Sized> Writing<'a, S> {
    /// Of some writes the fate may be known already: they are not sent.
    pub(super) fn new(store: &'a S, bulk: Bulk, fates: Vec<Option<Written>>) -> Self {
        Self { store, bulk, fates }
    }

    /// Sends the writes, and again those that the store was too busy for. Afterwards each is stored, stale or refused.
    ///
    /// # Errors
    /// The store's own, and [`StoreErrorKind::Unavailable`] when it stays too busy. What is known by then stays known.
    pub(super) async fn send(&mut self, writes: &[VersionedWrite]) -> Result<(), StoreError> {
        self.send_those(writes, Option::is_none).await?;
        let mut tries = 1;
        while let Some(reason) = self.busy() {
            let Some(pause) = self.bulk.retry.retry_in(tries, &mut rand::rng()) else {
                let message = format!("the store is too busy for some of the documents: {reason}");
                return Err(StoreError::new(StoreErrorKind::Unavailable, message));
            };
            sleep(pause).await;
            self.send_those(writes, |fate| matches!(fate, Some(Written::Busy(_)))).await?;
            tries += 1;
        }
        Ok(())
    }

    async fn send_those(
        &mut self,
        writes: &[VersionedWrite],
        which: impl Fn(&Option<Written>) -> bool,
    ) -> Result<(), StoreError> {
        let places: Vec<usize> = (0..writes.len()).filter(|place| which(&self.fates[*place])).collect();
        if places.len() == writes.len() {
            return self.send_once(writes, &places).await;
        }
        let some: Vec<VersionedWrite> = places.iter().map(|place| writes[*place].clone()).collect();
        self.send_once(&some, &places).await
    }

    /// `places`: of each write among the fates.
    async fn send_once(&mut self, writes: &[VersionedWrite], places: &[usize]) -> Result<(), StoreError> {
        let mut sent = 0;
        let mut most = self.bulk.writes;
        while sent < writes.len() {
            let count = self.fitting(&writes[sent..], most);
            match self.store.write(&writes[sent..sent + count]).await {
                Ok(answers) if answers.len() == count => {
                    for (place, answer) in places[sent..].iter().zip(answers) {
                        self.fates[*place] = Some(answer);
                    }
                    sent += count;
                }
                Ok(answers) => {
                    let message = format!("the store answered to {} of {count} writes", answers.len());
                    return Err(StoreError::new(StoreErrorKind::Unavailable, message));
                }
                Err(error) if error.kind() == StoreErrorKind::TooLarge && count > 1 => most = count / 2,
                Err(error) if error.kind() == StoreErrorKind::TooLarge => {
                    self.fates[places[sent]] = Some(Written::Refused(chain(&error)));
                    sent += 1;
                    most = self.bulk.writes;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// How many of the writes go into the next request: one at least.
    fn fitting(&self, writes: &[VersionedWrite], most: usize) -> usize {
        let mut bytes = 0;
        let fits = writes.iter().take(most).take_while(|write| {
            bytes += write.id.len() + write.document.as_ref().map_or(0, Bytes::len);
            bytes <= self.bulk.bytes
        });
        fits.count().max(1)
    }

    fn busy(&self) -> Option<&str> {
        self.fates.iter().find_map(|fate| match fate {
            Some(Written::Busy(reason)) => Some(&**reason),
            _ => None,
        })
    }
}
