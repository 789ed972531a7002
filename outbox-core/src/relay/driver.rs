//! Joins the consumer, works for as long as the membership lasts, and joins again when it was expelled.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use super::{
    Relay, RelayError,
    meters::Meters,
    tenure::{Halt, Tenure},
};
use crate::{
    error::chain,
    log::{Assignment, Claim, ConsumerName, LogError, LogErrorKind, LogIdentity, MemberId},
};

/// How long a call to the log may take, at least: long enough for a slow page, short enough for a silent network.
const CALL: Duration = Duration::from_secs(30);

pub(super) async fn run(
    relay: &Relay,
    consumer: &ConsumerName,
    shutdown: impl Future<Output = ()> + Send,
) -> Result<(), RelayError> {
    let mut shutdown = pin!(shutdown);
    let member = MemberId::random();
    let mut fenced_in_a_row = 0;
    // Once: a consumer that an operator dropped meanwhile must not come back by itself, and begin at the beginning.
    let mut identity = None;
    let mut meters = None;
    loop {
        let joined = tokio::select! {
            () = &mut shutdown => return Ok(()),
            joined = join(relay, consumer, member, &mut identity) => joined?,
        };
        let Joined { assignment, log, asked } = joined;
        let begun = || Meters::new(consumer, log.id, relay.status.borrow().clone());
        let meters = meters.get_or_insert_with(begun);
        let owned = assignment.lanes().len();
        tracing::info!(%consumer, epoch = assignment.fence.epoch, lanes = owned, "relay is a member");
        let fence = assignment.fence.clone();
        match Tenure::new(relay, log.lanes, assignment, asked, meters).run(shutdown.as_mut()).await {
            Ok(()) => return Ok(()),
            Err(Halt::Failed(error)) => {
                // Whoever runs next, here or elsewhere, need not wait for the lease.
                let _lease_ends_otherwise = timeout(relay.settings.stop_within, relay.log.leave(&fence)).await;
                return Err(error);
            }
            Err(Halt::Fenced) => {
                tracing::warn!(%consumer, "the membership is over; joining again");
                relay.status.send_modify(|status| {
                    status.fenced += 1;
                    status.lose_lanes();
                });
                // Memberships that end at once would keep the log busy with joining.
                fenced_in_a_row = if asked.elapsed() < relay.settings.lease { fenced_in_a_row + 1 } else { 0 };
                let pause = relay.settings.backoff.delay(fenced_in_a_row, &mut rand::rng());
                if fenced_in_a_row > 1 {
                    tokio::select! {
                        () = &mut shutdown => return Ok(()),
                        () = sleep(pause) => {}
                    }
                }
            }
        }
    }
}

struct Joined {
    assignment: Assignment,
    log: LogIdentity,
    /// When the log was asked.
    asked: Instant,
}

/// Makes the consumer known, unless `known` says that it was, and becomes a member of it, with lanes or without.
async fn join(
    relay: &Relay,
    consumer: &ConsumerName,
    member: MemberId,
    known: &mut Option<LogIdentity>,
) -> Result<Joined, RelayError> {
    let mut attempt = 0;
    loop {
        let joined = async {
            let log = if let Some(log) = *known {
                log
            } else {
                relay.log.register(consumer, relay.settings.start_at).await?;
                *known.insert(relay.log.identity().await?)
            };
            let asked = Instant::now();
            let assignment = relay.log.join(consumer, member, Claim::Share, relay.settings.lease).await?;
            Ok(Joined { assignment, log, asked })
        };
        match bounded(relay, joined).await {
            Ok(joined) => return Ok(joined),
            Err(error) if error.kind().passes() => {
                note(relay, &error);
                let pause = relay.settings.backoff.delay(attempt, &mut rand::rng());
                sleep(pause).await;
                attempt = attempt.saturating_add(1);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// A call to the log that ends: a connection whose other side vanished would be waited for without end.
pub(super) async fn bounded<T>(relay: &Relay, call: impl Future<Output = Result<T, LogError>>) -> Result<T, LogError> {
    bounded_by(relay.settings.lease.max(CALL), call).await
}

pub(super) async fn bounded_by<T>(
    limit: Duration,
    call: impl Future<Output = Result<T, LogError>>,
) -> Result<T, LogError> {
    timeout(limit, call).await.unwrap_or_else(|_| {
        let message = format!("the log did not answer within {limit:?}");
        Err(LogError::new(LogErrorKind::Unavailable, message))
    })
}

pub(super) fn note(relay: &Relay, error: &(dyn std::error::Error + 'static)) {
    let text = chain(error);
    tracing::warn!(error = %text, "relay waits and tries again");
    relay.status.send_modify(|status| status.last_error = Some(text));
}
