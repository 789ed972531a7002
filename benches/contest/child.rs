//! The process of one contestant.

use std::str::FromStr as _;

use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use tokio::runtime::{Builder, Runtime};

use super::{
    Contestant, Result, TASK, Task,
    gauge::{APPLICATION, Gauge, Outcome},
    ideal, producer, relay, scan,
};

/// Does the task that this process was started for, if it was; says so.
pub(crate) fn run_as_contestant() -> Result<bool> {
    let Some(task) = std::env::var_os(TASK) else { return Ok(false) };
    let task: Task = serde_json::from_str(&task.to_string_lossy())?;
    let outcome = runtime(&task.contestant)?.block_on(run(&task))?;
    println!("{}", serde_json::to_string(&outcome)?);
    Ok(true)
}

/// Bare loops have one thread, the relay has what its users would give it.
fn runtime(contestant: &Contestant) -> std::io::Result<Runtime> {
    match contestant {
        Contestant::Relay(_) => Builder::new_multi_thread().enable_all().build(),
        _ => Builder::new_current_thread().enable_all().build(),
    }
}

async fn run(task: &Task) -> Result<Outcome> {
    let options = PgConnectOptions::from_str(&task.database)?.application_name(APPLICATION);
    let pool: PgPool = PgPoolOptions::new().max_connections(10).connect_with(options).await?;
    let gauge = Gauge::new(pool.clone());
    match &task.contestant {
        Contestant::Scan => scan::run(&pool, task, gauge).await,
        Contestant::Produce => producer::run(task, gauge).await,
        Contestant::Ideal(carries) => ideal::run(&pool, task, *carries, gauge).await,
        Contestant::Relay(settings) => relay::run(&pool, task, settings, gauge).await,
    }
}
