//! The way into a membership and out of it. Nobody's wait ends these questions but their own time limit: one that is
//! dropped and asked anew again and again would never be answered by a slow log, nor be given up.

use std::sync::Arc;

use super::{
    Settings,
    asked::{Asked, in_time},
    lease::Lease,
};
use crate::log::{EventLog, Fence, LogIdentity, MemberId};

/// Makes the consumer known to the log.
pub(super) fn register(log: Arc<dyn EventLog>, settings: Settings) -> Asked<LogIdentity> {
    Asked::of(async move {
        let patience = settings.patience();
        let identity = in_time(patience, log.identity()).await?;
        in_time(patience, log.register(&settings.consumer, settings.start_at)).await?;
        Ok(identity)
    })
}

/// The lease is renewed from the beginning, however late the caller comes for it.
pub(super) fn join(log: Arc<dyn EventLog>, settings: Settings, member: MemberId) -> Asked<Lease> {
    Asked::of(async move {
        let Settings { consumer, claim, lease, .. } = &settings;
        let assignment = in_time(settings.patience(), log.join(consumer, member, *claim, *lease)).await?;
        Ok(Lease::keep(log, assignment, &settings))
    })
}

pub(super) fn leave(log: Arc<dyn EventLog>, settings: &Settings, fence: Fence) -> Asked<()> {
    let patience = settings.patience();
    Asked::of(async move { in_time(patience, log.leave(&fence)).await })
}
