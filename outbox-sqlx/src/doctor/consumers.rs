//! Consumers that nobody looks after.

use chrono::Utc;
use outbox_core::{event::LaneSet, log::ConsumerInfo};

use super::{Check, Finding, Limits, spoken};

/// A consumer that was forgotten keeps every event since from being removed.
pub(super) fn abandoned(consumers: &[ConsumerInfo], limits: &Limits) -> Vec<Finding> {
    let mut check = Check::new("consumers");
    for consumer in consumers {
        let ConsumerInfo { name, head, position, .. } = consumer;
        let lag = head.saturating_sub(*position);
        if lag == 0 || consumer.oldest_pending.is_none() {
            continue;
        }
        let since = consumer.checkpoint_at.unwrap_or(consumer.created_at);
        let silent = (Utc::now() - since).to_std().unwrap_or_default();
        let what = if consumer.checkpoint_at.is_some() { "wrote no checkpoint" } else { "never wrote a checkpoint" };
        let message = format!("consumer {name} is {lag} positions behind and {what} for {}", spoken(silent));
        let keeps = "retention keeps every event it has not passed";
        let start_or_drop = format!("start it, or, if nobody needs it, `outbox consumers drop {name}`: {keeps}");
        let running = consumer.members.iter().any(|member| member.live);
        if consumer.paused {
            check.warning(
                format!("consumer {name} is paused, {lag} positions behind"),
                format!("{keeps}: `outbox consumers resume {name}`, or drop it"),
            );
        } else if silent >= limits.idle {
            let advice = if running {
                format!("its members run and get nowhere: look at their logs and at `outbox status`; {keeps}")
            } else {
                start_or_drop
            };
            check.problem(message, advice);
        } else if !running {
            check
                .warning(format!("no member of consumer {name} runs, and it is {lag} positions behind"), start_or_drop);
        }
    }
    check.or_ok(format!("{} registered, none is left behind", consumers.len()))
}

/// Lanes of which nobody publishes events though others of the consumer flow.
pub(super) fn ownerless(consumers: &[ConsumerInfo]) -> Vec<Finding> {
    let mut check = Check::new("lanes");
    for consumer in consumers {
        let (live, dead): (Vec<_>, Vec<_>) = consumer.members.iter().partition(|member| member.live);
        if live.is_empty() || consumer.paused {
            continue;
        }
        let name = &consumer.name;
        let of_dead = dead.iter().fold(LaneSet::EMPTY, |lanes, member| lanes.union(member.lanes));
        let advice = "normal for up to a lease after a member ended; if it stays, see whether the members that run \
            renew their leases and claim shares";
        for (lanes, whose) in [(consumer.free_lanes, "of nobody"), (of_dead, "of members whose lease ended")] {
            if !lanes.is_empty() {
                check.warning(format!("{} lanes of consumer {name} are {whose}", lanes.len()), advice);
            }
        }
    }
    check.or_ok("every lane of a running consumer has an owner")
}
