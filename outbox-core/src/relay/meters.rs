//! What a relay does, as metrics. Without the feature nothing is compiled but empty calls.

#[cfg(feature = "metrics")]
pub(super) use self::on::Meters;
#[cfg(not(feature = "metrics"))]
pub(super) use off::Meters;

#[cfg(feature = "metrics")]
mod on {
    use std::time::Duration;

    use metrics::{Counter, Gauge, Histogram, Label};

    use crate::{
        event::LogId,
        log::ConsumerName,
        relay::{RelayState, RelayStatus},
    };

    /// The meters of one relay. Counters and gauges are moved by what changed, so that relays with the same labels add up.
    pub(in crate::relay) struct Meters {
        counters: [(Counter, Value<u64>); 7],
        gauges: [(Gauge, Value<usize>); 4],
        unpublished_age: Gauge,
        batch_events: Histogram,
        publish_seconds: Histogram,
        shown: RelayStatus,
    }

    type Value<T> = fn(&RelayStatus) -> T;

    impl Meters {
        /// `begun` is what the relay did before.
        pub(in crate::relay) fn new(consumer: &ConsumerName, log: LogId, begun: RelayStatus) -> Self {
            let labels = [Label::new("consumer", consumer.to_string()), Label::new("log", log.to_string())];
            let counter = |name: &'static str| metrics::counter!(name, labels.iter());
            let gauge = |name: &'static str| metrics::gauge!(name, labels.iter());
            Self {
                counters: [
                    (counter("outbox_relay_read_total"), |status| status.read),
                    (counter("outbox_relay_published_total"), |status| status.published),
                    (counter("outbox_relay_failed_total"), |status| status.failed),
                    (counter("outbox_relay_parked_total"), |status| status.parked),
                    (counter("outbox_relay_redriven_total"), |status| status.redriven),
                    (counter("outbox_relay_checkpoints_total"), |status| status.checkpoints),
                    (counter("outbox_relay_fenced_total"), |status| status.fenced),
                ],
                gauges: [
                    (gauge("outbox_relay_lanes"), |status| status.lanes.len() as usize),
                    (gauge("outbox_relay_paused_lanes"), |status| status.paused.len() as usize),
                    (gauge("outbox_relay_in_flight"), |status| status.in_flight),
                    (gauge("outbox_relay_blocked_keys"), |status| status.blocked_keys),
                ],
                unpublished_age: gauge("outbox_relay_unpublished_age_seconds"),
                batch_events: metrics::histogram!("outbox_relay_batch_events", labels.iter()),
                publish_seconds: metrics::histogram!("outbox_relay_publish_seconds", labels.iter()),
                shown: RelayStatus { lanes: crate::event::LaneSet::EMPTY, state: RelayState::Starting, ..begun },
            }
        }

        pub(in crate::relay) fn follow(&mut self, status: &RelayStatus) {
            for (counter, value) in &self.counters {
                counter.increment(value(status).saturating_sub(value(&self.shown)));
            }
            for (gauge, value) in &self.gauges {
                gauge.increment(value(status) as f64 - value(&self.shown) as f64);
            }
            self.shown = status.clone();
        }

        /// The age of the oldest event that is not published.
        pub(in crate::relay) fn unpublished(&self, age: Duration) {
            self.unpublished_age.set(age.as_secs_f64());
        }

        pub(in crate::relay) fn handed_over(&self, events: usize) {
            self.batch_events.record(events as f64);
        }

        /// An answer came after this time.
        pub(in crate::relay) fn answered(&self, after: Duration) {
            self.publish_seconds.record(after.as_secs_f64());
        }
    }

    impl Drop for Meters {
        fn drop(&mut self) {
            let mut gone = self.shown.clone();
            gone.lose_lanes();
            self.follow(&gone);
            self.unpublished_age.set(0.0);
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use std::time::Duration;

    use crate::{event::LogId, log::ConsumerName, relay::RelayStatus};

    pub(in crate::relay) struct Meters;

    #[expect(clippy::unused_self, reason = "the other one measures")]
    impl Meters {
        pub(in crate::relay) fn new(_consumer: &ConsumerName, _log: LogId, _begun: RelayStatus) -> Self {
            Self
        }

        pub(in crate::relay) fn follow(&mut self, _status: &RelayStatus) {}

        pub(in crate::relay) fn unpublished(&self, _age: Duration) {}

        pub(in crate::relay) fn handed_over(&self, _events: usize) {}

        pub(in crate::relay) fn answered(&self, _after: Duration) {}
    }
}
