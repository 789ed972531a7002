//! What a message takes on the wire.

use super::delivery::{Body, Line};

/// A batch without records, in the only format that brokers take today.
const BATCH_BYTES: usize = 61;

/// The bytes of a batch of this one message, uncompressed: what a topic's `max.message.bytes` is compared with.
pub(crate) fn bytes_alone(line: &Line, body: &Body) -> usize {
    let field = |bytes: usize| varint_bytes(bytes) + bytes;
    let headers: usize = body.headers.iter().map(|(name, value)| field(name.len()) + field(value.len())).sum();
    // Attributes, and the differences in time and offset to the batch's own.
    let record = 3
        + field(line.key.len())
        + body.payload.as_ref().map_or(1, |payload| field(payload.len()))
        + varint_bytes(body.headers.len())
        + headers;
    BATCH_BYTES + field(record)
}

/// Lengths are written as signed numbers, seven bits a byte.
fn varint_bytes(length: usize) -> usize {
    let bits = usize::BITS - (length << 1 | 1).leading_zeros();
    bits.div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_seven_bits_a_byte_and_one_for_the_sign() {
        for (length, bytes) in [(0, 1), (63, 1), (64, 2), (8_191, 2), (8_192, 3), (1_048_575, 3), (1_048_576, 4)] {
            assert_eq!(varint_bytes(length), bytes, "{length}");
        }
    }

    #[test]
    fn a_batch_of_one_message() {
        let line = Line { topic: "topic".into(), key: "key".into(), bytes: 0 };
        let body = |payload: Option<&'static [u8]>| Body {
            payload: payload.map(Into::into),
            headers: vec![("a".into(), "12".into())],
        };
        // length, 3, key length and key, payload length and payload, header count, name and value with their lengths
        assert_eq!(bytes_alone(&line, &body(Some(b"12345"))), 61 + 1 + 3 + (1 + 3) + (1 + 5) + 1 + (1 + 1) + (1 + 2));
        assert_eq!(bytes_alone(&line, &body(None)), 61 + 1 + 3 + (1 + 3) + 1 + 1 + (1 + 1) + (1 + 2));
    }
}
