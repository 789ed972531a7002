//! What hurts a log in PostgreSQL.

mod clocks;
mod order;
mod places;
mod pooler;
mod server;
mod tables;

use outbox_core::log::{EventLog as _, LogError};
use sqlx::{AssertSqlSafe, Decode, Postgres, Row as _, Type, postgres::PgRow};

use super::{Inner, PostgresLog, error};
use crate::doctor::{Finding, Level, Limits, look, look_at_consumers};

impl PostgresLog {
    /// Looks for what hurts the log, and others because of it. The checks, by name:
    ///
    /// * `pooler`: between here and the server is none, or one that can be used;
    /// * `server`: it is the primary, and its timeline is the one on which the log was last anchored;
    /// * `transactions`: nobody keeps vacuum from removing what is dead: open and prepared transactions, replication
    ///   slots;
    /// * `indexes`, `sequence`, `bloat`: the tables are as they were made, and the small ones are small;
    /// * `retention`: events that every consumer has passed are removed;
    /// * `consumers`, `lanes`: every consumer gets on, and every lane has an owner;
    /// * `cursors`: the consumers' places are of this server;
    /// * `order`: writers of one key were serialised, as far as the newest events and checkpoints show it;
    /// * `clocks`: writers and members are not ahead of the database.
    ///
    /// It reads a few thousand rows at most and takes no lock that anybody waits for. A check that cannot be made, for
    /// want of rights for instance, is a warning. It uses two connections of the pool at a time, and leaves out `pooler`
    /// if the pool has only one.
    ///
    /// # Errors
    /// Only when the log cannot be opened at all: see [`EventLog::identity`](outbox_core::log::EventLog::identity).
    pub async fn examine(&self, limits: &Limits) -> Result<Vec<Finding>, LogError> {
        let log = &*self.inner;
        let mut findings = Vec::new();
        // First: behind a pooler that cannot be used nothing else can be trusted.
        look(&mut findings, "pooler", pooler::usable(log)).await;
        if findings.iter().any(|finding| finding.level == Level::Problem) {
            return Ok(findings);
        }
        self.identity().await?;
        look(&mut findings, "server", server::primary(log)).await;
        look(&mut findings, "transactions", server::transactions(log, limits)).await;
        look(&mut findings, "indexes", tables::indexes(log)).await;
        look(&mut findings, "sequence", tables::sequence(log)).await;
        look(&mut findings, "bloat", tables::bloat(log)).await;
        look(&mut findings, "retention", tables::retention(self, limits)).await;
        look_at_consumers(&mut findings, self, limits).await;
        look(&mut findings, "cursors", places::of_this_server(self)).await;
        look(&mut findings, "order", order::kept(log)).await;
        look(&mut findings, "clocks", clocks::not_ahead(log, limits)).await;
        Ok(findings)
    }
}

fn sql(log: &Inner, text: &str) -> AssertSqlSafe<String> {
    AssertSqlSafe(log.schema.qualify(text))
}

fn get<'r, T: Decode<'r, Postgres> + Type<Postgres>>(row: &'r PgRow, column: usize) -> Result<T, LogError> {
    row.try_get(column).map_err(error::log)
}
