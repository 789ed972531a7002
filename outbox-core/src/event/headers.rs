use bytes::Bytes;

use super::{Field, InvalidEvent, InvalidReason, MAX_NAME_BYTES};

/// Headers in the order they were added; a name may repeat.
///
/// Names: 1 to 255 printable bytes, not beginning with `outbox-` and not `content-type`, which the encoders write.
/// All names and values together: at most [`Headers::MAX_BYTES`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Headers(Vec<(Box<str>, Bytes)>);

impl Headers {
    /// The most that all names and values may take together, in bytes.
    pub const MAX_BYTES: usize = 64 * 1024;

    /// The prefix of the headers that encoders write.
    pub const RESERVED_PREFIX: &'static str = "outbox-";

    /// Adds a header.
    ///
    /// # Errors
    /// [`InvalidEvent`] with [`Field::Header`]: the name is empty, too long, reserved or not printable, or the headers
    /// would exceed [`Headers::MAX_BYTES`]. The headers are unchanged then.
    pub fn insert(&mut self, name: &str, value: impl Into<Bytes>) -> Result<(), InvalidEvent> {
        let refuse = |reason| Err(InvalidEvent::new(Field::Header, reason));
        if name.is_empty() {
            return refuse(InvalidReason::Empty);
        }
        if name.len() > MAX_NAME_BYTES {
            return refuse(InvalidReason::TooLong { bytes: name.len(), limit: MAX_NAME_BYTES });
        }
        if name.chars().any(char::is_control) {
            return refuse(InvalidReason::ControlCharacter);
        }
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(Self::RESERVED_PREFIX) || lower == "content-type" {
            return refuse(InvalidReason::Reserved { name: name.to_owned() });
        }
        let value = value.into();
        let bytes = self.bytes() + name.len() + value.len();
        if bytes > Self::MAX_BYTES {
            return refuse(InvalidReason::TooLong { bytes, limit: Self::MAX_BYTES });
        }
        self.0.push((name.into(), value));
        Ok(())
    }

    /// The first value under this name.
    #[must_use]
    pub fn first(&self, name: &str) -> Option<&Bytes> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| v)
    }

    /// All headers in order.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Bytes)> {
        self.0.iter().map(|(n, v)| (&**n, v))
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many bytes all names and values take.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.0.iter().map(|(n, v)| n.len() + v.len()).sum()
    }

    /// A compact binary form for storage: for each header a big-endian `u32` length and the name, then the same for
    /// the value. Empty headers are an empty slice.
    #[must_use]
    pub fn to_stored(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes() + 8 * self.0.len());
        for (name, value) in &self.0 {
            for part in [name.as_bytes(), value] {
                out.extend_from_slice(&(part.len() as u32).to_be_bytes());
                out.extend_from_slice(part);
            }
        }
        out
    }

    /// Reads what [`Headers::to_stored`] wrote. `None` when the bytes are not of that form.
    #[must_use]
    pub fn from_stored(stored: &Bytes) -> Option<Self> {
        let mut rest = stored.clone();
        let mut headers = Vec::new();
        while !rest.is_empty() {
            let name = take(&mut rest)?;
            let value = take(&mut rest)?;
            headers.push((std::str::from_utf8(&name).ok()?.into(), value));
        }
        Some(Self(headers))
    }
}

fn take(rest: &mut Bytes) -> Option<Bytes> {
    if rest.len() < 4 {
        return None;
    }
    let len = rest.split_to(4);
    let len = u32::from_be_bytes([len[0], len[1], len[2], len[3]]) as usize;
    (rest.len() >= len).then(|| rest.split_to(len))
}
