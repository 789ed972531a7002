//! Facts as text, written by hand where the formatting machinery would cost more than the rest of the encoding.

use chrono::{DateTime, Datelike, SecondsFormat, Timelike, Utc};
use uuid::Uuid;

/// How UTC is spelled at the end of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Zone {
    /// `Z`
    Letter,
    /// `+00:00`
    Offset,
}

/// Hyphenated, in lower case.
pub(super) fn uuid(out: &mut Vec<u8>, id: Uuid) {
    out.extend_from_slice(id.hyphenated().encode_lower(&mut Uuid::encode_buffer()).as_bytes());
}

/// Decimal, with leading zeros up to this many digits.
pub(super) fn number(out: &mut Vec<u8>, mut number: u64, digits: usize) {
    let mut text = [b'0'; 20];
    let mut start = text.len();
    while number > 0 || start + digits.max(1) > text.len() {
        start -= 1;
        text[start] = b'0' + (number % 10) as u8;
        number /= 10;
    }
    out.extend_from_slice(&text[start..]);
}

/// ISO 8601 with microseconds: `2026-01-02T03:04:05.000006` and the zone.
pub(super) fn time(out: &mut Vec<u8>, time: DateTime<Utc>, zone: Zone) {
    let (date, clock) = (time.date_naive(), time.time());
    let leap_second = clock.nanosecond() >= 1_000_000_000;
    if leap_second || !(0..=9999).contains(&date.year()) {
        out.extend_from_slice(time.to_rfc3339_opts(SecondsFormat::Micros, zone == Zone::Letter).as_bytes());
        return;
    }
    let mut text = *b"0000-00-00T00:00:00.000000";
    digits(&mut text[0..4], date.year() as u32);
    digits(&mut text[5..7], date.month());
    digits(&mut text[8..10], date.day());
    digits(&mut text[11..13], clock.hour());
    digits(&mut text[14..16], clock.minute());
    digits(&mut text[17..19], clock.second());
    digits(&mut text[20..26], clock.nanosecond() / 1_000);
    out.extend_from_slice(&text);
    out.extend_from_slice(match zone {
        Zone::Letter => b"Z",
        Zone::Offset => b"+00:00",
    });
}

fn digits(text: &mut [u8], mut number: u32) {
    for digit in text.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A JSON string, with its quotes.
pub(super) fn json_string(out: &mut Vec<u8>, text: &str) {
    let special = |b: u8| b < 0x20 || b == b'"' || b == b'\\';
    out.push(b'"');
    // Branch-free over the whole text, which the compiler vectorises; hardly ever true.
    if text.bytes().fold(false, |any, b| any | special(b)) {
        for byte in text.bytes() {
            match byte {
                b'"' | b'\\' => out.extend_from_slice(&[b'\\', byte]),
                0..0x20 => {
                    let hex = |digit: u8| b"0123456789abcdef"[usize::from(digit)];
                    out.extend_from_slice(&[b'\\', b'u', b'0', b'0', hex(byte >> 4), hex(byte & 15)]);
                }
                _ => out.push(byte),
            }
        }
    } else {
        out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use proptest::prelude::*;

    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    #[test]
    fn numbers_of_every_length() {
        for n in [0, 1, 9, 10, 99, 100, u64::MAX / 10, u64::MAX] {
            assert_eq!(written(|out| number(out, n, 1)), n.to_string());
            assert_eq!(written(|out| number(out, n, 19)), format!("{n:019}"));
        }
    }

    #[test]
    fn times_at_the_edges() {
        let leap: DateTime<Utc> = "2016-12-31T23:59:60.5Z".parse().expect("a leap second");
        for odd in [DateTime::<Utc>::MIN_UTC, DateTime::<Utc>::MAX_UTC, DateTime::UNIX_EPOCH, leap] {
            assert_eq!(written(|out| time(out, odd, Zone::Letter)), odd.to_rfc3339_opts(SecondsFormat::Micros, true));
        }
    }

    proptest! {
        #[test]
        fn times_are_those_of_chrono(micros in -62_167_219_200_000_000_i64..253_402_300_800_000_000, nanos in 0..1_000_i64) {
            let at = DateTime::from_timestamp_micros(micros).expect("a time") + TimeDelta::nanoseconds(nanos);
            prop_assert_eq!(written(|out| time(out, at, Zone::Letter)), at.to_rfc3339_opts(SecondsFormat::Micros, true));
            prop_assert_eq!(written(|out| time(out, at, Zone::Offset)), at.to_rfc3339_opts(SecondsFormat::Micros, false));
        }

        #[test]
        fn json_strings_read_back(text in any::<String>()) {
            let json = written(|out| json_string(out, &text));
            prop_assert_eq!(serde_json::from_str::<String>(&json).expect("JSON"), text);
        }
    }
}
