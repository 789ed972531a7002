//! The crash matrix: a process dies at every failpoint, with each kind of projection and of source.

use futures_util::{StreamExt as _, stream};

use crate::{document, model::Kind, mortal::Failpoint, scene::crash, shop::Feed};

/// Crashes at a time. They wait most of the time, for a session or a lease to end.
const SIDE_BY_SIDE: usize = 9;
/// Failpoints with commas between, to look at those alone; the page is left out then.
const ONLY: &str = "OUTBOX_CRASH_ONLY";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_effect_is_there_once_wherever_a_projector_dies() {
    let only: Option<Vec<Failpoint>> = std::env::var(ONLY).ok().map(|names| {
        let named = |name| Failpoint::named(name).unwrap_or_else(|| panic!("{name:?} is no failpoint"));
        names.split(',').map(named).collect()
    });
    let steps = only.as_deref().unwrap_or(&Failpoint::ALL);
    let crashes = Feed::ALL
        .into_iter()
        .flat_map(|feed| Kind::ALL.into_iter().flat_map(move |kind| steps.iter().map(move |step| (feed, kind, *step))));
    let results: Vec<_> = stream::iter(crashes)
        .map(|(feed, kind, step)| async move { (feed, kind, step, tokio::spawn(crash(feed, kind, step)).await) })
        .buffered(SIDE_BY_SIDE)
        .collect()
        .await;
    let (mut rows, mut wrong) = (Vec::new(), Vec::new());
    for (feed, kind, step, result) in results {
        match result {
            Ok(row) => {
                println!("{row}");
                if !row.is_right() {
                    wrong.push(row.to_string());
                }
                rows.push(row);
            }
            Err(panic) => wrong.push(format!("{} from {}, {}: {panic}", kind.name(), feed.name(), step.name())),
        }
    }
    assert!(wrong.is_empty(), "{} crashes went wrong:\n{}", wrong.len(), wrong.join("\n"));
    if only.is_none() {
        document::keep_or_write(&rows);
    }
}
