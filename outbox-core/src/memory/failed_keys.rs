//! Which keys of a stream may not be written to, because the sender does not know yet that a message failed.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::lock;
use crate::publisher::Message;

/// Keys with a failed or aborted message whose outcome was not yet taken. What is sent of such a key has to be aborted:
/// its sender believes that everything before it will be written.
#[derive(Debug, Clone, Default)]
pub(crate) struct FailedKeys(Arc<Mutex<HashMap<FailedKey, usize>>>);

type FailedKey = (Arc<str>, Bytes);

/// An outcome that still has to be taken. Dropping it counts as taken: nobody will ask any more.
#[derive(Debug)]
pub(crate) struct Untaken {
    keys: FailedKeys,
    key: FailedKey,
}

impl FailedKeys {
    pub(crate) fn contains(&self, message: &Message) -> bool {
        lock(&self.0).contains_key(&key_of(message))
    }

    /// Blocks the message's key until the result is dropped.
    pub(crate) fn block(&self, message: &Message) -> Untaken {
        let key = key_of(message);
        *lock(&self.0).entry(key.clone()).or_default() += 1;
        Untaken { keys: self.clone(), key }
    }
}

impl Drop for Untaken {
    fn drop(&mut self) {
        let mut keys = lock(&self.keys.0);
        if let Some(untaken) = keys.get_mut(&self.key) {
            *untaken -= 1;
            if *untaken == 0 {
                keys.remove(&self.key);
            }
        }
    }
}

fn key_of(message: &Message) -> FailedKey {
    (message.topic.clone(), message.key.clone())
}
