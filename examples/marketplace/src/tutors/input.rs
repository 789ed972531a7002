//! Parsing what editors send, all faults at once, by field.

use serde_json::{Map, Value};
use url::Url;

use super::model::{Format, Profile};
use crate::{
    http::FieldErrors,
    money::{Money, Rating},
};

const MAX_NAME: usize = 150;
const MAX_URL: usize = 200;
const MAX_HEADLINE: usize = 200;
const MAX_BIO: usize = 10_000;
const MAX_LOCATION: usize = 100;
const MAX_SUBJECTS: usize = 20;
const MAX_SUBJECT: usize = 50;
const MAX_REVIEWS: i64 = 1_000_000_000;

const READ_ONLY: [&str; 4] = ["id", "slug", "created_at", "updated_at"];

impl Profile {
    /// A new profile: `full_name` and `hourly_rate` must be there, everything else may be left out.
    pub(super) fn parse(body: &Map<String, Value>) -> Result<Self, FieldErrors> {
        let mut fields = Fields { body, errors: FieldErrors::default() };
        for required in ["full_name", "hourly_rate"] {
            if !body.contains_key(required) {
                fields.errors.add(required, "This field is required.");
            }
        }
        Self::default().read(fields)
    }

    /// This profile with the fields of the body changed.
    pub(super) fn amended(&self, body: &Map<String, Value>) -> Result<Self, FieldErrors> {
        self.clone().read(Fields { body, errors: FieldErrors::default() })
    }

    fn read(mut self, mut fields: Fields<'_>) -> Result<Self, FieldErrors> {
        fields.set("full_name", &mut self.full_name, |v| line(v, 1, MAX_NAME));
        fields.set("avatar_url", &mut self.avatar_url, web_address);
        fields.set("headline", &mut self.headline, |v| line(v, 0, MAX_HEADLINE));
        fields.set("bio", &mut self.bio, |v| text(v, 0, MAX_BIO, |c| c.is_control() && !"\n\r\t".contains(c)));
        fields.set("subjects", &mut self.subjects, subjects);
        fields.set("hourly_rate", &mut self.hourly_rate, |v| decimal(v, Money::parse));
        fields.set("rating", &mut self.rating, |v| decimal(v, Rating::parse));
        fields.set("reviews_count", &mut self.reviews_count, count);
        fields
            .set("is_verified", &mut self.is_verified, |v| v.as_bool().ok_or_else(|| "Give true or false.".to_owned()));
        fields.set("location", &mut self.location, |v| line(v, 0, MAX_LOCATION));
        fields.set("formats", &mut self.formats, formats);
        fields.refuse_others();
        fields.errors.or(self)
    }
}

const KNOWN: [&str; 11] = [
    "full_name",
    "avatar_url",
    "headline",
    "bio",
    "subjects",
    "hourly_rate",
    "rating",
    "reviews_count",
    "is_verified",
    "location",
    "formats",
];

struct Fields<'a> {
    body: &'a Map<String, Value>,
    errors: FieldErrors,
}

impl Fields<'_> {
    fn set<T>(&mut self, name: &str, target: &mut T, parse: impl FnOnce(&Value) -> Result<T, String>) {
        match self.body.get(name) {
            None => {}
            Some(Value::Null) => self.errors.add(name, "This field may not be null."),
            Some(value) => match parse(value) {
                Ok(parsed) => *target = parsed,
                Err(message) => self.errors.add(name, message),
            },
        }
    }

    /// A misspelt field that is silently ignored looks like a change that was made.
    fn refuse_others(&mut self) {
        for name in self.body.keys().filter(|n| !KNOWN.contains(&n.as_str())) {
            let read_only = READ_ONLY.contains(&name.as_str());
            let shown: String = name.chars().take(50).collect();
            self.errors.add(&shown, if read_only { "This field is read-only." } else { "There is no such field." });
        }
    }
}

fn text(value: &Value, least: usize, most: usize, refused: fn(char) -> bool) -> Result<String, String> {
    let text = value.as_str().ok_or("Give text.")?.trim();
    let length = text.chars().count();
    if length < least {
        return Err("This field may not be blank.".to_owned());
    }
    if length > most {
        return Err(format!("At most {most} characters; these are {length}."));
    }
    if text.contains(refused) {
        return Err("Control characters are not allowed.".to_owned());
    }
    Ok(text.to_owned())
}

fn line(value: &Value, least: usize, most: usize) -> Result<String, String> {
    text(value, least, most, char::is_control)
}

fn web_address(value: &Value) -> Result<String, String> {
    let text = line(value, 0, MAX_URL)?;
    let web = |url: Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    if text.is_empty() || Url::parse(&text).is_ok_and(web) {
        Ok(text)
    } else {
        Err("Give an address that begins with https:// or http://, or nothing.".to_owned())
    }
}

/// Text or a number; a number is read by its digits, so nothing is rounded.
fn decimal<T>(value: &Value, parse: fn(&str) -> Result<T, &'static str>) -> Result<T, String> {
    let parsed = match value {
        Value::String(text) => parse(text),
        Value::Number(number) => parse(&number.to_string()),
        _ => parse(""),
    };
    parsed.map_err(str::to_owned)
}

fn count(value: &Value) -> Result<i64, String> {
    let count = value.as_i64().filter(|n| (0..=MAX_REVIEWS).contains(n));
    count.ok_or_else(|| format!("Give a whole number from 0 to {MAX_REVIEWS}."))
}

fn list<T: PartialEq>(value: &Value, parse: impl Fn(&Value) -> Result<T, String>) -> Result<Vec<T>, String> {
    let mut items = Vec::new();
    for item in value.as_array().ok_or("Give a list.")? {
        let item = parse(item)?;
        if !items.contains(&item) {
            items.push(item);
        }
    }
    Ok(items)
}

fn subjects(value: &Value) -> Result<Vec<String>, String> {
    if value.as_array().is_some_and(|items| items.len() > MAX_SUBJECTS) {
        return Err(format!("At most {MAX_SUBJECTS} subjects."));
    }
    list(value, |item| line(item, 1, MAX_SUBJECT).map_err(|e| format!("Each subject: {e}")))
}

fn formats(value: &Value) -> Result<Vec<Format>, String> {
    list(value, |item| Format::parse(item.as_str().unwrap_or_default()).map_err(str::to_owned))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parse(body: Value) -> Result<Profile, FieldErrors> {
        Profile::parse(body.as_object().expect("object"))
    }

    #[test]
    fn a_full_profile_is_read() {
        let profile = parse(json!({
            "full_name": "  Анна Петрова ", "avatar_url": "https://example.org/a.png", "headline": "Maths",
            "bio": "First.\nSecond.", "subjects": ["Maths", "Physics", "Maths"], "hourly_rate": "1500.50",
            "rating": 4.85, "reviews_count": 12, "is_verified": true, "location": "Казань",
            "formats": ["online", "offline"],
        }))
        .expect("valid");
        assert_eq!(profile.full_name, "Анна Петрова");
        assert_eq!(profile.subjects, ["Maths", "Physics"]);
        assert_eq!((profile.hourly_rate.hundredths(), profile.rating.hundredths()), (150_050, 485));
        assert_eq!(profile.formats, Format::ALL);
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let errors = parse(json!({
            "full_name": " ", "avatar_url": "javascript:alert(1)", "headline": "x".repeat(201), "bio": "x".repeat(10_001),
            "subjects": ["", 1], "hourly_rate": -5, "rating": "5.01", "reviews_count": 1.5, "is_verified": "yes",
            "location": "a\u{0}b", "formats": ["telepathy"], "id": 7, "hourly_rat": 1,
        }))
        .expect_err("invalid");
        let mut expected = KNOWN.to_vec();
        expected.extend(["id", "hourly_rat"]);
        expected.sort_unstable();
        assert_eq!(errors.fields(), expected);
    }

    #[test]
    fn what_is_missing_or_null_is_named() {
        assert_eq!(parse(json!({})).expect_err("empty").fields(), ["full_name", "hourly_rate"]);
        let errors = parse(json!({"full_name": null, "hourly_rate": 1, "bio": null})).expect_err("nulls");
        assert_eq!(errors.fields(), ["bio", "full_name"]);
    }

    #[test]
    fn an_amendment_changes_only_what_it_names() {
        let before = parse(json!({"full_name": "Anna", "hourly_rate": 10, "bio": "b"})).expect("valid");
        let change = json!({"hourly_rate": "12.50"});
        let after = before.amended(change.as_object().expect("object")).expect("valid");
        assert_eq!(after.hourly_rate.hundredths(), 1_250);
        assert_eq!(Profile { hourly_rate: before.hourly_rate, ..after }, before);
    }
}
