//! Dead letters in SQLite.

use bytes::Bytes;
use outbox_core::{
    event::{AggregateType, LogId, Sequence},
    source::Partition,
};
use sqlx::{AssertSqlSafe, Pool, Row as _, Sqlite, Transaction, sqlite::SqliteRow, types::Json};
use uuid::{Uuid, fmt::Hyphenated};

use super::{
    KeptLetter, KeptRecord, LetterFilter, LetterStore, NewLetter, headers,
    letter::{Form, cause_of, storable},
    statements::{LETTER, OF_SERIES, RECORD, letter_statements},
    store::Stored,
};
use crate::sql::{
    Series, SqliteTables as Tables,
    watermark::{Watermark, Watermarks},
};

letter_statements!(
    Sqlite, SqliteRow, Hyphenated, table: table, locked: "", among: "IN (SELECT value FROM json_each($2))", list: Json,
    blocked: blocked, add: add
);

fn table(_: &Tables) -> &'static str {
    "projector_dead_letter"
}

async fn blocked(
    _: &Tables,
    tx: &mut Transaction<'_, Sqlite>,
    projection: &str,
    watermarks: &Watermarks,
) -> Result<Vec<usize>, sqlx::Error> {
    // Without any letter the first EXISTS is all that is looked at.
    let sql = "SELECT k.key FROM json_each($2) AS k \
               WHERE EXISTS (SELECT 1 FROM projector_dead_letter WHERE projection = $1) \
               AND EXISTS (SELECT 1 FROM projector_dead_letter AS d WHERE d.projection = $1 \
               AND d.log_id = k.value ->> 0 AND d.aggregate_type = k.value ->> 1 AND d.ordering_key = k.value ->> 2)";
    let keys: Vec<_> = watermarks
        .iter()
        .map(|Watermark { series: s, .. }| (s.log.to_string(), s.aggregate_type.as_str(), &*s.ordering_key))
        .collect();
    let found: Vec<i64> = sqlx::query_scalar(sql).bind(projection).bind(Json(keys)).fetch_all(&mut **tx).await?;
    Ok(found.into_iter().map(|index| index as usize).collect())
}

async fn add(
    _: &Tables,
    tx: &mut Transaction<'_, Sqlite>,
    projection: &str,
    letters: &[NewLetter<'_>],
) -> Result<(), sqlx::Error> {
    let sql = "INSERT INTO projector_dead_letter (projection, letter_id, log_id, aggregate_type, ordering_key, sequence, \
               partition, place, cause, reason, attempts, given_up_at, form, record_key, payload, headers) \
               VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) \
               ON CONFLICT (projection, letter_id) DO NOTHING";
    for letter in letters {
        let query = sqlx::query(sql)
            .bind(projection)
            .bind(Hyphenated::from(letter.id()))
            .bind(letter.log().map(Hyphenated::from))
            .bind(letter.aggregate_type())
            .bind(letter.ordering_key())
            .bind(letter.sequence())
            .bind(letter.partition())
            .bind(letter.place())
            .bind(letter.cause())
            .bind(letter.reason())
            .bind(letter.attempts())
            .bind(letter.at())
            .bind(letter.form.as_str())
            .bind(letter.key())
            .bind(letter.payload())
            .bind(letter.headers.as_deref());
        query.execute(&mut **tx).await?;
    }
    Ok(())
}
