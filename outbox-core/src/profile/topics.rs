//! Topic names: what a broker takes, and those already found out.

use std::sync::{Arc, OnceLock};

use crate::event::{Field, InvalidEvent, InvalidReason};

/// Kafka's rule: 1 to 249 of letters, digits, `.`, `_` and `-`, not `.` or `..`.
pub(super) fn parse_topic(topic: &str) -> Result<Arc<str>, InvalidEvent> {
    let good = (1..=249).contains(&topic.len())
        && topic != "."
        && topic != ".."
        && topic.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
    if good {
        Ok(topic.into())
    } else {
        Err(unroutable(format!("{topic:?} is no topic name: use 1 to 249 of letters, digits, '.', '_' and '-'")))
    }
}

pub(super) fn unroutable(detail: String) -> InvalidEvent {
    InvalidEvent::new(Field::Topic, InvalidReason::Unroutable { detail })
}

/// The topics of aggregate types seen before, so that each is made and checked once and not for every event.
///
/// Entries are only ever added, and read without a lock. There is room for [`SLOTS`]: aggregate types are few, and
/// where they are not, the rest is worked out each time.
pub(super) struct KnownTopics(Box<[OnceLock<Known>; SLOTS]>);

struct Known {
    aggregate_type: Box<str>,
    topic: Arc<str>,
}

const SLOTS: usize = 256;
/// How many slots a name may fall into.
const TRIES: usize = 8;

impl Default for KnownTopics {
    fn default() -> Self {
        Self(Box::new([const { OnceLock::new() }; SLOTS]))
    }
}

impl std::fmt::Debug for KnownTopics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KnownTopics").finish_non_exhaustive()
    }
}

impl KnownTopics {
    /// The topic of an aggregate type, by `make` unless it is known.
    pub(super) fn get_or_make(
        &self,
        aggregate_type: &str,
        make: impl FnOnce() -> Result<Arc<str>, InvalidEvent>,
    ) -> Result<Arc<str>, InvalidEvent> {
        for slot in self.slots(aggregate_type) {
            match slot.get() {
                Some(known) if *known.aggregate_type == *aggregate_type => return Ok(known.topic.clone()),
                Some(_) => {}
                None => {
                    let topic = make()?;
                    // Another thread may have taken the slot meanwhile; then this topic is remembered next time.
                    let _taken = slot.set(Known { aggregate_type: aggregate_type.into(), topic: topic.clone() });
                    return Ok(topic);
                }
            }
        }
        make()
    }

    fn slots(&self, aggregate_type: &str) -> impl Iterator<Item = &OnceLock<Known>> {
        let hash = fnv_1a(aggregate_type.as_bytes());
        (0..TRIES).map(move |n| &self.0[(hash + n) % SLOTS])
    }
}

/// A hash for few and short names. Whoever chooses names that collide only has their topics worked out each time.
fn fnv_1a(bytes: &[u8]) -> usize {
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    (hash ^ (hash >> 16)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_is_made_once_as_long_as_there_is_room() {
        let known = KnownTopics::default();
        let types: Vec<String> = (0..2 * SLOTS).map(|n| format!("type-{n}")).collect();
        let topic = |name: &str| format!("{name}-events");
        for _ in 0..2 {
            for name in &types {
                assert_eq!(&*known.get_or_make(name, || parse_topic(&topic(name))).expect("topic"), topic(name));
            }
        }
        let remembered = types
            .iter()
            .filter(|name| known.get_or_make(name, || Err(unroutable("not remembered".to_owned()))).is_ok());
        let remembered = remembered.count();
        assert!((SLOTS / 2..=SLOTS).contains(&remembered), "{remembered} of {} are remembered", types.len());
    }

    #[test]
    fn what_is_refused_is_not_remembered() {
        let known = KnownTopics::default();
        known.get_or_make("x", || Err(unroutable("no".to_owned()))).expect_err("refused");
        assert_eq!(known.get_or_make("x", || parse_topic("y")).as_deref(), Ok("y"));
    }

    #[test]
    fn threads_that_ask_at_once_get_the_same() {
        let known = KnownTopics::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for n in 0..1_000_usize {
                        let name = format!("type-{}", n % 100);
                        assert_eq!(known.get_or_make(&name, || parse_topic(&name)).as_deref(), Ok(name.as_str()));
                    }
                });
            }
        });
    }
}
