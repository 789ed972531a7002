//! A SQLite file, a search index in a directory, and nothing between them but the log.

use std::sync::Arc;

use anyhow::Context;
use outbox_core::{
    log::{ConsumerName, LogAdmin, LogError},
    log_source::LogSource,
    profile::RawPayload,
};
use outbox_projector::Projector;

use super::{Kept, OpenIndex, Parts};
use crate::{
    config::Config,
    data_dir::DataDir,
    db::{Db, SqliteDb},
    pipeline::{IndexStage, Journeys, ObservedProjection, Stage, Stages, Workers},
    search::{self, SearchDeadLetters, tantivy::TantivyIndex},
    secrets,
};

pub(super) async fn start(config: &Config, journeys: &Journeys) -> anyhow::Result<Parts> {
    let directory = DataDir::open(&config.data_dir)?;
    let token_file = directory.file("admin-token");
    let token = match &config.admin_token {
        Some(token) => secrets::configured(token)?,
        None => secrets::kept(&token_file)?,
    };
    let db = Arc::new(Db::Sqlite(SqliteDb::open(&directory.file(DATABASE)).await?));
    let log = db.log();
    let identity = log.identity().await.context("the log cannot be read")?;
    let index = TantivyIndex::open(&directory.file(INDEX), identity.id).context("the search index cannot be opened")?;
    let consumer = index.consumer()?;
    forget_earlier_indexes(log.as_ref(), &consumer).await.context("the log cannot be looked after")?;
    let letters = Arc::new(SearchDeadLetters::of(db.clone()));
    // A new index reads the events of the letters again.
    letters.forget_others(consumer.as_str()).await.context("the dead letters cannot be looked after")?;
    letters.warn().await.context("the dead letters cannot be looked after")?;

    let stage = IndexStage::default();
    let mut workers = Workers::default();
    let drain = config.drain();
    workers.spawn("projection into the search index", {
        let (log, consumer, stage) = (log.clone(), consumer.clone(), stage.clone());
        let projection =
            Arc::new(ObservedProjection { inner: Arc::new(index.projection()), journeys: journeys.clone() });
        move |mut stop| {
            let source = LogSource::builder(log.clone()).consumer(consumer.clone()).build();
            let projector = Projector::builder(source, projection.clone()).dead_letters(letters.clone());
            let projector = projector.grace(drain).build();
            stage.follow(projector.status());
            async move { projector.run(stop.stopped()).await }
        }
    });
    let data = Kept {
        directory: directory.path().to_owned(),
        token_file,
        is_new: directory.was_empty(),
        _directory: directory,
    };
    let behind = vec![Stage::Index(stage)];
    let stages = Stages { log, consumer, behind };
    Ok(Parts { name: "embedded", db, index: Arc::new(index), stages, workers, token, data: Some(data) })
}

pub(super) async fn open_database(config: &Config) -> anyhow::Result<Arc<Db>> {
    let file = config.data_dir.join(DATABASE);
    anyhow::ensure!(file.is_file(), "{} holds no marketplace; name another --data-dir", config.data_dir.display());
    Ok(Arc::new(Db::Sqlite(SqliteDb::open_as_it_is(&file).await?).fits().await?))
}

/// Nobody else writes into the index meanwhile.
pub(super) async fn open_index(config: &Config) -> anyhow::Result<OpenIndex> {
    let db = open_database(config).await?;
    let directory = DataDir::open(&config.data_dir)?;
    let identity = db.log().identity().await.context("the log cannot be read")?;
    let index = TantivyIndex::open_fitting(&directory.file(INDEX), identity.id).with_context(|| {
        let index = directory.file(INDEX);
        format!("the search index {} is not in use: start the marketplace once, its events come again", index.display())
    })?;
    let projection = Box::new(index.projection());
    Ok(OpenIndex { db, projection, decoder: Arc::new(RawPayload), _directory: Some(directory) })
}

/// The file of the data directory.
const DATABASE: &str = "marketplace.db";

/// The directory in the data directory.
const INDEX: &str = "search";

/// An index that was begun anew reads as a new consumer, from the log's first event: that is why nothing is removed from
/// the log here. The one before it reads no more; without it the list of consumers is true, and retention could be
/// turned on.
async fn forget_earlier_indexes(log: &dyn LogAdmin, current: &ConsumerName) -> Result<(), LogError> {
    for known in log.consumers().await? {
        let of_an_index = known.name.as_str().strip_prefix(search::CONSUMER).is_some_and(|rest| rest.starts_with('.'));
        if of_an_index && known.name != *current {
            tracing::info!(consumer = %known.name, "forgetting the consumer of an earlier search index");
            log.drop_consumer(&known.name).await?;
        }
    }
    Ok(())
}
