//! Composes the program and runs it from its first line of output to its last.

use std::{
    future::IntoFuture,
    io::{Write, stdout},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use axum::{Router, extract::FromRef};
use tokio::{net::TcpListener, time::sleep};

use crate::{
    config::Config,
    db::Db,
    demo,
    http::{AdminToken, with_layers},
    pipeline::{Journeys, Live, Stop, StopSender},
    search::{self, SearchIndex},
    shape::{self, Kept, Parts},
    signals::Signals,
    tutors::{self, TutorStore},
    web,
};

/// What handlers ask for.
#[derive(Clone, FromRef)]
struct AppState {
    tutors: TutorStore,
    token: AdminToken,
    public_url: PublicUrl,
    index: Arc<dyn SearchIndex>,
    db: Arc<Db>,
    live: Live,
    stop: Stop,
}

/// How clients reach this server; without a slash at its end.
#[derive(Clone)]
pub(crate) struct PublicUrl(Arc<str>);

impl PublicUrl {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

/// Runs until a signal, or fails at once when something needed is not there.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    let mut signals = Signals::listen().context("signals cannot be listened to")?;
    let listener = TcpListener::bind(&config.listen)
        .await
        .with_context(|| format!("cannot listen on {}; choose another address with --listen", config.listen))?;
    let address = listener.local_addr()?;
    let journeys = Journeys::default();
    let Parts { name, db, index, stages, mut workers, token, data } = tokio::select! {
        parts = shape::start(&config, &journeys) => parts?,
        () = signals.next() => return Ok(()),
    };
    let tutors = TutorStore::new(db.clone(), journeys.clone());
    let is_new = data.as_ref().is_some_and(|kept| kept.is_new);
    let loaded = demo::load_if_wanted(&tutors, config.demo, is_new && address.ip().is_loopback()).await?;

    let live = Live::new(stages, journeys);
    workers.spawn("view of the pipeline", {
        let live = live.clone();
        move |stop| {
            let live = live.clone();
            async move {
                live.run(stop).await;
                anyhow::Ok(())
            }
        }
    });
    let url = config.public_url.clone().unwrap_or_else(|| format!("http://{address}"));
    let public_url = PublicUrl(url.trim_end_matches('/').into());
    let (closing, stop) = Stop::pair();
    announce(&Announcement { shape: name, address, loaded, token: &token, data: data.as_ref() });
    let router = router(AppState { tutors, token, public_url, index, db: db.clone(), live, stop: stop.clone() });

    let orderly = async {
        let (mut requests, mut work) = (stop.clone(), stop);
        let serve = axum::serve(listener, router).with_graceful_shutdown(async move { requests.stopped().await });
        // Side by side: a request that takes its time must not take the pipeline's, which has to record how far it is.
        // What such a request still writes is found at the next start.
        let finish = async {
            work.stopped().await;
            workers.stop().await;
        };
        let (served, ()) = tokio::join!(serve.into_future(), finish);
        served?;
        db.close().await;
        anyhow::Ok(())
    };
    let limit = Duration::from_secs(config.shutdown_seconds);
    tokio::select! {
        ended = orderly => ended,
        () = told_to_stop(&mut signals, closing, limit) => Ok(()),
    }
}

/// Passes the first signal on, and returns when the time is up or a second signal comes.
async fn told_to_stop(signals: &mut Signals, closing: StopSender, limit: Duration) {
    signals.next().await;
    tracing::info!("stopping; once more to stop at once");
    closing.stop();
    tokio::select! {
        () = sleep(limit) => {
            tracing::warn!("not everything was finished within {} s; it is at the next start", limit.as_secs());
        }
        () = signals.next() => {
            // As a shell reports a program that Ctrl-C ended. Whatever is committed stays; the rest comes again.
            std::process::exit(130);
        }
    }
}

fn router(state: AppState) -> Router {
    let routes = Router::new().merge(tutors::routes()).merge(search::routes()).merge(web::routes());
    with_layers(routes.with_state(state))
}

struct Announcement<'a> {
    shape: &'static str,
    address: SocketAddr,
    loaded: demo::Loaded,
    token: &'a AdminToken,
    data: Option<&'a Kept>,
}

/// The one block a person reads at the start. The line `listening on …` is for programs too.
fn announce(what: &Announcement<'_>) {
    let Announcement { shape, address, loaded, token, data } = what;
    let demo = match loaded {
        demo::Loaded::Tutors(count) => format!(" {count} demo tutors were loaded."),
        demo::Loaded::Nothing => String::new(),
    };
    let (kept, shown) = match data {
        Some(Kept { directory, token_file, .. }) => {
            let kept = format!("  data         {}\n  admin token  {}\n", directory.display(), token_file.display());
            (kept, token.reveal())
        }
        None => ("  admin token  as configured\n".to_owned(), "$MARKETPLACE_ADMIN_TOKEN"),
    };
    let block = format!(
        "Tutors marketplace, {shape}.{demo}\n\
         listening on http://{address}\n\
         {kept}\
         \n\
         Search:\n  curl 'http://{address}/tutors/search?q=algebra'\n\
         Add a tutor, then search again:\n  curl http://{address}/api/admin/tutors/ -H 'Content-Type: application/json' \\\n    \
         -H \"Authorization: Bearer {shown}\" \\\n    \
         -d '{{\"full_name\":\"Ada Lovelace\",\"headline\":\"Algebra and engines\",\"hourly_rate\":\"1800\"}}'\n\
         Watch: http://{address}/    Stop: Ctrl-C\n"
    );
    // Nobody may be reading; that is no reason to end.
    let _unread = stdout().lock().write_all(block.as_bytes()).and_then(|()| stdout().flush());
}
