//! What is promised of lanes that stand at different places.

use super::{
    LogHarness,
    steps::{
        LONG, all_lanes, at, by_lane, expire, ids, join, join_alone, join_two, meet_at_the_end, names_in, new_ids,
        places, read_on, read_tracks, register, sorted, write,
    },
};
use crate::{
    event::{LaneSet, NewEvent},
    log::{ConsumerName, Cursor, EventLog, StartAt, Track},
    testing::event::numbered,
};

/// Several tracks are read in one call: a page for each, in the order of the tracks, with the events of its lanes behind
/// its own cursor.
pub async fn each_track_is_read_from_its_own_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness).await;
    let [start, middle, end] = &scene.places;
    let [one, two, three] = scene.lanes;
    let tracks = [
        Track { cursor: middle.clone(), lanes: two },
        Track { cursor: end.clone(), lanes: three },
        Track { cursor: start.clone(), lanes: one },
    ];
    let expected = [scene.events(1, 1..2), Vec::new(), scene.events(0, 0..2)].map(|events| sorted(new_ids(&events)));
    let mut seen: [Vec<_>; 3] = Default::default();
    let mut rest = tracks.to_vec();
    // Small pages: each track goes on at its own pace.
    for _ in 0..100 {
        let pages = log.read(&rest, 3).await.expect("read");
        assert_eq!(pages.len(), tracks.len(), "a page for each track");
        for ((page, track), seen) in pages.iter().zip(&mut rest).zip(&mut seen) {
            assert!(page.events.len() <= 3, "{} events in a page of 3", page.events.len());
            assert!(page.events.iter().all(|r| track.lanes.contains(r.lane)), "only the lanes of the track");
            seen.extend(ids(&page.events));
            track.cursor = page.next.clone();
        }
        if pages.iter().all(|page| page.caught_up) {
            assert_eq!(seen.map(sorted), expected, "the events of each track behind its cursor");
            return;
        }
    }
    panic!("not caught up after 100 calls");
}

/// Tracks that reach the end of the log in one call get the same cursor, wherever they came from.
pub async fn tracks_that_reach_the_end_together_meet<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness).await;
    let tracks: Vec<Track> = scene.tracks();
    let together = at(&meet_at_the_end(log, &tracks).await, all_lanes(log).await);
    let later = numbered("later", 1);
    write(harness, std::slice::from_ref(&later)).await;
    assert_eq!(ids(&read_tracks(log, &together).await), [later.event().id], "read as one from then on");
}

/// A checkpoint with lanes that lag behind is what the successor gets: each lane where it was, after leaving as after a
/// takeover.
pub async fn a_checkpoint_keeps_the_places_of_lagging_lanes<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness).await;
    let tracks = scene.tracks();
    let not_done = sorted(new_ids(&[scene.events(0, 0..2), scene.events(1, 1..2)].concat()));
    for leaves in [true, false] {
        let (member, _) = join_at_start(harness, &scene).await;
        log.checkpoint(&member.fence, &tracks).await.expect("checkpoint");
        assert_eq!(places(log, &scene.consumer).await, by_lane(&tracks), "progress tells of each lane");
        if leaves {
            log.leave(&member.fence).await.expect("leave");
        } else {
            expire(log, &member.fence).await;
        }
        let successor = join(log, &scene.consumer).await;
        assert_eq!(by_lane(&successor.tracks), by_lane(&tracks), "the successor's places, left: {leaves}");
        assert_eq!(sorted(ids(&read_tracks(log, &successor.tracks).await)), not_done);
        log.checkpoint(&successor.fence, &successor.tracks).await.expect("checkpoint");
        log.leave(&successor.fence).await.expect("leave");
    }
}

/// A later checkpoint, with other lanes lagging or none, replaces the earlier one as a whole.
pub async fn a_later_checkpoint_replaces_all_places<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness).await;
    let [start, middle, end] = &scene.places;
    let [one, two, three] = scene.lanes;
    let (member, _) = join_alone(log, &scene.consumer).await;
    for tracks in [
        scene.tracks(),
        vec![Track { cursor: middle.clone(), lanes: one.union(three) }, Track { cursor: end.clone(), lanes: two }],
        at(middle, all_lanes(log).await).into(),
        vec![Track { cursor: end.clone(), lanes: one }, Track { cursor: middle.clone(), lanes: two.union(three) }],
        at(end, all_lanes(log).await).into(),
    ] {
        log.checkpoint(&member.fence, &tracks).await.expect("checkpoint");
        assert_eq!(places(log, &scene.consumer).await, by_lane(&tracks), "the places of the last checkpoint");
    }
    let progress = log.progress(&scene.consumer).await.expect("progress");
    assert!(progress.position > 0, "every lane has passed something: {progress:?}");
    let lagging = [Track { cursor: end.clone(), lanes: one.union(two) }, Track { cursor: start.clone(), lanes: three }];
    log.checkpoint(&member.fence, &lagging).await.expect("checkpoint");
    let progress = log.progress(&scene.consumer).await.expect("progress");
    assert_eq!(progress.position, 0, "one lane has passed nothing: {progress:?}");
}

/// Lanes of several former owners, at different places, are given each at its own place; those at one place as one track.
pub async fn lanes_of_several_owners_keep_their_places<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let events: Vec<NewEvent> = (0..8).map(|n| numbered(&format!("key-{n}"), n)).collect();
    write(harness, &events).await;
    let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
    let (_, end) = read_on(log, &start).await;
    let (first, second) = join_two(log, &consumer).await;
    log.checkpoint(&first.fence, &at(&end, first.lanes())).await.expect("checkpoint");
    let mut expected = by_lane(&at(&end, first.lanes()));
    expected.extend(by_lane(&at(&start, second.lanes())));
    assert_eq!(places(log, &consumer).await, expected, "the second member's lanes did not move");
    log.leave(&first.fence).await.expect("leave");
    expire(log, &second.fence).await;
    let (third, mut rest) = (join(log, &consumer).await, Vec::new());
    assert_eq!(by_lane(&third.tracks), expected, "each lane at the place of its owner");
    log.checkpoint(&third.fence, &at(&end, all_lanes(log).await)).await.expect("checkpoint");
    log.leave(&third.fence).await.expect("leave");
    rest.extend(join(log, &consumer).await.tracks);
    assert_eq!(rest, at(&end, all_lanes(log).await), "lanes at one place are one track");
}

/// A released lane is handed over at the place it was released at; the lanes kept stay where they were.
pub async fn a_released_lane_is_handed_over_at_its_place<H: LogHarness>(harness: &H) {
    let log = harness.log();
    let scene = Scene::write(harness).await;
    let [start, middle, end] = &scene.places;
    let (first, _) = join_alone(log, &scene.consumer).await;
    let second = join(log, &scene.consumer).await;
    let surplus = log.renew(&first.fence, LONG).await.expect("renew").surplus as usize;
    let lanes: Vec<_> = first.lanes().iter().collect();
    let (ahead, behind): (LaneSet, LaneSet) =
        (lanes[..1].iter().copied().collect(), lanes[1..surplus].iter().copied().collect());
    let given = [Track { cursor: end.clone(), lanes: ahead }, Track { cursor: middle.clone(), lanes: behind }];
    log.release(&first.fence, &given).await.expect("release");

    let gained = log.renew(&second.fence, LONG).await.expect("renew").gained;
    assert_eq!(by_lane(&gained), by_lane(&given), "at the places they were released at");
    let kept = first.lanes().difference(ahead).difference(behind);
    let mut expected = by_lane(&gained);
    expected.extend(by_lane(&at(start, kept)));
    assert_eq!(places(log, &scene.consumer).await, expected, "the lanes kept did not move");
    log.checkpoint(&first.fence, &at(end, kept)).await.expect("a checkpoint of the lanes kept");
    log.checkpoint(&second.fence, &gained).await.expect("a checkpoint of the lanes gained");
}

/// Three groups of lanes, two rounds of events in each, and the places before, between and behind the rounds.
struct Scene {
    consumer: ConsumerName,
    lanes: [LaneSet; 3],
    rounds: [Vec<[NewEvent; 3]>; 2],
    places: [Cursor; 3],
}

impl Scene {
    async fn write<H: LogHarness>(harness: &H) -> Self {
        let log = harness.log();
        let mut lanes = [LaneSet::EMPTY; 3];
        for (n, lane) in all_lanes(log).await.iter().enumerate() {
            lanes[n % 3] = lanes[n % 3].union(LaneSet::from_iter([lane]));
        }
        let [one, two, three] = lanes;
        let names = [names_in(log, one, 4).await, names_in(log, two, 4).await, names_in(log, three, 4).await];
        let round = |round: u64| -> Vec<[NewEvent; 3]> {
            (0..4).map(|n| [0, 1, 2].map(|group: usize| numbered(&names[group][n], round))).collect()
        };
        let rounds = [round(1), round(2)];
        let (consumer, start) = register(log, "suite", StartAt::Beginning).await;
        write(harness, &rounds[0].concat()).await;
        let (_, middle) = read_on(log, &start).await;
        write(harness, &rounds[1].concat()).await;
        let (_, end) = read_on(log, &middle).await;
        Self { consumer, lanes, rounds, places: [start, middle, end] }
    }

    /// The first group of lanes at the start, the second between the rounds, the third at the end.
    fn tracks(&self) -> Vec<Track> {
        let tracks = self.places.iter().zip(self.lanes);
        tracks.map(|(cursor, lanes)| Track { cursor: cursor.clone(), lanes }).collect()
    }

    fn events(&self, group: usize, rounds: std::ops::Range<usize>) -> Vec<NewEvent> {
        self.rounds[rounds].iter().flatten().map(|events| events[group].clone()).collect()
    }
}

/// A lone member, whose lanes are all put back to the start.
async fn join_at_start<H: LogHarness>(harness: &H, scene: &Scene) -> (crate::log::Assignment, Cursor) {
    let log = harness.log();
    let member = join(log, &scene.consumer).await;
    let start = &scene.places[0];
    log.checkpoint(&member.fence, &at(start, all_lanes(log).await)).await.expect("checkpoint");
    (member, start.clone())
}
