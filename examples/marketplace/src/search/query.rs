use crate::{
    http::{FieldErrors, QueryPairs},
    money::{Money, Rating},
    tutors::Format,
};

/// What is searched for. Filters combine by "and", subjects by "any of".
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct SearchQuery {
    pub(crate) text: Option<String>,
    pub(crate) subjects: Vec<String>,
    pub(crate) min_price: Option<Money>,
    pub(crate) max_price: Option<Money>,
    pub(crate) min_rating: Option<Rating>,
    pub(crate) format: Option<Format>,
    pub(crate) location: Option<String>,
    /// 1 to 100, 20 by default.
    pub(crate) limit: usize,
    /// At most [`MAX_WINDOW`] with the limit.
    pub(crate) offset: usize,
}

/// How deep pages go. Beyond it an index has to hold ever more in memory to answer.
const MAX_WINDOW: usize = 10_000;
const MAX_LIMIT: usize = 100;
const DEFAULT_LIMIT: usize = 20;
const MAX_SUBJECTS: usize = 20;

impl SearchQuery {
    pub(crate) fn parse(query: &QueryPairs) -> Result<Self, FieldErrors> {
        let mut errors = FieldErrors::default();
        let e = &mut errors;
        let parsed = Self {
            text: query.text("q", 200, e),
            subjects: query.all("subjects").map(str::to_owned).collect(),
            min_price: query.parsed("min_price", e, Money::parse),
            max_price: query.parsed("max_price", e, Money::parse),
            min_rating: query.parsed("min_rating", e, Rating::parse),
            format: query.parsed("format", e, Format::parse),
            location: query.text("location", 100, e),
            limit: query.parsed("limit", e, |t| whole(t, 1, MAX_LIMIT)).unwrap_or(DEFAULT_LIMIT),
            offset: query.parsed("offset", e, |t| whole(t, 0, MAX_WINDOW)).unwrap_or(0),
        };
        if parsed.offset + parsed.limit > MAX_WINDOW {
            errors.add("offset", format!("With the limit at most {MAX_WINDOW}; narrow the search instead."));
        }
        if parsed.subjects.len() > MAX_SUBJECTS {
            errors.add("subjects", format!("At most {MAX_SUBJECTS} subjects."));
        }
        errors.or(parsed)
    }
}

fn whole(text: &str, least: usize, most: usize) -> Result<usize, String> {
    let number = text.parse().ok().filter(|n| (least..=most).contains(n));
    number.ok_or_else(|| format!("Give a whole number from {least} to {most}."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<SearchQuery, FieldErrors> {
        SearchQuery::parse(&QueryPairs::parse(query))
    }

    #[test]
    fn everything_is_read() {
        let query = parse(
            "q=algebra&subjects=Maths&subjects=Physics&min_price=500&max_price=1500.50&min_rating=4.5&format=online\
             &location=Kazan&limit=5&offset=10",
        )
        .expect("valid");
        assert_eq!(query.subjects, ["Maths", "Physics"]);
        assert_eq!(query.max_price.map(Money::hundredths), Some(150_050));
        assert_eq!(query.format, Some(Format::Online));
        assert_eq!((query.limit, query.offset), (5, 10));
    }

    #[test]
    fn nothing_is_twenty_of_everything() {
        let query = parse("q=&format=").expect("valid");
        assert_eq!((query.text, query.format, query.limit, query.offset), (None, None, 20, 0));
    }

    #[test]
    fn bad_values_are_named() {
        let bad = "min_price=cheap&max_price=1e9&min_rating=6&format=both&limit=101&offset=-1";
        let fields = ["format", "limit", "max_price", "min_price", "min_rating", "offset"];
        assert_eq!(parse(bad).expect_err("bad").fields(), fields);
        assert_eq!(parse("offset=9990&limit=20").expect_err("too deep").fields(), ["offset"]);
        let long = format!("q={}", "x".repeat(201));
        assert_eq!(parse(&long).expect_err("too long").fields(), ["q"]);
    }
}
