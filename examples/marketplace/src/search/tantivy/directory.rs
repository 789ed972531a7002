//! The index's directory: which schema and which log it is of.

use std::{fs, path::Path};

use outbox_core::event::LogId;
use serde::{Deserialize, Serialize};
use tantivy::{Index, TantivyError};
use uuid::Uuid;

use super::fields;

/// Raise it with every change of [`fields::schema`], of the analyzers or of what is stored: the index is then rebuilt.
const SCHEMA: u32 = 2;

const LABEL: &str = "label.json";

pub(super) struct Opened {
    pub(super) index: Index,
    /// Differs for every index ever begun.
    pub(super) incarnation: String,
}

#[derive(Serialize, Deserialize)]
struct Label {
    schema: u32,
    log: Uuid,
    incarnation: String,
}

/// Why an index cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Misfit {
    #[error("there is none that was finished")]
    Missing,
    #[error("it was made by another version")]
    AnotherVersion,
    #[error("it was made from another log")]
    AnotherLog,
    #[error("it cannot be read")]
    Unreadable(#[source] TantivyError),
}

/// Opens what fits, and replaces what does not.
pub(super) fn open(directory: &Path, log: LogId) -> Result<Opened, TantivyError> {
    match open_fitting(directory, log) {
        Ok(opened) => return Ok(opened),
        Err(Misfit::Unreadable(error)) => {
            tracing::warn!(%error, "the search index cannot be opened; it is made anew from the log");
        }
        Err(_) => {}
    }
    begin(directory, log)
}

/// Opens what fits, and leaves what does not as it is.
pub(super) fn open_fitting(directory: &Path, log: LogId) -> Result<Opened, Misfit> {
    let label = label(directory).ok_or(Misfit::Missing)?;
    if label.schema != SCHEMA {
        return Err(Misfit::AnotherVersion);
    }
    if label.log != log.0 {
        return Err(Misfit::AnotherLog);
    }
    let index = Index::open_in_dir(directory).map_err(Misfit::Unreadable)?;
    Ok(Opened { index, incarnation: label.incarnation })
}

fn begin(directory: &Path, log: LogId) -> Result<Opened, TantivyError> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)?;
    let incarnation = Uuid::now_v7().simple().to_string();
    let label = Label { schema: SCHEMA, log: log.0, incarnation: incarnation.clone() };
    let index = Index::create_in_dir(directory, fields::schema())?;
    // Only a whole index gets its label: without one the next start begins again.
    fs::write(directory.join(LABEL), serde_json::to_vec(&label).map_err(std::io::Error::from)?)?;
    Ok(Opened { index, incarnation })
}

/// A label that cannot be read is none.
fn label(directory: &Path) -> Option<Label> {
    serde_json::from_slice(&fs::read(directory.join(LABEL)).ok()?).ok()
}
