//! One crash: a projector process dies at its step while writers go on, another finishes, and the read model is judged.

use std::{collections::BTreeSet, fmt};

use outbox_projector::dead_letters;
use uuid::Uuid;

use crate::{
    model::{Difference, Kind},
    mortal::Failpoint,
    process::ProjectorProcess,
    shop::{Feed, Shop},
    topic,
};

/// What a crash led to.
pub(crate) struct Aftermath {
    pub(crate) feed: Feed,
    pub(crate) kind: Kind,
    pub(crate) step: Failpoint,
    pub(crate) events: usize,
    pub(crate) difference: Difference,
    /// Dead letters.
    pub(crate) letters: usize,
    /// Events that nothing can apply, and that are no dead letters, or the other way round.
    pub(crate) wrong_letters: usize,
    /// Messages of the topic that are copies.
    pub(crate) copies: usize,
    /// Events that the other process met again.
    pub(crate) again: usize,
}

impl Aftermath {
    pub(crate) fn is_right(&self) -> bool {
        self.difference == Difference::default() && self.wrong_letters == 0 && self.letters > 0
    }
}

impl fmt::Display for Aftermath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { feed, kind, step, events, difference, letters, wrong_letters, copies, again } = self;
        let (feed, kind, step) = (feed.name(), kind.name(), step.name());
        write!(f, "{kind} from {feed}, {step}: {events} events and {copies} copies, {difference}; ")?;
        write!(f, "{letters} dead letters, {wrong_letters} wrong; {again} came again")
    }
}

/// # Panics
/// When the process does not die at its step, or the other does not finish.
pub(crate) async fn crash(feed: Feed, kind: Kind, step: Failpoint) -> Aftermath {
    let shop = Shop::open(feed).await;
    let writing = shop.write(rand::random()).await;
    ProjectorProcess::that_dies(&shop, kind, step).dies().await;

    let mut survivor = ProjectorProcess::start(&shop, kind);
    survivor.until("it goes on where the other was", |seen| seen.applied >= 20 && seen.dead_letters > 0).await;
    let copies = writing.stop().await;
    shop.until_projected().await;
    let again = survivor.stops().await.duplicates;

    let model = shop.model().await;
    let difference = model.compare(kind, shop.pool()).await;
    let letters = letters(&shop).await;
    let wrong_letters = letters.symmetric_difference(&model.poison).count();
    shop.close().await;
    let (events, letters) = (model.len(), letters.len());
    Aftermath { feed, kind, step, events, difference, letters, wrong_letters, copies, again }
}

/// The events in the topic of dead letters. After a crash one can be there twice.
pub(crate) async fn letters(shop: &Shop) -> BTreeSet<Uuid> {
    let letters = topic::read(&shop.brokers, &shop.letters).await;
    let id = |letter: &topic::Written| letter.header(dead_letters::header::ID).and_then(|id| id.parse().ok());
    letters.iter().map(|letter| id(letter).expect("an id")).collect()
}
