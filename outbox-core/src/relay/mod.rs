//! The relay: from a log to a publisher.
