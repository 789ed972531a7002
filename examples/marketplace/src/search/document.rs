use serde::{Deserialize, Serialize};

/// A tutor as events carry it and as search answers it: the fifteen fields of the original. All must be there: a
/// missing one would blank out what the index knows. More are ignored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct SearchDocument {
    pub(crate) id: i64,
    pub(crate) slug: String,
    pub(crate) full_name: String,
    pub(crate) avatar_url: String,
    pub(crate) headline: String,
    pub(crate) bio: String,
    pub(crate) subjects: Vec<String>,
    pub(crate) hourly_rate: f64,
    pub(crate) rating: f64,
    pub(crate) reviews_count: i64,
    pub(crate) is_verified: bool,
    pub(crate) location: String,
    pub(crate) formats: Vec<String>,
    /// ISO 8601.
    pub(crate) created_at: String,
    /// ISO 8601.
    pub(crate) updated_at: String,
}
