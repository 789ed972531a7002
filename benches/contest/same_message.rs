//! The message that the relay sends, written by hand: the bare loop then carries what the relay carries.

use std::io::Write as _;

use chrono::{DateTime, SecondsFormat, Utc};
use outbox_core::{
    event::Sequence,
    log::{EventLog as _, LogAdmin as _},
    profile::{Profile, header},
    publisher::Message,
};
use outbox_sqlx::{PostgresLog, postgres::SchemaName};
use rdkafka::message::{Header, OwnedHeaders};
use sqlx::{PgPool, Row as _, postgres::PgRow};
use uuid::Uuid;

use super::{PAGE, Result, Task, scan};

pub(super) struct SameMessage {
    log: String,
    generation: u16,
    body: Vec<u8>,
    sequence: Vec<u8>,
}

impl SameMessage {
    /// Looks that the first message is the one that the relay would send, to the byte.
    pub(super) async fn checked(pool: &PgPool, task: &Task) -> Result<Self> {
        let log = PostgresLog::builder(pool.clone()).schema(SchemaName::parse(&task.schema)?).open().await?;
        let identity = log.identity().await?;
        let mut same = Self {
            log: identity.id.to_string(),
            generation: identity.generation,
            body: Vec::new(),
            sequence: Vec::new(),
        };
        let first = log.tail(None, 1).await?.pop().ok_or("the log is empty")?;
        let before = first.origin.sequence.position() as i64 - 1;
        let row = sqlx::query(scan::page(&task.schema)).bind(before).bind(PAGE).fetch_one(pool).await?;
        let headers = same.write(&row)?;
        let expected = Profile::default().message(&first)?;
        if expected.payload.as_deref() != Some(same.body()) || !are_equal(&headers, &expected) {
            return Err("the bare loop's message is not the relay's: adapt it".into());
        }
        Ok(same)
    }

    pub(super) fn body(&self) -> &[u8] {
        &self.body
    }

    /// Writes the body of the event of a row, and returns its headers.
    pub(super) fn write(&mut self, row: &PgRow) -> Result<OwnedHeaders> {
        let (aggregate_id, payload): (&str, &[u8]) = (row.try_get(1)?, row.try_get(2)?);
        let (id, aggregate_type): (Uuid, &str) = (row.try_get(3)?, row.try_get(4)?);
        let (event_type, content_type): (&str, &str) = (row.try_get(5)?, row.try_get(6)?);
        let created_at: DateTime<Utc> = row.try_get(8)?;
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let id: &str = id.hyphenated().encode_lower(&mut text);

        let Self { log, generation, body, sequence } = self;
        body.clear();
        // The names of these events need no escapes.
        write!(
            body,
            r#"{{"event_id":"{id}","event_type":"{event_type}","aggregate_type":"{aggregate_type}","aggregate_id":"{aggregate_id}","payload":"#,
        )?;
        body.extend_from_slice(payload);
        write!(body, r#","created_at":"{}"}}"#, created_at.to_rfc3339_opts(SecondsFormat::Micros, false))?;

        let place = Sequence::new(*generation, row.try_get::<i64, _>(0)? as u64).ok_or("a position")?;
        sequence.clear();
        write!(sequence, "{place}")?;
        let of = |key, value| Header { key, value: Some(value) };
        Ok(OwnedHeaders::new_with_capacity(7)
            .insert(of(header::ID, id.as_bytes()))
            .insert(of(header::TYPE, event_type.as_bytes()))
            .insert(of(header::AGGREGATE_TYPE, aggregate_type.as_bytes()))
            .insert(of(header::AGGREGATE_ID, aggregate_id.as_bytes()))
            .insert(of(header::CONTENT_TYPE, content_type.as_bytes()))
            .insert(of(header::LOG, log.as_bytes()))
            .insert(of(header::SEQUENCE, sequence)))
    }
}

fn are_equal(headers: &OwnedHeaders, expected: &Message) -> bool {
    use rdkafka::message::Headers as _;
    headers.count() == expected.headers.len()
        && headers
            .iter()
            .zip(&expected.headers)
            .all(|(header, (name, value))| header.key == &**name && header.value == Some(&value[..]))
}
