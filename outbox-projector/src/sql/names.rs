use std::{fmt, sync::Arc};

/// The name of a projection: 1 to 100 of `a-z`, `0-9`, `-`, `_` and `.`. Its position is kept under it, so a new name is
/// a new projection that begins at its source's beginning.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProjectionName(Arc<str>);

impl ProjectionName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidName`] when the text is not of the form above.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        let good = (1..=100).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
        if good {
            Ok(Self(text.into()))
        } else {
            Err(InvalidName { text: text.into(), what: "projection name", form: "1 to 100 of a-z, 0-9, '-', '_', '.'" })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ProjectionName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A PostgreSQL schema: 1 to 63 of `a-z`, `0-9` and `_`, not beginning with a digit or `pg_`. Default: `outbox`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SchemaName(Arc<str>);

impl SchemaName {
    /// Parses a name.
    ///
    /// # Errors
    /// [`InvalidName`] when the text is not of the form above.
    pub fn parse(text: impl AsRef<str>) -> Result<Self, InvalidName> {
        let text = text.as_ref();
        let good = (1..=63).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
            && !text.starts_with(|c: char| c.is_ascii_digit())
            && !text.starts_with("pg_");
        if good {
            Ok(Self(text.into()))
        } else {
            let form = "1 to 63 of a-z, 0-9 and '_', not beginning with a digit or 'pg_'";
            Err(InvalidName { text: text.into(), what: "schema name", form })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Default for SchemaName {
    fn default() -> Self {
        Self("outbox".into())
    }
}

impl fmt::Display for SchemaName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A name that is not well formed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} {text:?} is not {form}")]
pub struct InvalidName {
    text: Box<str>,
    what: &'static str,
    form: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_break_sql_are_refused() {
        for bad in ["", "a b", "a\"b", "Tutors", "ä", &"x".repeat(101)] {
            assert!(ProjectionName::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "a-b", "a.b", "a\"", "Outbox", "1a", "pg_x", &"x".repeat(64)] {
            assert!(SchemaName::parse(bad).is_err(), "{bad:?}");
        }
        assert_eq!(ProjectionName::parse("tutor-search.v2").expect("name").as_str(), "tutor-search.v2");
        assert_eq!(SchemaName::parse("_read_1").expect("schema").as_str(), "_read_1");
        assert_eq!(SchemaName::default().as_str(), "outbox");
    }
}
