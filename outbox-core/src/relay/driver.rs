//! Gets lanes, works for as long as they are ours, and gets them again when they were taken over.

use std::{future::Future, pin::pin, time::Duration};

use tokio::time::{sleep, timeout};

use super::{
    Relay, RelayError, RelayState,
    lead::{Ended, Lead},
};
use crate::{
    error::chain,
    log::{Assignment, ConsumerName, LogError, LogErrorKind, MemberId},
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
    loop {
        let assignment = tokio::select! {
            () = &mut shutdown => return Ok(()),
            joined = join(relay, consumer, member) => joined?,
        };
        tracing::info!(%consumer, epoch = assignment.fence.epoch, lanes = assignment.lanes.len(), "relay owns its lanes");
        let fence = assignment.fence.clone();
        match Lead::new(relay, assignment).run(shutdown.as_mut()).await {
            Err(error) => {
                // Whoever runs next, here or elsewhere, need not wait for the lease.
                let _lease_ends_otherwise = timeout(relay.settings.stop_within, relay.log.leave(&fence)).await;
                return Err(error);
            }
            Ok(Ended::Stopped) => return Ok(()),
            Ok(Ended::Fenced) => {
                tracing::warn!(%consumer, "another member took the lanes over; joining again");
                relay.status.send_modify(|status| status.fenced += 1);
            }
        }
    }
}

/// Makes the consumer known, and waits until lanes are ours.
async fn join(relay: &Relay, consumer: &ConsumerName, member: MemberId) -> Result<Assignment, RelayError> {
    let mut attempt = 0;
    let mut registered = false;
    loop {
        let joined = async {
            if !registered {
                relay.log.register(consumer, relay.settings.start_at).await?;
                registered = true;
            }
            relay.log.join(consumer, member, relay.settings.lease).await
        };
        match bounded(relay, joined).await {
            Ok(Some(assignment)) => return Ok(assignment),
            Ok(None) => {
                attempt = 0;
                relay.status.send_modify(|status| {
                    status.state = RelayState::Standby;
                    status.last_error = None;
                });
                sleep(relay.settings.poll).await;
            }
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
    let limit = relay.settings.lease.max(CALL);
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
