//! Access rules of topics, which rdkafka cannot set: two requests, written by hand from Kafka's protocol guide.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const CREATE_ACLS: i16 = 30;
const DELETE_ACLS: i16 = 31;
const VERSION: i16 = 1;

const TOPIC: u8 = 2;
const LITERAL: u8 = 3;

/// What is allowed or denied.
#[derive(Clone, Copy)]
pub(crate) enum Operation {
    Any = 1,
    All = 2,
    Read = 3,
    Write = 4,
    Describe = 8,
    DescribeConfigs = 10,
}

#[derive(Clone, Copy)]
enum Permission {
    Any = 1,
    Deny = 2,
    Allow = 3,
}

/// Nobody may do this with the topic; what is not mentioned, nobody may do either.
pub(crate) async fn deny(bootstrap: &str, topic: &str, operation: Operation) {
    create(bootstrap, topic, operation, Permission::Deny).await;
}

/// Everybody may do this with the topic, unless it is denied; what is not mentioned, nobody may do.
pub(crate) async fn allow(bootstrap: &str, topic: &str, operation: Operation) {
    create(bootstrap, topic, operation, Permission::Allow).await;
}

/// Removes all rules of the topic.
pub(crate) async fn clear(bootstrap: &str, topic: &str) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(TOPIC);
    text(&mut body, topic);
    body.push(LITERAL);
    body.extend((-1_i16).to_be_bytes()); // of any principal
    body.extend((-1_i16).to_be_bytes()); // from any host
    body.extend([Operation::Any as u8, Permission::Any as u8]);
    call(bootstrap, DELETE_ACLS, &body).await;
}

async fn create(bootstrap: &str, topic: &str, operation: Operation, permission: Permission) {
    let mut body = 1_i32.to_be_bytes().to_vec();
    body.push(TOPIC);
    text(&mut body, topic);
    body.push(LITERAL);
    text(&mut body, "User:*");
    text(&mut body, "*");
    body.extend([operation as u8, permission as u8]);
    call(bootstrap, CREATE_ACLS, &body).await;
}

/// Sends a request about one rule and fails unless it was carried out.
async fn call(bootstrap: &str, api: i16, body: &[u8]) {
    let mut request = Vec::new();
    request.extend(api.to_be_bytes());
    request.extend(VERSION.to_be_bytes());
    request.extend(0_i32.to_be_bytes()); // correlation id
    request.extend((-1_i16).to_be_bytes()); // no client id
    request.extend(body);
    let mut connection = TcpStream::connect(bootstrap).await.expect("connect");
    connection.write_i32(request.len() as i32).await.expect("write");
    connection.write_all(&request).await.expect("write");
    let length = connection.read_i32().await.expect("an answer");
    let mut answer = vec![0; length as usize];
    connection.read_exact(&mut answer).await.expect("an answer");
    // Correlation id, throttle time, number of results, and the error of the first.
    assert_eq!(answer[8..12], 1_i32.to_be_bytes(), "one result: {answer:?}");
    assert_eq!(answer[12..14], [0, 0], "refused: {answer:?}");
}

fn text(body: &mut Vec<u8>, text: &str) {
    body.extend((text.len() as i16).to_be_bytes());
    body.extend(text.as_bytes());
}
