//! Which keys of a stream may not be written to any more.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use bytes::Bytes;

use super::lock;
use crate::publisher::Message;

/// The topics and keys of a stream's failed messages. What is sent of such a key has to be aborted until the stream is
/// opened anew: its sender believes that everything before it will be written.
#[derive(Debug, Clone, Default)]
pub(crate) struct BrokenKeys(Arc<Mutex<HashSet<TopicAndKey>>>);

type TopicAndKey = (Arc<str>, Bytes);

impl BrokenKeys {
    pub(crate) fn contains(&self, message: &Message) -> bool {
        lock(&self.0).contains(&(message.topic.clone(), message.key.clone()))
    }

    pub(crate) fn add(&self, message: &Message) {
        lock(&self.0).insert((message.topic.clone(), message.key.clone()));
    }
}
