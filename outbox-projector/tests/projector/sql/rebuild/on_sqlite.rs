//! A rebuild in a SQLite file, which has one writer at a time.

use sqlx::Sqlite;

use super::{super::database::fresh, *};

/// A rebuild that applies one step right behind the other still renews its claim: it waits for the step at hand, and
/// not until it happens to find the file free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_is_renewed_between_two_steps() {
    const STEPS: u32 = 1_500;
    let database = fresh::<Sqlite>().await;
    let scene = Scene::new(&database);
    let (second, rebuild) = scene.two_generations().await;
    let projection = scene.generations.projection(second, Stage::Building);
    let log = Sequencer::default();
    let steps: Vec<Vec<_>> = (0..STEPS).map(|_| (0..100).map(|n| received(&log, "key", n)).collect()).collect();
    let (applied, mut progress) = watch::channel(0);
    let applying = tokio::spawn(async move {
        let partition = Partition::new("p");
        let mut from = None;
        for events in steps {
            if applied.is_closed() {
                return;
            }
            let to = SourcePosition::from_text((*applied.borrow() + 1).to_string());
            projection.apply(Step::new(&partition, from.as_ref(), &to, &events)).await.expect("apply");
            from = Some(to);
            applied.send_modify(|steps| *steps += 1);
        }
        panic!("{STEPS} steps were not enough");
    });
    for _ in 0..20 {
        within("a step", progress.changed()).await.expect("it goes on");
        let before = *progress.borrow_and_update();
        within("an answer", scene.generations.claim(rebuild, Duration::from_secs(15))).await.expect("renewed");
        let waited_for = *progress.borrow_and_update() - before;
        assert!(waited_for <= 50, "{waited_for} steps: without its turn it waited for hundreds");
    }
    drop(progress);
    within("the end", applying).await.expect("no panic");
    database.tear_down().await;
}
