use crate::{
    rebuild::{Generation, Stage},
    sql::{Handler, SqlDatabase, SqlProjectionBuilder},
};

/// The tables of a read model, by generation.
///
/// Queries go to a view, or to another name that [`SqlReadModel::swap`] makes point elsewhere:
///
/// ```
/// use outbox_projector::rebuild::Generation;
///
/// fn create(generation: Generation) -> String {
///     format!("CREATE TABLE IF NOT EXISTS tutor_card_{generation} (id bigint PRIMARY KEY, name text NOT NULL);")
/// }
///
/// fn swap(to: Generation) -> String {
///     format!("DROP VIEW IF EXISTS tutor_card; CREATE VIEW tutor_card AS SELECT * FROM tutor_card_{to};")
/// }
///
/// fn discard(generation: Generation) -> String {
///     format!("DROP TABLE IF EXISTS tutor_card_{generation};")
/// }
/// # let _ = (create(Generation::FIRST), swap(Generation::FIRST), discard(Generation::FIRST));
/// ```
///
/// The statements of each method run in one transaction with the library's own, and may be run again.
pub trait SqlReadModel<DB: SqlDatabase>: Send + Sync + 'static {
    /// Statements that create a generation's tables where they are missing.
    fn create(&self, generation: Generation) -> String;

    /// Statements that make queries go to this generation. Quick ones: on SQLite the claim to the read model
    /// cannot be renewed meanwhile, and the rebuild is given up as lapsed when that takes 10 s.
    fn swap(&self, to: Generation) -> String;

    /// Statements that drop a generation's tables where they are there. They may take long; on SQLite nobody else
    /// writes to the file meanwhile.
    fn discard(&self, generation: Generation) -> String;

    /// What writes a generation's rows. While it is being built, effects elsewhere are to be left out.
    fn handler(&self, generation: Generation, stage: Stage) -> Box<dyn Handler<DB>>;

    /// Further settings of the projection, such as that it is versioned. Default: none.
    fn projection(&self, builder: SqlProjectionBuilder<DB>) -> SqlProjectionBuilder<DB> {
        builder
    }
}
