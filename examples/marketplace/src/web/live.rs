//! The pipeline as it moves: server-sent events that carry the panel as HTML.

use std::{convert::Infallible, sync::Arc};

use askama::Template;
use axum::{
    extract::State,
    response::{
        IntoResponse, Response, Sse,
        sse::{Event, KeepAlive},
    },
};
use futures_util::{Stream, stream};
use tokio::sync::watch;

use super::for_people::{clock, duration};
use crate::{
    http::Problem,
    money::grouped,
    pipeline::{Live, Snapshot, Stop},
};

/// The panel.
#[derive(Template)]
#[template(path = "live.html")]
pub(super) struct Panel {
    stages: Vec<StageRow>,
    relayed: bool,
    events: Vec<EventRow>,
}

struct StageRow {
    name: &'static str,
    explanation: &'static str,
    state: &'static str,
    troubled: bool,
    position: String,
    counted: Option<String>,
    lag: Option<String>,
    behind: bool,
}

struct EventRow {
    event_type: String,
    kind: &'static str,
    about: String,
    time: String,
    iso: String,
    relayed: Option<String>,
    indexed: Option<String>,
}

impl Panel {
    pub(super) fn of(snapshot: &Snapshot) -> Self {
        let head = snapshot.stages.first().map_or(0, |log| log.position);
        let stages = snapshot.stages.iter().enumerate().map(|(i, stage)| {
            let behind = head.saturating_sub(stage.position);
            StageRow {
                name: stage.name,
                explanation: stage.explanation,
                state: stage.state,
                troubled: stage.troubled,
                position: grouped(stage.position as i64),
                counted: stage.events.map(|n| grouped(n as i64)),
                lag: (i > 0).then(|| {
                    if behind == 0 { "caught up".to_owned() } else { format!("{} behind", grouped(behind as i64)) }
                }),
                behind: behind > 0,
            }
        });
        let events = snapshot.journeys.iter().map(|journey| EventRow {
            kind: match journey.event_type.as_str() {
                crate::tutors::TUTOR_CREATED => "created",
                crate::tutors::TUTOR_DELETED => "deleted",
                _ => "updated",
            },
            event_type: journey.event_type.clone(),
            about: journey.about.clone(),
            time: clock(journey.created_at),
            iso: journey.created_at.to_rfc3339(),
            relayed: journey.relayed.map(duration),
            indexed: journey.indexed.map(duration),
        });
        Self {
            stages: stages.collect(),
            relayed: snapshot.stages.iter().any(|s| s.name == "Relayed"),
            events: events.collect(),
        }
    }
}

/// Event `pipeline` with the panel's HTML, at once and then whenever something moved, until the server stops.
pub(super) async fn stream(State(live): State<Live>, State(stop): State<Stop>) -> Result<Response, Problem> {
    let mut snapshots = live.watch().ok_or_else(|| Problem::unavailable("live view"))?;
    // What an earlier watcher saw is old; the sampler looks anew for this one.
    snapshots.mark_unchanged();
    Ok(Sse::new(panels(snapshots, stop)).keep_alive(KeepAlive::default()).into_response())
}

fn panels(snapshots: watch::Receiver<Arc<Snapshot>>, stop: Stop) -> impl Stream<Item = Result<Event, Infallible>> {
    stream::unfold((snapshots, stop), async |(mut snapshots, mut stop)| {
        tokio::select! {
            () = stop.stopped() => None,
            changed = snapshots.changed() => {
                changed.ok()?;
                let snapshot = snapshots.borrow_and_update().clone();
                let html = Panel::of(&snapshot).render().unwrap_or_default();
                Some((Ok(Event::default().event("pipeline").data(html)), (snapshots, stop)))
            }
        }
    })
}
