//! Numbers and times as people read them.

use chrono::{DateTime, TimeDelta, Utc};

/// `14 ms`, `2.3 s`, `5 min`, `3 h`.
pub(super) fn duration(delta: TimeDelta) -> String {
    // Clocks of two machines differ a little: nothing arrives before it was sent.
    let ms = delta.num_milliseconds().max(0);
    match ms {
        0 => "< 1 ms".to_owned(),
        1..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..3_600_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

/// The time of day, in UTC.
pub(super) fn clock(time: DateTime<Utc>) -> String {
    time.format("%H:%M:%S").to_string()
}

/// `March 2026`.
pub(super) fn month(iso: &str) -> String {
    iso.parse::<DateTime<Utc>>().map_or_else(|_| String::new(), |t| t.format("%B %Y").to_string())
}

/// The first letters of the first and the last word.
pub(super) fn initials(name: &str) -> String {
    let mut words = name.split_whitespace().filter_map(|w| w.chars().find(|c| c.is_alphanumeric()));
    let first = words.next();
    first.into_iter().chain(words.next_back()).flat_map(char::to_uppercase).collect()
}

/// `1 review`, `1 240 reviews`.
pub(super) fn counted(count: i64, one: &str, many: &str) -> String {
    format!("{} {}", crate::money::grouped(count), if count == 1 { one } else { many })
}

/// The beginning of a text, cut between words.
pub(super) fn excerpt(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let cut: String = text.chars().take(most).collect();
    let end = cut.rfind(char::is_whitespace).unwrap_or(cut.len());
    format!("{}…", cut[..end].trim_end_matches([',', '.', ';', ':', ' ']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_one_unit() {
        let shown = |ms| duration(TimeDelta::milliseconds(ms));
        assert_eq!(
            [shown(-5), shown(0), shown(14), shown(2_340), shown(300_000)],
            ["< 1 ms", "< 1 ms", "14 ms", "2.3 s", "5 min"]
        );
    }

    #[test]
    fn names_have_initials_in_any_script() {
        assert_eq!(initials("анна мария Петрова"), "АП");
        assert_eq!(initials("Zoé"), "Z");
        assert_eq!(initials("…"), "");
    }

    #[test]
    fn texts_are_cut_between_words() {
        assert_eq!(excerpt("short", 10), "short");
        assert_eq!(excerpt("Привет, мир и все", 12), "Привет, мир…");
        assert_eq!(counted(1, "review", "reviews"), "1 review");
        assert_eq!(counted(0, "review", "reviews"), "0 reviews");
    }
}
