/// What is refused at append because it could not be published later.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// The longest payload, in bytes. Default: 1 MiB.
    pub payload_bytes: usize,
    /// The longest message as encoded, with key and headers, in bytes. Default: 1,048,000, which a Kafka broker with
    /// the default `message.max.bytes` of 1,048,588 accepts including its own framing.
    pub message_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { payload_bytes: 1024 * 1024, message_bytes: 1_048_000 }
    }
}

impl Limits {
    /// Sets [`Limits::payload_bytes`].
    #[must_use]
    pub fn with_payload_bytes(mut self, bytes: usize) -> Self {
        self.payload_bytes = bytes;
        self
    }

    /// Sets [`Limits::message_bytes`].
    #[must_use]
    pub fn with_message_bytes(mut self, bytes: usize) -> Self {
        self.message_bytes = bytes;
        self
    }
}
