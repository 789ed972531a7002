use chrono::{DateTime, Utc};
use sqlx::{ColumnIndex, Database, Decode, FromRow, Row, Type, types::Json};

use crate::money::{Money, Rating};

/// A tutor as the database has it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Tutor {
    pub(crate) id: i64,
    /// Unique, in addresses; made from the first name given and kept when the name changes.
    pub(crate) slug: String,
    pub(crate) profile: Profile,
    /// Microseconds.
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) updated_at: DateTime<Utc>,
}

/// What an editor can change. Parsed from requests in `input.rs`, which holds the limits.
#[derive(Debug, Clone, PartialEq, Default)]
pub(crate) struct Profile {
    pub(crate) full_name: String,
    pub(crate) avatar_url: String,
    pub(crate) headline: String,
    pub(crate) bio: String,
    pub(crate) subjects: Vec<String>,
    pub(crate) hourly_rate: Money,
    pub(crate) rating: Rating,
    pub(crate) reviews_count: i64,
    pub(crate) is_verified: bool,
    pub(crate) location: String,
    pub(crate) formats: Vec<Format>,
}

impl Profile {
    /// What a substring filter looks in: SQLite folds the case of ASCII only, so it is folded here.
    pub(super) fn folded(&self) -> String {
        format!("{}\n{}\n{}", self.full_name, self.headline, self.bio).to_lowercase()
    }

    pub(super) fn format_names(&self) -> Vec<&'static str> {
        self.formats.iter().map(|f| f.as_str()).collect()
    }
}

/// How lessons are held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    Online,
    Offline,
}

impl Format {
    pub(crate) const ALL: [Self; 2] = [Self::Online, Self::Offline];

    /// The error says what is accepted.
    pub(crate) fn parse(text: &str) -> Result<Self, &'static str> {
        Self::ALL.into_iter().find(|f| f.as_str() == text).ok_or("Give \"online\" or \"offline\".")
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Online => "online",
            Self::Offline => "offline",
        }
    }
}

/// The columns that [`Tutor`] is read from.
macro_rules! columns {
    () => {
        "id, slug, full_name, avatar_url, headline, bio, subjects, hourly_rate_minor, rating_hundredths, \
         reviews_count, is_verified, location, formats, created_at, updated_at"
    };
}
pub(super) use columns;

/// One implementation for rows of either database.
impl<'r, R> FromRow<'r, R> for Tutor
where
    R: Row,
    &'static str: ColumnIndex<R>,
    i64: Column<'r, R::Database>,
    bool: Column<'r, R::Database>,
    String: Column<'r, R::Database>,
    Json<Vec<String>>: Column<'r, R::Database>,
    DateTime<Utc>: Column<'r, R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let out_of_range = |column: &str| sqlx::Error::ColumnDecode {
            index: column.to_owned(),
            source: format!("{column} holds a value that the application never writes").into(),
        };
        let names: Json<Vec<String>> = row.try_get("formats")?;
        let formats = names.iter().map(|n| Format::parse(n).map_err(|_| out_of_range("formats")));
        let rate = Money::from_hundredths(row.try_get("hourly_rate_minor")?);
        let rating = Rating::from_hundredths(row.try_get("rating_hundredths")?);
        Ok(Self {
            id: row.try_get("id")?,
            slug: row.try_get("slug")?,
            profile: Profile {
                full_name: row.try_get("full_name")?,
                avatar_url: row.try_get("avatar_url")?,
                headline: row.try_get("headline")?,
                bio: row.try_get("bio")?,
                subjects: row.try_get::<Json<Vec<String>>, _>("subjects")?.0,
                hourly_rate: rate.ok_or_else(|| out_of_range("hourly_rate_minor"))?,
                rating: rating.ok_or_else(|| out_of_range("rating_hundredths"))?,
                reviews_count: row.try_get("reviews_count")?,
                is_verified: row.try_get("is_verified")?,
                location: row.try_get("location")?,
                formats: formats.collect::<Result<_, _>>()?,
            },
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
        })
    }
}

/// What a type needs to be read from a column.
pub(super) trait Column<'r, DB: Database>: Type<DB> + Decode<'r, DB> {}
impl<'r, DB: Database, T: Type<DB> + Decode<'r, DB>> Column<'r, DB> for T {}
