//! Transactions that append events, as many at a time as it takes.

use std::sync::Arc;

use outbox_core::{event::NewEvent, outbox::Outbox as _};
use outbox_sqlx::PostgresLog;
use sqlx::PgPool;
use tokio::sync::{Mutex, mpsc};

use crate::{
    Bench, Load, Result, arrivals, log,
    stamps::{Stage, Stamps, id_of},
};

/// Sessions that write. A transaction that finds all of them busy waits, and that counts.
pub(crate) const WRITERS: usize = 24;

/// Writes all events of a load. `arrived` is told of the first event of each transaction when it arrives.
pub(crate) async fn write(
    bench: &Bench,
    load: Load,
    stamps: &Arc<Stamps>,
    mut arrived: impl FnMut(u64) + Send + 'static,
) -> Result<()> {
    let (due, inbox) = mpsc::unbounded_channel();
    let inbox = Arc::new(Mutex::new(inbox));
    let playing = {
        let stamps = stamps.clone();
        tokio::task::spawn_blocking(move || {
            arrivals::play(load, &stamps, |first| {
                arrived(first);
                let _writers_are_there = due.send(first);
            });
        })
    };
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let (pool, log) = (bench.pool.clone(), bench.log.clone());
            let (inbox, stamps) = (inbox.clone(), stamps.clone());
            tokio::spawn(async move {
                loop {
                    let next = inbox.lock().await.recv().await;
                    let Some(first) = next else { return Ok(()) };
                    if let Err(error) = commit(&pool, &log, &stamps, first..first + load.burst).await {
                        return Err(error.to_string());
                    }
                }
            })
        })
        .collect();
    playing.await?;
    for writer in writers {
        writer.await??;
    }
    Ok(())
}

async fn commit(pool: &PgPool, log: &PostgresLog, stamps: &Stamps, events: std::ops::Range<u64>) -> Result<()> {
    let new: Vec<NewEvent> =
        events.clone().map(|n| Ok(log::event(n * log::BURST)?.with_id(id_of(n)))).collect::<Result<_>>()?;
    let mut tx = pool.begin().await?;
    let receipt = log.append(&mut tx, &new).await?;
    tx.commit().await?;
    for event in events {
        stamps.stamp(event, Stage::Committed);
    }
    receipt.committed();
    Ok(())
}
