//! The statements whose text is the same on both databases, but for the table's name and how a list is bound.

/// Everything but the body.
pub(super) const LETTER: &str = "number, letter_id, log_id, aggregate_type, ordering_key, sequence, partition, place, \
                                 cause, reason, attempts, given_up_at, form";
pub(super) const RECORD: &str = "record_key, payload, headers";
pub(super) const OF_SERIES: &str = "projection = $1 AND log_id = $2 AND aggregate_type = $3 AND ordering_key = $4";

/// Implements [`LetterStore`](super::store::LetterStore), as a whole since `async_trait` does not look into macros.
macro_rules! letter_statements {
    (
        $db:ident, $row:ident, $uuid:ty, table: $table:expr, locked: $locked:literal, among: $among:literal,
        list: $list:expr, blocked: $blocked:path, add: $add:path
    ) => {
        #[async_trait::async_trait]
        impl LetterStore for $db {
            async fn blocked(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                watermarks: &Watermarks,
            ) -> Result<Vec<usize>, sqlx::Error> {
                $blocked(tables, tx, projection, watermarks).await
            }

            async fn add_letters(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                letters: &[NewLetter<'_>],
            ) -> Result<(), sqlx::Error> {
                $add(tables, tx, projection, letters).await
            }

            async fn list_letters(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
                filter: &LetterFilter,
                limit: u32,
            ) -> Result<Vec<KeptLetter>, sqlx::Error> {
                let order = if filter.newest_first { "DESC" } else { "ASC" };
                let sql = format!(
                    "SELECT {LETTER} FROM {} WHERE projection = $1 \
                     AND ($2 IS NULL OR (log_id = $2 AND aggregate_type = $3 AND ordering_key = $4)) \
                     AND ($5 IS NULL OR cause = $5) ORDER BY number {order} LIMIT $6",
                    $table(tables)
                );
                let series = filter.series.as_ref();
                let query = sqlx::query(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(series.map(|s| <$uuid>::from(s.log.0)))
                    .bind(series.map(|s| s.aggregate_type.as_str()))
                    .bind(series.map(|s| s.ordering_key.as_str()))
                    .bind(filter.cause.map(|cause| cause.as_str()))
                    .bind(i64::from(limit));
                query.fetch_all(pool).await?.iter().map(letter).collect()
            }

            async fn find_letter(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
                id: Uuid,
            ) -> Result<Option<Stored>, sqlx::Error> {
                let table = $table(tables);
                let sql = format!("SELECT {LETTER}, {RECORD} FROM {table} WHERE projection = $1 AND letter_id = $2");
                let query = sqlx::query(AssertSqlSafe(sql)).bind(projection).bind(<$uuid>::from(id));
                query.fetch_optional(pool).await?.as_ref().map(stored).transpose()
            }

            async fn open_letters(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
                ids: &[Uuid],
            ) -> Result<Vec<Uuid>, sqlx::Error> {
                let table = $table(tables);
                let sql =
                    format!(concat!("SELECT letter_id FROM {} WHERE projection = $1 AND letter_id ", $among), table);
                let ids: Vec<$uuid> = ids.iter().copied().map(<$uuid>::from).collect();
                let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(projection).bind($list(ids));
                let open: Vec<$uuid> = query.fetch_all(pool).await?;
                Ok(open.into_iter().map(Uuid::from).collect())
            }

            async fn lock_letter(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                id: Uuid,
            ) -> Result<Option<Stored>, sqlx::Error> {
                let sql = format!(
                    concat!("SELECT {}, {} FROM {} WHERE projection = $1 AND letter_id = $2", $locked),
                    LETTER,
                    RECORD,
                    $table(tables)
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(projection).bind(<$uuid>::from(id));
                query.fetch_optional(&mut **tx).await?.as_ref().map(stored).transpose()
            }

            async fn first_letters(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                series: &Series,
                limit: u32,
            ) -> Result<Vec<Stored>, sqlx::Error> {
                let sql = format!(
                    concat!("SELECT {}, {} FROM {} WHERE {} ORDER BY sequence, number LIMIT $5", $locked),
                    LETTER,
                    RECORD,
                    $table(tables),
                    OF_SERIES
                );
                let query = sqlx::query(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(<$uuid>::from(series.log.0))
                    .bind(series.aggregate_type.as_str())
                    .bind(series.ordering_key.as_str())
                    .bind(i64::from(limit));
                query.fetch_all(&mut **tx).await?.iter().map(stored).collect()
            }

            async fn has_earlier(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                series: &Series,
                sequence: i64,
            ) -> Result<bool, sqlx::Error> {
                let table = $table(tables);
                let sql = format!("SELECT EXISTS (SELECT 1 FROM {table} WHERE {OF_SERIES} AND sequence < $5)");
                let query = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(<$uuid>::from(series.log.0))
                    .bind(series.aggregate_type.as_str())
                    .bind(series.ordering_key.as_str())
                    .bind(sequence);
                query.fetch_one(&mut **tx).await
            }

            async fn count_letters(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
                series: &Series,
            ) -> Result<i64, sqlx::Error> {
                let sql = format!("SELECT count(*) FROM {} WHERE {OF_SERIES}", $table(tables));
                let query = sqlx::query_scalar(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(<$uuid>::from(series.log.0))
                    .bind(series.aggregate_type.as_str())
                    .bind(series.ordering_key.as_str());
                query.fetch_one(pool).await
            }

            async fn series_with_letters(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
            ) -> Result<Vec<Series>, sqlx::Error> {
                let sql = format!(
                    "SELECT log_id, aggregate_type, ordering_key FROM {} WHERE projection = $1 AND log_id IS NOT NULL \
                     GROUP BY log_id, aggregate_type, ordering_key ORDER BY min(number)",
                    $table(tables)
                );
                let rows = sqlx::query(AssertSqlSafe(sql)).bind(projection).fetch_all(pool).await?;
                rows.iter().filter_map(|row| series(row).transpose()).collect()
            }

            async fn letters_without_series(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
            ) -> Result<Vec<Uuid>, sqlx::Error> {
                let table = $table(tables);
                let sql =
                    format!("SELECT letter_id FROM {table} WHERE projection = $1 AND log_id IS NULL ORDER BY number");
                let ids: Vec<$uuid> = sqlx::query_scalar(AssertSqlSafe(sql)).bind(projection).fetch_all(pool).await?;
                Ok(ids.into_iter().map(Uuid::from).collect())
            }

            async fn file_letter(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                letter: &KeptLetter,
            ) -> Result<(), sqlx::Error> {
                let sql = format!(
                    "UPDATE {} SET log_id = $3, aggregate_type = $4, ordering_key = $5, sequence = $6 \
                     WHERE projection = $1 AND number = $2 AND log_id IS NULL",
                    $table(tables)
                );
                let series = letter.series.as_ref();
                let query = sqlx::query(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(letter.number)
                    .bind(series.map(|s| <$uuid>::from(s.log.0)))
                    .bind(series.map(|s| s.aggregate_type.as_str()))
                    .bind(series.map(|s| s.ordering_key.as_str()))
                    .bind(letter.sequence.map(|sequence| sequence.get() as i64));
                query.execute(&mut **tx).await.map(drop)
            }

            async fn record_failure(
                tables: &Tables,
                pool: &Pool<Self>,
                projection: &str,
                number: i64,
                reason: &str,
            ) -> Result<(), sqlx::Error> {
                let sql = format!(
                    "UPDATE {} SET attempts = attempts + 1, reason = $3 WHERE projection = $1 AND number = $2",
                    $table(tables)
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(projection).bind(number).bind(storable(reason));
                query.execute(pool).await.map(drop)
            }

            async fn remove_letters(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                numbers: &[i64],
            ) -> Result<u64, sqlx::Error> {
                let sql = format!(concat!("DELETE FROM {} WHERE projection = $1 AND number ", $among), $table(tables));
                let query = sqlx::query(AssertSqlSafe(sql)).bind(projection).bind($list(numbers.to_vec()));
                Ok(query.execute(&mut **tx).await?.rows_affected())
            }

            async fn remove_series(
                tables: &Tables,
                tx: &mut Transaction<'_, Self>,
                projection: &str,
                series: &Series,
            ) -> Result<Vec<KeptLetter>, sqlx::Error> {
                let sql = format!("DELETE FROM {} WHERE {OF_SERIES} RETURNING {LETTER}", $table(tables));
                let query = sqlx::query(AssertSqlSafe(sql))
                    .bind(projection)
                    .bind(<$uuid>::from(series.log.0))
                    .bind(series.aggregate_type.as_str())
                    .bind(series.ordering_key.as_str());
                query.fetch_all(&mut **tx).await?.iter().map(letter).collect()
            }
        }

        fn letter(row: &$row) -> Result<KeptLetter, sqlx::Error> {
            let sequence: Option<i64> = row.try_get("sequence")?;
            let attempts: i64 = row.try_get("attempts")?;
            let partition: String = row.try_get("partition")?;
            Ok(KeptLetter {
                id: row.try_get::<$uuid, _>("letter_id")?.into(),
                number: row.try_get("number")?,
                series: series(row)?,
                sequence: sequence.and_then(|sequence| Sequence::from_raw(sequence as u64)),
                partition: Partition::new(partition),
                place: row.try_get("place")?,
                cause: cause_of(row.try_get("cause")?),
                reason: row.try_get("reason")?,
                attempts: attempts as u32,
                at: row.try_get("given_up_at")?,
                is_whole: Form::parse(row.try_get("form")?) != Form::Elsewhere,
            })
        }

        fn series(row: &$row) -> Result<Option<Series>, sqlx::Error> {
            let Some(log) = row.try_get::<Option<$uuid>, _>("log_id")? else { return Ok(None) };
            let aggregate_type: String = row.try_get("aggregate_type")?;
            let aggregate_type = AggregateType::parse(aggregate_type).map_err(|e| sqlx::Error::Decode(e.into()))?;
            let ordering_key = row.try_get("ordering_key")?;
            Ok(Some(Series { log: LogId(log.into()), aggregate_type, ordering_key }))
        }

        fn stored(row: &$row) -> Result<Stored, sqlx::Error> {
            let bytes = |column| row.try_get::<Option<Vec<u8>>, _>(column).map(|bytes| bytes.map(Bytes::from));
            let letter = letter(row)?;
            if !letter.is_whole {
                return Ok((letter, None));
            }
            let headers = bytes("headers")?.and_then(headers::from_bytes);
            let headers = headers.ok_or_else(|| sqlx::Error::Decode("the letter's headers are not readable".into()))?;
            let form = Form::parse(row.try_get("form")?);
            let record = KeptRecord { key: bytes("record_key")?, payload: bytes("payload")?, headers, form };
            Ok((letter, Some(record)))
        }
    };
}
pub(super) use letter_statements;
