//! A page of the documentation of which each matrix writes a section of its own.

use std::{env, fs, path::Path};

/// Set to 1 to write the section instead of comparing with it.
pub(crate) const WRITE: &str = "OUTBOX_WRITE_CRASH_MATRIX";
const PAGE: &str = "docs/crash-matrix.md";

/// The section between the markers of this name. The last cells of its tables differ from run to run.
///
/// # Panics
/// When the page says something else, but for those cells, or has no such markers.
pub(crate) fn keep_or_write(section: &str, found: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    let page = fs::read_to_string(&path).expect("the page");
    let (begin, end) = (format!("<!-- {section}: begin -->\n"), format!("<!-- {section}: end -->\n"));
    let parts = page.split_once(&begin).and_then(|(before, rest)| Some((before, rest.split_once(&end)?)));
    let (before, (kept, after)) = parts.unwrap_or_else(|| panic!("{PAGE} has no section {section}"));
    if env::var_os(WRITE).is_some_and(|value| value == "1") {
        fs::write(&path, [before, &begin, found, &end, after].concat()).expect("the page is written");
        return;
    }
    let same = lasting(kept).eq(lasting(found));
    assert!(same, "{PAGE} does not say what was found; write it anew with {WRITE}=1. Found:\n{found}");
}

/// The lines without their last cells.
fn lasting(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| {
        let cells = line.strip_suffix(" |").and_then(|line| line.rsplit_once(" | "));
        cells.map_or(line, |(lasting, _seen)| lasting)
    })
}
