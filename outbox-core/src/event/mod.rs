//! Events: what happened to an aggregate, as parsed types.

mod headers;
mod invalid;
mod lane;
mod names;
mod new;
mod recorded;
mod sequence;
mod trace;

pub use headers::Headers;
pub use invalid::{Field, InvalidEvent, InvalidReason};
pub use lane::{Lane, LaneCount, LaneSet};
pub use names::{AggregateId, AggregateType, ContentType, EventType, MAX_NAME_BYTES, OrderingKey};
pub use new::NewEvent;
pub(crate) use new::ordered_or_not;
pub use recorded::{Event, ReceivedEvent, RecordedEvent};
pub use sequence::{LogId, Origin, Sequence};
pub use trace::TraceParent;
