//! Consumers, their members and lanes, their checkpoints, their parked events.
//!
//! A lane that is owned has its place in the newest checkpoint of its owner, one that nobody owns in `outbox_lane`, or
//! else it is where the consumer starts; whoever moves a lane moves its place in the same transaction.
//!
//! Every write of a member is one statement of its own that names its epoch and holds a lock on the member's row while it
//! writes, but for the note that an attempt at parked events began. Whoever expels a member deletes that row first, and only then, with a new snapshot, looks for the last
//! checkpoint. So a write of the old member either comes before that and is seen, or finds no row and does nothing. A
//! process that is stopped between two statements holds no lock, and keeps nobody from expelling it; one that is stopped
//! while it takes lanes does so for five seconds.

mod checkpoints;
mod membership;
mod operators;
mod parking;
mod places;
mod reanchor;
mod registration;
mod roster;
mod set_aside;
mod status;

use outbox_core::{
    event::LogId,
    log::{Cursor, LogError, LogErrorKind},
};
use sqlx::{AssertSqlSafe, PgConnection, SqlSafeStr, SqlStr};

pub(super) use self::{
    checkpoints::{checkpoint, progress, release},
    membership::{join, leave, renew},
    operators::{consumers, drop_consumer, set_paused},
    parking::{blocked_keys, due_parked, park, redriven},
    places::all_places,
    reanchor::reanchor,
    registration::register,
    set_aside::{discard, discarded, parked, redrive},
    status::{event_status, tail},
};
use super::{Inner, SchemaName, cursor::Place, error, reader};
use crate::generations::Generations;

/// Each statement must see what was committed while it waited for a lock. Lanes change hands in transactions of several
/// statements: a process that is stopped between two of them is given up, so that others wait no longer than this.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED; SET LOCAL idle_in_transaction_session_timeout = '5s'";

/// Several looks at one moment.
const BEGIN_READING: &str = "BEGIN ISOLATION LEVEL READ COMMITTED, READ ONLY";

#[derive(Debug)]
pub(super) struct Sql {
    generations: SqlStr,
    checkpoints: checkpoints::Sql,
    membership: membership::Sql,
    operators: operators::Sql,
    parking: parking::Sql,
    places: places::Sql,
    reanchor: reanchor::Sql,
    registration: registration::Sql,
    roster: roster::Sql,
    set_aside: set_aside::Sql,
    status: status::Sql,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        Self {
            generations: sql(schema, "SELECT generation::bigint, from_position FROM @schema@.outbox_generation"),
            checkpoints: checkpoints::Sql::new(schema),
            membership: membership::Sql::new(schema),
            operators: operators::Sql::new(schema),
            parking: parking::Sql::new(schema),
            places: places::Sql::new(schema),
            reanchor: reanchor::Sql::new(schema),
            registration: registration::Sql::new(schema),
            roster: roster::Sql::new(schema),
            set_aside: set_aside::Sql::new(schema),
            status: status::Sql::new(schema),
        }
    }
}

fn sql(schema: &SchemaName, text: &str) -> SqlStr {
    AssertSqlSafe(schema.qualify(text)).into_sql_str()
}

async fn generations(log: &Inner, conn: &mut PgConnection) -> Result<Generations, LogError> {
    let rows: Vec<(i64, i64)> =
        sqlx::query_as(log.consumers.generations.clone()).fetch_all(conn).await.map_err(error::log)?;
    Generations::parse(rows)
}

/// Its id, asked for once.
async fn log_id(log: &Inner) -> Result<LogId, LogError> {
    if let Some(identity) = log.frozen.get() {
        return Ok(identity.id);
    }
    let mut conn = log.pool.acquire().await.map_err(error::log)?;
    Ok(reader::identity(log, &mut conn).await?.id)
}

/// # Errors
/// [`LogErrorKind::BadCursor`] when it is no place of this log.
fn place_of(cursor: &Cursor, log: LogId) -> Result<Place, LogError> {
    let place = Place::parse(cursor)?;
    if place.log() != log {
        let message = format!("the cursor is of log {}, this is log {log}", place.log());
        return Err(LogError::new(LogErrorKind::BadCursor, message));
    }
    Ok(place)
}

/// What a text column cannot hold becomes the replacement character.
fn storable(text: &str) -> std::borrow::Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}
