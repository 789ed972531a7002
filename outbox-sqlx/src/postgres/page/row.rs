//! A row of a page, straight from the bytes of the wire: asking sqlx for each column by its type costs as much as the rest
//! of reading it.

use chrono::{DateTime, Utc};
use outbox_core::{event::Lane, log::LogError};
use sqlx::{Row as _, ValueRef as _, postgres::PgRow};
use uuid::Uuid;

use super::super::error;
use crate::stored;

/// Where in a row the columns of [`COLUMNS`](super::COLUMNS) begin.
#[derive(Clone, Copy)]
pub(super) struct Found<'r> {
    pub(super) xid: u64,
    pub(super) position: u64,
    pub(super) lane: Lane,
    row: Wire<'r>,
}

impl<'r> Found<'r> {
    pub(super) fn parse(row: &'r PgRow, first: usize) -> Result<Self, LogError> {
        let row = Wire { row, first };
        let lane = i16::from_be_bytes(row.fixed(2)?);
        Ok(Self {
            xid: u64::from_be_bytes(row.fixed(0)?),
            position: u64::from_be_bytes(row.fixed(1)?),
            lane: stored::lane(i64::from(lane))?,
            row,
        })
    }

    /// The rest, for when it is an event of the page.
    pub(super) fn columns(&self) -> Result<stored::Columns<'r>, LogError> {
        let row = self.row;
        Ok(stored::Columns {
            position: self.position,
            lane: self.lane,
            id: Uuid::from_bytes(row.fixed(3)?),
            aggregate_type: row.text(4)?,
            aggregate_id: row.text(5)?,
            ordering_key: row.optional(6)?.map(|bytes| row.as_text(6, bytes)).transpose()?,
            event_type: row.text(7)?,
            content_type: row.text(8)?,
            payload: row.optional(9)?,
            headers: row.bytes(10)?,
            created_at: row.time(11)?,
            unordered: row.fixed(12)? != [0],
        })
    }
}

/// The transaction id in a column. `xid8` is a type that sqlx does not know.
pub(super) fn xid(row: &PgRow, column: usize) -> Result<u64, LogError> {
    Wire { row, first: column }.fixed(0).map(u64::from_be_bytes)
}

/// The answer to a prepared statement: binary.
#[derive(Clone, Copy)]
struct Wire<'r> {
    row: &'r PgRow,
    first: usize,
}

impl<'r> Wire<'r> {
    fn optional(self, column: usize) -> Result<Option<&'r [u8]>, LogError> {
        let value = self.row.try_get_raw(self.first + column).map_err(error::log)?;
        Ok(if value.is_null() { None } else { value.as_bytes().ok() })
    }

    fn bytes(self, column: usize) -> Result<&'r [u8], LogError> {
        self.optional(column)?.ok_or_else(|| self.corrupt(column))
    }

    fn fixed<const N: usize>(self, column: usize) -> Result<[u8; N], LogError> {
        self.bytes(column)?.try_into().map_err(|_| self.corrupt(column))
    }

    fn text(self, column: usize) -> Result<&'r str, LogError> {
        self.as_text(column, self.bytes(column)?)
    }

    fn as_text(self, column: usize, bytes: &'r [u8]) -> Result<&'r str, LogError> {
        std::str::from_utf8(bytes).map_err(|_| self.corrupt(column))
    }

    /// Microseconds since the year 2000.
    fn time(self, column: usize) -> Result<DateTime<Utc>, LogError> {
        const YEAR_2000: i64 = 946_684_800_000_000;
        let since_1970 = i64::from_be_bytes(self.fixed(column)?).checked_add(YEAR_2000);
        since_1970.and_then(DateTime::from_timestamp_micros).ok_or_else(|| self.corrupt(column))
    }

    #[cold]
    fn corrupt(self, column: usize) -> LogError {
        let name = sqlx::Column::name(self.row.column(self.first + column));
        stored::corrupt(format!("column {name} of an event is not as the library makes it"))
    }
}
