//! Message headers to and from Kafka.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use bytes::Bytes;
use rdkafka::message::{Header, Headers, OwnedHeaders};

/// Headers in the order and the number given.
pub(crate) fn to_kafka(headers: &[(Arc<str>, Bytes)]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, (name, value)| {
        all.insert(Header { key: name, value: Some(&value[..]) })
    })
}

/// Headers as they came, a null value as an empty one; `None` when a name is not UTF-8.
pub(crate) fn from_kafka(headers: Option<&impl Headers>) -> Option<Vec<(Arc<str>, Bytes)>> {
    let Some(headers) = headers else { return Some(Vec::new()) };
    // rdkafka unwraps the conversion of a name to UTF-8. A foreign writer must not be able to end the consumer.
    catch_unwind(AssertUnwindSafe(|| {
        let owned = |header: Header<'_, &[u8]>| {
            (Arc::from(header.key), header.value.map_or_else(Bytes::new, Bytes::copy_from_slice))
        };
        headers.iter().map(owned).collect()
    }))
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_survive_the_way_there_and_back() {
        let headers: Vec<(Arc<str>, Bytes)> =
            [("a", &b"1"[..]), ("b", b""), ("a", b"\0\xff")].map(|(n, v)| (n.into(), Bytes::from_static(v))).into();
        assert_eq!(from_kafka(Some(&to_kafka(&headers))), Some(headers));
        assert_eq!(from_kafka(None::<&OwnedHeaders>), Some(Vec::new()));
    }
}
