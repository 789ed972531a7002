//! Which lanes stand where.

use outbox_core::{
    event::{LaneCount, LaneSet, LogId},
    log::{ConsumerName, Cursor, Fence, LogError, Track, lanes_of},
};
use sqlx::{PgConnection, Row as _, SqlStr, postgres::PgRow, types::JsonValue};

use super::{
    super::{Inner, SchemaName, cursor::Place, error},
    place_of, sql,
};
use crate::{lagging, refusals::fenced, stored};

#[derive(Debug)]
pub(super) struct Sql {
    all: SqlStr,
}

impl Sql {
    pub(super) fn new(schema: &SchemaName) -> Self {
        // One statement, so that no lane changes hands between two looks. What comes later counts.
        let all = "SELECT name, 0 AS source, -1::bigint AS lanes, start_cursor AS cursor, NULL::jsonb AS behind
            FROM @schema@.outbox_consumer WHERE name = coalesce($1, name)
            UNION ALL
            SELECT l.consumer, 1, bit_or(1::bigint << l.lane), l.cursor, NULL
            FROM @schema@.outbox_lane AS l WHERE l.consumer = coalesce($1, l.consumer) GROUP BY l.consumer, l.cursor
            UNION ALL
            SELECT m.consumer, 2, m.lanes & c.lanes, c.cursor, c.behind
            FROM @schema@.outbox_member AS m CROSS JOIN LATERAL (
                SELECT c.lanes, c.cursor, c.behind FROM @schema@.outbox_checkpoint AS c
                WHERE c.consumer = m.consumer AND c.epoch = m.epoch ORDER BY c.nth DESC LIMIT 1
            ) AS c
            WHERE m.consumer = coalesce($1, m.consumer) AND m.lanes <> 0
            ORDER BY 1, 2";
        Self { all: sql(schema, all) }
    }
}

/// The places of all lanes of every consumer, or of one: as the last checkpoints have them.
///
/// # Errors
/// [`LogErrorKind::Corrupt`](outbox_core::log::LogErrorKind::Corrupt) when what is stored cannot be read back.
pub(in super::super) async fn all_places(
    log: &Inner,
    conn: &mut PgConnection,
    lanes: LaneCount,
    consumer: Option<&ConsumerName>,
) -> Result<Vec<(ConsumerName, Places)>, LogError> {
    let rows = sqlx::query(log.consumers.places.all.clone())
        .bind(consumer.map(ConsumerName::as_str))
        .fetch_all(conn)
        .await
        .map_err(error::log)?;
    let mut found: Vec<(ConsumerName, Places)> = Vec::new();
    for row in &rows {
        let name: &str = row.try_get(0).map_err(error::log)?;
        let places = Places::stored(row, 2)?.only(LaneSet::all(lanes));
        if let Some((_, known)) = found.last_mut().filter(|(known, _)| known.as_str() == name) {
            known.put_all(&places);
        } else {
            let name = ConsumerName::parse(name);
            let name =
                name.map_err(|bad| stored::corrupt("no consumer has such a name".to_owned()).with_source(bad))?;
            found.push((name, places));
        }
    }
    Ok(found)
}

/// Which lanes stand where: each lane at one place, and no two tracks at the same.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in super::super) struct Places(Vec<Track>);

impl Places {
    /// What a member says about lanes, each of which it has to name once.
    ///
    /// # Errors
    /// [`LogErrorKind::Fenced`](outbox_core::log::LogErrorKind::Fenced) when a lane is named twice, and
    /// [`LogErrorKind::BadCursor`](outbox_core::log::LogErrorKind::BadCursor) when a place is not of this log.
    pub(super) fn named_by(fence: &Fence, tracks: &[Track], log: LogId) -> Result<Self, LogError> {
        let mut places = Self::default();
        for track in tracks {
            place_of(&track.cursor, log)?;
            if !track.lanes.intersection(places.lanes()).is_empty() {
                return Err(fenced(fence));
            }
            places.put(&track.cursor, track.lanes);
        }
        Ok(places)
    }

    /// From three columns: all lanes, the place of most of them, and those that lag.
    pub(super) fn stored(row: &PgRow, first: usize) -> Result<Self, LogError> {
        let columns = || -> Result<(i64, String, Option<JsonValue>), sqlx::Error> {
            Ok((row.try_get(first)?, row.try_get(first + 1)?, row.try_get(first + 2)?))
        };
        let (lanes, cursor, behind) = columns().map_err(error::log)?;
        let lanes = LaneSet::from_mask(lanes as u64);
        let mut places = Self::default();
        places.put(&Cursor::from_text(cursor), lanes);
        for track in lagging::from_json(behind.as_ref())?.iter().rev() {
            places.put(&track.cursor, track.lanes.intersection(lanes));
        }
        Ok(places)
    }

    /// Moves lanes to a place.
    pub(super) fn put(&mut self, cursor: &Cursor, lanes: LaneSet) {
        if lanes.is_empty() {
            return;
        }
        self.0.iter_mut().for_each(|track| track.lanes = track.lanes.difference(lanes));
        self.0.retain(|track| !track.lanes.is_empty());
        match self.0.iter_mut().find(|track| track.cursor == *cursor) {
            Some(track) => track.lanes = track.lanes.union(lanes),
            None => self.0.push(Track { cursor: cursor.clone(), lanes }),
        }
    }

    /// Moves lanes to where they are in `other`.
    pub(super) fn put_all(&mut self, other: &Self) {
        other.0.iter().for_each(|track| self.put(&track.cursor, track.lanes));
    }

    /// Those of some lanes.
    pub(super) fn only(&self, lanes: LaneSet) -> Self {
        let within = |track: &Track| Track { cursor: track.cursor.clone(), lanes: track.lanes.intersection(lanes) };
        Self(self.0.iter().map(within).filter(|track| !track.lanes.is_empty()).collect())
    }

    pub(super) fn lanes(&self) -> LaneSet {
        lanes_of(&self.0)
    }

    pub(in super::super) fn tracks(&self) -> &[Track] {
        &self.0
    }

    pub(super) fn into_tracks(self) -> Vec<Track> {
        self.0
    }

    /// The lowest position that all of these lanes have passed.
    ///
    /// # Errors
    /// [`LogErrorKind::BadCursor`](outbox_core::log::LogErrorKind::BadCursor) when what is stored is no cursor.
    pub(super) fn lowest(&self) -> Result<u64, LogError> {
        Ok(self.parsed()?.iter().map(Place::position).min().unwrap_or(0))
    }

    /// The highest transaction id that the server had reached at one of them.
    ///
    /// # Errors
    /// As [`Places::lowest`].
    pub(super) fn reached_xid(&self) -> Result<u64, LogError> {
        Ok(self.parsed()?.iter().map(Place::reached_xid).max().unwrap_or(0))
    }

    fn parsed(&self) -> Result<Vec<Place>, LogError> {
        self.0.iter().map(|track| Place::parse(&track.cursor)).collect()
    }

    /// The place of most of the lanes, and the others.
    pub(super) fn split(&self) -> Option<(&Cursor, Vec<Track>)> {
        let common = self.0.iter().max_by_key(|track| track.lanes.len())?;
        let others = self.0.iter().filter(|track| track.cursor != common.cursor).cloned().collect();
        Some((&common.cursor, others))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Cursor {
        Cursor::from_text(text)
    }

    fn lanes(mask: u64) -> LaneSet {
        LaneSet::from_mask(mask)
    }

    #[test]
    fn a_lane_is_at_one_place_and_no_two_tracks_at_the_same() {
        let mut places = Places::default();
        places.put(&at("a"), lanes(0b1111));
        places.put(&at("b"), lanes(0b0011));
        places.put(&at("c"), lanes(0b0110));
        places.put(&at("a"), lanes(0b0001));
        let expected = [(at("a"), lanes(0b1001)), (at("c"), lanes(0b0110))];
        let tracks: Vec<_> = places.tracks().iter().map(|track| (track.cursor.clone(), track.lanes)).collect();
        assert_eq!(tracks, expected);
        assert_eq!(places.lanes(), lanes(0b1111));
        assert_eq!(places.only(lanes(0b0100)).tracks(), [Track { cursor: at("c"), lanes: lanes(0b0100) }]);
        places.put(&at("c"), lanes(0b1000));
        let (common, others) = places.split().expect("tracks");
        assert_eq!((common, others), (&at("c"), vec![Track { cursor: at("a"), lanes: lanes(0b0001) }]));
        assert_eq!(Places::default().split(), None);
    }
}
