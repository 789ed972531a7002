//! The crash matrix: a process dies at every failpoint, over each database.

use std::env;

use futures_util::{StreamExt as _, stream};

use crate::{
    document,
    mortal::Failpoint,
    program::MOST_REPEATED,
    scene::{Aftermath, crash},
    shop::Kind,
};

/// Crashes at a time. They wait most of the time, for a lease to end.
const SIDE_BY_SIDE: usize = 8;
/// Failpoints with commas between, to look at those alone; the page is left out then.
const ONLY: &str = "OUTBOX_CRASH_ONLY";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_or_overtaken_wherever_a_relay_dies() {
    let only: Option<Vec<Failpoint>> = env::var(ONLY).ok().map(|names| {
        let named = |name| Failpoint::named(name).unwrap_or_else(|| panic!("{name:?} is no failpoint"));
        names.split(',').map(named).collect()
    });
    let steps = only.as_deref().unwrap_or(&Failpoint::ALL);
    let crashes = steps.iter().copied().flat_map(|step| [(Kind::Postgres, step), (Kind::Sqlite, step)]);
    let results: Vec<_> = stream::iter(crashes)
        .map(|(kind, step)| async move { (kind, step, tokio::spawn(crash(kind, step)).await) })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for (kind, step, result) in results {
        match result {
            Ok(row) => {
                println!("{row}");
                if !row.is_right() {
                    wrong.push(row.to_string());
                }
                rows.push(row);
            }
            Err(panic) => wrong.push(format!("{} {}: {panic}", kind.name(), step.name())),
        }
    }
    assert!(wrong.is_empty(), "{} crashes went wrong:\n{}", wrong.len(), wrong.join("\n"));
    if only.is_none() {
        document::keep_or_write(&rows);
    }
}

impl Aftermath {
    fn is_right(&self) -> bool {
        let Self { step, lost, inverted, recorded, repeated, fenced, .. } = self;
        let repeats = step.repeats();
        let most = repeats.end() + fenced * MOST_REPEATED;
        let started_somewhere = *step == Failpoint::AfterJoin || *recorded > 0;
        (*lost, *inverted) == (0, 0) && started_somewhere && (*repeats.start()..=most).contains(repeated)
    }
}
