//! A member in a process of its own that is stopped for longer than its session.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    io::{BufRead, BufReader, Write},
    process::{Child, Command, Stdio},
};

use outbox_core::{
    publisher::Message,
    source::{Batch, EventSource, SourceErrorKind, SourceEvent},
};
use outbox_kafka::KafkaSource;
use tokio::sync::mpsc;

use crate::{
    reading::{batch, events, number, publish, source},
    support::{Topic, within},
};

/// The shortest that the broker grants.
const SESSION: &str = "6000";

const COUNT: usize = 40;

/// What the other process needs to know; set only for processes that this test starts.
const SERVERS: &str = "OUTBOX_SOURCE_PROCESS_SERVERS";
const TOPIC: &str = "OUTBOX_SOURCE_PROCESS_TOPIC";
const GROUP: &str = "OUTBOX_SOURCE_PROCESS_GROUP";

/// Not a test by itself: the program of the other process. It takes a batch, says so, waits for a line on its standard
/// input, and then commits and goes on.
#[tokio::test]
async fn member_process() {
    let (Ok(servers), Ok(topic), Ok(group)) = (env::var(SERVERS), env::var(TOPIC), env::var(GROUP)) else { return };
    let topic = Topic { servers, name: topic.into() };
    let mut source = member(&topic, &group);
    let first = batch(&mut source, &BTreeMap::new()).await;
    say(&format!("batch {}", numbers(&first)));
    std::io::stdin().read_line(&mut String::new()).expect("a line");
    let late = source.commit(&first.partition, &first.position).await;
    say(&format!("commit {:?}", late.map_err(|error| error.kind())));
    loop {
        match source.next().await.expect("next") {
            SourceEvent::Assigned(partitions) if partitions.is_empty() => {}
            SourceEvent::Assigned(partitions) => {
                say("assigned");
                for partition in partitions {
                    source.start(&partition, None).await.expect("start");
                }
            }
            SourceEvent::Revoked(_) => say("revoked"),
            SourceEvent::Batch(batch) => {
                say(&format!("batch {}", numbers(&batch)));
                source.commit(&batch.partition, &batch.position).await.expect("commit");
            }
            _ => {}
        }
    }
}

fn member(topic: &Topic, group: &str) -> KafkaSource {
    source(topic, group).setting("session.timeout.ms", SESSION).batch(10).build().expect("settings")
}

fn numbers(batch: &Batch) -> String {
    let numbers: Vec<String> = batch.records.iter().map(|record| number(record).to_string()).collect();
    numbers.join(",")
}

/// The test harness writes to standard output as well; its lines have no colon there.
fn say(what: &str) {
    println!("\nmember: {what}");
}

struct Process {
    child: Child,
    said: mpsc::UnboundedReceiver<String>,
}

impl Process {
    fn start(topic: &Topic, group: &str) -> Self {
        let mut child = Command::new(env::current_exe().expect("this program"))
            .args(["--exact", "frozen::member_process", "--nocapture"])
            .env(SERVERS, &topic.servers)
            .env(TOPIC, &*topic.name)
            .env(GROUP, group)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (tell, said) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let lines = output.lines().map_while(Result::ok);
            for line in lines.filter_map(|line| line.strip_prefix("member: ").map(str::to_owned)) {
                tell.send(line).ok();
            }
        });
        Self { child, said }
    }

    async fn says(&mut self) -> String {
        within("a word of the other process", self.said.recv()).await.expect("it runs")
    }

    fn go_on(&mut self) {
        writeln!(self.child.stdin.as_mut().expect("piped")).expect("it reads");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let (_gone, _reaped) = (self.child.kill(), self.child.wait());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_frozen_beyond_its_session_loses_nothing_and_spoils_nothing() {
    let topic = Topic::new(1).await;
    let group = test_services::unique("group");
    publish(&topic, messages(&topic, 0..COUNT)).await;
    let mut frozen = Process::start(&topic, &group);
    let in_flight = frozen.says().await;
    assert!(in_flight.starts_with("batch 0"), "{in_flight}");
    test_services::freeze(frozen.child.id());

    // Its partition comes to another member when its session has ended, with everything it did not commit.
    let mut other = member(&topic, &group);
    let mut seen = Vec::new();
    let mut end = None;
    while seen.len() < COUNT {
        let batch = batch(&mut other, &BTreeMap::new()).await;
        seen.extend(batch.records.iter().map(number));
        end = Some((batch.partition, batch.position));
    }
    assert_eq!(seen, (0..COUNT).collect::<Vec<_>>());
    let (partition, end) = end.expect("batches");
    other.commit(&partition, &end).await.expect("commit");

    test_services::thaw(frozen.child.id());
    frozen.go_on();
    // What it had in hand is refused, or it is told first; the commit of the other one stays.
    assert_eq!(frozen.says().await, format!("commit Err({:?})", SourceErrorKind::Revoked));
    assert_eq!(frozen.says().await, "revoked");
    within("close", other.close()).await.expect("close");
    publish(&topic, messages(&topic, COUNT..COUNT + 5)).await;
    let mut again = BTreeSet::new();
    while again.len() < 5 {
        let said = frozen.says().await;
        if let Some(numbers) = said.strip_prefix("batch ") {
            again.extend(numbers.split(',').map(|n| n.parse::<usize>().expect("a number")));
        }
    }
    assert_eq!(again, (COUNT..COUNT + 5).collect(), "it is a member again, and nothing committed came back");
}

fn messages(topic: &Topic, numbers: std::ops::Range<usize>) -> Vec<Message> {
    events(topic, numbers).into_iter().map(|(_, message)| message).collect()
}
