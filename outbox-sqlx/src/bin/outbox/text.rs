//! Numbers, times and foreign text as people read them, and back.

use std::time::Duration;

use chrono::{DateTime, Local, TimeDelta, Utc};
use outbox_core::event::{Lane, LaneSet};

/// `1234567` as `1,234,567`.
pub(crate) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (n, digit) in digits.chars().enumerate() {
        if n > 0 && (digits.len() - n).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// `3 events`, `1 event`.
pub(crate) fn counted(number: u64, one: &str) -> String {
    format!("{} {one}{}", grouped(number), if number == 1 { "" } else { "s" })
}

/// Local time and age: `2026-03-01 14:05:09 (3 min ago)`.
pub(crate) fn moment(time: DateTime<Utc>) -> String {
    format!("{} ({})", time.with_timezone(&Local).format("%Y-%m-%d %H:%M:%S"), age(time))
}

/// `3 min ago`, `in 5 s`, `now`.
pub(crate) fn age(time: DateTime<Utc>) -> String {
    relative(Utc::now() - time)
}

fn relative(age: TimeDelta) -> String {
    let seconds = age.num_seconds();
    let amount = match seconds.unsigned_abs() {
        0 => return "now".to_owned(),
        s @ 1..=119 => format!("{s} s"),
        s @ 120..=7_199 => format!("{} min", s / 60),
        s @ 7_200..=172_799 => format!("{} h", s / 3_600),
        s => format!("{} days", grouped(s / 86_400)),
    };
    if seconds < 0 { format!("in {amount}") } else { format!("{amount} ago") }
}

/// [`age`] of what may not be; `-` then.
pub(crate) fn age_or_dash(time: Option<DateTime<Utc>>) -> String {
    time.map_or_else(|| "-".to_owned(), age)
}

/// `0-3, 7`, or `none`.
pub(crate) fn lanes(set: LaneSet) -> String {
    let mut runs: Vec<(u8, u8)> = Vec::new();
    for lane in set.iter().map(Lane::get) {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == lane => *last = lane,
            _ => runs.push((lane, lane)),
        }
    }
    if runs.is_empty() {
        return "none".to_owned();
    }
    let run = |(first, last): &(u8, u8)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    runs.iter().map(run).collect::<Vec<_>>().join(", ")
}

/// Foreign text on one line, without characters that a terminal would obey, cut to `width` characters.
pub(crate) fn on_one_line(text: &str, width: Option<usize>) -> String {
    let visible = |c: char| if c.is_control() || is_bidi(c) { '·' } else { c };
    let mut characters = text.chars().map(visible);
    let Some(width) = width else { return characters.collect() };
    let mut line: String = characters.by_ref().take(width).collect();
    if characters.next().is_some() {
        line.pop();
        line.push('…');
    }
    line
}

/// Foreign text with its lines, without other characters that a terminal would obey.
pub(crate) fn on_lines(text: &str) -> String {
    let lines: Vec<String> = text.lines().map(|line| on_one_line(line, None)).collect();
    lines.join("\n")
}

/// Characters that turn the direction of writing, and with it the order in which the rest is shown.
fn is_bidi(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Reads `90s`, `15m`, `12h`, `7d`, `2w`.
///
/// # Errors
/// What is wrong, for people.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{text:?} is not a number followed by s, m, h, d or w, as in 7d");
    let unit_at = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(unit_at);
    let number: u64 = number.parse().map_err(|_| wrong())?;
    let seconds = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        "w" => 604_800,
        _ => return Err(wrong()),
    };
    // A hundred years: databases cannot add much more to a date.
    let limit = 3_155_760_000;
    number
        .checked_mul(seconds)
        .filter(|s| *s <= limit)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{text} is too long"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
        assert_eq!(grouped(u64::MAX), "18,446,744,073,709,551,615");
        assert_eq!((counted(1, "event"), counted(1_000, "key")), ("1 event".to_owned(), "1,000 keys".to_owned()));
    }

    #[test]
    fn ages_have_a_fitting_unit() {
        for (seconds, text) in [
            (0, "now"),
            (1, "1 s ago"),
            (119, "119 s ago"),
            (180, "3 min ago"),
            (7_200, "2 h ago"),
            (172_800, "2 days ago"),
            (-30, "in 30 s"),
        ] {
            assert_eq!(relative(TimeDelta::seconds(seconds)), text);
        }
    }

    #[test]
    fn lanes_are_runs() {
        assert_eq!(lanes(LaneSet::from_mask(0b1000_1111)), "0-3, 7");
        assert_eq!(lanes(LaneSet::EMPTY), "none");
        assert_eq!(lanes(LaneSet::from_mask(u64::MAX)), "0-63");
    }

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(on_one_line("a\x1b[31m\nb\u{202e}c", None), "a·[31m·b·c");
        assert_eq!(on_one_line("абвгд", Some(4)), "абв…");
        assert_eq!(on_one_line("абвг", Some(4)), "абвг");
        assert_eq!(on_lines("{\r\n  \"a\": 1\x07\n}"), "{\n  \"a\": 1·\n}");
    }

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(duration("7d"), Ok(Duration::from_hours(168)));
        assert_eq!(duration("0s"), Ok(Duration::ZERO));
        for wrong in ["", "7", "d", "7 d", "-7d", "7y", "1.5h", "99999999999999999999d", "9999999w"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }
}
