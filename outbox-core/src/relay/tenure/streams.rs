//! The tasks of the lanes, one open stream each.

use std::{collections::HashMap, sync::Arc};

use tokio::{sync::mpsc, time::Instant};

use crate::{
    event::{Lane, LaneSet},
    profile::Profile,
    publisher::Publisher,
    relay::{
        events::Events,
        lane::{LaneBatch, LaneTask, Reports},
        machine::{Machine, PageId},
        meters::Meters,
    },
};

/// Dropping it aborts the tasks; what was handed over may still be published.
pub(super) struct Streams {
    publisher: Arc<dyn Publisher>,
    profile: Profile,
    reports: mpsc::UnboundedSender<Reports>,
    open: HashMap<Lane, LaneTask>,
}

impl Streams {
    pub(super) fn new(
        publisher: Arc<dyn Publisher>,
        profile: Profile,
        reports: mpsc::UnboundedSender<Reports>,
    ) -> Self {
        Self { publisher, profile, reports, open: HashMap::new() }
    }

    /// Hands everything that may be sent to the lanes' tasks.
    pub(super) fn send(&mut self, machine: &mut Machine<Events>, meters: &Meters, now: Instant) {
        while let Some(send) = machine.next_send(now) {
            if send.reopen || self.open.get(&send.lane).is_some_and(|task| task.isolated != send.isolated) {
                self.open.remove(&send.lane);
            }
            meters.handed_over(send.events.len());
            let mut pages: Vec<(PageId, Events, Vec<u32>)> = Vec::new();
            for event in &send.events {
                match pages.last_mut() {
                    Some((page, _, indices)) if *page == event.page => indices.push(event.index),
                    _ => {
                        let Some(body) = machine.body(*event) else { continue };
                        let mut indices = Vec::with_capacity(send.events.len());
                        indices.push(event.index);
                        pages.push((event.page, body.clone(), indices));
                    }
                }
            }
            let pages = pages.into_iter().map(|(_, events, indices)| (events, indices)).collect();
            let batch = LaneBatch { batch: send.batch, since: now, events: send.events.len(), pages };
            let task = self.open.entry(send.lane).or_insert_with(|| {
                LaneTask::spawn(
                    send.lane,
                    send.isolated,
                    self.publisher.clone(),
                    self.profile.clone(),
                    self.reports.clone(),
                )
            });
            task.send(batch);
        }
    }

    /// Closes the streams of lanes of which nothing is under way.
    pub(super) fn close(&mut self, lanes: LaneSet) {
        self.open.retain(|lane, _| !lanes.contains(*lane));
    }
}
