//! Headers as bytes: for each its name and its value, each behind its length, 4 bytes big-endian.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};

pub(super) fn to_bytes(headers: &[(Arc<str>, Bytes)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(headers.iter().map(|(name, value)| 8 + name.len() + value.len()).sum());
    for (name, value) in headers {
        for part in [name.as_bytes(), value] {
            out.put_u32(part.len() as u32);
            out.put_slice(part);
        }
    }
    out
}

/// `None` when somebody else wrote them.
pub(super) fn from_bytes(mut bytes: Bytes) -> Option<Vec<(Arc<str>, Bytes)>> {
    let mut headers = Vec::new();
    while bytes.has_remaining() {
        let (name, value) = (part(&mut bytes)?, part(&mut bytes)?);
        headers.push((std::str::from_utf8(&name).ok()?.into(), value));
    }
    Some(headers)
}

fn part(bytes: &mut Bytes) -> Option<Bytes> {
    let length = bytes.try_get_u32().ok()? as usize;
    (bytes.remaining() >= length).then(|| bytes.split_to(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_headers_come_back() {
        let header = |name: &str, value: &'static [u8]| (Arc::from(name), Bytes::from_static(value));
        let all = vec![header("", b""), header("n\u{e4}me", b"\0\xff"), header("twice", b"1"), header("twice", b"2")];
        assert_eq!(from_bytes(to_bytes(&all).into()), Some(all));
        assert_eq!(from_bytes(Bytes::new()), Some(Vec::new()));
        assert_eq!(from_bytes(Bytes::from_static(&[0, 0, 0, 9, b'x'])), None);
    }
}
