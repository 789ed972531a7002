//! From columns back to events, the same for every database.

use bytes::{Bytes, BytesMut};
use outbox_core::{
    event::{
        AggregateId, AggregateType, ContentType, Event, EventType, Headers, InvalidEvent, Lane, LaneCount, LogId,
        OrderingKey, Origin, RecordedEvent,
    },
    log::{LogError, LogErrorKind, LogIdentity},
};
use uuid::Uuid;

use crate::generations::Generations;

/// What a row says, as the database gives it.
pub(crate) struct Columns<'r> {
    pub(crate) position: u64,
    pub(crate) lane: Lane,
    pub(crate) id: Uuid,
    pub(crate) aggregate_type: &'r str,
    pub(crate) aggregate_id: &'r str,
    pub(crate) ordering_key: Option<&'r str>,
    pub(crate) event_type: &'r str,
    pub(crate) content_type: &'r str,
    pub(crate) payload: Option<&'r [u8]>,
    pub(crate) headers: &'r [u8],
    pub(crate) created_at: chrono::DateTime<chrono::Utc>,
    pub(crate) unordered: bool,
}

/// Makes the events of one page. Names that repeat from row to row are parsed and allocated once, and small payloads
/// share their memory.
pub(crate) struct Decoder {
    log: LogId,
    generations: Generations,
    aggregate_type: Option<AggregateType>,
    aggregate_id: Option<AggregateId>,
    event_type: Option<EventType>,
    content_type: ContentType,
    bodies: Bodies,
}

impl Decoder {
    pub(crate) fn new(log: LogId, generations: Generations) -> Self {
        Self {
            log,
            generations,
            aggregate_type: None,
            aggregate_id: None,
            event_type: None,
            content_type: ContentType::json(),
            bodies: Bodies::default(),
        }
    }

    /// # Errors
    /// [`LogErrorKind::Corrupt`] when the row is none that this library writes.
    pub(crate) fn event(&mut self, row: &Columns<'_>) -> Result<RecordedEvent, LogError> {
        let sequence = self.generations.sequence(row.position)?;
        if self.content_type.as_str() != row.content_type {
            self.content_type = ContentType::parse(row.content_type)?;
        }
        let headers = Headers::from_stored(&self.bodies.keep(row.headers))
            .ok_or_else(|| corrupt(format!("the headers at position {} are not as stored", row.position)))?;
        Ok(RecordedEvent {
            origin: Origin { log: self.log, sequence },
            lane: row.lane,
            event: Event {
                id: row.id,
                aggregate_type: again(&mut self.aggregate_type, row.aggregate_type, AggregateType::parse)?,
                aggregate_id: again(&mut self.aggregate_id, row.aggregate_id, AggregateId::parse)?,
                ordering_key: row.ordering_key.map(OrderingKey::parse).transpose()?,
                event_type: again(&mut self.event_type, row.event_type, EventType::parse)?,
                content_type: self.content_type.clone(),
                payload: row.payload.map(|payload| self.bodies.keep(payload)),
                headers,
                created_at: row.created_at,
                unordered: row.unordered,
            },
        })
    }
}

/// Where payloads and headers are kept, many in one piece of memory. It is freed when the last of them is dropped, so it
/// is not large.
#[derive(Default)]
struct Bodies {
    free: BytesMut,
    piece: usize,
}

impl Bodies {
    const LARGEST_PIECE: usize = 64 * 1024;

    fn keep(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > Self::LARGEST_PIECE / 8 {
            return Bytes::copy_from_slice(bytes);
        }
        if self.free.capacity() < bytes.len() {
            // A page of one event takes no more than that.
            self.piece = (2 * self.piece).clamp(bytes.len(), Self::LARGEST_PIECE);
            self.free = BytesMut::with_capacity(self.piece);
        }
        self.free.extend_from_slice(bytes);
        self.free.split().freeze()
    }
}

/// The last name if it is this text, else the text parsed.
fn again<'t, N: Clone + AsRef<str>>(
    last: &mut Option<N>,
    text: &'t str,
    parse: impl FnOnce(&'t str) -> Result<N, InvalidEvent>,
) -> Result<N, InvalidEvent> {
    if let Some(name) = last.as_ref().filter(|name| name.as_ref() == text) {
        return Ok(name.clone());
    }
    Ok(last.insert(parse(text)?).clone())
}

/// # Errors
/// [`LogErrorKind::Corrupt`] when the number is no lane.
pub(crate) fn lane(stored: i64) -> Result<Lane, LogError> {
    u8::try_from(stored).ok().and_then(Lane::new).ok_or_else(|| corrupt(format!("{stored} is no lane")))
}

/// # Errors
/// [`LogErrorKind::Corrupt`] when the numbers are out of range.
pub(crate) fn identity(id: Uuid, lanes: i64, generation: i64) -> Result<LogIdentity, LogError> {
    let lanes = u8::try_from(lanes).ok().and_then(LaneCount::new);
    match (lanes, u16::try_from(generation)) {
        (Some(lanes), Ok(generation)) => Ok(LogIdentity { id: LogId(id), lanes, generation }),
        _ => Err(corrupt("the log's row in outbox_log is out of range".to_owned())),
    }
}

pub(crate) fn corrupt(message: String) -> LogError {
    LogError::new(LogErrorKind::Corrupt, message)
}

/// # Errors
/// [`LogErrorKind::Incompatible`] when another number of lanes was asked for than the log has.
pub(crate) fn same_lanes(log: &LogIdentity, wanted: Option<LaneCount>) -> Result<(), LogError> {
    match wanted {
        Some(wanted) if wanted != log.lanes => {
            let message = format!(
                "the log has {} lanes and was opened with {}; the count is fixed when the log is created: ask for {0} or for none",
                log.lanes.get(),
                wanted.get()
            );
            Err(LogError::new(LogErrorKind::Incompatible, message))
        }
        _ => Ok(()),
    }
}

/// # Errors
/// [`LogErrorKind::NotMigrated`] or [`LogErrorKind::Incompatible`] when the tables are older or newer than `known`.
pub(crate) fn same_version(stored: i64, known: i64) -> Result<(), LogError> {
    if stored > known {
        let message = format!("the log's tables are of version {stored}, this library knows {known}: use a newer one");
        return Err(LogError::new(LogErrorKind::Incompatible, message));
    }
    if stored < known {
        let message = format!("the log's tables are of version {stored}, this library needs {known}: call `migrate`");
        return Err(LogError::new(LogErrorKind::NotMigrated, message));
    }
    Ok(())
}
