//! What a replay has to do.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use outbox_core::projection::DeadLetterCause;
use uuid::Uuid;

use super::{
    super::{
        ReadLetter, Series, TopicLetter,
        reading::{self, Unreadable},
    },
    Letters, Replay,
};

pub(super) struct Plan<'r> {
    pub(super) unreadable: Vec<(&'r TopicLetter, Unreadable)>,
    /// In the order of their first letters.
    pub(super) keys: Vec<Key<'r>>,
}

/// Letters of a key.
pub(super) struct Key<'r> {
    pub(super) series: Series,
    /// Only this one is meant.
    pub(super) only: Option<Uuid>,
    /// In the order of their sequences.
    pub(super) letters: Vec<ReadLetter<'r>>,
    /// A letter that cannot be decoded has its place among these.
    pub(super) is_stuck: bool,
}

impl<'r> Plan<'r> {
    pub(super) fn of(replay: &'r Replay, projection: &str) -> Self {
        let mut plan = Self { unreadable: Vec::new(), keys: Vec::new() };
        let (mut known, mut places) = (HashSet::new(), HashMap::new());
        for letter in replay.elsewhere.iter().filter(|letter| letter.projection == projection) {
            if !known.insert(letter.id) {
                continue;
            }
            match reading::event_of(letter.id, letter.cause, letter.event(&*replay.decoder)) {
                Ok(event) => plan.add(ReadLetter { letter, event }, &replay.which, &mut places),
                Err(why) => plan.unreadable.push((letter, why)),
            }
        }
        let stuck = plan.stuck();
        for key in &mut plan.keys {
            // Those without a sequence stay as they were given.
            key.letters.sort_by_key(|letter| letter.event.origin.map(|origin| origin.sequence));
            key.is_stuck = key.only.is_none()
                && key.letters.iter().any(|letter| stuck.contains(letter.event.event.message_key().as_bytes()));
        }
        plan.unreadable.retain(|(letter, _)| match &replay.which {
            Letters::All => true,
            Letters::Key(_) => false,
            Letters::Id(id) => letter.id == *id,
        });
        plan
    }

    fn add(&mut self, letter: ReadLetter<'r>, which: &Letters, places: &mut HashMap<Series, usize>) {
        let series = Series::of_received(&letter.event);
        let (is_meant, only) = match which {
            Letters::All => (true, None),
            Letters::Key(key) => (series == *key, None),
            Letters::Id(id) => (letter.letter.id == *id, Some(*id)),
        };
        if !is_meant {
            return;
        }
        let place = *places.entry(series.clone()).or_insert(self.keys.len());
        if place == self.keys.len() {
            self.keys.push(Key { series, only, letters: Vec::new(), is_stuck: false });
        }
        self.keys[place].letters.push(letter);
    }

    /// The message keys of the letters that were events once, and of which nobody knows where they stand among the others.
    fn stuck(&self) -> HashSet<Bytes> {
        let was_event = |letter: &TopicLetter| letter.cause != DeadLetterCause::Undecodable;
        self.unreadable.iter().filter(|(letter, _)| was_event(letter)).filter_map(|(l, _)| l.key.clone()).collect()
    }
}
