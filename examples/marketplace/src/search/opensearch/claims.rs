//! Two rebuilds of one index on a real OpenSearch.

use std::time::Duration;

use opensearch::http::Method;
use outbox_core::event::LogId;
use outbox_projector::rebuild::{Generation, Generations, RebuildError, RebuildErrorKind, Stage, State};
use uuid::Uuid;

use super::OpenSearchIndex;

const LONG: Duration = Duration::from_hours(1);

/// An index, as two processes know it, with a second generation that the first of these rebuilds builds.
struct Scene {
    index: OpenSearchIndex,
    elsewhere: OpenSearchIndex,
    it: Uuid,
    they: Uuid,
}

fn second() -> Generation {
    Generation::FIRST.next()
}

fn kind<T: std::fmt::Debug>(result: Result<T, RebuildError>) -> RebuildErrorKind {
    result.expect_err("refused").kind()
}

/// The index has a method of this name that knows no generations.
async fn prepare(
    index: &OpenSearchIndex,
    generation: Generation,
    rebuild: Option<Uuid>,
) -> Result<Stage, RebuildError> {
    Generations::prepare(index, generation, rebuild).await
}

impl Scene {
    async fn new() -> Self {
        let (url, alias) = (test_services::opensearch_url().await, test_services::unique("tutors"));
        let open = || OpenSearchIndex::new(&url, &alias, LogId(Uuid::from_u128(1))).expect("address");
        let scene = Self { index: open(), elsewhere: open(), it: Uuid::now_v7(), they: Uuid::now_v7() };
        scene.index.claim(scene.it, LONG).await.expect("claim");
        assert_eq!(prepare(&scene.index, Generation::FIRST, None).await.expect("prepare"), Stage::Live);
        assert_eq!(prepare(&scene.index, second(), Some(scene.it)).await.expect("prepare"), Stage::Building);
        scene
    }

    async fn has_two_generations(&self) {
        let state = self.elsewhere.state().await.expect("state");
        assert_eq!(state, State { live: Generation::FIRST, building: Some(second()), next: second().next() });
        let before = self.elsewhere.before(second().next()).await.expect("before");
        assert_eq!(before.len(), 2, "{before:?}");
    }

    async fn can_change_nothing(&self, index: &OpenSearchIndex, rebuild: Uuid) {
        assert_eq!(kind(prepare(index, second().next(), Some(rebuild)).await), RebuildErrorKind::Busy);
        assert_eq!(kind(index.swap(second(), rebuild).await), RebuildErrorKind::Busy);
        assert_eq!(kind(index.discard(second(), rebuild).await), RebuildErrorKind::Busy);
        assert_eq!(kind(index.discard(Generation::FIRST, rebuild).await), RebuildErrorKind::Busy);
        self.has_two_generations().await;
    }

    async fn tear_down(self) {
        for index in [self.index.index_of(Generation::FIRST), self.index.index_of(second()), self.index.claims()] {
            let path = format!("/{index}?ignore_unavailable=true");
            self.index.0.client.call(Method::Delete, &path, None).await.expect("removed");
        }
    }
}

#[tokio::test]
async fn of_two_rebuilds_one_has_the_index() {
    let scene = Scene::new().await;
    let Scene { index, elsewhere, it, they } = &scene;
    assert_eq!(kind(elsewhere.claim(*they, LONG).await), RebuildErrorKind::Busy);
    scene.can_change_nothing(elsewhere, *they).await;
    elsewhere.release(*they).await.expect("nothing to release");
    index.renew(*it, LONG).await.expect("renewed");
    assert_eq!(kind(elsewhere.claim(*they, LONG).await), RebuildErrorKind::Busy);
    index.release(*it).await.expect("released");
    elsewhere.claim(*they, LONG).await.expect("nobody has it");
    elsewhere.swap(second(), *they).await.expect("swap");
    elsewhere.swap(second(), *they).await.expect("once more");
    assert_eq!(prepare(elsewhere, second(), Some(*they)).await.expect("prepare"), Stage::Live);
    assert_eq!(kind(prepare(elsewhere, Generation::FIRST, Some(*they)).await), RebuildErrorKind::Store);
    for _ in 0..2 {
        elsewhere.discard(Generation::FIRST, *they).await.expect("discard");
        elsewhere.discard(second(), *they).await.expect("not the live one");
    }
    let state = elsewhere.state().await.expect("state");
    assert_eq!(state, State { live: second(), building: None, next: second().next() });
    assert!(elsewhere.before(second()).await.expect("before").is_empty());
    scene.tear_down().await;
}

/// A process that was frozen until others took it for dead changes nothing more.
#[tokio::test]
async fn a_claim_that_ended_is_worth_nothing() {
    let scene = Scene::new().await;
    let Scene { index: frozen, elsewhere, it, they } = &scene;
    frozen.renew(*it, Duration::ZERO).await.expect("up to now");
    elsewhere.claim(*they, LONG).await.expect("nobody renews it");
    assert_eq!(kind(frozen.claim(*it, LONG).await), RebuildErrorKind::Busy);
    assert_eq!(kind(frozen.renew(*it, LONG).await), RebuildErrorKind::Busy);
    scene.can_change_nothing(frozen, *it).await;
    frozen.release(*it).await.expect("nothing to release");
    assert_eq!(kind(frozen.claim(*it, LONG).await), RebuildErrorKind::Busy, "it released nothing");
    elsewhere.discard(second(), *they).await.expect("discard");
    assert_eq!(elsewhere.state().await.expect("state").building, None);
    scene.tear_down().await;
}

/// One that ended is renewed while nobody else came; but whoever was there in between, and is gone, has changed what this
/// one knows.
#[tokio::test]
async fn a_renewal_does_not_pass_over_another_claim() {
    let scene = Scene::new().await;
    let Scene { index: frozen, elsewhere, it, they } = &scene;
    frozen.renew(*it, Duration::ZERO).await.expect("up to now");
    frozen.renew(*it, LONG).await.expect("nobody came");
    assert_eq!(kind(elsewhere.claim(*they, LONG).await), RebuildErrorKind::Busy, "it counts anew");
    frozen.renew(*it, Duration::ZERO).await.expect("up to now");
    elsewhere.claim(*they, LONG).await.expect("nobody renews it");
    elsewhere.release(*they).await.expect("released");
    assert_eq!(kind(frozen.renew(*it, LONG).await), RebuildErrorKind::Busy);
    scene.can_change_nothing(frozen, *it).await;
    assert_eq!(kind(elsewhere.renew(*they, LONG).await), RebuildErrorKind::Busy, "it was released");
    scene.tear_down().await;
}

/// What reads under the name of a number remembers where it was, though nothing else is left of the generation.
#[tokio::test]
async fn no_number_is_used_twice() {
    let scene = Scene::new().await;
    let Scene { index, elsewhere, it, they } = &scene;
    let (third, fourth) = (second().next(), second().next().next());
    assert_eq!(prepare(index, third, Some(*it)).await.expect("prepare"), Stage::Building);
    let state = elsewhere.state().await.expect("state");
    assert_eq!(state, State { live: Generation::FIRST, building: Some(third), next: fourth });
    let written = format!("/_alias/{}", index.written_through(second()));
    assert!(elsewhere.ask(&written).await.expect("an answer").is_null(), "nobody goes on writing to the second");
    assert_eq!(kind(prepare(index, second(), Some(*it)).await), RebuildErrorKind::Unavailable, "another is built");
    assert_eq!(kind(index.swap(second(), *it).await), RebuildErrorKind::Unavailable, "another is built");
    assert_eq!(elsewhere.state().await.expect("state"), state);
    index.discard(second(), *it).await.expect("discard");
    index.discard(third, *it).await.expect("discard");
    assert_eq!(kind(prepare(index, third, Some(*it)).await), RebuildErrorKind::Unavailable, "it was used");
    index.release(*it).await.expect("released");
    elsewhere.claim(*they, LONG).await.expect("nobody has it");
    let state = elsewhere.state().await.expect("state");
    assert_eq!(state, State { live: Generation::FIRST, building: None, next: fourth });
    scene.tear_down().await;
}

/// One that was frozen while it claimed takes the fence from whoever has the claim by then, and nothing else: that one
/// has it back with the next renewal.
#[tokio::test]
async fn a_fence_that_was_taken_too_late_comes_back() {
    let scene = Scene::new().await;
    let Scene { index: frozen, elsewhere, it, they } = &scene;
    frozen.renew(*it, Duration::ZERO).await.expect("up to now");
    elsewhere.claim(*they, LONG).await.expect("nobody renews it");
    frozen.move_fence(*it).await.expect("moved");
    assert_eq!(kind(frozen.renew(*it, LONG).await), RebuildErrorKind::Busy);
    assert_eq!(kind(elsewhere.swap(second(), *they).await), RebuildErrorKind::Busy);
    scene.has_two_generations().await;
    elsewhere.renew(*they, LONG).await.expect("renewed");
    scene.can_change_nothing(frozen, *it).await;
    elsewhere.swap(second(), *they).await.expect("swap");
    assert_eq!(elsewhere.state().await.expect("state").live, second());
    scene.tear_down().await;
}
