//! Starting and stopping.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::program::{Program, ada, command, directory, refusal};

#[tokio::test]
async fn an_interrupt_ends_it_well_also_while_somebody_watches() {
    let program = Program::start().await;
    program.post_tutor(&ada()).await;
    // The stream never ends by itself; a stop must not wait for it.
    let watching = program.ask(reqwest::Method::GET, "/live").send().await.expect("stream");
    program.interrupt();
    let (status, complaint) = program.ended().await;
    assert_eq!(status.code(), Some(0), "{complaint}");
    drop(watching);
}

#[tokio::test]
async fn sigterm_ends_it_well_too() {
    let program = Program::start().await;
    program.signal("TERM");
    assert_eq!(program.ended().await.0.code(), Some(0));
}

/// A request whose body never comes: it keeps a stop waiting.
async fn unfinished(program: &Program) -> TcpStream {
    let address = program.url.strip_prefix("http://").expect("address");
    let mut stream = TcpStream::connect(address).await.expect("connected");
    let head = format!(
        "POST /api/admin/tutors/ HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {}\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\nExpect: 100-continue\r\n\r\n",
        program.token
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    // The server asks for the body when its handler reads it: from here on the request is under way.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream
}

#[tokio::test]
async fn a_stop_ends_in_time_whatever_clients_do() {
    let (_parent, data) = directory();
    let program = Program::start_in(&data, &["--no-demo", "--shutdown-seconds", "1"]).await;
    let _client = unfinished(&program).await;
    program.interrupt();
    let (status, complaint) = program.ended().await;
    assert_eq!(status.code(), Some(0), "{complaint}");
    assert!(complaint.contains("within 1 s"), "{complaint}");
}

#[tokio::test]
async fn a_second_interrupt_ends_it_at_once() {
    let (_parent, data) = directory();
    let mut program = Program::start_in(&data, &["--no-demo", "--shutdown-seconds", "600"]).await;
    let _client = unfinished(&program).await;
    program.interrupt();
    program.complains("stopping").await;
    program.interrupt();
    assert_eq!(program.ended().await.0.code(), Some(130));
}

#[tokio::test]
async fn a_taken_port_is_said_in_one_line() {
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("port");
    let address = taken.local_addr().expect("address").to_string();
    let (_parent, data) = directory();
    let complaint = refusal(command(&["--data-dir", data.to_str().expect("UTF-8"), "--listen", &address])).await;
    assert!(complaint.contains(&address) && complaint.contains("--listen"), "{complaint}");
    assert!(!data.exists(), "nothing was begun");
}

#[tokio::test]
async fn a_directory_in_use_or_unusable_is_said_in_one_line() {
    let (_parent, data) = directory();
    let _program = Program::start_in(&data, &["--no-demo"]).await;
    let complaint = refusal(command(&["--data-dir", data.to_str().expect("UTF-8")])).await;
    assert!(complaint.contains("in use"), "{complaint}");

    let (parent, other) = directory();
    std::fs::create_dir(&other).expect("directory");
    std::fs::write(other.join("marketplace.db"), "this is not a database, though it is long enough to look")
        .expect("file");
    let complaint = refusal(command(&["--data-dir", other.to_str().expect("UTF-8")])).await;
    assert!(complaint.contains("marketplace.db"), "{complaint}");
    let file = parent.path().join("file");
    std::fs::write(&file, "").expect("file");
    let complaint = refusal(command(&["--data-dir", file.to_str().expect("UTF-8")])).await;
    assert!(complaint.contains("data directory"), "{complaint}");
}

#[tokio::test]
async fn demo_tutors_come_into_an_empty_directory_only() {
    let (_parent, data) = directory();
    let program = Program::start_in(&data, &[]).await;
    assert!(program.greeting.contains("240 demo tutors"), "{}", program.greeting);
    program.search_until("limit=1", |answer| answer["total"] == 240).await;
    program.interrupt();
    assert!(program.ended().await.0.success());
    let program = Program::start_in(&data, &["--demo"]).await;
    assert_eq!(program.get("/api/tutors/").await["count"], 240, "not twice");

    let (_parent, used) = directory();
    std::fs::create_dir(&used).expect("directory");
    std::fs::write(used.join("note"), "somebody was here").expect("file");
    let program = Program::start_in(&used, &[]).await;
    assert_eq!(program.get("/api/tutors/").await["count"], 0, "not empty");

    let (_parent, open) = directory();
    let program = Program::start_in(&open, &["--listen", "0.0.0.0:0"]).await;
    assert!(!program.greeting.contains("demo"), "{}", program.greeting);
}

#[cfg(not(feature = "production"))]
#[tokio::test]
async fn a_shape_that_was_not_built_in_is_said_in_one_line() {
    let complaint = refusal(command(&["--shape", "production"])).await;
    assert!(complaint.contains("--features production"), "{complaint}");
}
