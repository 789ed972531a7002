//! Where a replay reads letters.

use std::collections::HashMap;

use outbox_core::{event::ReceivedEvent, profile::Decoder};
use uuid::Uuid;

use super::{KeptLetter, KeptRecord};
use crate::dead_letters::{
    Replay, TopicLetter,
    reading::{self, Unreadable},
};

/// The events of letters, wherever those are kept.
pub(super) struct Bodies<'r> {
    pub(super) decoder: &'r dyn Decoder,
    /// Those of this projection that are kept elsewhere.
    pub(super) elsewhere: HashMap<Uuid, &'r TopicLetter>,
}

/// Why there is no event.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoEvent {
    #[error("its body is not kept here: read it where it is, and replay it from there")]
    Absent,
    /// An attempt that failed.
    #[error(transparent)]
    Unreadable(Unreadable),
}

impl<'r> Bodies<'r> {
    pub(super) fn of(replay: &'r Replay, projection: &str) -> Self {
        let own = replay.elsewhere.iter().filter(|letter| letter.projection == projection);
        Self { decoder: &*replay.decoder, elsewhere: own.map(|letter| (letter.id, letter)).collect() }
    }

    pub(super) fn read(&self, letter: &KeptLetter, record: Option<&KeptRecord>) -> Result<ReceivedEvent, NoEvent> {
        let decoded = match (record, self.elsewhere.get(&letter.id)) {
            (Some(record), _) => record.event(self.decoder),
            (None, Some(letter)) => letter.event(self.decoder),
            (None, None) => return Err(NoEvent::Absent),
        };
        reading::event_of(letter.id, letter.cause, decoded).map_err(NoEvent::Unreadable)
    }
}
