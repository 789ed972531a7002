/// What is wrong with a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,

    // Appending.
    /// An append of nothing fails.
    RefusesNothing,
    /// Each append of a transaction replaces the one before.
    KeepsTheLastAppend,
    /// A refusal ends the transaction.
    RefusesEverAfter,
    /// The events in front of a refused one are added.
    AppendsByHalves,
    /// An event that is both ordered and unordered is taken.
    TakesTornEvents,
    /// One transaction at a time appends.
    OneWriter,

    // Reading.
    /// Every event comes twice.
    Twice,
    /// Every event comes once, however often it is read.
    Once,
    /// Events come in the order in which they were appended.
    InOrderOfAppend,
    /// Lanes are counted from one.
    LanesFromOne,
    /// An empty page is never the last one.
    NeverAtTheEnd,
    /// Whatever a cursor is, there is nothing behind it.
    TakesAnyCursor,
    /// Another handle is another log.
    HandlesApart,
    /// A page is sorted the wrong way round.
    Backwards,
    /// Events are visible before their transaction ends, and stay.
    Dirty,
    /// Positions are given at append, and the reader remembers only the highest one it has seen.
    RemembersOnlyAPosition,
    /// The last event of a full page is dropped.
    LosesAtPageEnd,
    /// A page is read as if every lane had been asked for.
    IgnoresLanes,
    /// Headers are not stored.
    ForgetsHeaders,
    /// An unordered event comes back ordered.
    ForgetsThatNothingOrders,
    /// Nobody is woken.
    Mute,

    // Tracks.
    /// The pages of several tracks come in another order.
    MixesTracks,
    /// The end of the log is another cursor for each track.
    KeepsTracksApart,
    /// A checkpoint puts all lanes where the first one is.
    ForgetsLaggingLanes,
    /// A released lane stays at its last checkpoint.
    ForgetsReleasedPlaces,

    // Consumers and members.
    /// Whoever joins is registered.
    RegistersStrangers,
    /// Every consumer begins at the beginning.
    StartsAtTheBeginning,
    /// Lanes move one half after the other.
    ChecksByHalves,
    /// Only the latest registration counts.
    RestartsOnRegister,
    /// A checkpoint moves every consumer.
    SharesPlaces,
    /// A start at a time is behind the last event that is older.
    StartsBehindTheLastOlderEvent,
    /// Whoever is fenced writes without complaint, and in vain.
    SilentFence,
    /// A stale fence complains, after its checkpoint was written.
    LateFence,
    /// A fence is taken for good when its member is one, whichever the epoch.
    LooksAtTheMemberOnly,
    /// A member may write about any lane.
    TakesAnyLanes,
    /// Checkpoints are not stored.
    ForgetsCheckpoints,
    /// A lease is not looked at: whoever asks takes over.
    IgnoresLeases,
    /// A lease never ends.
    LeasesNeverEnd,
    /// A renewal does not extend the lease.
    ForgetsRenewals,
    /// Of the lanes of an expelled member only some are handed on.
    TakesOverByHalves,

    // Balance.
    /// Nobody is told of lanes beyond a share.
    NeverSurplus,
    /// Whoever asks for a share is given everything or nothing.
    GivesAllOrNothing,
    /// Whoever asks for everything is given a share.
    SharesWithWhoClaimsAll,

    // Parking.
    /// A failed event blocks nothing.
    BlocksNothing,
    /// Whatever is to wait is set aside, its key blocked or not.
    BlocksEverything,
    /// Events of one call do not find what others of the call did.
    ParksBehindFirst,
    /// Events before the one that is refused are set aside.
    ParksByHalves,
    /// An event that fails again is parked since now.
    ParksAnew,
    /// An event that fails again keeps its first failure.
    KeepsTheFirstFailure,
    /// However long a reason is, it is kept.
    KeepsLongReasons,
    /// Blocked keys and due events are told of every lane and every consumer.
    TellsOfAllLanes,
    /// An unordered event blocks its aggregate.
    BlocksTheAggregate,

    // Redriving.
    /// Whatever is parked is due.
    EverythingIsDue,
    /// A renewal does not tell that something is due.
    RenewsInSilence,
    /// Due events come in the wrong order.
    DueBackwards,
    /// Nobody carries requests out.
    IgnoresRequests,
    /// A request counts events, not keys.
    CountsEvents,
    /// A key is said to be blocked for ever.
    NeverFrees,
    /// A key is said to be free when its first event went.
    FreesAtOnce,
    /// The events behind one that was published are forgotten.
    ForgetsThoseBehind,
    /// A request stands, though its event failed again.
    RequestsForEver,
    /// Whenever an event fails again nobody asks for it any more.
    ForgetsNewRequests,
    /// A discard needs no reason.
    DiscardsWithoutReason,
    /// A discarded event is gone.
    DiscardsWithoutTrace,
    /// The events behind a discarded one wait for a request.
    DiscardsOnlyTheFirst,
    /// A key stays blocked for ever.
    RemembersBlockedKeys,

    // Operators.
    /// Pausing a consumer that does not exist succeeds.
    PausesStrangers,
    /// Consumers are listed in no order.
    ListsBackwards,
    /// Members whose lease ended are not listed.
    ListsTheLiving,
    /// Parked events count as pending.
    ParkedIsPending,
    /// Members are not told of a pause.
    PausesInSilence,
    /// A pause is for all consumers.
    PausesEverybody,
    /// A dropped consumer stays.
    DropsNothing,
    /// Every page of a list is the first one.
    ListsTheFirstPage,
    /// Whatever was read counts as published.
    PublishesOnSight,
    /// The time of publication is that of the last checkpoint.
    PublishedLast,
    /// A position that one lane has passed counts for all.
    PublishedByPosition,
    /// People do not see the newest event.
    TailsBehind,

    // Retention.
    /// Consumers do not hold anything back.
    PrunesEverything,
    /// Only the fastest lane of a consumer counts.
    PrunesBehindTheFastestLane,
    /// What an open transaction wrote below a removed position is removed, too.
    PrunesWhatCommitsLate,
    /// Without consumers everything goes.
    PrunesWithoutConsumers,
    /// The policy is not looked at.
    IgnoresPolicy,
    /// Everything goes in one step.
    PrunesInOneStep,
    /// It never says that there is more.
    PrunesWithoutSaying,
    /// It does not say who holds events back.
    HidesWhoHoldsBack,
    /// Positions begin anew behind what was removed.
    ReusesPositions,
    /// A cursor in front of what is left is refused.
    RefusesOldCursors,
    /// Parked events go with the log's own copy.
    PrunesParked,

    // Generations.
    /// Re-anchoring changes nothing.
    KeepsTheGeneration,
    /// Old events get the new generation, too.
    RaisesOldEvents,
    /// Consumers go on at the end.
    SkipsWhenReanchored,
    /// Consumers are forgotten.
    ForgetsConsumersWhenReanchored,
}
