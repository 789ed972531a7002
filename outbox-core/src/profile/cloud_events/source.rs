use std::sync::Arc;

use crate::profile::{ProfileError, ProfileErrorKind};

const MAX_BYTES: usize = 1_024;

/// A URI reference that is not empty: the characters of RFC 3986 and nothing else, `%` only before two hexadecimal
/// digits.
pub(super) fn parse(text: &str) -> Result<Arc<str>, ProfileError> {
    let refuse = |reason: &str| {
        let message = format!("{text:?} cannot be the source of CloudEvents: {reason}");
        Err(ProfileError::new(ProfileErrorKind::Source, message))
    };
    if text.is_empty() {
        return refuse("it is empty");
    }
    if text.len() > MAX_BYTES {
        return refuse("it is longer than 1,024 bytes");
    }
    let bytes = text.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        let good = match byte {
            b'%' => bytes.get(at + 1..at + 3).is_some_and(|hex| hex.iter().all(u8::is_ascii_hexdigit)),
            _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(byte),
        };
        if !good {
            return refuse("a URI reference has only the characters of RFC 3986; write others as %XX");
        }
    }
    Ok(text.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_is_a_uri_reference() {
        for good in ["https://example.org/tutors?a=b#c", "/tutors", "urn:uuid:0190", "mailto:a@example.org", "a%20b"] {
            assert_eq!(parse(good).as_deref().ok(), Some(good));
        }
        for bad in ["", "two words", "репетитор", "a%2", "a%zz", "\"", "a\nb", &"x".repeat(1_025)] {
            assert_eq!(parse(bad).expect_err(bad).kind(), ProfileErrorKind::Source);
        }
    }
}
