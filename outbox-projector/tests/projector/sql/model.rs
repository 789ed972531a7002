//! What the read models of these tests have to hold, and the events for them.

use std::collections::BTreeMap;

use outbox_core::{
    event::ReceivedEvent,
    testing::{Sequencer, number_of},
};

use crate::support::counted;

/// Three things of each key that come out differently when an event is applied twice, not at all or out of order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Model(pub(crate) BTreeMap<String, Row>);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Row {
    /// Every number, in the order applied.
    pub(crate) list: Vec<i64>,
    /// How many.
    pub(crate) count: i64,
    /// The last one.
    pub(crate) last: i64,
}

impl Model {
    pub(crate) fn of<'e>(events: impl IntoIterator<Item = &'e ReceivedEvent>) -> Self {
        let mut model = Self::default();
        for received in events {
            let number = number_of(&received.event).expect("a number") as i64;
            let row = model.0.entry(key_of(received)).or_default();
            row.list.push(number);
            row.count += 1;
            row.last = number;
        }
        model
    }

    pub(crate) fn list(&self, key: &str) -> Vec<i64> {
        self.0.get(&format!("Suite/{key}")).map(|row| row.list.clone()).unwrap_or_default()
    }
}

pub(crate) fn key_of(received: &ReceivedEvent) -> String {
    format!("{}/{}", received.event.aggregate_type, received.event.message_key())
}

/// `{"n": n}` of the aggregate `Suite/key`, at the next place of an imaginary log.
pub(crate) fn received(log: &Sequencer, key: &str, n: i64) -> ReceivedEvent {
    log.receive(counted(key, n))
}

/// As it is received from a writer that knows no sequences.
pub(crate) fn foreign(key: &str, n: i64) -> ReceivedEvent {
    ReceivedEvent { origin: None, event: counted(key, n).into_event() }
}
