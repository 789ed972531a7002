//! What a projector does, as metrics. Without the feature nothing is compiled but empty calls.

#[cfg(feature = "metrics")]
pub(super) use self::on::Meters;
#[cfg(not(feature = "metrics"))]
pub(super) use off::Meters;

#[cfg(feature = "metrics")]
mod on {
    use chrono::Utc;
    use metrics::{Counter, Gauge, Histogram, Label};

    use crate::runner::{ProjectorStatus, report::Done};

    /// The meters of one projector.
    pub(in crate::runner) struct Meters {
        applied: Counter,
        duplicates: Counter,
        ignored: Counter,
        dead_letters: Counter,
        step_records: Histogram,
        delay: Histogram,
        lag: Gauge,
        age: Gauge,
        lag_errors: Counter,
        /// What the gauges show when nobody reads any more.
        at_the_end: f64,
    }

    impl Meters {
        pub(in crate::runner) fn new(projection: &str) -> Self {
            let labels = [Label::new("projection", projection.to_owned())];
            let counter = |name: &'static str| metrics::counter!(name, labels.iter());
            Self {
                applied: counter("outbox_projector_applied_total"),
                duplicates: counter("outbox_projector_duplicates_total"),
                ignored: counter("outbox_projector_ignored_total"),
                dead_letters: counter("outbox_projector_dead_letters_total"),
                step_records: metrics::histogram!("outbox_projector_step_records", labels.iter()),
                delay: metrics::histogram!("outbox_projector_delay_seconds", labels.iter()),
                lag: metrics::gauge!("outbox_projector_lag_records", labels.iter()),
                age: metrics::gauge!("outbox_projector_lag_seconds", labels.iter()),
                lag_errors: counter("outbox_projector_lag_errors_total"),
                at_the_end: f64::NAN,
            }
        }

        pub(in crate::runner) fn done(&self, done: &Done) {
            self.applied.increment(done.applied.applied as u64);
            self.duplicates.increment(done.applied.duplicates as u64);
            self.ignored.increment(done.applied.ignored as u64);
            self.dead_letters.increment((done.dead_letters + done.applied.held) as u64);
            self.step_records.record(done.records as f64);
            let since = done.last.and_then(|last| (Utc::now() - last.created_at).to_std().ok());
            if let Some(since) = since {
                self.delay.record(since.as_secs_f64());
            }
        }

        /// What is not known is no number: the last one known would look like an answer.
        pub(in crate::runner) fn lag(&self, status: &ProjectorStatus) {
            self.lag.set(status.lag().map_or(f64::NAN, |lag| lag as f64));
            self.age.set(status.age().map_or(f64::NAN, |age| age.as_secs_f64()));
        }

        /// Others read, if there is anything.
        pub(in crate::runner) fn stands_by(&self) {
            self.lag.set(0.0);
            self.age.set(0.0);
        }

        pub(in crate::runner) fn lag_failed(&self) {
            self.lag_errors.increment(1);
        }

        /// Nobody waits for what is still to come.
        pub(in crate::runner) fn ended(&mut self) {
            self.at_the_end = 0.0;
        }
    }

    impl Drop for Meters {
        fn drop(&mut self) {
            self.lag.set(self.at_the_end);
            self.age.set(self.at_the_end);
        }
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use crate::runner::{ProjectorStatus, report::Done};

    pub(in crate::runner) struct Meters;

    #[expect(clippy::unused_self, reason = "the other one measures")]
    impl Meters {
        pub(in crate::runner) fn new(_projection: &str) -> Self {
            Self
        }

        pub(in crate::runner) fn done(&self, _done: &Done) {}

        pub(in crate::runner) fn lag(&self, _status: &ProjectorStatus) {}

        pub(in crate::runner) fn stands_by(&self) {}

        pub(in crate::runner) fn lag_failed(&self) {}

        pub(in crate::runner) fn ended(&mut self) {}
    }
}
