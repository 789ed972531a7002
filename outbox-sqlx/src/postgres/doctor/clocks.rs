//! Clocks that are ahead of the database's.

use std::time::Duration;

use chrono::{DateTime, Utc};
use outbox_core::log::LogError;
use uuid::Uuid;

use super::{get, sql};
use crate::{
    doctor::{Check, Finding, Limits, clock_of, spoken},
    postgres::{Inner, error},
};

/// Leases and checkpoints use the database's clock, so nothing breaks at once. But ages and retention by age go by the
/// writers' clocks, and UUIDs sort by them. One that is behind cannot be told from a slow one.
pub(super) async fn not_ahead(log: &Inner, limits: &Limits) -> Result<Vec<Finding>, LogError> {
    let mut check = Check::new("clocks");
    let ahead: Option<f64> = sqlx::query_scalar(sql(
        log,
        "SELECT max(extract(epoch FROM created_at - clock_timestamp()))::float8 FROM (
            SELECT created_at FROM @schema@.outbox_event ORDER BY position DESC LIMIT 1000
        ) AS newest",
    ))
    .fetch_one(&log.pool)
    .await
    .map_err(error::log)?;
    let ahead = ahead.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).unwrap_or_default();
    if ahead > limits.clock {
        check.warning(
            format!("an event among the newest is dated {} in the future", spoken(ahead)),
            "set the writers' clocks (NTP): retention by age goes by them",
        );
    }
    let members = sqlx::query(sql(log, "SELECT consumer, member, joined_at FROM @schema@.outbox_member"));
    for row in &members.fetch_all(&log.pool).await.map_err(error::log)? {
        let (consumer, member): (String, Uuid) = (get(row, 0)?, get(row, 1)?);
        let joined_at: DateTime<Utc> = get(row, 2)?;
        // A member makes its id before it joins.
        let ahead = clock_of(member).and_then(|made| (made - joined_at).to_std().ok()).unwrap_or_default();
        if ahead > limits.clock {
            check.warning(
                format!(
                    "the clock of member {member} of consumer {consumer} was {} ahead when it joined",
                    spoken(ahead)
                ),
                "set its clock (NTP): what it logs and measures is off by as much",
            );
        }
    }
    Ok(check.or_ok("nobody is ahead of the database"))
}
