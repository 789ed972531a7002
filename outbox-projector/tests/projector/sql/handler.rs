//! The read model's handler, and what can go wrong in it on cue.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use outbox_core::{event::ReceivedEvent, testing::number_of};
use outbox_projector::sql::{Handled, Handler, HandlerError};
use sqlx::Transaction;
use tokio::sync::Notify;

use super::model::key_of;

/// Writes `Counted` events to a list and to a counter, rejects those without a number, ignores others.
#[derive(Clone, Default)]
pub(crate) struct ReadModel {
    pub(crate) script: Arc<Script>,
}

/// What is to happen at which number, after its rows were written.
#[derive(Default)]
pub(crate) struct Script {
    troubles: Mutex<HashMap<i64, Trouble>>,
    /// Notified when a handler stalls.
    pub(crate) stalled: Notify,
    /// Lets a stalled handler go on.
    pub(crate) go_on: Notify,
    /// Events that reached the handler.
    pub(crate) calls: AtomicUsize,
}

#[derive(Debug, Clone, Copy)]
#[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "two of them are for PostgreSQL alone"))]
pub(crate) enum Trouble {
    Reject,
    Fail,
    /// Fails once, then succeeds.
    FailOnce,
    /// Waits for [`Script::go_on`], once.
    Stall,
    /// The same, before its rows are written.
    StallBeforeWriting,
    /// Runs a statement that fails and says that all is well.
    HideError,
    /// Runs a statement that breaks a constraint.
    Constraint,
    /// Fails and asks for the next try after an hour.
    Later,
    Panic,
}

impl ReadModel {
    pub(crate) fn with(number: i64, trouble: Trouble) -> Self {
        let model = Self::default();
        model.script.troubles.lock().unwrap().insert(number, trouble);
        model
    }

    pub(crate) fn trouble(&self, number: i64, trouble: Trouble) {
        self.script.troubles.lock().unwrap().insert(number, trouble);
    }

    pub(crate) fn mend(&self) {
        self.script.troubles.lock().unwrap().clear();
    }

    fn trouble_at(&self, number: i64) -> Option<Trouble> {
        let mut troubles = self.script.troubles.lock().unwrap();
        match troubles.get(&number).copied() {
            once @ Some(Trouble::FailOnce | Trouble::Stall | Trouble::StallBeforeWriting) => {
                troubles.remove(&number);
                once
            }
            other => other,
        }
    }
}

impl Script {
    async fn stall(&self) {
        self.stalled.notify_one();
        self.go_on.notified().await;
    }
}

macro_rules! handles {
    ($db:ty) => {
        #[async_trait]
        impl Handler<$db> for ReadModel {
            async fn handle(
                &self,
                tx: &mut Transaction<'_, $db>,
                received: &ReceivedEvent,
            ) -> Result<Handled, HandlerError> {
                self.script.calls.fetch_add(1, Ordering::Relaxed);
                if received.event.event_type.as_str() != "Counted" {
                    return Ok(Handled::Ignored);
                }
                let number =
                    number_of(&received.event).ok_or_else(|| HandlerError::reject("the payload has no number n"))?;
                let (key, number) = (key_of(received), number as i64);
                let trouble = self.trouble_at(number);
                if let Some(Trouble::StallBeforeWriting) = trouble {
                    self.script.stall().await;
                }
                let insert = "INSERT INTO model_list (key, n) VALUES ($1, $2)";
                sqlx::query(insert).bind(&key).bind(number).execute(&mut **tx).await?;
                let upsert = "INSERT INTO model_last (key, count, last) VALUES ($1, 1, $2) \
                              ON CONFLICT (key) DO UPDATE SET count = model_last.count + 1, last = excluded.last";
                sqlx::query(upsert).bind(&key).bind(number).execute(&mut **tx).await?;
                match trouble {
                    None | Some(Trouble::StallBeforeWriting) => Ok(Handled::Done),
                    Some(Trouble::Reject) => Err(HandlerError::reject("the script says so")),
                    Some(Trouble::Fail | Trouble::FailOnce) => Err(HandlerError::retry("the script says so")),
                    Some(Trouble::Constraint) => {
                        let broken = "INSERT INTO model_list (key, n) VALUES ($1, NULL)";
                        sqlx::query(broken).bind(&key).execute(&mut **tx).await?;
                        Ok(Handled::Done)
                    }
                    Some(Trouble::Later) => {
                        Err(HandlerError::retry("the script says so").after(std::time::Duration::from_hours(1)))
                    }
                    Some(Trouble::Panic) => panic!("the script says so"),
                    Some(Trouble::Stall) => {
                        self.script.stall().await;
                        Ok(Handled::Done)
                    }
                    Some(Trouble::HideError) => {
                        let hidden = sqlx::query("SELECT * FROM no_such_table_of_the_model").execute(&mut **tx).await;
                        assert!(hidden.is_err());
                        Ok(Handled::Done)
                    }
                }
            }
        }
    };
}

#[cfg(feature = "postgres")]
handles!(sqlx::Postgres);
#[cfg(feature = "sqlite")]
handles!(sqlx::Sqlite);
