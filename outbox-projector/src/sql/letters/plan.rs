//! What a replay has to do.

use std::collections::{HashMap, HashSet};

use outbox_core::{error::chain, projection::ProjectionError};
use uuid::Uuid;

use super::{
    KeptLetter, SqlDeadLetters,
    bodies::{Bodies, NoEvent},
};
use crate::sql::{
    Letters, Replay, ReplayReport, ReplayedKey, Series, SqlDatabase, SqlProjection, projection::store_error,
};

/// A topic may hold far more letters than are open: asked for so many at once.
const AT_ONCE: usize = 10_000;

/// What is replayed by itself: the letters of a key in order, or one of them.
pub(super) struct Unit {
    pub(super) series: Series,
    /// Only this one.
    pub(super) only: Option<Uuid>,
    /// Letters that could not be decoded and turn out to be of this key, and are not filed under it yet.
    pub(super) unfiled: Vec<KeptLetter>,
}

impl Unit {
    fn key(series: Series) -> Self {
        Self { series, only: None, unfiled: Vec::new() }
    }
}

impl<DB: SqlDatabase> SqlDeadLetters<'_, DB> {
    /// The units in order. What cannot be decoded belongs to none and is reported at once.
    pub(super) async fn plan(
        &self,
        replay: &Replay,
        bodies: &Bodies<'_>,
        report: &mut ReplayReport,
    ) -> Result<Vec<Unit>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        let mut units: Vec<Unit> = match &replay.which {
            Letters::Id(id) => return self.plan_one(*id, replay, bodies, report).await,
            Letters::Key(series) => vec![Unit::key(series.clone())],
            Letters::All => {
                let keys = DB::series_with_letters(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
                keys.into_iter().map(Unit::key).collect()
            }
        };
        let mut places: HashMap<Series, usize> =
            units.iter().enumerate().map(|(place, unit)| (unit.series.clone(), place)).collect();
        let alone = DB::letters_without_series(tables, pool, name.as_str()).await.map_err(store_error::<DB>)?;
        for id in alone {
            let Some((mut letter, record)) = self.get(id).await? else { continue };
            let received = match bodies.read(&letter, record.as_ref()) {
                Ok(received) => received,
                Err(_) if replay.which != Letters::All => continue,
                Err(why) => {
                    report.keys.push(self.without_event(&letter, &why, replay.dry_run).await?);
                    continue;
                }
            };
            let series = letter.file_under(&received).clone();
            let place = match places.get(&series) {
                Some(place) => *place,
                None if replay.which == Letters::All => {
                    places.insert(series.clone(), units.len());
                    units.push(Unit::key(series));
                    units.len() - 1
                }
                None => continue,
            };
            units[place].unfiled.push(letter);
        }
        Ok(units)
    }

    async fn plan_one(
        &self,
        id: Uuid,
        replay: &Replay,
        bodies: &Bodies<'_>,
        report: &mut ReplayReport,
    ) -> Result<Vec<Unit>, ProjectionError> {
        let Some((mut letter, record)) = self.get(id).await? else { return Ok(Vec::new()) };
        if let Some(series) = letter.series {
            return Ok(vec![Unit { only: Some(id), ..Unit::key(series) }]);
        }
        match bodies.read(&letter, record.as_ref()) {
            Ok(received) => {
                let series = letter.file_under(&received).clone();
                Ok(vec![Unit { series, only: Some(id), unfiled: vec![letter] }])
            }
            Err(why) => {
                report.keys.push(self.without_event(&letter, &why, replay.dry_run).await?);
                Ok(Vec::new())
            }
        }
    }

    async fn without_event(
        &self,
        letter: &KeptLetter,
        why: &NoEvent,
        dry_run: bool,
    ) -> Result<ReplayedKey, ProjectionError> {
        if let NoEvent::Unreadable(why) = why
            && !dry_run
        {
            self.failed(letter, why).await?;
        }
        Ok(ReplayedKey { letter: Some(letter.id), left: 1, error: Some(chain(why)), ..ReplayedKey::default() })
    }

    /// The letters given to the replay that are not open, each with its key if it can be decoded.
    pub(super) async fn not_open(
        &self,
        replay: &Replay,
        bodies: &Bodies<'_>,
    ) -> Result<Vec<(Uuid, Option<Series>)>, ProjectionError> {
        let SqlProjection { tables, pool, name, .. } = self.projection;
        let ids: Vec<Uuid> = bodies.elsewhere.keys().copied().collect();
        let mut open = HashSet::new();
        for ids in ids.chunks(AT_ONCE) {
            open.extend(DB::open_letters(tables, pool, name.as_str(), ids).await.map_err(store_error::<DB>)?);
        }
        let mut not_open = Vec::new();
        for letter in bodies.elsewhere.values().filter(|letter| !open.contains(&letter.id)) {
            let series = letter.event(bodies.decoder).ok().map(|received| Series::of_received(&received));
            let is_meant = match &replay.which {
                Letters::All => true,
                Letters::Key(key) => series.as_ref() == Some(key),
                Letters::Id(id) => letter.id == *id,
            };
            if is_meant {
                not_open.push((letter.id, series));
            }
        }
        not_open.sort_unstable();
        Ok(not_open)
    }
}

impl ReplayReport {
    pub(super) fn count_duplicates(&mut self, not_open: Vec<(Uuid, Option<Series>)>) {
        let mut places: HashMap<Series, usize> = HashMap::new();
        for (place, key) in self.keys.iter().enumerate() {
            places.extend(key.series.clone().map(|series| (series, place)));
        }
        for (id, series) in not_open {
            let known = series.as_ref().and_then(|series| places.get(series)).copied();
            let place = known.unwrap_or_else(|| {
                let letter = series.is_none().then_some(id);
                self.keys.push(ReplayedKey { series: series.clone(), letter, ..ReplayedKey::default() });
                self.keys.len() - 1
            });
            self.keys[place].done.duplicates += 1;
            places.extend(series.map(|series| (series, place)));
        }
    }
}
