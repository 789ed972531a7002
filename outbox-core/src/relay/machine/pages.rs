//! The bodies of pages, for as long as an event in them is under way.

use std::borrow::Cow;

use crate::event::Lane;

/// What the machine asks of a page's events; the rest is the caller's.
pub(in crate::relay) trait Body {
    /// The whole key of an event. Asked for only where its hash alone cannot decide.
    fn lane_key(&self, index: u32) -> Cow<'_, str>;

    /// Lane and position of an event. Asked for only when a lane is to be read again.
    fn place(&self, index: u32) -> Option<(Lane, u64)>;
}

/// Where an event was read: its page and the index in it. Valid until the event is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::relay) struct EventRef {
    pub(in crate::relay) page: PageId,
    pub(in crate::relay) index: u32,
}

/// A place among the pages, used again when its page is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(in crate::relay) struct PageId(u32);

#[derive(Debug, Clone, Hash)]
pub(super) struct Pages<B> {
    slots: Vec<Option<Slot<B>>>,
    free: Vec<PageId>,
}

#[derive(Debug, Clone, Hash)]
struct Slot<B> {
    body: B,
    undone: usize,
}

impl<B> Default for Pages<B> {
    fn default() -> Self {
        Self { slots: Vec::new(), free: Vec::new() }
    }
}

impl<B: Body> Pages<B> {
    /// Keeps a body of which so many events are to be done.
    pub(super) fn insert(&mut self, body: B, undone: usize) -> PageId {
        let slot = Some(Slot { body, undone });
        if let Some(id) = self.free.pop() {
            self.slots[id.0 as usize] = slot;
            return id;
        }
        self.slots.push(slot);
        PageId(self.slots.len() as u32 - 1)
    }

    /// So many events of the page are to be done.
    pub(super) fn expect(&mut self, id: PageId, undone: usize) {
        if let Some(slot) = &mut self.slots[id.0 as usize] {
            slot.undone = undone;
        }
    }

    pub(super) fn body(&self, id: PageId) -> Option<&B> {
        self.slots[id.0 as usize].as_ref().map(|slot| &slot.body)
    }

    pub(super) fn lane_key(&self, event: EventRef) -> Cow<'_, str> {
        self.body(event.page).map_or(Cow::Borrowed(""), |body| body.lane_key(event.index))
    }

    /// An event of the page is done. Returns whether it was the last one.
    pub(super) fn event_done(&mut self, id: PageId) -> bool {
        let Some(slot) = &mut self.slots[id.0 as usize] else { return false };
        slot.undone -= 1;
        slot.undone == 0
    }

    pub(super) fn is_done(&self, id: PageId) -> bool {
        self.slots[id.0 as usize].as_ref().is_none_or(|slot| slot.undone == 0)
    }

    pub(super) fn remove(&mut self, id: PageId) {
        if self.slots[id.0 as usize].take().is_some() {
            self.free.push(id);
        }
    }
}
