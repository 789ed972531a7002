//! What all suites share: how cases are made into tests, and how they wait.

use std::{future::Future, time::Duration};

/// How long a case waits for what has to happen before it fails. Long, because it only costs time when a promise is
/// broken.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// How long a case watches for what must *not* happen. Absence gives no signal: a slow adapter may pass a case it
/// should not, but none fails a case it should pass.
const QUIET: Duration = Duration::from_millis(200);

/// Waits for what has to happen.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    let output = tokio::time::timeout(PATIENCE, future).await.ok();
    output.unwrap_or_else(|| panic!("waited {PATIENCE:?} in vain: {what}"))
}

/// Polls a future for a short while; `None` when it did not finish, and the future is dropped.
pub(crate) async fn soon<F: Future>(future: F) -> Option<F::Output> {
    tokio::time::timeout(QUIET, future).await.ok()
}

/// Says that a case does not apply, by which declared difference.
pub(crate) fn skip(case: &str, because: &str) {
    eprintln!("skipped: {case}, since {because}");
}

/// One `#[tokio::test]` per case of a suite.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_suite {
    ($name:ident, $make_harness:expr, $suite:ident :: $harness:ident, [$($case:ident),* $(,)?]) => {
        mod $name {
            #[allow(unused_imports, clippy::wildcard_imports)]
            use super::*;

            $(
                #[::tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let harness = ($make_harness)().await;
                    $crate::testing::$suite::$case(&harness).await;
                    $crate::testing::$suite::$harness::tear_down(harness).await;
                }
            )*
        }
    };
}

/// Fails when a case of a suite is missing in its macro, or the other way round: what is not listed never runs.
#[cfg(test)]
pub(crate) fn assert_all_listed(macro_source: &str, sources: &[&str]) {
    let cases: std::collections::BTreeSet<&str> = sources
        .iter()
        .flat_map(|source| source.lines())
        .filter_map(|line| line.strip_prefix("pub async fn "))
        .filter_map(|rest| rest.split(['<', '(']).next())
        .collect();
    assert_eq!(cases, listed(macro_source));
}

/// Fails when a case of a suite is named in none of these texts.
#[cfg(test)]
pub(crate) fn assert_all_named(macro_source: &str, texts: &[&str]) {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: std::collections::BTreeSet<&str> =
        texts.iter().flat_map(|text| text.split(|c: char| !is_name(c))).collect();
    let missing: Vec<_> = listed(macro_source).difference(&named).copied().collect();
    assert_eq!(missing, [""; 0]);
}

/// The cases that a suite's macro lists.
#[cfg(test)]
fn listed(macro_source: &str) -> std::collections::BTreeSet<&str> {
    let (_, list) = macro_source.split_once("conformance_suite!(").expect("the macro's list");
    let (_, list) = list.split_once('[').expect("the beginning of the list");
    let (list, _) = list.split_once(']').expect("the end of the list");
    list.split(',').map(str::trim).filter(|name| !name.is_empty()).collect()
}
