//! How much is still to come.

use std::time::Duration;

use tokio::time::Instant;

use super::{Member, Part, Reading};
use crate::{
    log::{ConsumerName, EventLog, LogError, Track},
    source::{Partition, SourcePosition},
};

impl Member {
    /// See [`LogSource`](super::LogSource), *Lag*. `is_old`: there may be more than the last look found
    /// that had an answer.
    pub(super) async fn lag(
        &mut self,
        log: &dyn EventLog,
        consumer: &ConsumerName,
        partition: &Partition,
        position: Option<&SourcePosition>,
        is_old: bool,
    ) -> Result<Option<u64>, LogError> {
        let lanes = self.place.lanes.len();
        let is_paused = self.lease.standing().paused;
        let Some(part) = self.part(partition) else { return Ok(None) };
        let Some(reading) = &part.reading else { return Ok(None) };
        if reading.is_all(position) {
            let is_looked_at = !is_paused && !part.paused;
            if is_looked_at && reading.caught_up && !is_old {
                return Ok(Some(0));
            }
            if !is_looked_at && nothing_behind(log, part, reading).await? {
                return Ok(Some(0));
            }
        }
        let (reached, own) = (reading.reached, part.lanes.len());
        let Ends { position, head, .. } = self.ends(log, consumer).await?;
        // Positions are those of all lanes.
        let behind = head.saturating_sub(reached.unwrap_or(position)) * u64::from(own);
        Ok(Some(behind.div_ceil(u64::from(lanes.max(1))).max(1)))
    }

    /// All partitions are asked for one after the other.
    async fn ends(&mut self, log: &dyn EventLog, consumer: &ConsumerName) -> Result<Ends, LogError> {
        if let Some(ends) = self.ends.filter(|ends| ends.at.elapsed() < FRESH) {
            return Ok(ends);
        }
        let at = Instant::now();
        let progress = log.progress(consumer).await?;
        Ok(*self.ends.insert(Ends { at, position: progress.position, head: progress.head }))
    }
}

/// How long what is known of the log's ends is good enough.
const FRESH: Duration = Duration::from_millis(200);

/// The consumer's place and the newest position of the log.
#[derive(Clone, Copy)]
pub(super) struct Ends {
    at: Instant,
    position: u64,
    head: u64,
}

impl Reading {
    /// Whether everything that was handed out is in front of this position.
    fn is_all(&self, position: Option<&SourcePosition>) -> bool {
        position.map_or(self.started.as_text(), SourcePosition::as_text) == self.told.as_text()
    }
}

/// Nobody looks on behalf of a partition that is paused.
async fn nothing_behind(log: &dyn EventLog, part: &Part, reading: &Reading) -> Result<bool, LogError> {
    let track = Track { cursor: reading.cursor.clone(), lanes: part.lanes };
    let pages = log.read(&[track], 1).await?;
    Ok(pages.iter().all(|page| page.events.is_empty() && page.caught_up))
}
