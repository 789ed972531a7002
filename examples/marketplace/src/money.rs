//! Decimals with two digits, as whole hundredths: money and ratings are compared and added exactly.

use std::fmt;

/// An amount of money in minor units: 0 to 99 999 999.99, the range of the original's `decimal(10,2)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Money(i64);

/// A mean of reviews, in hundredths: 0 to 5.00.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(crate) struct Rating(i64);

macro_rules! two_digits {
    ($name:ident, $max:expr, $range:expr) => {
        impl $name {
            const MAX: i64 = $max;

            pub(crate) fn from_hundredths(hundredths: i64) -> Option<Self> {
                (0..=Self::MAX).contains(&hundredths).then_some(Self(hundredths))
            }

            /// Reads decimal text such as `45`, `45.5` or `45.50`; the error says what is accepted.
            pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
                hundredths(text).and_then(Self::from_hundredths).ok_or($range)
            }

            /// The JSON number of a search document, read back; at most two digits count.
            pub(crate) fn from_number(number: f64) -> Option<Self> {
                if !(0.0..=Self::MAX as f64 / 100.0).contains(&number) {
                    return None;
                }
                Self::from_hundredths((number * 100.0).round() as i64)
            }

            /// The JSON number of a search document.
            pub(crate) fn to_number(self) -> f64 {
                self.0 as f64 / 100.0
            }

            pub(crate) fn hundredths(self) -> i64 {
                self.0
            }
        }

        /// Always two digits after the point: `45.50`.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}.{:02}", self.0 / 100, self.0 % 100)
            }
        }
    };
}

two_digits!(Money, 9_999_999_999, "Give a number from 0 to 99999999.99 with at most two digits after the point.");
two_digits!(Rating, 500, "Give a number from 0 to 5 with at most two digits after the point.");

impl Money {
    /// For people: `1 500 ₽`, with digits after the point only where they say something.
    pub(crate) fn for_people(self) -> String {
        let units = grouped(self.0 / 100);
        match self.0 % 100 {
            0 => format!("{units}\u{a0}₽"),
            rest => format!("{units}.{rest:02}\u{a0}₽"),
        }
    }
}

/// `1234567` as `1 234 567`, with spaces at which no line breaks.
pub(crate) fn grouped(number: i64) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3 * 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && digit.is_ascii_digit() && (digits.len() - i).is_multiple_of(3) && !out.ends_with('-') {
            out.push('\u{a0}');
        }
        out.push(digit);
    }
    out
}

/// No sign, no exponent, no rounding: what is not exactly hundredths is refused.
fn hundredths(text: &str) -> Option<i64> {
    let (units, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if !all_digits(units) || !all_digits(fraction) {
        return None;
    }
    let fraction = fraction.trim_end_matches('0');
    if fraction.len() > 2 {
        return None;
    }
    let units: i64 = units.parse().ok()?;
    let rest: i64 = format!("{fraction:0<2}").parse().ok()?;
    units.checked_mul(100)?.checked_add(rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_is_exact_and_writes_two_digits() {
        for (text, written) in
            [("45", "45.00"), ("45.5", "45.50"), ("0.05", "0.05"), ("1.500", "1.50"), ("007", "7.00")]
        {
            assert_eq!(Money::parse(text).map(|m| m.to_string()).as_deref(), Ok(written), "{text}");
        }
        assert_eq!(Money::parse("99999999.99").map(Money::hundredths), Ok(9_999_999_999));
    }

    #[test]
    fn refuses_everything_else() {
        for text in [
            "",
            "-1",
            "+1",
            "1e3",
            "NaN",
            "inf",
            "1.",
            ".5",
            "1.005",
            "1,5",
            " 1",
            "100000000",
            "9".repeat(40).as_str(),
        ] {
            assert!(Money::parse(text).is_err(), "{text}");
        }
        assert!(Rating::parse("5.01").is_err());
        assert!(Rating::from_number(f64::NAN).is_none());
        assert!(Money::from_number(-0.01).is_none());
    }

    #[test]
    fn a_number_reads_back_as_it_was() {
        for hundredths in [0, 1, 10, 4_999, 2_830_001, 9_999_999_999] {
            let money = Money::from_hundredths(hundredths).expect("in range");
            assert_eq!(Money::from_number(money.to_number()), Some(money));
        }
    }

    #[test]
    fn people_see_groups() {
        let shown = |text| Money::parse(text).expect("money").for_people();
        assert_eq!(shown("1500"), "1\u{a0}500\u{a0}₽");
        assert_eq!(shown("999.90"), "999.90\u{a0}₽");
        assert_eq!(grouped(1_234_567), "1\u{a0}234\u{a0}567");
        assert_eq!(grouped(-123_456), "-123\u{a0}456");
    }
}
