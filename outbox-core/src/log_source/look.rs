//! Looking for events.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep_until};

use super::{
    Member, Settings,
    asked::{Asked, in_time},
    parts::{take_in, wanted},
};
use crate::{
    log::{Cursor, EventLog, LogError, LogErrorKind, Page, Track},
    wake::WakeListener,
};

/// The first pause after a look that found nothing.
const FIRST_IDLE: Duration = Duration::from_millis(25);

/// The look that is under way, or when the next one is.
pub(super) struct Looks {
    look: Option<Look>,
    /// The last look found nothing: the next one is then, unless the bell rings.
    rest: Option<Instant>,
    idle: Duration,
}

/// The log is being asked, whether somebody waits for the answer or not.
struct Look {
    tracks: Vec<Track>,
    answer: Asked<Vec<Page>>,
    /// A partition was started or resumed since.
    is_late: bool,
}

impl Default for Looks {
    fn default() -> Self {
        Self { look: None, rest: None, idle: FIRST_IDLE }
    }
}

impl Looks {
    /// At the last look, and it is not time for the next one.
    pub(super) fn found_nothing(&self) -> bool {
        self.rest.is_some()
    }

    /// A partition was started or resumed: there may be something for it.
    pub(super) fn again(&mut self) {
        self.rest = None;
        if let Some(look) = &mut self.look {
            look.is_late = true;
        }
    }
}

impl Member {
    /// Looks for events, or waits until it is time to.
    pub(super) async fn look(
        &mut self,
        log: &Arc<dyn EventLog>,
        settings: &Settings,
        bell: &mut WakeListener,
        paused: bool,
    ) -> Result<(), LogError> {
        if self.looks.look.is_none() {
            let tracks = if paused { Vec::new() } else { wanted(&mut self.parts) };
            if tracks.is_empty() || self.looks.rest.is_some() {
                self.wait(bell, !tracks.is_empty()).await;
                return Ok(());
            }
            bell.arm();
            self.looks.look = Some(Look::begin(log.clone(), tracks, settings));
        }
        let Some(look) = &mut self.looks.look else { return Ok(()) };
        let pages = tokio::select! {
            biased;
            pages = look.answer.wait() => pages,
            // The log goes on being asked, unless that was about a membership that is over.
            () = self.lease.changed() => return Ok(()),
            () = sleep_until(self.write_at.unwrap_or_else(far_away)) => return Ok(()),
        };
        let Some(Look { tracks, is_late, .. }) = self.looks.look.take() else { return Ok(()) };
        match pages {
            Ok(pages) => self.take_in(&tracks, pages, is_late, settings.poll),
            Err(error) => {
                if !error.kind().passes() {
                    // The same answer would come for ever: deliver nothing until somebody starts elsewhere.
                    let was_asked = |cursor: &Cursor| tracks.iter().any(|track| track.cursor == *cursor);
                    for part in &mut self.parts {
                        part.reading.take_if(|reading| was_asked(&reading.cursor));
                    }
                }
                return Err(error);
            }
        }
        Ok(())
    }

    async fn wait(&mut self, bell: &mut WakeListener, delivers: bool) {
        let rest = self.looks.rest.filter(|_| delivers);
        tokio::select! {
            () = self.lease.changed() => {}
            () = sleep_until(self.write_at.unwrap_or_else(far_away)) => {}
            () = sleep_until(rest.unwrap_or_else(far_away)) => self.looks.rest = None,
            () = bell.rung(), if delivers => (self.looks.rest, self.looks.idle) = (None, FIRST_IDLE),
        }
    }

    fn take_in(&mut self, tracks: &[Track], pages: Vec<Page>, is_late: bool, poll: Duration) {
        let nothing_new = pages.iter().all(|page| page.events.is_empty() && page.caught_up);
        for (track, page) in tracks.iter().zip(pages) {
            take_in(&mut self.parts, track, page, &mut self.found);
        }
        if nothing_new && !is_late {
            self.looks.rest = Some(Instant::now() + self.looks.idle.min(poll));
            self.looks.idle = (self.looks.idle * 2).min(poll);
        } else {
            self.looks.idle = FIRST_IDLE;
        }
    }
}

impl Look {
    fn begin(log: Arc<dyn EventLog>, tracks: Vec<Track>, settings: &Settings) -> Self {
        let (wanted, limit, patience) = (tracks.clone(), settings.batch, settings.patience());
        let answer = Asked::of(async move {
            let pages = in_time(patience, log.read(&wanted, limit)).await?;
            if pages.len() != wanted.len() {
                return Err(LogError::new(
                    LogErrorKind::Incompatible,
                    "the log did not answer with a page for each track",
                ));
            }
            Ok(pages)
        });
        Self { tracks, answer, is_late: false }
    }
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_hours(24)
}
