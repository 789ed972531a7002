//! Later events of a key that has a letter have their effect.

use outbox_core::{projection::ProjectionErrorKind, testing::Sequencer};
use outbox_projector::sql::{BlockedKeys, Handler, Letters};
use uuid::Uuid;

use super::{counts, keeping, key_of, list, rejected, replay, step};
use crate::sql::{Database, ReadModel, database::TestDatabase, handler::Trouble, model::received, on_every_database};

on_every_database!(
    a_letter_has_its_effect_late_and_once,
    letters_kept_elsewhere_have_their_effect_once,
    letters_of_a_versioned_projection_have_their_effect_once,
);

async fn a_letter_has_its_effect_late_and_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..5).map(|n| received(&log, "a", n)).collect();
    let projection = keeping(database, BlockedKeys::Pass, &ReadModel::default());
    step(&projection, "1", &events[..1], &[rejected(&events[1]), rejected(&events[2])]).await.expect("apply");
    let later = step(&projection, "2", &events[3..], &[]).await.expect("apply");
    assert_eq!((later.applied, later.held), (2, 0));

    assert_eq!(counts(&replay(&projection, Letters::Id(events[2].event.id)).await), (1, 0));
    assert_eq!(counts(&replay(&projection, Letters::All).await), (1, 0));
    assert_eq!(database.model().await.list("a"), [0, 3, 4, 2, 1]);
    assert!(replay(&projection, Letters::All).await.keys.is_empty(), "nothing is left");
    assert_eq!(counts(&replay(&projection, Letters::Id(events[2].event.id)).await), (0, 0));
    let again = step(&projection, "3", &events, &[]).await.expect("apply");
    assert_eq!((again.applied, again.duplicates), (0, 5), "the watermark stays where it was");
    assert_eq!(database.model().await.list("a"), [0, 3, 4, 2, 1]);
}

async fn letters_kept_elsewhere_have_their_effect_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    let log = Sequencer::default();
    let events: Vec<_> = (0..3).map(|n| received(&log, "a", n)).collect();
    let handler = ReadModel::default();
    let projection = database.projection(handler.clone());
    step(&projection, "1", &events[2..], &[rejected(&events[0]), rejected(&events[1])]).await.expect("apply");
    let letters = projection.dead_letters();
    let (letter, body) = letters.get(events[0].event.id).await.expect("get").expect("its id");
    assert_eq!((letter.is_whole, body), (false, None));

    let unknown = letters.replay_event(Uuid::from_u128(7), &events[0]).await.expect("replay");
    let not_a_letter = letters.replay_event(events[2].event.id, &events[2]).await.expect("replay");
    assert_eq!((unknown.duplicates, not_a_letter.duplicates), (1, 1));
    let another = letters.replay_event(events[0].event.id, &events[1]).await.expect_err("another event");
    assert_eq!(another.kind(), ProjectionErrorKind::Rejected);
    handler.trouble(0, Trouble::Reject);
    letters.replay_event(events[0].event.id, &events[0]).await.expect_err("rejected");
    let (letter, _) = letters.get(events[0].event.id).await.expect("get").expect("still there");
    assert!(letter.attempts == 4 && letter.reason.contains("the script says so"), "{letter:?}");
    handler.mend();
    for applied in [1, 0] {
        let done = letters.replay_event(events[0].event.id, &events[0]).await.expect("replay");
        assert_eq!((done.applied, done.duplicates), (applied, 1 - applied));
    }
    assert_eq!(database.model().await.list("a"), [2, 0]);
    let report = replay(&projection, key_of(&events[1])).await;
    assert_eq!(counts(&report), (0, 1), "its body is not here");
    assert_eq!(list(&projection).await.len(), 1);
}

async fn letters_of_a_versioned_projection_have_their_effect_once<DB: TestDatabase>(database: &Database<DB>)
where
    ReadModel: Handler<DB>,
{
    for (key, keys) in [("pass", BlockedKeys::Pass), ("hold", BlockedKeys::Hold)] {
        let log = Sequencer::default();
        let events: Vec<_> = (0..3).map(|n| received(&log, key, n)).collect();
        let name = outbox_projector::sql::ProjectionName::parse(key).expect("name");
        let builder = outbox_projector::sql::SqlProjection::builder(database.pool.clone(), name, ReadModel::default());
        let projection = builder.versioned().dead_letters(keys).build();
        step(&projection, "1", &events[..1], &[rejected(&events[1])]).await.expect("apply");
        step(&projection, "2", &events[2..], &[]).await.expect("apply");
        let hold = keys == BlockedKeys::Hold;
        assert_eq!(database.model().await.list(key), if hold { vec![0] } else { vec![0, 2] });
        assert_eq!(counts(&replay(&projection, Letters::All).await), (1 + usize::from(hold), 0));
        assert_eq!(database.model().await.list(key), if hold { vec![0, 1, 2] } else { vec![0, 2, 1] });
    }
    assert_eq!(database.count("projector_watermark").await, 0);
}
