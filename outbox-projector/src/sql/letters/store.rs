//! The statements on `projector_dead_letter`.

use async_trait::async_trait;
use sqlx::{Pool, Transaction};
use uuid::Uuid;

use super::{KeptLetter, KeptRecord, LetterFilter, NewLetter};
use crate::sql::{Series, store::Store, watermark::Watermarks};

/// A letter with its body, if that is kept here.
pub(super) type Stored = (KeptLetter, Option<KeptRecord>);

/// What differs between databases about dead letters. Each method is one statement.
#[async_trait]
pub trait LetterStore: Store {
    /// The series, by index, that have letters; none of those goes until the transaction ends.
    async fn blocked(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        watermarks: &Watermarks,
    ) -> Result<Vec<usize>, sqlx::Error>;

    /// Adds letters in this order; those that are there stay as they are.
    async fn add_letters(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        letters: &[NewLetter<'_>],
    ) -> Result<(), sqlx::Error>;

    async fn list_letters(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        filter: &LetterFilter,
        limit: u32,
    ) -> Result<Vec<KeptLetter>, sqlx::Error>;

    async fn find_letter(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        id: Uuid,
    ) -> Result<Option<Stored>, sqlx::Error>;

    /// Those of these that are there.
    async fn open_letters(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        ids: &[Uuid],
    ) -> Result<Vec<Uuid>, sqlx::Error>;

    /// The same as [`find_letter`](Self::find_letter), which nobody else removes until the transaction ends.
    async fn lock_letter(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        id: Uuid,
    ) -> Result<Option<Stored>, sqlx::Error>;

    /// The first letters of a series by sequence and number, which nobody else removes until the transaction ends.
    async fn first_letters(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        series: &Series,
        limit: u32,
    ) -> Result<Vec<Stored>, sqlx::Error>;

    /// Whether a series has letters below this sequence.
    async fn has_earlier(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        series: &Series,
        sequence: i64,
    ) -> Result<bool, sqlx::Error>;

    async fn count_letters(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        series: &Series,
    ) -> Result<i64, sqlx::Error>;

    /// The series that have letters, in the order of their first ones.
    async fn series_with_letters(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
    ) -> Result<Vec<Series>, sqlx::Error>;

    /// The letters that belong to no series, in order.
    async fn letters_without_series(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
    ) -> Result<Vec<Uuid>, sqlx::Error>;

    /// Files a letter that belonged to no series under the one that it has by now.
    async fn file_letter(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        letter: &KeptLetter,
    ) -> Result<(), sqlx::Error>;

    /// One more attempt that failed.
    async fn record_failure(
        tables: &Self::Tables,
        pool: &Pool<Self>,
        projection: &str,
        number: i64,
        reason: &str,
    ) -> Result<(), sqlx::Error>;

    /// How many were there.
    async fn remove_letters(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        numbers: &[i64],
    ) -> Result<u64, sqlx::Error>;

    async fn remove_series(
        tables: &Self::Tables,
        tx: &mut Transaction<'_, Self>,
        projection: &str,
        series: &Series,
    ) -> Result<Vec<KeptLetter>, sqlx::Error>;
}
