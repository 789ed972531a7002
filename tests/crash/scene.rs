//! One crash: a relay process dies at its step while writers go on, others finish, and the topic is judged.

use std::{fmt, ops::RangeInclusive};

use outbox_core::log::DUE_OF_A_KEY;

use crate::{
    mortal::Failpoint,
    program::MOST_REPEATED,
    relay_process::RelayProcess,
    shop::{Kind, POISONED, Shop},
    topic::Verdict,
};

const LANES: u64 = 64;

/// What a crash led to.
pub(crate) struct Aftermath {
    pub(crate) kind: Kind,
    pub(crate) step: Failpoint,
    pub(crate) events: usize,
    pub(crate) lost: usize,
    pub(crate) inverted: usize,
    pub(crate) repeated: usize,
    /// How often a survivor lost its lease, which on a machine that is too busy is an incident more.
    pub(crate) fenced: usize,
    /// Events that were done and not parked by the checkpoints that stood when the process died.
    pub(crate) recorded: usize,
    /// Keys whose events were set aside until the topic took the poison.
    pub(crate) blocked: u64,
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, step, events, lost, inverted, repeated, fenced, recorded, blocked } = self;
        let (kind, step, repeats) = (kind.name(), step.name(), step.repeats());
        write!(
            f,
            "{kind}, {step}: {events} events, {recorded} recorded at death, {blocked} keys blocked; {lost} lost, "
        )?;
        write!(f, "{inverted} inverted, {repeated} repeated ({repeats:?} expected), {fenced} leases lost")
    }
}

/// What is on the stage when the process dies.
struct Cast {
    victim: RelayProcess,
    survivors: Vec<RelayProcess>,
    /// The version of the event that the topic did not take.
    poison: Option<i64>,
    /// How many keys were blocked when the topic was made to take it; `None`: that is still to do.
    healed: Option<u64>,
}

/// # Panics
/// When the process does not die at its step, the others do not finish, or something is published again that had been
/// recorded.
pub(crate) async fn crash(kind: Kind, step: Failpoint) -> Aftermath {
    let shop = Shop::open(kind).await;
    let writing = shop.write().await;
    let Cast { victim, mut survivors, poison, healed } = enter(&shop, step).await;
    victim.dies().await;
    let (places, parked) = (shop.recorded().await, shop.parked().await);

    if survivors.is_empty() {
        survivors.push(RelayProcess::start(&shop));
    }
    let share = LANES / survivors.len() as u64;
    for survivor in &mut survivors {
        survivor.until("the survivors own all lanes", |seen| seen.lanes == share).await;
        let published = survivor.seen().published;
        survivor.until("they publish what the writers go on writing", |seen| seen.published >= published + 20).await;
    }
    writing.stop().await;
    let changes = shop.store.changes().await;
    let blocked = match (poison, healed) {
        (None, _) => shop.parked().await.len() as u64,
        (Some(_), Some(blocked)) => blocked,
        (Some(poison), None) => {
            let behind = (changes[&POISONED] - poison) as usize;
            shop.until_parked(1 + behind, &mut survivors[0]).await;
            shop.heal().await
        }
    };

    let events = changes.values().sum::<i64>() as usize;
    let reading = shop.topic.read(events).await;
    let mut fenced = 0;
    for survivor in survivors {
        fenced += survivor.seen().fenced as usize;
        survivor.stops().await;
    }
    let verdict = Verdict::on(&reading.rest().await, &changes);
    let open = &shop.behind(places).await | &parked;
    for told in &verdict.repeated {
        assert!(open.contains(&told.sequence), "{told:?} was published again, and had been recorded as done");
    }
    assert_eq!(shop.parked().await.len(), 0, "nothing stays parked");
    shop.close().await;
    let (recorded, repeated) = (events - open.len(), verdict.repeated.len());
    let Verdict { lost, inverted, .. } = verdict;
    Aftermath { kind, step, events, lost, inverted, repeated, fenced, recorded, blocked }
}

/// Brings a process to where it will die.
async fn enter(shop: &Shop, step: Failpoint) -> Cast {
    use Failpoint as F;
    match step {
        F::AfterJoin | F::AfterRead | F::AfterEnqueue | F::AfterAck | F::BeforeCheckpoint | F::AfterCheckpoint => {
            Cast::alone(RelayProcess::that_dies(shop, step))
        }
        F::BeforePark | F::AfterPark | F::BeforeParkBehind | F::AfterParkBehind => {
            let mut victim = RelayProcess::that_dies(shop, step);
            victim.until("it recorded something", |seen| seen.checkpoints > 0).await;
            let poison = shop.poison().await;
            Cast { poison: Some(poison), ..Cast::alone(victim) }
        }
        F::BeforeRedriven | F::AfterRedriven => {
            let mut victim = RelayProcess::that_dies(shop, step);
            victim.until("it recorded something", |seen| seen.checkpoints > 0).await;
            let poison = shop.poison().await;
            victim.until("the poison and one behind it are parked", |seen| seen.parked >= 2).await;
            let healed = shop.heal().await;
            Cast { poison: Some(poison), healed: Some(healed), ..Cast::alone(victim) }
        }
        F::BeforeRelease | F::AfterRelease => {
            let (victim, first) = two_that_share(shop, step).await;
            // It has too many lanes now.
            let third = RelayProcess::start(shop);
            Cast { survivors: vec![first, third], ..Cast::alone(victim) }
        }
        F::AfterGaining => {
            let mut first = RelayProcess::start(shop);
            first.until("it recorded something", |seen| seen.lanes == LANES && seen.checkpoints > 0).await;
            let victim = RelayProcess::that_dies(shop, step);
            Cast { survivors: vec![first], ..Cast::alone(victim) }
        }
        F::BeforeLeave | F::AfterLeave => {
            let (victim, first) = two_that_share(shop, step).await;
            victim.terminate();
            Cast { survivors: vec![first], ..Cast::alone(victim) }
        }
    }
}

impl Cast {
    fn alone(victim: RelayProcess) -> Self {
        Self { victim, survivors: Vec::new(), poison: None, healed: None }
    }
}

/// The one that dies came second, so it has given back nothing yet, and has recorded something.
async fn two_that_share(shop: &Shop, step: Failpoint) -> (RelayProcess, RelayProcess) {
    let mut first = RelayProcess::start(shop);
    first.until("it owns all lanes", |seen| seen.lanes == LANES).await;
    let mut victim = RelayProcess::that_dies(shop, step);
    victim.until("it owns half of the lanes", |seen| seen.lanes == LANES / 2 && seen.checkpoints > 0).await;
    (victim, first)
}

impl Failpoint {
    /// How many messages may come again because of a process that died here. Where it had published something and not
    /// recorded it, there is at least one.
    pub(crate) fn repeats(self) -> RangeInclusive<usize> {
        match self {
            // It had sent nothing, or recorded all it had sent.
            Self::AfterJoin | Self::AfterGaining | Self::BeforeLeave | Self::AfterLeave => 0..=0,
            Self::AfterAck | Self::BeforeCheckpoint => 1..=MOST_REPEATED,
            Self::BeforeRedriven => 1..=MOST_REPEATED + DUE_OF_A_KEY,
            Self::AfterRedriven => 0..=MOST_REPEATED + DUE_OF_A_KEY,
            _ => 0..=MOST_REPEATED,
        }
    }
}
