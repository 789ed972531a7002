//! What cases do again and again.

use std::{collections::BTreeMap, fmt::Debug, time::Duration};

use uuid::Uuid;

use super::LogHarness;
use crate::{
    event::{Lane, LaneSet, NewEvent, RecordedEvent},
    log::{
        Assignment, Claim, ConsumerInfo, ConsumerName, Cursor, EventLog, Fence, LogAdmin, LogError, LogErrorKind,
        MemberId, Page, Park, ParkFailure, ParkedEvent, Republished, StartAt, Track,
    },
    outbox::Outbox,
    testing::{event::SUITE_TYPE, suite::within},
};

/// Longer than any case: does not run out.
pub(super) const LONG: Duration = Duration::from_hours(1);

/// The ids of no events.
pub(super) const NONE: [Uuid; 0] = [];

/// Appends and commits.
pub(super) async fn write<H: LogHarness>(harness: &H, events: &[NewEvent]) {
    let mut tx = harness.begin().await;
    let receipt = harness.log().append(&mut tx, events).await.expect("append");
    assert_eq!(receipt.events(), events.len(), "the receipt counts the events appended");
    harness.commit(tx).await;
    receipt.committed();
}

pub(super) fn consumer(name: &str) -> ConsumerName {
    ConsumerName::parse(name).expect("a consumer's name")
}

/// Registers a consumer that has no member yet and returns where it begins.
pub(super) async fn register<L: EventLog>(log: &L, name: &str, start: StartAt) -> (ConsumerName, Cursor) {
    let consumer = consumer(name);
    log.register(&consumer, start).await.expect("register");
    let cursor = place(log, &consumer).await;
    (consumer, cursor)
}

/// The place before the first event.
pub(super) async fn beginning<L: EventLog>(log: &L) -> Cursor {
    register(log, "suite-beginning", StartAt::Beginning).await.1
}

/// Where all lanes of a consumer stand together.
pub(super) async fn place<L: EventLog>(log: &L, consumer: &ConsumerName) -> Cursor {
    let tracks = log.progress(consumer).await.expect("progress").tracks;
    let places = by_lane(&tracks);
    assert_eq!(places.keys().copied().collect::<LaneSet>(), all_lanes(log).await, "progress tells of every lane");
    assert_eq!(tracks.len(), 1, "all lanes stand at one place: {tracks:?}");
    tracks.into_iter().next().expect("one track").cursor
}

/// Where each lane of a consumer stands.
pub(super) async fn places<L: EventLog>(log: &L, consumer: &ConsumerName) -> BTreeMap<Lane, Cursor> {
    let tracks = log.progress(consumer).await.expect("progress").tracks;
    let places = by_lane(&tracks);
    assert_eq!(places.keys().copied().collect::<LaneSet>(), all_lanes(log).await, "progress tells of every lane");
    places
}

/// The place of each lane. Fails when a lane is in two tracks, or a cursor in two.
pub(super) fn by_lane(tracks: &[Track]) -> BTreeMap<Lane, Cursor> {
    let mut places = BTreeMap::new();
    for (n, track) in tracks.iter().enumerate() {
        assert!(!track.lanes.is_empty(), "a track without lanes: {tracks:?}");
        assert!(tracks[..n].iter().all(|t| t.cursor != track.cursor), "two tracks at one place: {tracks:?}");
        for lane in track.lanes.iter() {
            assert_eq!(places.insert(lane, track.cursor.clone()), None, "lane {lane} is in two tracks: {tracks:?}");
        }
    }
    places
}

pub(super) async fn all_lanes<L: EventLog>(log: &L) -> LaneSet {
    LaneSet::all(log.identity().await.expect("identity").lanes)
}

/// These lanes at one place.
pub(super) fn at(cursor: &Cursor, lanes: LaneSet) -> [Track; 1] {
    [Track { cursor: cursor.clone(), lanes }]
}

/// All lanes at one place.
pub(super) async fn whole<L: EventLog>(log: &L, cursor: &Cursor) -> [Track; 1] {
    at(cursor, all_lanes(log).await)
}

/// One page of one track.
pub(super) async fn read_page<L: EventLog>(log: &L, cursor: &Cursor, lanes: LaneSet, limit: usize) -> Page {
    let mut pages = log.read(&at(cursor, lanes), limit).await.expect("read");
    assert_eq!(pages.len(), 1, "a page for each track");
    let page = pages.remove(0);
    assert!(page.events.len() <= limit, "{} events in a page of {limit}", page.events.len());
    page
}

/// Reads pages of up to `limit` until the log says that there is no more.
pub(super) async fn read_pages<L: EventLog>(
    log: &L,
    from: &Cursor,
    lanes: LaneSet,
    limit: usize,
) -> (Vec<RecordedEvent>, Cursor) {
    const MANY: usize = 10_000;
    let (mut events, mut cursor) = (Vec::new(), from.clone());
    for _ in 0..MANY {
        let page = read_page(log, &cursor, lanes, limit).await;
        events.extend(page.events);
        cursor = page.next;
        if page.caught_up {
            return (events, cursor);
        }
    }
    panic!("not caught up after {MANY} pages");
}

/// Everything of all lanes behind a cursor.
pub(super) async fn read_on<L: EventLog>(log: &L, from: &Cursor) -> (Vec<RecordedEvent>, Cursor) {
    read_pages(log, from, all_lanes(log).await, 100).await
}

/// Everything that these tracks still have to read, in the order of the tracks.
pub(super) async fn read_tracks<L: EventLog>(log: &L, tracks: &[Track]) -> Vec<RecordedEvent> {
    let mut events = Vec::new();
    for track in tracks {
        events.extend(read_pages(log, &track.cursor, track.lanes, 100).await.0);
    }
    events
}

/// Reads these tracks until one call brings them all to the end, and returns the place where they meet.
pub(super) async fn meet_at_the_end<L: EventLog>(log: &L, tracks: &[Track]) -> Cursor {
    let mut tracks = tracks.to_vec();
    for _ in 0..100 {
        let pages = log.read(&tracks, 1_000).await.expect("read");
        if pages.iter().all(|page| page.caught_up) {
            let meets = pages.iter().all(|page| page.next == pages[0].next);
            assert!(meets, "tracks that reach the end in one call stand at one place: {pages:?}");
            return pages[0].next.clone();
        }
        for (track, page) in tracks.iter_mut().zip(pages) {
            track.cursor = page.next;
        }
    }
    panic!("not caught up after 100 calls: {tracks:?}");
}

/// Everything in the log.
pub(super) async fn read_all<L: EventLog>(log: &L) -> Vec<RecordedEvent> {
    read_on(log, &beginning(log).await).await.0
}

/// A new member that asks for a share.
pub(super) async fn join<L: EventLog>(log: &L, consumer: &ConsumerName) -> Assignment {
    join_as(log, consumer, Claim::Share).await
}

/// A new member.
pub(super) async fn join_as<L: EventLog>(log: &L, consumer: &ConsumerName, claim: Claim) -> Assignment {
    let assignment = log.join(consumer, MemberId::random(), claim, LONG).await.expect("join");
    by_lane(&assignment.tracks);
    assignment
}

/// A new member that owns every lane, all at one place.
pub(super) async fn join_alone<L: EventLog>(log: &L, consumer: &ConsumerName) -> (Assignment, Cursor) {
    let assignment = join(log, consumer).await;
    assert_eq!(assignment.lanes(), all_lanes(log).await, "a lone member owns every lane");
    assert_eq!(assignment.tracks.len(), 1, "all lanes stand at one place: {:?}", assignment.tracks);
    let cursor = assignment.tracks[0].cursor.clone();
    (assignment, cursor)
}

/// Two members that own half the lanes each, all at one place.
pub(super) async fn join_two<L: EventLog>(log: &L, consumer: &ConsumerName) -> (Assignment, Assignment) {
    let (mut first, cursor) = join_alone(log, consumer).await;
    let mut second = join(log, consumer).await;
    let renewal = log.renew(&first.fence, LONG).await.expect("renew");
    let given: LaneSet = first.lanes().iter().take(renewal.surplus as usize).collect();
    log.release(&first.fence, &at(&cursor, given)).await.expect("release");
    first.tracks = at(&cursor, first.lanes().difference(given)).into();
    second.tracks = log.renew(&second.fence, LONG).await.expect("renew").gained;
    assert_eq!(second.lanes(), given, "the second member gets what the first gave back");
    (first, second)
}

/// Ends a lease without ending the membership.
pub(super) async fn expire<L: LogAdmin>(log: &L, fence: &Fence) {
    log.renew(fence, Duration::ZERO).await.expect("renew");
    lease_over(log, fence).await;
}

/// Waits for the end of a lease of no time.
pub(super) async fn lease_over<L: LogAdmin>(log: &L, fence: &Fence) {
    let over = async {
        // It ends by the database's clock, which gives no signal.
        while info(log, &fence.consumer).await.members.iter().any(|m| m.epoch == fence.epoch && m.live) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the end of a lease of no time", over).await;
}

/// All that writes of members can change of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Picture {
    info: ConsumerInfo,
    places: BTreeMap<Lane, Cursor>,
    parked: Vec<ParkedEvent>,
}

pub(super) async fn picture<L: LogAdmin>(log: &L, consumer: &ConsumerName) -> Picture {
    Picture {
        info: info(log, consumer).await,
        places: places(log, consumer).await,
        parked: log.parked(consumer, None, 10_000).await.expect("parked"),
    }
}

/// What operators see of a consumer.
pub(super) async fn info<L: LogAdmin>(log: &L, consumer: &ConsumerName) -> ConsumerInfo {
    let consumers = log.consumers().await.expect("consumers");
    consumers.into_iter().find(|info| info.name == *consumer).expect("a registered consumer is listed")
}

/// A fence of the same consumer that was never given out.
pub(super) fn forged(fence: &Fence) -> Fence {
    Fence { member: MemberId::random(), ..fence.clone() }
}

pub(super) fn assert_fenced<T: Debug>(result: Result<T, LogError>, what: &str) {
    match result {
        Err(error) => assert_eq!(error.kind(), LogErrorKind::Fenced, "{what}: {error}"),
        Ok(done) => panic!("{what} succeeded though it is fenced: {done:?}"),
    }
}

pub(super) fn ids(events: &[RecordedEvent]) -> Vec<Uuid> {
    events.iter().map(|recorded| recorded.event.id).collect()
}

pub(super) fn new_ids(events: &[NewEvent]) -> Vec<Uuid> {
    events.iter().map(|new| new.event().id).collect()
}

pub(super) fn sorted(mut ids: Vec<Uuid>) -> Vec<Uuid> {
    ids.sort_unstable();
    ids
}

/// The events of one key, in the order given.
pub(super) fn of_key<'e>(events: &'e [RecordedEvent], lane_key: &'e str) -> impl Iterator<Item = &'e RecordedEvent> {
    events.iter().filter(move |recorded| recorded.event.lane_key() == lane_key)
}

/// One failing event, not to be tried again by itself.
pub(super) fn fails(recorded: &RecordedEvent) -> Park {
    fails_for(recorded, "refused", 1, None)
}

/// A failing event, for this reason, after so many attempts, to be tried again by itself or not.
pub(super) fn fails_for(recorded: &RecordedEvent, reason: &str, attempts: u32, retry_in: Option<Duration>) -> Park {
    let failure = ParkFailure { reason: reason.to_owned(), attempts, retry_in };
    Park { failure: Some(failure), ..behind(recorded) }
}

/// An event that is to wait behind one that failed.
pub(super) fn behind(recorded: &RecordedEvent) -> Park {
    Park { sequence: recorded.origin.sequence, lane: recorded.lane, failure: None }
}

/// A parked event that was published.
pub(super) fn republished(recorded: &RecordedEvent) -> Republished {
    let lane_key = recorded.event.lane_key().into_owned();
    Republished { sequence: recorded.origin.sequence, lane: recorded.lane, lane_key }
}

/// So many names of aggregates whose events are in one of these lanes.
pub(super) async fn names_in<L: EventLog>(log: &L, lanes: LaneSet, count: usize) -> Vec<String> {
    let of_log = log.identity().await.expect("identity").lanes;
    let names = (0..100_000).map(|n| format!("name-{n}"));
    let chosen = names.filter(|name| lanes.contains(of_log.lane_of(&format!("{SUITE_TYPE}/{name}"))));
    let chosen: Vec<String> = chosen.take(count).collect();
    assert_eq!(chosen.len(), count, "names for lanes {lanes:?}");
    chosen
}

/// What was read, in the order in which it was written.
pub(super) fn in_order_of(written: &[NewEvent], read: &[RecordedEvent]) -> Vec<RecordedEvent> {
    assert_eq!(sorted(ids(read)), sorted(new_ids(written)), "everything is read");
    let find = |new: &NewEvent| read.iter().find(|r| r.event.id == new.event().id).cloned();
    written.iter().filter_map(find).collect()
}
