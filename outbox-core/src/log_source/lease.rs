//! A membership, renewed in the background, and everything that is written about all of its lanes.

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Pauses, Settings, asked::in_time};
use crate::{
    event::{Lane, LaneSet},
    log::{Assignment, Cursor, EventLog, Fence, LogError, LogErrorKind, Renewal, Track},
};

/// A membership that is renewed in the background, whatever its holder is busy with, until it is dropped or over.
pub(super) struct Lease {
    holding: Arc<Holding>,
    renewals: JoinHandle<()>,
    standing: watch::Receiver<Standing>,
}

/// How the log sees a member.
#[derive(Debug, Clone, Default)]
pub(super) struct Standing {
    /// The membership is over, or nobody knows what the log has given.
    pub(super) lost: bool,
    /// An operator paused the consumer.
    pub(super) paused: bool,
    /// What the member owns.
    pub(super) lanes: LaneSet,
    /// The place of each of them, as the log has it.
    pub(super) places: Arc<Places>,
    /// So many of its lanes are its share: it should give back what it has beyond.
    pub(super) share: u32,
}

pub(super) type Places = BTreeMap<Lane, Cursor>;

impl Lease {
    /// A member without lanes asks for them about every poll, and at least as often as it renews.
    pub(super) fn keep(log: Arc<dyn EventLog>, assignment: Assignment, settings: &Settings) -> Self {
        let Assignment { fence, tracks, paused } = assignment;
        let places: Places = places_of(&tracks).collect();
        let standing = Standing {
            lost: false,
            paused,
            lanes: places.keys().copied().collect(),
            share: places.len() as u32,
            places: Arc::new(places),
        };
        let (tell, standing) = watch::channel(standing);
        let holding = Arc::new(Holding { log, fence, lease: settings.lease, tell, turn: Mutex::new(()) });
        let renewals = tokio::spawn(holding.clone().renew(settings.poll));
        Self { holding, renewals, standing }
    }

    pub(super) fn fence(&self) -> &Fence {
        &self.holding.fence
    }

    /// How it is now; [`Lease::changed`] waits for something else.
    pub(super) fn standing(&mut self) -> Standing {
        self.standing.borrow_and_update().clone()
    }

    pub(super) async fn changed(&mut self) {
        if self.standing.changed().await.is_err() && !self.standing.borrow().lost {
            // The task ended with the membership intact: only a runtime that shuts down does that.
            std::future::pending::<()>().await;
        }
    }

    /// Records the places of these lanes, and once more those of all others of the member.
    pub(super) fn checkpoint(&self, moved: Vec<Track>) -> impl Future<Output = Result<(), LogError>> + Send + 'static {
        self.holding.clone().checkpoint(moved)
    }

    /// Records the places of these lanes and gives them back.
    pub(super) fn release(&self, given: Vec<Track>) -> impl Future<Output = Result<(), LogError>> + Send + 'static {
        self.holding.clone().release(given)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.renewals.abort();
    }
}

struct Holding {
    log: Arc<dyn EventLog>,
    fence: Fence,
    lease: Duration,
    tell: watch::Sender<Standing>,
    /// A checkpoint names all lanes of the member, so no renewal may bring others while it is under way.
    turn: Mutex<()>,
}

impl Holding {
    async fn checkpoint(self: Arc<Self>, moved: Vec<Track>) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        let mut places = Places::clone(&self.tell.borrow().places);
        for (lane, cursor) in places_of(&moved) {
            places.entry(lane).and_modify(|place| *place = cursor);
        }
        let tracks = tracks_of(places.iter().map(|(lane, cursor)| (LaneSet::from_iter([*lane]), cursor)));
        self.in_time(self.log.checkpoint(&self.fence, &tracks)).await?;
        self.has(places);
        Ok(())
    }

    async fn release(self: Arc<Self>, given: Vec<Track>) -> Result<(), LogError> {
        let _turn = self.turn.lock().await;
        self.in_time(self.log.release(&self.fence, &given)).await?;
        let mut places = Places::clone(&self.tell.borrow().places);
        for (lane, _) in places_of(&given) {
            places.remove(&lane);
        }
        self.has(places);
        Ok(())
    }

    /// Whoever waits for its turn must not lose the lease over it.
    async fn in_time(&self, answer: impl Future<Output = Result<(), LogError>>) -> Result<(), LogError> {
        in_time(self.lease / 2, answer).await
    }

    /// Nobody waits for these changes: whoever made them knows.
    fn has(&self, places: Places) {
        self.tell.send_if_modified(|standing| {
            standing.lanes = places.keys().copied().collect();
            standing.places = Arc::new(places);
            false
        });
    }

    async fn renew(self: Arc<Self>, poll: Duration) {
        // Two tries fit into a lease, and beside the polls of an idle source renewals are few.
        let every = self.lease.mul_f64(0.4);
        let mut pauses = Pauses::default();
        loop {
            let owns = !self.tell.borrow().lanes.is_empty();
            if pauses.is_growing() {
                pauses.pause().await;
            } else if owns {
                sleep(every).await;
            } else {
                sleep(poll.mul_f64(rand::random_range(0.75..1.25)).min(every)).await;
            }
            let turn = self.turn.lock().await;
            // A connection that hangs must not keep the next try from being made.
            let problem = match timeout(self.lease, self.log.renew(&self.fence, self.lease)).await {
                Ok(Ok(renewal)) => {
                    pauses.reset();
                    if self.hear(renewal) {
                        continue;
                    }
                    return;
                }
                Ok(Err(error)) if error.kind() == LogErrorKind::Fenced => return self.lose(),
                Ok(Err(error)) => crate::error::chain(&error),
                Err(_elapsed) => "no answer".to_owned(),
            };
            drop(turn);
            if !owns {
                // Lanes may have been given by an answer that never came; only joining again tells.
                return self.lose();
            }
            if !pauses.is_growing() {
                let consumer = &self.fence.consumer;
                tracing::warn!(%consumer, error = problem, "the lease could not be renewed; trying again");
            }
            pauses.grow();
        }
    }

    /// `false`: an answer was lost, and with it lanes.
    fn hear(&self, renewal: Renewal) -> bool {
        let Renewal { gained, owned, surplus, paused, .. } = renewal;
        let mut places = Places::clone(&self.tell.borrow().places);
        places.extend(places_of(&gained));
        let lanes: LaneSet = places.keys().copied().collect();
        if lanes != owned {
            self.lose();
            return false;
        }
        self.tell.send_if_modified(|standing| {
            let share = owned.len().saturating_sub(surplus);
            let news = (standing.paused, standing.lanes) != (paused, lanes) || surplus > 0;
            *standing = Standing { lost: false, paused, lanes, places: Arc::new(places), share };
            news
        });
        true
    }

    fn lose(&self) {
        self.tell.send_modify(|standing| standing.lost = true);
    }
}

fn places_of(tracks: &[Track]) -> impl Iterator<Item = (Lane, Cursor)> {
    tracks.iter().flat_map(|track| track.lanes.iter().map(|lane| (lane, track.cursor.clone())))
}

/// One track for each place.
pub(super) fn tracks_of<'c>(places: impl IntoIterator<Item = (LaneSet, &'c Cursor)>) -> Vec<Track> {
    let mut tracks: Vec<Track> = Vec::new();
    for (lanes, cursor) in places {
        match tracks.iter_mut().find(|track| track.cursor == *cursor) {
            Some(track) => track.lanes = track.lanes.union(lanes),
            None => tracks.push(Track { cursor: cursor.clone(), lanes }),
        }
    }
    tracks
}
