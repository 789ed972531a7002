//! Waking other processes: `NOTIFY` from outside the writers' transactions, and listening for it.

use std::{
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use outbox_core::{
    retry::Backoff,
    wake::{Wake, WakeListener},
};
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgListener, PgPoolOptions},
};
use tokio::{sync::watch, task::AbortHandle, time::timeout};
use uuid::Uuid;

use super::{PostgresLog, PostgresLogBuilder, SchemaName};

/// The longest name of a channel.
const MOST_BYTES: usize = 63;

/// A connection that is silent for so long is asked whether it is still there.
const SILENCE: Duration = Duration::from_secs(30);

/// How long connecting, and the answer to that question, may take.
const PATIENCE: Duration = Duration::from_secs(10);

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(10));

/// How a log tells other processes of commits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotifySettings {
    /// At most one notification in this time. Default: 20 ms.
    pub interval: Duration,
}

impl Default for NotifySettings {
    fn default() -> Self {
        Self { interval: Duration::from_millis(20) }
    }
}

impl NotifySettings {
    /// Sets [`NotifySettings::interval`].
    #[must_use]
    pub fn with_interval(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }
}

impl PostgresLogBuilder {
    /// Tells other processes of commits, so that those that [listen](PostgresLog::listen) need not wait for their next
    /// poll. Default: off.
    ///
    /// [`Receipt::committed`](outbox_core::outbox::Receipt::committed) wakes a background task, which sends at most one
    /// `NOTIFY` an interval through the log's pool. It is not sent inside the writers' transactions: there PostgreSQL
    /// would commit them one at a time, in the whole cluster. Events written without the library, or whose receipt is
    /// forgotten, send none; their writers may call `outbox_notify()` in SQL at that price.
    ///
    /// A hint, never a guarantee: when the notification fails, or the process ends before it is sent, events are found by
    /// the next poll. The task starts with the first append and ends with the last handle on this log.
    pub fn notify(mut self, settings: NotifySettings) -> Self {
        self.notify = Some(settings);
        self
    }
}

impl PostgresLog {
    /// Rings this log's [`wake`](outbox_core::log::EventLog::wake) when another process tells of a commit: see
    /// [`PostgresLogBuilder::notify`]. Word from another process is not passed on again, and this handle's own is ignored.
    ///
    /// `connection` says where: one connection of its own, straight to the server, since `LISTEN` belongs to a session and
    /// poolers of transactions refuse or lose it. For the address of a pool use `(*pool.connect_options()).clone()`.
    ///
    /// A lost connection is made again, after up to 50 ms at first and up to 10 s later on, and a silent one is checked
    /// twice a minute. The bell rings after each connect, for what may have been missed. Listening ends when the value
    /// returned is dropped.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn listen(&self, connection: PgConnectOptions) -> Listening {
        let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(PATIENCE).connect_lazy_with(connection);
        let (connected, state) = watch::channel(false);
        let listener = Listener {
            pool,
            channel: channel(&self.inner.schema),
            own: self.inner.notifier.as_ref().map(|notifier| notifier.sender.to_string()),
            wake: self.inner.wake.clone(),
            connected,
        };
        Listening { task: tokio::spawn(listener.run()).abort_handle(), connected: state }
    }
}

/// Listens until it is dropped; made by [`PostgresLog::listen`].
#[derive(Debug)]
#[must_use = "dropped, it stops listening"]
pub struct Listening {
    task: AbortHandle,
    connected: watch::Receiver<bool>,
}

impl Listening {
    /// Whether the connection stands: notifications sent from now on arrive.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        *self.connected.borrow()
    }

    /// Waits until the connection stands. Cancel safe. Never returns while the server cannot be reached.
    pub async fn connected(&mut self) {
        let _ended_with_the_runtime = self.connected.wait_for(|connected| *connected).await;
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The same as in SQL. Schema names are ASCII, so that a byte is a character. A name that is cut may be another log's
/// too, which costs a needless wake-up.
fn channel(schema: &SchemaName) -> String {
    let mut name = format!("outbox/{schema}");
    name.truncate(MOST_BYTES);
    name
}

/// Sends what [`PostgresLogBuilder::notify`] promises.
pub(super) struct Notifier {
    /// Apart from the log's own bell, which listeners ring.
    bell: Wake,
    /// Stands in each notification, so that a handle recognises its own.
    sender: Uuid,
    sql: String,
    interval: Duration,
    task: Mutex<Option<AbortHandle>>,
}

impl Notifier {
    pub(super) fn new(schema: &SchemaName, settings: NotifySettings) -> Self {
        let sender = Uuid::new_v4();
        Self {
            bell: Wake::default(),
            sender,
            // Both are of a form that needs no quoting. Literals, so that it works behind any pooler.
            sql: format!("SELECT pg_notify('{}', '{sender}')", channel(schema)),
            interval: settings.interval,
            task: Mutex::default(),
        }
    }

    /// The bell that makes it send. Starts the task, again if its runtime has ended.
    pub(super) fn bell(&self, pool: &PgPool) -> Wake {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        if task.as_ref().is_none_or(AbortHandle::is_finished) {
            // Listening from here on, not from the task's first turn.
            let sending = send(pool.clone(), self.sql.clone(), self.bell.listen(), self.interval);
            *task = Some(tokio::spawn(sending).abort_handle());
        }
        self.bell.clone()
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        if let Some(task) = self.task.get_mut().unwrap_or_else(PoisonError::into_inner) {
            task.abort();
        }
    }
}

impl fmt::Debug for Notifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifier").field("interval", &self.interval).finish_non_exhaustive()
    }
}

/// At once when it was quiet, then at most one in an interval.
async fn send(pool: PgPool, sql: String, mut bell: WakeListener, interval: Duration) {
    let mut failing = false;
    loop {
        bell.rung().await;
        let sent = sqlx::raw_sql(AssertSqlSafe(sql.clone())).execute(&pool).await;
        match sent {
            Err(sqlx::Error::PoolClosed) => return,
            Err(error) if !failing => {
                tracing::warn!(%error, "other processes could not be notified and will find the events by polling");
                failing = true;
            }
            Err(_) => {}
            Ok(_) => failing = false,
        }
        tokio::time::sleep(interval).await;
    }
}

struct Listener {
    pool: PgPool,
    channel: String,
    own: Option<String>,
    wake: Wake,
    connected: watch::Sender<bool>,
}

impl Listener {
    async fn run(self) {
        let mut attempt = 0;
        loop {
            let ended = self.session().await;
            // It had been connected: the first try comes soon.
            if self.connected.send_replace(false) {
                attempt = 0;
                tracing::debug!(error = ?ended.err(), "the connection that listens was lost");
            } else if let Err(error) = ended {
                tracing::warn!(%error, attempt, "cannot listen; commits of other processes are found by polling");
            }
            let pause = BACKOFF.delay(attempt, &mut rand::rng());
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// Until the connection is lost.
    async fn session(&self) -> Result<(), sqlx::Error> {
        let mut listener = PgListener::connect_with(&self.pool).await?;
        listener.eager_reconnect(false);
        timeout(PATIENCE, listener.listen(&self.channel)).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
        self.connected.send_replace(true);
        self.wake.ring();
        loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(notification) => match notification? {
                    Some(notification) if self.own.as_deref() == Some(notification.payload()) => {}
                    Some(_) => self.wake.ring(),
                    None => return Ok(()),
                },
                // A connection that the network swallowed says nothing, just as a quiet one.
                Err(_silent) => {
                    let alive = timeout(PATIENCE, sqlx::raw_sql("SELECT 1").execute(&mut listener)).await;
                    alive.map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_channel_is_named_after_the_schema_and_fits() {
        assert_eq!(channel(&SchemaName::default()), "outbox/outbox");
        let longest = SchemaName::parse("x".repeat(63)).expect("63 bytes");
        assert_eq!(channel(&longest).len(), MOST_BYTES);
    }
}
