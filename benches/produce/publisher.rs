//! The publisher: a task a lane, which hands over batches while there is room, and one a batch, which takes the outcomes.

use std::time::Duration;

use outbox_core::{
    event::Lane,
    publisher::{Delivery, Message, Outcome, Publisher},
};
use outbox_kafka::KafkaPublisher;
use tokio::task::JoinSet;

use super::{Meter, Result, Run};

pub(crate) async fn run(servers: &str, lanes: Vec<Vec<Vec<Message>>>) -> Result<Run> {
    let mut builder = KafkaPublisher::builder(servers);
    if let Ok(linger) = std::env::var("OUTBOX_BENCH_LINGER") {
        builder = builder.setting("linger.ms", linger);
    }
    if let Ok(room) = std::env::var("OUTBOX_BENCH_ROOM") {
        builder = builder.in_flight(room.parse()?, 1 << 30);
    }
    let publisher = builder.build()?;
    publisher.ping(Duration::from_secs(10)).await?;
    let meter = Meter::start();
    let mut tasks = JoinSet::new();
    for (number, batches) in lanes.into_iter().enumerate() {
        let publisher = publisher.clone();
        tasks.spawn(async move { lane(&publisher, Lane::new(number as u8).ok_or("too many lanes")?, batches).await });
    }
    while let Some(done) = tasks.join_next().await {
        done??;
    }
    let run = meter.read();
    publisher.shut_down(Duration::from_secs(10)).await;
    Ok(run)
}

async fn lane(publisher: &KafkaPublisher, lane: Lane, batches: Vec<Vec<Message>>) -> Result<()> {
    let mut stream = publisher.open(lane).await?;
    let mut deliveries = JoinSet::new();
    for batch in batches {
        while let Some(done) = deliveries.try_join_next() {
            done??;
        }
        let bytes = batch.iter().map(Message::bytes).sum();
        let permit = stream.reserve(batch.len(), bytes).await?;
        deliveries.spawn(delivered(permit.send(batch)));
    }
    while let Some(done) = deliveries.join_next().await {
        done??;
    }
    Ok(())
}

async fn delivered(mut delivery: Box<dyn Delivery>) -> Result<()> {
    loop {
        let outcomes = delivery.next_runs().await;
        if outcomes.is_empty() {
            return Ok(());
        }
        for (_, outcome) in outcomes {
            match outcome {
                Outcome::Delivered => {}
                Outcome::Failed(error) => return Err(error.into()),
                Outcome::Aborted => return Err("aborted".into()),
            }
        }
    }
}
