//! A consumer as the tables have it: who owns which lanes, and where these stand.

use chrono::{DateTime, Utc};
use outbox_core::{
    event::LaneSet,
    log::{Claim, ConsumerName, Cursor, Fence, LogError, MemberId, Track, balance::Standing},
};
use sqlx::{
    Row as _, SqliteConnection,
    sqlite::SqliteRow,
    types::{JsonValue, Uuid},
};

use super::{
    super::{cursor::Place, error, reader::State},
    now,
    places::{Places, cursor},
};
use crate::{lagging, refusals::unknown, stored};

const CONSUMER: &str = "SELECT start_cursor, paused, created_at FROM outbox_consumer WHERE name = ?1";

const MEMBERS: &str = "SELECT m.member, m.epoch, m.claim_all, m.lanes, m.expires, c.cursor, c.behind \
    FROM outbox_member AS m LEFT JOIN outbox_checkpoint AS c ON c.consumer = m.consumer AND c.id = m.checkpoint \
    WHERE m.consumer = ?1 ORDER BY m.epoch";

const FREE: &str = "SELECT lane, cursor FROM outbox_lane WHERE consumer = ?1";

/// One statement for up to 64 lanes.
const GIVE_BACK: &str = "WITH RECURSIVE lane (number) AS (SELECT 0 UNION ALL SELECT number + 1 FROM lane WHERE number < 63) \
    INSERT INTO outbox_lane (consumer, lane, cursor) SELECT ?1, number, ?2 FROM lane WHERE (?3 >> number) & 1 = 1 \
    ON CONFLICT (consumer, lane) DO UPDATE SET cursor = excluded.cursor";

/// One consumer.
#[derive(Debug)]
pub(in super::super) struct Roster {
    pub(super) paused: bool,
    pub(super) created_at: DateTime<Utc>,
    pub(super) members: Vec<Member>,
    /// Of the lanes that nobody owns.
    pub(super) free: Places,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) id: MemberId,
    pub(super) epoch: u64,
    pub(super) claim: Claim,
    /// In milliseconds.
    pub(super) expires: i64,
    /// Of its lanes.
    pub(super) places: Places,
}

/// Whether the places of a consumer have to be of this log as it is now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) enum Trust {
    /// A place beyond the end of the log is an error.
    Checked,
    /// Take the positions as they stand.
    AsStored,
}

impl Trust {
    fn position(self, cursor: &Cursor, state: &State) -> Result<u64, LogError> {
        let place = Place::parse(cursor)?;
        match self {
            Self::Checked => place.within(state),
            Self::AsStored => Ok(place.position()),
        }
    }
}

impl Roster {
    /// Reads in several statements: call it in a transaction.
    ///
    /// # Errors
    /// [`LogErrorKind::UnknownConsumer`](outbox_core::log::LogErrorKind::UnknownConsumer), and
    /// [`LogErrorKind::BadCursor`](outbox_core::log::LogErrorKind::BadCursor) when a place is not to be trusted.
    pub(in super::super) async fn load(
        conn: &mut SqliteConnection,
        state: &State,
        consumer: &ConsumerName,
        trust: Trust,
    ) -> Result<Self, LogError> {
        let known: Option<(String, bool, String)> =
            sqlx::query_as(CONSUMER).bind(consumer.as_str()).fetch_optional(&mut *conn).await.map_err(error::log)?;
        let (start, paused, created_at) = known.ok_or_else(|| unknown(consumer))?;
        let start = trust.position(&Cursor::from_text(start), state)?;
        let rows = sqlx::query(MEMBERS).bind(consumer.as_str()).fetch_all(&mut *conn).await.map_err(error::log)?;
        let members: Vec<Member> =
            rows.iter().map(|row| Member::parse(row, state, trust)).collect::<Result<_, LogError>>()?;

        let owned = members.iter().fold(LaneSet::EMPTY, |owned, member| owned.union(member.places.lanes()));
        let mut free = Places::of(LaneSet::all(state.identity.lanes), start);
        let rows: Vec<(i64, String)> =
            sqlx::query_as(FREE).bind(consumer.as_str()).fetch_all(conn).await.map_err(error::log)?;
        for (lane, cursor) in rows {
            let lane = LaneSet::from_iter([stored::lane(lane)?]);
            free.put(lane, trust.position(&Cursor::from_text(cursor), state)?);
        }
        let free = free.only(LaneSet::all(state.identity.lanes).difference(owned));
        let created_at = chrono::NaiveDateTime::parse_from_str(&created_at, "%Y-%m-%d %H:%M:%S");
        let created_at =
            created_at.map_err(|_| stored::corrupt(format!("consumer {consumer} has no time of creation")))?;
        Ok(Self { paused, created_at: created_at.and_utc(), members, free })
    }

    /// The member whose fence this is.
    pub(super) fn member(&self, fence: &Fence) -> Option<&Member> {
        self.members.iter().find(|member| member.id == fence.member && member.epoch == fence.epoch)
    }

    pub(super) fn standings(&self) -> Vec<Standing> {
        let now = now();
        self.members.iter().map(|member| member.standing(now)).collect()
    }

    /// Of all lanes.
    pub(super) fn places(&self) -> Places {
        let mut places = self.free.clone();
        self.members.iter().for_each(|member| places.put_all(&member.places));
        places
    }

    /// The lowest position that any lane has passed.
    pub(in super::super) fn lowest(&self) -> u64 {
        self.places().lowest().unwrap_or_default()
    }

    /// Ends a membership and gives its lanes back where they were.
    pub(super) async fn expel(
        &mut self,
        conn: &mut SqliteConnection,
        state: &State,
        consumer: &ConsumerName,
        member: MemberId,
    ) -> Result<(), LogError> {
        let Some(index) = self.members.iter().position(|known| known.id == member) else { return Ok(()) };
        let gone = self.members.remove(index);
        give_back(conn, state, consumer, &gone.places).await?;
        self.free.put_all(&gone.places);
        let sql = "DELETE FROM outbox_member WHERE consumer = ?1 AND member = ?2";
        sqlx::query(sql).bind(consumer.as_str()).bind(member.0).execute(conn).await.map_err(error::log)?;
        Ok(())
    }
}

impl Member {
    fn parse(row: &SqliteRow, state: &State, trust: Trust) -> Result<Self, LogError> {
        let columns = || -> Result<_, sqlx::Error> {
            let (id, epoch, claim_all): (Uuid, i64, bool) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
            let (lanes, expires): (i64, i64) = (row.try_get(3)?, row.try_get(4)?);
            let (cursor, behind): (Option<String>, Option<JsonValue>) = (row.try_get(5)?, row.try_get(6)?);
            Ok((id, epoch, claim_all, LaneSet::from_mask(lanes as u64), expires, cursor, behind))
        };
        let (id, epoch, claim_all, lanes, expires, cursor, behind) = columns().map_err(error::log)?;
        let mut places = Places::default();
        match cursor {
            _ if lanes.is_empty() => {}
            None => return Err(stored::corrupt(format!("member {id} owns lanes that stand nowhere"))),
            Some(cursor) => {
                let track = Track { cursor: Cursor::from_text(cursor), lanes };
                for track in std::iter::once(track).chain(lagging::from_json(behind.as_ref())?) {
                    places.put(track.lanes, trust.position(&track.cursor, state)?);
                }
            }
        }
        let claim = if claim_all { Claim::All } else { Claim::Share };
        Ok(Self { id: MemberId(id), epoch: epoch as u64, claim, expires, places: places.only(lanes) })
    }

    pub(super) fn standing(&self, now: i64) -> Standing {
        let Self { id, claim, expires, ref places, .. } = *self;
        Standing { member: id, claim, lanes: places.lanes(), live: expires > now }
    }
}

/// Makes these the places of lanes that nobody owns.
pub(super) async fn give_back(
    conn: &mut SqliteConnection,
    state: &State,
    consumer: &ConsumerName,
    places: &Places,
) -> Result<(), LogError> {
    for (position, lanes) in places.iter() {
        sqlx::query(GIVE_BACK)
            .bind(consumer.as_str())
            .bind(cursor(position, state).as_text())
            .bind(lanes.mask() as i64)
            .execute(&mut *conn)
            .await
            .map_err(error::log)?;
    }
    Ok(())
}

/// Gives all lanes of a consumer back, at the last position of the log where they were beyond it, and forgets its
/// members and its history.
pub(in super::super) async fn start_over(
    conn: &mut SqliteConnection,
    state: &State,
    consumer: &ConsumerName,
    last: u64,
) -> Result<(), LogError> {
    let places = Roster::load(conn, state, consumer, Trust::AsStored).await?.places().at_most(last);
    give_back(conn, state, consumer, &places).await?;
    for sql in ["DELETE FROM outbox_member WHERE consumer = ?1", "DELETE FROM outbox_checkpoint WHERE consumer = ?1"] {
        sqlx::query(sql).bind(consumer.as_str()).execute(&mut *conn).await.map_err(error::log)?;
    }
    sqlx::query("UPDATE outbox_consumer SET start_cursor = ?2 WHERE name = ?1")
        .bind(consumer.as_str())
        .bind(cursor(places.lowest().unwrap_or_default(), state).as_text())
        .execute(conn)
        .await
        .map_err(error::log)?;
    Ok(())
}
