//! What a call does in the log when it lands there.

use tokio::time::Instant;

use super::*;

impl Tenure {
    /// The log does what a call of this kind asks for; the answer is still to come.
    pub(in crate::relay::simulation) fn land(
        &mut self,
        kind: Kind,
        log: &mut Log,
        broker: &mut Broker,
        terms: &Terms,
        now: Instant,
    ) -> Checked {
        match kind {
            Kind::Read => {
                if let Some(Call { asked, landed: landed @ None }) = &mut self.read {
                    let limit = (terms.page / asked.len()).max(1);
                    let page = |track: &Track| {
                        let (events, next, caught_up) = log.page(track, limit);
                        (Events(Arc::new(events)), next, caught_up)
                    };
                    *landed = Some(Ok(asked.iter().map(page).collect()));
                }
                Ok(())
            }
            Kind::Membership => self.land_membership(log, broker, terms, now),
            Kind::Parking => self.land_parking(log, broker, terms, now),
        }
    }

    fn land_membership(&mut self, log: &mut Log, broker: &mut Broker, terms: &Terms, now: Instant) -> Checked {
        let Some(Call { asked, landed: None }) = &self.membership else { return Ok(()) };
        let fence = self.fence;
        let (answer, recorded) = match asked {
            Membership::Renew => (log.renew(fence, terms.lease, now).map(Some), Vec::new()),
            Membership::Release(tracks) => {
                let (answer, tracks) = (log.release(fence, tracks, broker)?, tracks.clone());
                (answer.map(|()| None), tracks)
            }
            Membership::Checkpoint(due) => {
                (log.checkpoint(fence, &due.tracks, broker)?.map(|()| None), due.tracks.clone())
            }
            Membership::Leave(due) => {
                let tracks = due.as_ref().map(|due| due.tracks.clone()).unwrap_or_default();
                let recorded = match due {
                    Some(due) => log.checkpoint(fence, &due.tracks, broker)?.is_ok(),
                    None => false,
                };
                (log.leave(fence).map(|()| None), if recorded { tracks } else { Vec::new() })
            }
        };
        if answer.is_ok() {
            for track in &recorded {
                let upto = position(&track.cursor);
                let covered = |event: Ev| event.position <= upto && track.lanes.contains(lane(event.lane));
                self.wrote.retain(|position| !covered(log.event(*position)));
            }
        }
        if let Some(call) = &mut self.membership {
            call.landed = Some(answer);
        }
        Ok(())
    }

    fn land_parking(&mut self, log: &mut Log, broker: &Broker, terms: &Terms, now: Instant) -> Checked {
        let Some(Call { asked, landed: None }) = &self.parking else { return Ok(()) };
        let all = log.owned(self.fence);
        let named = match asked {
            Parking::Keys | Parking::Due => LaneSet::EMPTY,
            Parking::Park(events) => events.iter().map(|(event, _)| lane(event.lane)).collect(),
            Parking::Record(events) => events.iter().map(|event| lane(event.lane)).collect(),
        };
        let answer = match log.admits(self.fence, named)? {
            Err(fenced) => Err(fenced),
            Ok(()) => Ok(match asked {
                Parking::Keys => ParkingAnswer::Keys(log.parked.blocked(all)),
                Parking::Due => ParkingAnswer::Due(log.parked.due(all, terms.due, now)),
                Parking::Record(events) => {
                    for event in events {
                        self.wrote_parked.remove(&event.position);
                        // It may have been parked in front of a place that was never recorded.
                        if log.place(event.lane) < event.position {
                            self.wrote.insert(event.position);
                        }
                    }
                    ParkingAnswer::Recorded(log.parked.redriven(events, broker, log.flaw)?)
                }
                Parking::Park(events) => {
                    let mut answers = Vec::with_capacity(events.len());
                    for (event, failure) in events {
                        answers.push(log.parked.park(*event, *failure, broker, log.flaw, now)?);
                    }
                    ParkingAnswer::Parked(answers)
                }
            }),
        };
        if let Some(call) = &mut self.parking {
            call.landed = Some(answer);
        }
        Ok(())
    }

    // What comes back.
}
