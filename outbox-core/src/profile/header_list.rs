use std::{rc::Rc, sync::Arc};

use bytes::Bytes;

use super::header::{Name, Names};
use crate::event::{Headers, TraceParent};

/// The headers of a message under way.
pub(super) struct HeaderList {
    headers: Vec<(Arc<str>, Bytes)>,
    names: Rc<Names>,
    /// Where values are written that are not there as text yet.
    scratch: Vec<u8>,
}

impl HeaderList {
    /// Room for so many headers besides the event's own.
    pub(super) fn with_room(headers: usize, own: &Headers) -> Self {
        let headers = Vec::with_capacity(headers + own.iter().len());
        Self { headers, names: Names::of_this_thread(), scratch: Vec::with_capacity(64) }
    }

    /// Adds a header with what this writes.
    pub(super) fn write(&mut self, name: Name, write: impl FnOnce(&mut Vec<u8>)) {
        self.scratch.clear();
        write(&mut self.scratch);
        self.headers.push((self.names.shared(name), Bytes::copy_from_slice(&self.scratch)));
    }

    /// Adds a header.
    pub(super) fn text(&mut self, name: Name, value: &str) {
        self.headers.push((self.names.shared(name), Bytes::copy_from_slice(value.as_bytes())));
    }

    /// Adds a header whose value never changes.
    pub(super) fn fixed(&mut self, name: Name, value: &'static str) {
        self.headers.push((self.names.shared(name), Bytes::from_static(value.as_bytes())));
    }

    /// All of them, the event's own behind the others.
    pub(super) fn finish(mut self, own: &Headers) -> Vec<(Arc<str>, Bytes)> {
        self.headers.extend(own.iter().map(|(name, value)| {
            let common = name == TraceParent::HEADER;
            (if common { self.names.shared(Name::TraceParent) } else { name.into() }, value.clone())
        }));
        self.headers
    }
}
