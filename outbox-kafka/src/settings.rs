//! Settings of librdkafka: anything may be set, and what would lose or reorder messages is refused with the reason.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel, error::KafkaError};

/// A setting with the values that keep the promises of this crate.
pub(crate) struct Guard {
    name: &'static str,
    /// The accepted values; none: the setting must not be set at all.
    safe: &'static [&'static str],
    reason: &'static str,
}

pub(crate) const PRODUCER_GUARDS: &[Guard] = &[
    Guard { name: "acks", safe: &["all", "-1"], reason: "an acknowledged message could be lost with its leader" },
    Guard {
        name: "enable.idempotence",
        safe: &["true"],
        reason: "retries would duplicate and reorder the messages of a key",
    },
    Guard {
        name: "enable.gapless.guarantee",
        safe: &["true"],
        reason: "after a refused message later ones of its key would be written",
    },
    Guard {
        name: "message.timeout.ms",
        safe: &["0"],
        reason: "expiry loses the head of a key's messages and delivers their tail",
    },
    Guard {
        name: "partitioner",
        safe: &["murmur2_random", "murmur2", "consistent_random", "consistent", "fnv1a_random", "fnv1a"],
        reason: "messages of one key would be spread over partitions and lose their order",
    },
    Guard { name: "queuing.strategy", safe: &["fifo"], reason: "messages of a key would leave in reverse order" },
    Guard { name: "transactional.id", safe: &[], reason: "this publisher begins no transactions" },
];

pub(crate) const CONSUMER_GUARDS: &[Guard] = &[
    Guard {
        name: "enable.auto.commit",
        safe: &["false"],
        reason: "offsets would be committed before their events took effect",
    },
    Guard {
        name: "enable.auto.offset.store",
        safe: &["false"],
        reason: "offsets would be stored before their events took effect",
    },
];

/// Defaults, what the application set over them, and what it allowed.
#[derive(Clone)]
pub(crate) struct Settings {
    values: BTreeMap<String, String>,
    allowed: BTreeSet<String>,
    guards: &'static [Guard],
}

impl Settings {
    pub(crate) fn new(guards: &'static [Guard], defaults: &[(&str, &str)]) -> Self {
        let values = defaults.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Self { values, allowed: BTreeSet::new(), guards }
    }

    pub(crate) fn set(&mut self, name: impl Into<String>, value: impl Into<String>) {
        let name = name.into();
        self.values.insert(canonical(&name).map_or(name, str::to_owned), value.into());
    }

    pub(crate) fn allow(&mut self, name: impl Into<String>) {
        let name = name.into();
        self.allowed.insert(canonical(&name).map_or(name, str::to_owned));
    }

    pub(crate) fn value(&self, name: &str) -> Option<&str> {
        self.values.get(name).map(String::as_str)
    }

    /// Whether a guarded setting has one of its safe values.
    pub(crate) fn is_safe(&self, name: &str) -> bool {
        self.guards.iter().filter(|guard| guard.name == name).all(|guard| self.obeys(guard))
    }

    /// The configuration to create a client from.
    ///
    /// Errors: a message that names the setting at fault and never holds the value of a secret.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, String> {
        for guard in self.guards {
            if !self.obeys(guard) && !self.allowed.contains(guard.name) {
                let (name, reason) = (guard.name, guard.reason);
                let advice = if guard.safe.is_empty() {
                    "leave it out".to_owned()
                } else {
                    format!("use {}", guard.safe.join(", "))
                };
                return Err(format!("{name} is refused: {reason}; {advice}, or call allow_dangerous({name:?})"));
            }
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        for (name, value) in &self.values {
            config.set(name, value);
        }
        config.create_native_config().map_err(|error| explain(&error))?;
        Ok(config)
    }

    /// The same for a producer that writes each message by itself. Not idempotent: there a refusal would end the
    /// producer or renumber what waits behind it. One request at a time, so that a retry overtakes nothing.
    pub(crate) fn isolating(&self) -> Self {
        let mut isolating = self.clone();
        for name in ["enable.gapless.guarantee", "transactional.id"] {
            isolating.values.remove(name);
        }
        isolating.allow("enable.idempotence");
        for (name, value) in [
            ("enable.idempotence", "false"),
            ("max.in.flight.requests.per.connection", "1"),
            ("batch.num.messages", "1"),
            ("linger.ms", "0"),
        ] {
            isolating.set(name, value);
        }
        isolating
    }

    fn obeys(&self, guard: &Guard) -> bool {
        self.values.get(guard.name).is_none_or(|value| guard.safe.contains(&value.as_str()))
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value)| (name, if is_secret(name) { "(hidden)" } else { value });
        f.debug_map().entries(self.values.iter().map(|(name, value)| shown((name.as_str(), value.as_str())))).finish()
    }
}

/// What to call a setting that has two names; `None` when it has one.
fn canonical(name: &str) -> Option<&'static str> {
    Some(match name {
        "request.required.acks" => "acks",
        "delivery.timeout.ms" => "message.timeout.ms",
        "queue.buffering.max.ms" => "linger.ms",
        "metadata.broker.list" => "bootstrap.servers",
        "compression.type" => "compression.codec",
        "retries" => "message.send.max.retries",
        "max.in.flight" => "max.in.flight.requests.per.connection",
        _ => return None,
    })
}

/// Whether the value of a setting must not be shown. Rather one too many than one too few.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "passphrase", "pem", "oauthbearer", "jaas", "username"]
        .iter()
        .any(|part| name.contains(part))
}

/// What went wrong, without the value of a secret: librdkafka's own message may repeat it.
pub(crate) fn explain(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, _, name, _) if is_secret(name) => format!("the value of {name} is not accepted"),
        KafkaError::ClientConfig(_, description, name, _) => format!("the setting {name} is refused: {description}"),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn producer() -> Settings {
        Settings::new(PRODUCER_GUARDS, &[("bootstrap.servers", "localhost:9092"), ("acks", "all")])
    }

    #[test]
    fn what_breaks_order_or_durability_is_refused_with_the_reason() {
        let dangerous = [
            ("acks", "1"),
            ("request.required.acks", "0"),
            ("enable.idempotence", "false"),
            ("enable.gapless.guarantee", "false"),
            ("message.timeout.ms", "30000"),
            ("delivery.timeout.ms", "30000"),
            ("partitioner", "random"),
            ("transactional.id", "outbox"),
        ];
        for (name, value) in dangerous {
            let mut settings = producer();
            settings.set(name, value);
            let refused = settings.client_config().expect_err(name);
            assert!(refused.contains("is refused: ") && refused.contains("allow_dangerous"), "{name}: {refused}");
            settings.allow(name);
            settings.client_config().expect("allowed");
        }
    }

    #[test]
    fn what_librdkafka_does_not_know_is_refused_by_name() {
        let mut settings = producer();
        settings.set("no.such.setting", "1");
        assert!(settings.client_config().expect_err("unknown").contains("no.such.setting"));
    }

    #[test]
    fn secrets_are_never_shown() {
        let mut settings = producer();
        settings.set("sasl.password", "hunter2");
        settings.set("ssl.key.password", "hunter2");
        assert!(!format!("{settings:?}").contains("hunter2"));
        let invalid = KafkaError::ClientConfig(
            rdkafka::types::RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
            "Invalid value \"hunter2\" for \"sasl.password\"".to_owned(),
            "sasl.password".to_owned(),
            "hunter2".to_owned(),
        );
        assert!(!explain(&invalid).contains("hunter2"));
    }
}
