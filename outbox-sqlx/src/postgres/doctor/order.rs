//! Whether writers of one key went one after the other.
//!
//! A later position with a smaller xid proves nothing: a transaction may have begun early, written elsewhere and waited
//! its turn. But a checkpoint keeps a snapshot, and one that has seen an event and not its predecessor, which committed
//! later, shows the two in the wrong order, as that consumer read them.

use std::collections::HashMap;

use outbox_core::log::{Cursor, LogError};

use super::{get, sql};
use crate::{
    doctor::{Check, Finding},
    postgres::{
        Inner,
        cursor::{Place, Seen},
        error,
    },
};

/// How many positions and checkpoints are looked at.
const EVENTS: i64 = 10_000;
const CHECKPOINTS: i64 = 500;

#[derive(Debug)]
struct Written {
    position: u64,
    xid: u64,
}

pub(super) async fn kept(log: &Inner) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("order");
    let keys = newest_events(log).await?;
    let moments = newest_checkpoints(log).await?;
    let (events, moments_count) = (keys.values().map(Vec::len).sum::<usize>(), moments.len());
    let mut inverted: Vec<(&String, u64, u64)> = keys
        .iter()
        .filter_map(|(key, written)| {
            let (early, late) = moments.iter().find_map(|seen| inversion(written, seen))?;
            Some((key, early, late))
        })
        .collect();
    inverted.sort_unstable_by_key(|(_, early, _)| *early);
    if let Some((key, early, late)) = inverted.first() {
        check.problem(
            format!(
                "transactions that wrote events of one key did not wait for each other (keys: {}); of {key:?}, for \
                 instance, position {late} was committed before position {early}",
                inverted.len()
            ),
            "let writers use `append` or `outbox_append`, or lock the aggregate's row before `already_locked().append`; \
             consumers that keep only what is newer than the last event drop such events",
        );
    }
    Ok(check.or_ok(format!("no inversion among {events} events as {moments_count} checkpoints saw them")))
}

/// The newest events by key, in the order of positions.
async fn newest_events(log: &Inner) -> Result<HashMap<String, Vec<Written>>, LogError> {
    let rows = sqlx::query(sql(
        log,
        "SELECT position, xid::text, coalesce(ordering_key, aggregate_type || '/' || aggregate_id)
        FROM @schema@.outbox_event
        WHERE NOT unordered AND position > (SELECT last_value - $1 FROM @schema@.outbox_event_position_seq)
        ORDER BY position",
    ))
    .bind(EVENTS)
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    let mut keys: HashMap<String, Vec<Written>> = HashMap::new();
    for row in &rows {
        let (position, xid): (i64, &str) = (get(row, 0)?, get(row, 1)?);
        let xid = xid.parse().unwrap_or_default();
        keys.entry(get(row, 2)?).or_default().push(Written { position: position.cast_unsigned(), xid });
    }
    keys.retain(|_, written| written.len() > 1);
    Ok(keys)
}

async fn newest_checkpoints(log: &Inner) -> Result<Vec<Seen>, LogError> {
    let cursors: Vec<String> = sqlx::query_scalar(sql(
        log,
        "SELECT DISTINCT cursor FROM (
            SELECT cursor FROM @schema@.outbox_checkpoint ORDER BY id DESC LIMIT $1
        ) AS newest",
    ))
    .bind(CHECKPOINTS)
    .fetch_all(&log.pool)
    .await
    .map_err(error::log)?;
    cursors.into_iter().map(|cursor| Ok(Place::parse(&Cursor::from_text(cursor))?.seen())).collect()
}

/// The position of an event that was not seen, and that of a later one that was.
fn inversion(written: &[Written], seen: &Seen) -> Option<(u64, u64)> {
    let mut unseen = None;
    for Written { position, xid } in written {
        match (unseen, seen.contains(*xid, *position)) {
            (None, false) => unseen = Some(*position),
            (Some(early), true) => return Some((early, *position)),
            _ => {}
        }
    }
    None
}
