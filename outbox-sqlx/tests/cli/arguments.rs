//! What can be typed wrong.

use crate::support::{Bed, PASSWORD, outbox};

#[tokio::test]
async fn without_a_database_it_says_how_to_name_one() {
    let ended = outbox(&["status"], None).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("--database-url") && ended.err.contains("DATABASE_URL"), "{}", ended.err);
}

#[tokio::test]
async fn another_scheme_is_refused_without_repeating_the_url() {
    for url in [format!("mysql://app:{PASSWORD}@db/shop"), PASSWORD.to_owned(), format!("app:{PASSWORD}@db")] {
        let ended = outbox(&["status"], Some(&url)).await;
        assert_eq!(ended.code, 2);
        assert!(ended.err.contains("neither with postgres:// nor with sqlite:"), "{}", ended.err);
    }
}

/// `Ended` looks for the password in all that is printed.
#[tokio::test]
async fn a_password_in_the_wrong_place_is_not_repeated() {
    let url = format!("postgres://app:{PASSWORD}@127.0.0.1:1/shop");
    let ended = outbox(&[&url, "status"], None).await;
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("postgres://app:***@127.0.0.1:1/shop"), "{}", ended.err);
    let parameter = format!("--database-url=postgres://127.0.0.1:bad/shop?password={PASSWORD}");
    assert_eq!(outbox(&[&parameter, "status"], None).await.code, 2);
    let unreachable = outbox(&["--database-url", &url, "status"], None).await;
    assert_eq!(unreachable.code, 1);
    assert!(unreachable.err.contains("cannot connect to 127.0.0.1:1"), "{}", unreachable.err);
    for help in ["--help", "-h"] {
        assert_eq!(outbox(&[help], Some(&url)).await.code, 0, "the environment is not shown");
    }
}

#[tokio::test]
async fn what_is_not_understood_is_wrong_usage() {
    for arguments in [
        &["frobnicate"][..],
        &["--schema", "Robert'); DROP TABLE", "status"],
        &["prune", "--keep-for", "7"],
        &["parked", "redrive"],
        &["parked", "redrive", "--all", "--event", "1"],
        &["parked", "discard", "1"],
        &["event", "0"],
        &["tail", "--aggregate", "Tutor"],
        &["consumers", "drop", "No Name"],
        &["migrate", "--lanes", "65"],
        &["status", "--watch", "0"],
        &["migrate", "--ring"],
        &["migrate", "--ring", "--print"],
    ] {
        let ended = outbox(arguments, Some("sqlite:never-opened.db")).await;
        assert_eq!(ended.code, 2, "{arguments:?}: {ended:?}");
        assert!(!ended.err.is_empty());
    }
}

#[tokio::test]
async fn every_help_is_there_without_a_database() {
    for command in ["migrate", "status", "lanes", "consumers", "tail", "event", "parked", "prune", "reanchor", "doctor"]
    {
        let ended = outbox(&[command, "--help"], None).await;
        assert_eq!(ended.code, 0);
        assert!(ended.out.contains("Examples:"), "{command}");
    }
    let ended = outbox(&["--help"], None).await;
    assert!(ended.out.contains("Exit codes:") && ended.out.contains("3  `doctor` found problems"), "{}", ended.out);
}

#[tokio::test]
async fn a_missing_file_is_not_created_by_looking() {
    let bed = Bed::empty_sqlite();
    let ended = bed.outbox(&["status"]).await;
    assert_eq!(ended.code, 1);
    assert!(ended.err.contains("outbox migrate"), "{}", ended.err);
    let path = bed.url.strip_prefix("sqlite:").expect("a path");
    assert!(!std::path::Path::new(path).exists());
}
