//! Members that are slow, silent or many.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use outbox_core::{
    event::LaneSet,
    log::{Claim, EventLog as _, LogError, LogErrorKind, MemberId, Track, lanes_of},
};
use outbox_sqlx::PostgresLog;
use sqlx::{
    AssertSqlSafe, PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::support::{Bed, LEASE, blocks_touched, consumer, expired_member, join, moved, on_postgres, only, read};

on_postgres! {
    /// A process that is stopped at any moment, in the middle of whatever it was writing, keeps nobody from expelling it.
    async fn a_stopped_member_keeps_nobody_waiting(bed: &Bed) {
        let options: PgConnectOptions = bed.database.url().parse().expect("url");
        for n in 0..25 {
            let line = Line::to(&options).await;
            let through = options.clone().host("127.0.0.1").port(line.port);
            let pool = PgPoolOptions::new().max_connections(3).connect_with(through).await.expect("connect");
            let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
            let name = consumer(&bed.log, &format!("relay-{n}")).await;
            let member = expired_member(&log, &name).await;
            let (fence, tracks) = (member.fence.clone(), member.tracks.clone());
            let busy = tokio::spawn(async move {
                let again = async || -> Result<(), LogError> {
                    log.checkpoint(&fence, &tracks).await?;
                    log.release(&fence, &tracks).await?;
                    let gained = log.renew(&fence, Duration::ZERO).await?.gained;
                    assert_eq!(gained, tracks);
                    Ok(())
                };
                loop {
                    // The server gives up a session that is silent while it takes lanes.
                    if let Err(error) = again().await.or_else(|error| if error.kind().passes() { Ok(()) } else { Err(error) }) {
                        return error;
                    }
                }
            });
            // A different moment each time; any is right.
            tokio::time::sleep(Duration::from_micros(n * 400)).await;
            line.freeze();
            let began = Instant::now();
            // The server may still have a statement of its to finish, which needs nobody.
            let owner = tokio::time::timeout(Duration::from_secs(20), join(&bed.log, &name)).await;
            let owner = owner.unwrap_or_else(|_| panic!("a stopped member blocks others, {:?}", began.elapsed()));
            // It may have renewed at the very last moment, for no time at all.
            let gained = bed.log.renew(&owner.fence, LEASE).await.expect("renew").gained;
            assert_eq!(owner.lanes().len() + lanes_of(&gained).len(), 64);
            line.thaw();
            let ended = busy.await.expect("it goes on until it is fenced");
            assert_eq!(ended.kind(), LogErrorKind::Fenced, "{ended:?}");
            assert_eq!(only(&bed.log.progress(&name).await.expect("progress").tracks), only(&member.tracks));
            pool.close().await;
        }
    }

    /// Three members come and go; at every moment each lane has at most one owner, and in the end all have one.
    async fn lanes_are_handed_on_and_never_shared(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let mut members = tokio::task::JoinSet::new();
        for _ in 0..3 {
            let (log, name) = (bed.log.clone(), name.clone());
            members.spawn(async move {
                for _ in 0..15 {
                    let mut member = log.join(&name, MemberId::random(), Claim::Share, LEASE).await.expect("join");
                    for _ in 0..3 {
                        let renewal = log.renew(&member.fence, LEASE).await.expect("renew");
                        member.tracks.extend(renewal.gained);
                        if renewal.surplus > 0 && !member.tracks.is_empty() {
                            let given = member.tracks.remove(0);
                            log.release(&member.fence, &[given]).await.expect("release");
                        }
                        log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
                    }
                    log.leave(&member.fence).await.expect("leave");
                }
            });
        }
        while !members.is_empty() {
            let shared: i64 = sqlx::query_scalar(
                "SELECT count(*) FROM outbox.outbox_member AS a JOIN outbox.outbox_member AS b
                ON a.consumer = b.consumer AND a.epoch < b.epoch AND a.lanes & b.lanes <> 0",
            )
            .fetch_one(&bed.pool)
            .await
            .expect("members");
            assert_eq!(shared, 0, "a lane has two owners");
            members.try_join_next().transpose().expect("a member");
        }
        assert_eq!(join(&bed.log, &name).await.lanes().len(), 64, "no lane is lost");
        assert_eq!(bed.log.progress(&name).await.expect("progress").tracks.len(), 1);
    }

    /// The history is kept, but not for ever, and the only place of a silent member stays however much others write.
    async fn checkpoints_do_not_pile_up(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let busy = join(&bed.log, &name).await;
        let silent = join(&bed.log, &name).await;
        let given = Track { lanes: LaneSet::from_mask(0xFF), ..only(&busy.tracks) };
        bed.log.release(&busy.fence, &[given]).await.expect("release");
        let gained = bed.log.renew(&silent.fence, LEASE).await.expect("renew").gained;
        assert_eq!(lanes_of(&gained).mask(), 0xFF);
        let rest = only(&bed.log.progress(&name).await.expect("progress").tracks);
        let rest = Track { lanes: LaneSet::from_mask(!0xFF), ..rest };

        fill_history(&bed.pool, &name, busy.fence.epoch, 10_000).await;
        for _ in 0..150 {
            bed.log.checkpoint(&busy.fence, std::slice::from_ref(&rest)).await.expect("checkpoint");
        }
        let kept = checkpoints_of(bed, busy.fence.epoch).await;
        assert_eq!(kept, 10_000, "the newest ones");
        assert_eq!(checkpoints_of(bed, silent.fence.epoch).await, 1);
        bed.log.leave(&silent.fence).await.expect("leave");
        bed.log.leave(&busy.fence).await.expect("leave");
        let last = join(&bed.log, &name).await;
        assert_eq!(last.lanes().len(), 64);
        let all: i64 =
            sqlx::query_scalar("SELECT count(*) FROM outbox.outbox_checkpoint").fetch_one(&bed.pool).await.expect("count");
        assert!((10_000..=10_001).contains(&all), "{all} checkpoints after the members left");
    }

    /// Under a transaction that holds back vacuum all the time, the last of many checkpoints touches as few blocks as the
    /// first one. A renewal leaves an old version of one small row behind, which the next ones have to pass.
    async fn checkpoints_stay_cheap_while_vacuum_is_held_back(bed: &Bed) {
        const ROUNDS: usize = 6;
        const TABLES: [&str; 2] = ["outbox_checkpoint", "outbox_member"];
        let pool = bed.database.connect(1).await;
        let log = PostgresLog::builder(pool.clone()).open().await.expect("open");
        let name = consumer(&bed.log, "relay").await;
        let member = join(&log, &name).await;
        for table in TABLES {
            // Its reads would be counted with those that are looked at.
            let sql = format!("ALTER TABLE outbox.{table} SET (autovacuum_enabled = off)");
            sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.expect("alter");
        }
        fill_history(&pool, &name, member.fence.epoch, 10_000).await;
        let mut held = bed.begin().await;
        sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").execute(&mut *held).await.expect("set");
        sqlx::query("SELECT 1").execute(&mut *held).await.expect("a snapshot");
        let (mut checkpoints, mut renewals) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let before = blocks_touched(&pool, &TABLES).await;
            for _ in 0..300 {
                log.checkpoint(&member.fence, &member.tracks).await.expect("checkpoint");
            }
            checkpoints.push((blocks_touched(&pool, &TABLES).await - before) / 300);
        }
        for _ in 0..ROUNDS {
            let before = blocks_touched(&pool, &TABLES).await;
            for _ in 0..300 {
                log.renew(&member.fence, LEASE).await.expect("renew");
            }
            renewals.push((blocks_touched(&pool, &TABLES).await - before) / 300);
        }
        println!("blocks of a checkpoint, every 300: {checkpoints:?}; of a renewal: {renewals:?}");
        held.commit().await.expect("commit");
        let (first, last) = (checkpoints[0], checkpoints[ROUNDS - 1]);
        assert!(last <= first + 3, "a checkpoint touched {first} blocks at first and {last} in the end");
        let (first, last) = (renewals[0], renewals[ROUNDS - 1]);
        assert!(last <= first + 100, "a renewal touched {first} blocks at first and {last} in the end");
        pool.close().await;
    }

    async fn a_lease_may_be_as_long_as_a_duration(bed: &Bed) {
        let name = consumer(&bed.log, "relay").await;
        let member = bed.log.join(&name, MemberId::random(), Claim::All, Duration::MAX).await.expect("join");
        bed.log.renew(&member.fence, Duration::MAX).await.expect("renew");
    }

    /// A member that joins again after losing its answer gets its lanes back, where it left them.
    async fn joining_again_begins_anew_at_the_last_checkpoint(bed: &Bed) {
        bed.bump_and_commit(1).await;
        let name = consumer(&bed.log, "relay").await;
        let id = MemberId::random();
        let first = bed.log.join(&name, id, Claim::Share, LEASE).await.expect("join");
        let page = read(&bed.log, &only(&first.tracks), 10).await;
        let there = moved(&only(&first.tracks), &page.next);
        bed.log.checkpoint(&first.fence, &there).await.expect("checkpoint");
        let second = bed.log.join(&name, id, Claim::Share, LEASE).await.expect("join");
        assert_eq!(second.tracks, there);
        assert_eq!(bed.log.renew(&first.fence, LEASE).await.expect_err("of before").kind(), LogErrorKind::Fenced);
    }
}

/// A history as long as it gets, of checkpoints like the newest one.
async fn fill_history(pool: &PgPool, name: &outbox_core::log::ConsumerName, epoch: u64, rows: i64) {
    let sql = format!(
        "INSERT INTO outbox.outbox_checkpoint (consumer, member, epoch, nth, lanes, cursor, behind, position)
        SELECT c.consumer, c.member, c.epoch, c.nth + n, c.lanes, c.cursor, c.behind, c.position
        FROM (SELECT * FROM outbox.outbox_checkpoint WHERE consumer = $1 AND epoch = {epoch} ORDER BY nth DESC LIMIT 1) AS c
        CROSS JOIN generate_series(1, {rows} - c.nth) AS n"
    );
    sqlx::query(AssertSqlSafe(sql)).bind(name.as_str()).execute(pool).await.expect("history");
}

async fn checkpoints_of(bed: &Bed, epoch: u64) -> i64 {
    let sql = "SELECT count(*) FROM outbox.outbox_checkpoint WHERE epoch = $1";
    sqlx::query_scalar(sql).bind(epoch as i64).fetch_one(&bed.pool).await.expect("count")
}

/// A network line that can be held still, as if the process at its near end were stopped: no byte is lost, none arrives.
struct Line {
    port: u16,
    moving: Arc<watch::Sender<bool>>,
}

impl Line {
    async fn to(server: &PgConnectOptions) -> Self {
        let target: SocketAddr = format!("{}:{}", server.get_host(), server.get_port()).parse().expect("an address");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listen");
        let port = listener.local_addr().expect("address").port();
        let (moving, still) = watch::channel(true);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.expect("connect");
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                tokio::spawn(pass(near_in, far_out, still.clone()));
                tokio::spawn(pass(far_in, near_out, still.clone()));
            }
        });
        Self { port, moving: Arc::new(moving) }
    }

    fn freeze(&self) {
        self.moving.send_replace(false);
    }

    fn thaw(&self) {
        self.moving.send_replace(true);
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    mut moving: watch::Receiver<bool>,
) {
    let mut bytes = vec![0; 16 * 1024];
    while let Ok(n @ 1..) = from.read(&mut bytes).await {
        if moving.wait_for(|moving| *moving).await.is_err() || to.write_all(&bytes[..n]).await.is_err() {
            return;
        }
    }
}
