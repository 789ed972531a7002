//! How many messages and bytes may be on their way: our own bound, below librdkafka's.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Room for messages and bytes.
pub(crate) struct Capacity {
    messages: Arc<Semaphore>,
    bytes: Arc<Semaphore>,
    most_messages: u32,
    most_bytes: u32,
}

/// Room that was taken; it is given back piece by piece, or when dropped.
pub(crate) struct Held {
    messages: OwnedSemaphorePermit,
    bytes: OwnedSemaphorePermit,
}

impl Capacity {
    pub(crate) fn new(messages: u32, bytes: u32) -> Self {
        let (most_messages, most_bytes) = (messages.max(1), bytes.max(1));
        Self {
            messages: Arc::new(Semaphore::new(most_messages as usize)),
            bytes: Arc::new(Semaphore::new(most_bytes as usize)),
            most_messages,
            most_bytes,
        }
    }

    /// Takes room if there is some and nobody waits for it.
    pub(crate) fn try_take(&self, messages: usize, bytes: usize) -> Option<Held> {
        let (messages, bytes) = self.clamp(messages, bytes);
        Some(Held {
            messages: self.messages.clone().try_acquire_many_owned(messages).ok()?,
            bytes: self.bytes.clone().try_acquire_many_owned(bytes).ok()?,
        })
    }

    /// Waits for room, first come, first served. What exceeds the whole capacity gets the whole capacity, so that it
    /// does not wait for ever. `None` never happens: the semaphores are not closed.
    pub(crate) async fn take(&self, messages: usize, bytes: usize) -> Option<Held> {
        let (messages, bytes) = self.clamp(messages, bytes);
        Some(Held {
            messages: self.messages.clone().acquire_many_owned(messages).await.ok()?,
            bytes: self.bytes.clone().acquire_many_owned(bytes).await.ok()?,
        })
    }

    fn clamp(&self, messages: usize, bytes: usize) -> (u32, u32) {
        let messages = u32::try_from(messages).map_or(self.most_messages, |n| n.min(self.most_messages));
        let bytes = u32::try_from(bytes).map_or(self.most_bytes, |n| n.min(self.most_bytes));
        (messages, bytes)
    }
}

impl Held {
    /// Gives back what some messages took, or what is left of it.
    pub(crate) fn give_back(&mut self, messages: usize, bytes: usize) {
        drop(self.messages.split(messages.min(self.messages.num_permits())));
        drop(self.bytes.split(bytes.min(self.bytes.num_permits())));
    }

    /// Gives back what exceeds the need.
    pub(crate) fn shrink_to(&mut self, messages: usize, bytes: usize) {
        let spare =
            (self.messages.num_permits().saturating_sub(messages), self.bytes.num_permits().saturating_sub(bytes));
        if spare != (0, 0) {
            self.give_back(spare.0, spare.1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use futures_util::FutureExt;

    use super::*;

    fn now(capacity: &Capacity, messages: usize, bytes: usize) -> Option<Held> {
        pin!(capacity.take(messages, bytes)).now_or_never().flatten()
    }

    #[test]
    fn room_comes_back_with_each_message() {
        let capacity = Capacity::new(2, 100);
        let mut held = now(&capacity, 2, 100).expect("all of it");
        assert!(now(&capacity, 1, 1).is_none());
        held.give_back(1, 40);
        assert!(now(&capacity, 1, 41).is_none());
        assert!(now(&capacity, 1, 40).is_some());
    }

    #[test]
    fn more_than_everything_gets_everything() {
        let capacity = Capacity::new(2, 100);
        let held = now(&capacity, 500, usize::MAX).expect("clamped");
        assert!(now(&capacity, 1, 0).is_none());
        drop(held);
        assert!(now(&capacity, 2, 100).is_some());
    }

    #[test]
    fn what_was_not_needed_comes_back_at_once() {
        let capacity = Capacity::new(10, 100);
        let mut held = now(&capacity, 10, 100).expect("all of it");
        held.shrink_to(1, 10);
        assert!(now(&capacity, 9, 90).is_some());
    }
}
