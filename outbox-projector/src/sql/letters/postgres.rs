//! Dead letters in PostgreSQL.

use std::convert::identity;

use bytes::Bytes;
use outbox_core::{
    event::{AggregateType, LogId, Sequence},
    source::Partition,
};
use sqlx::{
    AssertSqlSafe, Pool, Postgres, Row as _, Transaction,
    postgres::{PgArguments, PgRow},
};
use uuid::Uuid;

use super::{
    KeptLetter, KeptRecord, LetterFilter, LetterStore, NewLetter, headers,
    letter::{Form, cause_of, storable},
    statements::{LETTER, OF_SERIES, RECORD, letter_statements},
    store::Stored,
};
use crate::sql::{PostgresTables as Tables, Series, watermark::Watermarks};

letter_statements!(
    Postgres, PgRow, Uuid, table: table, locked: " FOR UPDATE", among: "= ANY ($2)", list: identity,
    blocked: blocked, add: add
);

fn table(tables: &Tables) -> String {
    tables.within_schema("{schema}.projector_dead_letter")
}

async fn blocked(
    tables: &Tables,
    tx: &mut Transaction<'_, Postgres>,
    projection: &str,
    watermarks: &Watermarks,
) -> Result<Vec<usize>, sqlx::Error> {
    // Without any letter the last condition is all that is looked at; its order keeps the planner from scanning the table
    // of a projection that has many. FOR SHARE waits for a replay that is about to free
    // a key, and keeps the next one from doing so before what is held back here is there.
    let sql = tables.within_schema(
        "SELECT k.index FROM unnest($2::uuid[], $3::text[], $4::text[]) \
           WITH ORDINALITY AS k(log_id, aggregate_type, ordering_key, index) \
         CROSS JOIN LATERAL (SELECT FROM {schema}.projector_dead_letter d WHERE d.projection = $1 \
           AND d.log_id = k.log_id AND d.aggregate_type = k.aggregate_type AND d.ordering_key = k.ordering_key \
           LIMIT 1 FOR SHARE) AS d \
         WHERE (SELECT letter_id FROM {schema}.projector_dead_letter WHERE projection = $1 \
           ORDER BY letter_id LIMIT 1) IS NOT NULL",
    );
    let found: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(projection)
        .bind(watermarks.iter().map(|mark| mark.series.log.0).collect::<Vec<_>>())
        .bind(watermarks.iter().map(|mark| mark.series.aggregate_type.as_str()).collect::<Vec<_>>())
        .bind(watermarks.iter().map(|mark| mark.series.ordering_key.as_str()).collect::<Vec<_>>())
        .fetch_all(&mut **tx)
        .await?;
    // Ordinality counts from 1.
    Ok(found.into_iter().map(|index| index as usize - 1).collect())
}

async fn add(
    tables: &Tables,
    tx: &mut Transaction<'_, Postgres>,
    projection: &str,
    letters: &[NewLetter<'_>],
) -> Result<(), sqlx::Error> {
    let sql = tables.within_schema(
        "INSERT INTO {schema}.projector_dead_letter (projection, letter_id, log_id, aggregate_type, ordering_key, \
           sequence, partition, place, cause, reason, attempts, given_up_at, form, record_key, payload, headers) \
         SELECT $1, * FROM unnest($2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::bigint[], $7::text[], \
           $8::text[], $9::text[], $10::text[], $11::bigint[], $12::timestamptz[], $13::text[], $14::bytea[], \
           $15::bytea[], $16::bytea[]) \
         ON CONFLICT (projection, letter_id) DO NOTHING",
    );
    bound(sqlx::query(AssertSqlSafe(sql)).bind(projection), letters).execute(&mut **tx).await.map(drop)
}

type Query<'q> = sqlx::query::Query<'q, Postgres, PgArguments>;

fn bound<'q>(query: Query<'q>, letters: &'q [NewLetter<'q>]) -> Query<'q> {
    fn each<'q, T>(letters: &'q [NewLetter<'q>], field: impl Fn(&'q NewLetter<'q>) -> T) -> Vec<T> {
        letters.iter().map(field).collect()
    }
    query
        .bind(each(letters, NewLetter::id))
        .bind(each(letters, NewLetter::log))
        .bind(each(letters, NewLetter::aggregate_type))
        .bind(each(letters, NewLetter::ordering_key))
        .bind(each(letters, NewLetter::sequence))
        .bind(each(letters, NewLetter::partition))
        .bind(each(letters, NewLetter::place))
        .bind(each(letters, NewLetter::cause))
        .bind(each(letters, NewLetter::reason))
        .bind(each(letters, NewLetter::attempts))
        .bind(each(letters, NewLetter::at))
        .bind(each(letters, |letter| letter.form.as_str()))
        .bind(each(letters, NewLetter::key))
        .bind(each(letters, NewLetter::payload))
        .bind(each(letters, |letter| letter.headers.as_deref()))
}
