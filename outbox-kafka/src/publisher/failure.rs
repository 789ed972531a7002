//! What a failure means for the messages concerned.

use outbox_core::publisher::{PublishError, PublishErrorKind};
use rdkafka::{error::KafkaError, types::RDKafkaErrorCode as Code};

/// Why librdkafka did not take a message into its queue.
pub(crate) fn at_enqueue(error: KafkaError, topic: &str, bytes: usize) -> PublishError {
    let (kind, message) = match error.rdkafka_error_code() {
        Some(Code::MessageSizeTooLarge) => (
            PublishErrorKind::Event,
            format!(
                "the message of {bytes} bytes is larger than the producer's message.max.bytes; raise it, and the topic's"
            ),
        ),
        Some(Code::InvalidTopic) => (PublishErrorKind::Event, advice(Code::InvalidTopic, topic)),
        Some(Code::InvalidArgument) | None => {
            (PublishErrorKind::Event, format!("the message for topic {topic:?} is malformed"))
        }
        Some(code) => (PublishErrorKind::Environment, advice(code, topic)),
    };
    PublishError::new(kind, message).with_source(error)
}

/// Whether the broker refused the batch that a message was in. Which message is at fault shows only when all reports are
/// in.
pub(crate) fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::MessageSizeTooLarge
            | Code::MessageBatchTooLarge
            | Code::InvalidMessage
            | Code::InvalidMessageSize
            | Code::InvalidRecord
            | Code::InvalidTimestamp
            | Code::PolicyViolation
            | Code::UnsupportedForMessageFormat
            | Code::UnsupportedCompressionType
    )
}

/// Whether a refusal tells that a batch was too large.
pub(crate) fn is_about_size(code: Code) -> bool {
    matches!(code, Code::MessageSizeTooLarge | Code::MessageBatchTooLarge)
}

/// Whether only the topic cannot be used. After every other failure the producer must be replaced.
pub(crate) fn is_of_topic(code: Code) -> bool {
    matches!(code, Code::UnknownTopic | Code::UnknownPartition | Code::InvalidTopic | Code::TopicAuthorizationFailed)
}

/// A message that was refused by the broker: `alone` or together with others.
pub(crate) fn refused(code: Code, alone: bool, topic: &str) -> PublishError {
    let (kind, whom) = if alone {
        (PublishErrorKind::Event, "the message")
    } else {
        (PublishErrorKind::Suspect, "the message, or another of its batch,")
    };
    let advice = if is_about_size(code) { "; it is larger than the topic's max.message.bytes" } else { "" };
    PublishError::new(kind, format!("the broker refused {whom} for topic {topic:?}{advice}"))
        .with_source(KafkaError::MessageProduction(code))
}

/// A message that its topic would refuse, whatever batch it came in.
pub(crate) fn too_large(bytes: usize, limit: usize, topic: &str) -> PublishError {
    let message = format!(
        "the message of {bytes} bytes is larger than the {limit} of max.message.bytes of topic {topic:?}; raise it, or make \
         the message smaller"
    );
    PublishError::new(PublishErrorKind::Event, message)
        .with_source(KafkaError::MessageProduction(Code::MessageSizeTooLarge))
}

/// A message whose delivery failed for a reason that is not its own.
pub(crate) fn failed(code: Code, topic: &str) -> PublishError {
    let kind = if code == Code::InvalidTopic { PublishErrorKind::Event } else { PublishErrorKind::Environment };
    PublishError::new(kind, advice(code, topic)).with_source(KafkaError::MessageProduction(code))
}

pub(crate) fn environment(message: impl Into<std::borrow::Cow<'static, str>>) -> PublishError {
    PublishError::new(PublishErrorKind::Environment, message)
}

/// What a code means for whoever wants to write to a topic.
pub(crate) fn advice(code: Code, topic: &str) -> String {
    match code {
        Code::UnknownTopic | Code::UnknownTopicOrPartition | Code::UnknownPartition => {
            format!("topic {topic:?} does not exist; create it, or choose another TopicPolicy")
        }
        Code::InvalidTopic => format!("{topic:?} is no topic name"),
        Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed => {
            format!("writing to topic {topic:?} is not allowed; grant it")
        }
        Code::PurgeQueue | Code::PurgeInflight | Code::Fatal | Code::GaplessGuarantee => {
            "given up because another message failed; it may have been written".to_owned()
        }
        Code::QueueFull => "the producer's queue is full".to_owned(),
        _ => format!("the message for topic {topic:?} was not acknowledged; it may have been written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_failure_has_its_class() {
        assert_eq!(refused(Code::MessageSizeTooLarge, false, "t").kind(), PublishErrorKind::Suspect);
        assert_eq!(refused(Code::InvalidRecord, true, "t").kind(), PublishErrorKind::Event);
        assert_eq!(failed(Code::InvalidTopic, "t").kind(), PublishErrorKind::Event);
        for code in [
            Code::UnknownTopic,
            Code::TopicAuthorizationFailed,
            Code::PurgeQueue,
            Code::PurgeInflight,
            Code::Fatal,
            Code::MessageTimedOut,
            Code::BrokerTransportFailure,
            Code::InvalidDifferentRecord,
        ] {
            assert_eq!(failed(code, "t").kind(), PublishErrorKind::Environment, "{code:?}");
        }
        let too_large = KafkaError::MessageProduction(Code::MessageSizeTooLarge);
        assert_eq!(at_enqueue(too_large, "t", 9).kind(), PublishErrorKind::Event);
        let full = KafkaError::MessageProduction(Code::QueueFull);
        assert_eq!(at_enqueue(full, "t", 9).kind(), PublishErrorKind::Environment);
    }

    #[test]
    fn a_topic_at_fault_does_not_break_the_producer() {
        assert!(is_of_topic(Code::UnknownTopic) && !is_refusal(Code::UnknownTopic));
        assert!(!is_of_topic(Code::GaplessGuarantee) && !is_refusal(Code::GaplessGuarantee));
        assert!(!is_of_topic(Code::MessageSizeTooLarge) && is_refusal(Code::MessageSizeTooLarge));
    }
}
