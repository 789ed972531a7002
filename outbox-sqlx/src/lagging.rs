//! Lanes of a checkpoint that lag behind its others, as the JSON in the column `behind`:
//! `[{"lanes": "<mask>", "cursor": "<text>"}]`. The mask is text because JSON readers round large numbers.

use outbox_core::{
    event::LaneSet,
    log::{Cursor, LogError, Track},
};
use sqlx::types::JsonValue;

use crate::stored::corrupt;

/// `None` when no lane lags.
pub(crate) fn to_json(tracks: &[Track]) -> Option<JsonValue> {
    let object = |track: &Track| {
        let lanes = JsonValue::from(track.lanes.mask().to_string());
        let cursor = JsonValue::from(track.cursor.as_text());
        [("lanes".to_owned(), lanes), ("cursor".to_owned(), cursor)].into_iter().collect::<JsonValue>()
    };
    (!tracks.is_empty()).then(|| tracks.iter().map(object).collect())
}

/// # Errors
/// [`LogErrorKind::Corrupt`](outbox_core::log::LogErrorKind::Corrupt) when it is not what [`to_json`] makes.
pub(crate) fn from_json(behind: Option<&JsonValue>) -> Result<Vec<Track>, LogError> {
    let Some(behind) = behind else { return Ok(Vec::new()) };
    let track = |object: &JsonValue| {
        let lanes = LaneSet::from_mask(object.get("lanes")?.as_str()?.parse().ok()?);
        Some(Track { cursor: Cursor::from_text(object.get("cursor")?.as_str()?), lanes })
    };
    let tracks = behind.as_array().and_then(|objects| objects.iter().map(track).collect());
    tracks.ok_or_else(|| corrupt("the lagging lanes of a checkpoint cannot be read back".to_owned()))
}

#[cfg(test)]
mod tests {
    use outbox_core::log::LogErrorKind;

    use super::*;

    #[test]
    fn tracks_read_back() {
        let track = |lanes, cursor: &str| Track { cursor: Cursor::from_text(cursor), lanes: LaneSet::from_mask(lanes) };
        let tracks = [track(u64::MAX, "a \"b\""), track(0b101, "")];
        let json = to_json(&tracks).expect("some lag");
        assert_eq!(from_json(Some(&json)).expect("reads back"), tracks);
        assert_eq!(to_json(&[]), None);
        assert_eq!(from_json(None).expect("none lag"), []);
        let refused = from_json(Some(&JsonValue::from("text"))).expect_err("no list");
        assert_eq!(refused.kind(), LogErrorKind::Corrupt);
    }
}
