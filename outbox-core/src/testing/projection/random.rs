//! Random histories, compared with the simplest model there is: every first delivery, in order.

use std::collections::BTreeMap;

use proptest::{
    prelude::{Strategy, any},
    prop_assert, prop_assert_eq,
    test_runner::{Config, TestCaseError, TestRunner},
};

use super::{Effect, ProjectionHarness, Runner};
use crate::{event::ReceivedEvent, testing::event::SUITE_TYPE};

/// Whatever is repeated, up to three times and at whatever later places, and however the stream is cut into steps, the
/// effects are those of every event once.
///
/// Needs the multi-thread runtime that the suite's macro sets up.
#[allow(clippy::unused_async, reason = "every case is an async function; this one blocks, since proptest does")]
pub async fn random_duplicates_change_nothing<H: ProjectionHarness>(harness: &H) {
    let config = Config { cases: 32, failure_persistence: None, max_shrink_iters: 200, ..Config::default() };
    let runtime = tokio::runtime::Handle::current();
    let history_number = std::cell::Cell::new(0_u32);
    let outcome = tokio::task::block_in_place(|| {
        TestRunner::new(config).run(&history(), |history| {
            // Histories share a store, so each has keys and a partition of its own.
            history_number.set(history_number.get() + 1);
            runtime.block_on(check(harness, &history, history_number.get()))
        })
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
}

/// One event and what becomes of it.
#[derive(Debug, Clone)]
struct Planned {
    key: u8,
    /// For each repetition, how many first deliveries later it comes.
    repeated_after: Vec<usize>,
    /// Whether a step ends behind it.
    ends_step: bool,
}

fn history() -> impl Strategy<Value = Vec<Planned>> {
    let repeated = proptest::collection::vec(0_usize..12, 0..=3);
    let planned = (0_u8..3, repeated, any::<bool>());
    let planned = planned.prop_map(|(key, repeated_after, ends_step)| Planned { key, repeated_after, ends_step });
    proptest::collection::vec(planned, 1..20)
}

async fn check<H: ProjectionHarness>(harness: &H, history: &[Planned], number: u32) -> Result<(), TestCaseError> {
    let mut runner = Runner::new(harness, &format!("random-{number}"));
    let name = |key: u8| format!("random-{number}-{key}");
    let firsts: Vec<ReceivedEvent> =
        history.iter().enumerate().map(|(n, planned)| runner.event(&name(planned.key), n as u64)).collect();
    let mut duplicates: BTreeMap<usize, Vec<&ReceivedEvent>> = BTreeMap::new();
    for (n, planned) in history.iter().enumerate() {
        for later in &planned.repeated_after {
            duplicates.entry(n + later).or_default().push(&firsts[n]);
        }
    }
    let mut step = Vec::new();
    let mut counted = crate::projection::Applied::default();
    for (n, planned) in history.iter().enumerate() {
        step.push(firsts[n].clone());
        step.extend(duplicates.remove(&n).unwrap_or_default().into_iter().cloned());
        if planned.ends_step {
            counted += apply(&mut runner, &std::mem::take(&mut step)).await?;
        }
    }
    step.extend(duplicates.into_values().flatten().cloned());
    counted += apply(&mut runner, &step).await?;

    match harness.effect() {
        Effect::Append => {
            prop_assert_eq!(counted.applied, history.len(), "every event is applied once: {:?}", counted);
        }
        Effect::Overwrite => prop_assert!(counted.applied >= history.len(), "every event is applied: {:?}", counted),
    }
    for key in 0..3 {
        let model: Vec<u64> =
            history.iter().zip(0..).filter(|(planned, _)| planned.key == key).map(|(_, n)| n).collect();
        let effects = harness.effects(SUITE_TYPE, &name(key)).await;
        prop_assert_eq!(effects, runner.expected(&model), "effects of key {}", key);
    }
    Ok(())
}

async fn apply<H: ProjectionHarness>(
    runner: &mut Runner<'_, H>,
    step: &[ReceivedEvent],
) -> Result<crate::projection::Applied, TestCaseError> {
    runner.try_apply(step).await.map_err(|error| TestCaseError::fail(crate::error::chain(&error)))
}
