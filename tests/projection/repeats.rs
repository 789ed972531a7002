//! A second writer to the topic, that repeats what is there as a relay does that was cut off: late, behind newer events.

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};

use outbox_core::profile::header;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use rdkafka::{
    ClientConfig,
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};

use crate::{
    PATIENCE,
    topic::{Reader, Written},
};

/// A copy comes at most so many messages behind its original, or at the very end.
const LATEST: usize = 150;

/// Repeats each event of a topic 0 to 3 times.
pub(crate) struct Repeats {
    no_more: Arc<AtomicBool>,
    thread: JoinHandle<usize>,
}

impl Repeats {
    pub(crate) fn start(brokers: &str, topic: &str, seed: u64) -> Self {
        let no_more = Arc::new(AtomicBool::new(false));
        let (brokers, topic, told) = (brokers.to_owned(), topic.to_owned(), no_more.clone());
        let thread = std::thread::spawn(move || Repeater::open(&brokers, &topic, seed).repeat(&told));
        Self { no_more, thread }
    }

    /// When nobody writes originals any more: writes the copies that are left. Returns how many there are in all.
    pub(crate) async fn finish(self) -> usize {
        self.no_more.store(true, Ordering::Relaxed);
        let finished = tokio::task::spawn_blocking(|| self.thread.join()).await;
        finished.expect("not cancelled").expect("the copies are written")
    }
}

struct Repeater {
    reader: Reader,
    producer: ThreadedProducer<DefaultProducerContext>,
    topic: String,
    random: StdRng,
    known: HashSet<Vec<u8>>,
    read: usize,
    /// By how many records are to be read before; the second number tells those of one moment apart.
    due: BTreeMap<(usize, usize), (i32, Written)>,
    planned: usize,
}

impl Repeater {
    fn open(brokers: &str, topic: &str, seed: u64) -> Self {
        let producer = ClientConfig::new().set("bootstrap.servers", brokers).set("linger.ms", "0").create();
        Self {
            reader: Reader::open(brokers, topic),
            producer: producer.expect("a producer"),
            topic: topic.to_owned(),
            random: StdRng::seed_from_u64(seed),
            known: HashSet::new(),
            read: 0,
            due: BTreeMap::new(),
            planned: 0,
        }
    }

    fn repeat(mut self, no_more: &AtomicBool) -> usize {
        loop {
            // Before the look: what was written until then will have been read.
            let last = no_more.load(Ordering::Relaxed);
            match self.reader.next() {
                Some((partition, record)) => self.take(partition, record),
                None if last && self.reader.is_at_the_end() => break,
                None => {}
            }
        }
        self.write_until(usize::MAX);
        self.producer.flush(PATIENCE).expect("the copies are written");
        self.planned
    }

    fn take(&mut self, partition: i32, record: Written) {
        self.read += 1;
        let id = record.header(header::ID).map(|id| id.as_bytes().to_vec());
        // Copies of copies would never end.
        if id.is_some_and(|id| self.known.insert(id)) {
            for _ in 0..self.random.random_range(0..=3) {
                let at = self.read + self.random.random_range(1..=LATEST);
                self.planned += 1;
                self.due.insert((at, self.planned), (partition, record.clone()));
            }
        }
        self.write_until(self.read);
    }

    fn write_until(&mut self, read: usize) {
        while let Some(next) = self.due.first_entry().filter(|next| next.key().0 <= read) {
            let (partition, record) = next.remove();
            let headers = record
                .headers
                .iter()
                .fold(OwnedHeaders::new(), |headers, (key, value)| headers.insert(Header { key, value: Some(value) }));
            let mut copy = BaseRecord::<[u8], [u8]>::to(&self.topic).partition(partition).headers(headers);
            copy.key = record.key.as_deref();
            copy.payload = record.payload.as_deref();
            self.producer.send(copy).map_err(|(error, _)| error).expect("room in the queue");
        }
    }
}
