//! Letters that nobody will replay.

use outbox_core::testing::Sequencer;
use outbox_projector::sql::{BlockedKeys, Handler, Letters};
use uuid::Uuid;

use super::{keeping, key_of, list, rejected, step};
use crate::sql::{Database, ReadModel, database::TestDatabase, model::received, on_every_database};

on_every_database!(discarding_frees_the_key_and_says_what_is_gone);

async fn discarding_frees_the_key_and_says_what_is_gone<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let a: Vec<_> = (0..5).map(|n| received(&log, "a", n)).collect();
    let b = received(&log, "b", 5);
    let projection = keeping(database, BlockedKeys::Hold, &ReadModel::default());
    let letters = projection.dead_letters();
    step(&projection, "1", &a[1..3], &[rejected(&a[0]), rejected(&b)]).await.expect("apply");

    let removed = letters.discard(&Letters::Id(a[0].event.id), "a test").await.expect("discard");
    assert_eq!(removed.iter().map(|letter| letter.id).collect::<Vec<_>>(), [a[0].event.id]);
    assert_eq!(letters.discard(&Letters::Id(Uuid::from_u128(1)), "a test").await.expect("discard"), []);
    let still = step(&projection, "2", &a[3..4], &[]).await.expect("apply");
    assert_eq!(still.held, 1, "the key has letters yet");
    let removed = letters.discard(&key_of(&a[0]), "a test").await.expect("discard");
    assert_eq!(removed.iter().map(|letter| letter.id).collect::<Vec<_>>(), [1, 2, 3].map(|n: usize| a[n].event.id));
    let free = step(&projection, "3", &a[4..], &[]).await.expect("apply");
    assert_eq!((free.applied, free.held), (1, 0));
    assert_eq!(letters.discard(&Letters::All, "a test").await.expect("discard").len(), 1, "that of b");
    assert_eq!(list(&projection).await, []);
    let again = step(&projection, "4", &a, &[]).await.expect("apply");
    assert_eq!((again.applied, again.duplicates), (0, 5), "for good");
    assert_eq!(database.model().await.list("a"), [4]);
}
