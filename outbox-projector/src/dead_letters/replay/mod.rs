//! Dead letters are applied after all.

mod plan;

use std::sync::Arc;

use outbox_core::{
    error::chain,
    profile::{Decoder, SeedEnvelope},
    projection::{Applied, ProjectionError, ProjectionErrorKind},
};
use uuid::Uuid;

use self::plan::{Key, Plan};
use super::{ReadLetter, ReplayReport, Replayable, ReplayedKey, Series, TopicLetter, reading::warn};
use crate::runner::guarded;

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Letters {
    /// All of the projection.
    All,
    /// Those of a key.
    Key(Series),
    /// The one with this [id](outbox_core::projection::DeadLetter::id).
    Id(Uuid),
}

/// What to replay, and how.
#[derive(Clone)]
pub struct Replay {
    pub(crate) which: Letters,
    pub(crate) dry_run: bool,
    pub(crate) decoder: Arc<dyn Decoder>,
    pub(crate) elsewhere: Arc<[TopicLetter]>,
}

impl Replay {
    /// Replays these letters.
    #[must_use]
    pub fn of(which: Letters) -> Self {
        Self { which, dry_run: false, decoder: Arc::new(SeedEnvelope), elsewhere: Arc::default() }
    }

    /// Tries everything, without any effect in the projection's store, and says what would have happened.
    ///
    /// SQL projections and inboxes try the letters of a key in one transaction, which is rolled back in the end. It stays
    /// open until all of them were tried; projectors wait for that key meanwhile. What the handler does outside of the
    /// database it does. Projections into stores of documents only find out what each event means: the store is not asked,
    /// so it may refuse a document, or have a newer one, all the same.
    #[must_use]
    pub fn dry_run(mut self) -> Self {
        self.dry_run = true;
        self
    }

    /// Reads the records with this decoder: the one that their source has, or a mended one. Default: [`SeedEnvelope`].
    /// Letters of events that came straight from a log need none: they are read by
    /// [`RawPayload`](outbox_core::profile::RawPayload).
    #[must_use]
    pub fn decoder(mut self, decoder: Arc<dyn Decoder>) -> Self {
        self.decoder = decoder;
        self
    }

    /// Takes letters that the projection does not keep itself, from a topic or a place of your own, in any order; they are
    /// held in memory. See [`read_to_end`](super::read_to_end) for how to get them. Those of other projections are passed
    /// over. Default: none.
    ///
    /// To [`replay`] they are all there is. To a SQL projection they are no more than bodies: which letters are open, it
    /// knows. So those that are not count as duplicates: the projection has replayed or discarded them, or has not passed
    /// over their records yet. And an open letter that is missing here keeps its place: its key stops there.
    #[must_use]
    pub fn from_topic(mut self, letters: impl IntoIterator<Item = TopicLetter>) -> Self {
        self.elsewhere = letters.into_iter().collect();
        self
    }
}

/// Applies the letters of [`Replay::from_topic`] to a projection that tells by itself what had its effect. Those of a key
/// are applied in the order of their sequences, one after another; different keys one after another too. Where one fails,
/// it and the rest of its key are left, and the next key follows. A panic is a failure. Copies of a letter are one.
///
/// A letter that cannot be decoded is reported and stops nothing. But when the projection had decoded it, so that it is the
/// decoder given here which cannot, then all letters with its message key are left: its place among them is not known.
///
/// # Duplicates
/// Nothing is removed from where the letters are kept, and nobody remembers what was replayed. A letter that is replayed
/// again counts as a duplicate: its document is as new or newer, or its event is claimed. **An inbox forgets claims** after
/// `InboxProjectionBuilder::keep_for`: a letter that is replayed again after that has its effect again. So give it only
/// letters that are not done; [`ReplayedKey::done_letters`] says which are.
///
/// Later events of a key pass a letter that is kept elsewhere, so it takes effect late: in an inbox behind them, and in a
/// store of documents not at all when a newer version is there.
///
/// ```
/// use outbox_core::{error::BoxError, event::ReceivedEvent};
/// use outbox_projector::{
///     dead_letters::{Letters, Replay, TopicLetter, replay},
///     external::{Change, MemoryDocuments, VersionedProjection},
/// };
///
/// # fn change(received: &ReceivedEvent) -> Result<Option<Change>, BoxError> { Ok(None) }
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let letters: Vec<TopicLetter> = Vec::new();
/// let projection = VersionedProjection::builder("tutors", MemoryDocuments::default(), change).build();
/// let all = Replay::of(Letters::All).from_topic(letters);
/// let would = replay(&projection, &all.clone().dry_run()).await?;
/// println!("{} would be applied, {} would stay", would.totals().applied, would.left());
/// replay(&projection, &all).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// Those of the projection that blame no event. What was replayed before stays so, and is a duplicate the next time.
///
/// # Cancellation
/// Dropping the replay leaves what it has done: each letter as a whole.
pub async fn replay<P: Replayable + ?Sized>(projection: &P, replay: &Replay) -> Result<ReplayReport, ProjectionError> {
    let Plan { unreadable, keys } = Plan::of(replay, projection.name());
    let mut report = ReplayReport::default();
    for (letter, why) in unreadable {
        if !replay.dry_run {
            warn(projection.name(), letter.id, &letter.place, &why);
        }
        let (letter, error) = (Some(letter.id), Some(chain(&why)));
        report.keys.push(ReplayedKey { letter, left: 1, error, ..ReplayedKey::default() });
    }
    for key in keys {
        let mut done = ReplayedKey { letter: key.only, ..ReplayedKey::default() };
        if key.is_stuck {
            done.error = Some("another letter with its message key cannot be decoded".to_owned());
        } else if replay.dry_run {
            try_key(projection, &key, &mut done).await?;
        } else {
            apply_key(projection, &key, &mut done).await?;
        }
        done.left = key.letters.len() - done.done_letters.len();
        done.series = Some(key.series);
        report.keys.push(done);
    }
    Ok(report)
}

async fn apply_key<P: Replayable + ?Sized>(
    projection: &P,
    key: &Key<'_>,
    done: &mut ReplayedKey,
) -> Result<(), ProjectionError> {
    for letter in &key.letters {
        let applied = loop {
            match guarded(projection.apply_letter(letter)).await {
                // Somebody else got on. Whoever waits for a store that never agrees can drop this.
                Err(error) if error.kind() == ProjectionErrorKind::Conflict => tokio::task::yield_now().await,
                applied => break applied,
            }
        };
        if let Err(error) = &applied
            && error.kind().blames_an_event()
        {
            warn(projection.name(), letter.letter.id, &letter.letter.place, error);
        }
        take(letter, applied, done)?;
        if done.error.is_some() {
            break;
        }
    }
    Ok(())
}

async fn try_key<P: Replayable + ?Sized>(
    projection: &P,
    key: &Key<'_>,
    done: &mut ReplayedKey,
) -> Result<(), ProjectionError> {
    let tried = guarded(async { Ok(projection.try_letters(&key.letters).await) }).await;
    for (letter, would) in key.letters.iter().zip(tried.unwrap_or_else(|panicked| vec![Err(panicked)])) {
        take(letter, would, done)?;
    }
    Ok(())
}

/// # Errors
/// One that blames no event.
fn take(
    letter: &ReadLetter<'_>,
    applied: Result<Applied, ProjectionError>,
    done: &mut ReplayedKey,
) -> Result<(), ProjectionError> {
    match applied {
        Ok(applied) => {
            done.done += applied;
            done.done_letters.push(letter.letter.id);
        }
        Err(error) if error.kind().blames_an_event() => done.error = Some(chain(&error)),
        Err(error) => return Err(error),
    }
    Ok(())
}
