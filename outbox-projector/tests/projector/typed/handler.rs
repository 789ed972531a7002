//! A typed handler in the SQL and the inbox projection.

use std::error::Error;

use async_trait::async_trait;
use outbox_core::{
    error::chain,
    event::{NewEvent, ReceivedEvent},
    projection::{Projection, ProjectionErrorKind, Step},
    source::{Partition, SourcePosition},
    testing::Sequencer,
};
use outbox_projector::{
    inbox::{InboxDatabase, InboxProjection},
    sql::{Handled, Handler, HandlerError, ProjectionName, SqlProjection},
    typed::{Broken, Typed, TypedHandler, typed},
};
use serde::Deserialize;
use sqlx::Transaction;

use crate::sql::{
    database::{Database, TestDatabase},
    on_every_database,
};

on_every_database!(each_outcome_in_a_read_model, each_outcome_in_an_inbox);

#[derive(Deserialize)]
enum Change {
    Added { n: i64 },
    Checked(String),
}

struct Changes;

macro_rules! handles {
    ($db:ty) => {
        #[async_trait]
        impl TypedHandler<$db> for Changes {
            type Event = Change;

            async fn handle(
                &self,
                tx: &mut Transaction<'_, $db>,
                event: Change,
                received: &ReceivedEvent,
            ) -> Result<Handled, HandlerError> {
                match event {
                    Change::Added { n } => {
                        let key = format!("Suite/{}", received.event.message_key());
                        let insert = "INSERT INTO model_list (key, n) VALUES ($1, $2)";
                        sqlx::query(insert).bind(key).bind(n).execute(&mut **tx).await?;
                        Ok(Handled::Done)
                    }
                    Change::Checked(how) if how == "later" => Err(HandlerError::retry("not yet")),
                    Change::Checked(how) if how == "never" => Err(HandlerError::reject("not ever")),
                    Change::Checked(_) => Ok(Handled::Ignored),
                }
            }
        }
    };
}

#[cfg(feature = "postgres")]
handles!(sqlx::Postgres);
#[cfg(feature = "sqlite")]
handles!(sqlx::Sqlite);

async fn each_outcome_in_a_read_model<DB: TestDatabase>(database: &Database<DB>)
where
    Typed<Changes>: Handler<DB>,
{
    let name = ProjectionName::parse("typed").expect("name");
    let projection = SqlProjection::builder(database.pool.clone(), name, typed(Changes)).build();
    each_outcome(&projection).await;
    assert_eq!(DB::list(&database.pool).await, [("Suite/key".to_owned(), 1)]);
}

async fn each_outcome_in_an_inbox<DB: TestDatabase + InboxDatabase>(database: &Database<DB>)
where
    Typed<Changes>: Handler<DB>,
{
    let name = ProjectionName::parse("typed").expect("name");
    let projection = InboxProjection::builder(database.pool.clone(), name, typed(Changes)).build();
    each_outcome(&projection).await;
    assert_eq!(DB::list(&database.pool).await, [("Suite/key".to_owned(), 1)]);
}

async fn each_outcome(projection: &dyn Projection) {
    let log = Sequencer::default();
    let event = |event_type: &str, payload: serde_json::Value| {
        log.receive(NewEvent::json("Suite", "key", event_type, &payload).expect("event"))
    };
    let good = [
        event("Added", serde_json::json!({ "n": 1 })),
        event("Unheard", serde_json::json!("of")),
        event("Checked", serde_json::json!("well")),
    ];
    let (partition, start) = (Partition::new("p"), SourcePosition::from_text("1"));
    let did = projection.apply(Step::new(&partition, None, &start, &good)).await.expect("apply");
    assert_eq!((did.applied, did.ignored), (1, 2));

    let kept = projection.position(&partition).await.expect("position");
    for (payload, event_type, kind, says) in [
        ("later", "Checked", ProjectionErrorKind::Failed, "not yet"),
        ("never", "Checked", ProjectionErrorKind::Rejected, "not ever"),
        ("one", "Added", ProjectionErrorKind::Rejected, "invalid type: string \"one\""),
    ] {
        let bad = [event(event_type, serde_json::json!(payload))];
        let to = SourcePosition::from_text("2");
        let error = projection.apply(Step::new(&partition, kept.as_ref(), &to, &bad)).await.expect_err(says);
        assert_eq!((error.kind(), error.event()), (kind, Some(0)), "{error}");
        assert!(chain(&error).contains(says), "{}", chain(&error));
    }
    let bad = [event("Added", serde_json::json!(1))];
    let error = projection.apply(Step::new(&partition, kept.as_ref(), &start, &bad)).await.expect_err("broken");
    let mut cause: Option<&(dyn Error + 'static)> = Some(&error);
    while cause.is_some_and(|cause| !cause.is::<Broken>()) {
        cause = cause.and_then(Error::source);
    }
    assert!(cause.is_some(), "the cause is kept: {error:?}");
}
