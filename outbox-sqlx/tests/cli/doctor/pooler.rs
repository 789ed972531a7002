//! Poolers in between.

use test_services::{OwnPgBouncer, PostgresVersion};

use super::examine;
use crate::support::{Bed, PASSWORD, outbox};

#[tokio::test]
async fn one_that_loses_prepared_statements() {
    Bed::run_on(Bed::postgres(PostgresVersion::V15).await, async |bed| {
        let bouncer = OwnPgBouncer::start(&bed.pool().connect_options(), 2, 0).await;
        let options = bouncer.options(&bed.pool().connect_options());
        let (user, port) = (options.get_username(), options.get_port());
        let database = options.get_database().expect("a name");
        let url = format!("postgres://{user}:{PASSWORD}@127.0.0.1:{port}/{database}");
        let ended = outbox(&["doctor"], Some(&url)).await;
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.out.contains("PROBLEM  pooler") && ended.out.contains("max_prepared_statements"), "{ended:?}");
    })
    .await;
}

#[tokio::test]
async fn none() {
    Bed::run_on(Bed::postgres(PostgresVersion::V15).await, async |bed| {
        examine(bed, &[]).await.assert_found("pooler", "ok", &["none in between"]);
    })
    .await;
}
