//! A TCP connection that a test can cut.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, copy},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::AbortHandle,
};

/// A TCP proxy in front of a service, to take the network away and bring it back while the service itself runs on.
///
/// It suits clients that stay with the address they were given, such as PostgreSQL's. Kafka's go on to the address that
/// the broker advertises: [`OwnKafka::proxy`](crate::OwnKafka::proxy) makes that this one.
#[derive(Debug)]
pub struct TcpProxy {
    addr: SocketAddr,
    line: Arc<Line>,
    task: AbortHandle,
}

impl TcpProxy {
    /// Listens on a free port of 127.0.0.1 and passes every connection on to `target`.
    ///
    /// # Panics
    ///
    /// If no port can be opened.
    pub async fn start(target: SocketAddr) -> Self {
        Self::start_at((Ipv4Addr::LOCALHOST, 0).into(), target).await
    }

    pub(crate) async fn start_at(addr: SocketAddr, target: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap_or_else(|error| panic!("cannot listen at {addr}: {error}"));
        let addr = listener.local_addr().expect("the address of a bound socket");
        let line = Arc::new(Line::default());
        let task = tokio::spawn(accept(listener, target, line.clone())).abort_handle();
        Self { addr, line, task }
    }

    /// Where it listens; connect here instead of to the target.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection. New ones are accepted and closed at once, until [`restore`](Self::restore).
    pub fn cut(&self) {
        self.line.cut(false);
    }

    /// Passes new connections on again.
    pub fn restore(&self) {
        self.line.state.send_modify(|state| state.open = true);
    }

    /// Closes every connection once the clients have sent so many bytes more, over all of them: as a rule in the middle
    /// of a request, of which the target gets the beginning. New connections are passed on at once.
    pub fn cut_after(&self, bytes: u64) {
        self.line.bytes_left.store(bytes.min(UNLIMITED - 1), Ordering::Relaxed);
    }

    /// How often connections were cut.
    #[must_use]
    pub fn cuts(&self) -> u64 {
        self.line.state.borrow().cuts
    }

    /// How many connections were closed at once since it was started, because the line was cut.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.line.refused.load(Ordering::Relaxed)
    }
}

impl Drop for TcpProxy {
    /// Stops listening and closes the connections.
    fn drop(&mut self) {
        self.task.abort();
        self.line.cut(false);
    }
}

#[derive(Debug)]
struct Line {
    state: watch::Sender<State>,
    /// How many bytes clients may send until the next cut.
    bytes_left: AtomicU64,
    refused: AtomicU64,
}

/// Is the line open? Counted, so that a connection which sleeps through a cut and its repair still learns of the cut.
#[derive(Debug, Clone, Copy)]
struct State {
    open: bool,
    cuts: u64,
}

const UNLIMITED: u64 = u64::MAX;

impl Default for Line {
    fn default() -> Self {
        let state = watch::Sender::new(State { open: true, cuts: 0 });
        Self { state, bytes_left: AtomicU64::new(UNLIMITED), refused: AtomicU64::new(0) }
    }
}

impl Line {
    fn cut(&self, open: bool) {
        self.state.send_modify(|state| *state = State { open, cuts: state.cuts + 1 });
    }

    /// How many of these bytes may pass; fewer, and the line is to be cut behind them.
    fn admit(&self, bytes: usize) -> usize {
        let take = |left: u64| match left {
            UNLIMITED => None,
            left => Some(left.checked_sub(bytes as u64).unwrap_or(UNLIMITED)),
        };
        match self.bytes_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(left) if left < bytes as u64 => left as usize,
            _ => bytes,
        }
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: Arc<Line>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let state = *line.state.borrow();
        if state.open {
            tokio::spawn(connection(client, target, line.clone(), state.cuts));
        } else {
            line.refused.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Carries bytes both ways until either side breaks, both have closed, or the line is cut; both sockets are closed on
/// return.
async fn connection(mut client: TcpStream, target: SocketAddr, line: Arc<Line>, cuts: u64) {
    let mut state = line.state.subscribe();
    let carry = async {
        let mut server = TcpStream::connect(target).await?;
        // The two ends have their own idea of what to send when; a proxy must not delay it.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        let (from_client, mut to_client) = client.split();
        let (mut from_server, to_server) = server.split();
        let back = async {
            copy(&mut from_server, &mut to_client).await?;
            to_client.shutdown().await
        };
        tokio::try_join!(forth(from_client, to_server, &line), back)
    };
    tokio::select! {
        _ = carry => {} // a broken connection is an ordinary end
        _ = state.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn forth(mut client: ReadHalf<'_>, mut server: WriteHalf<'_>, line: &Line) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = client.read(&mut buffer).await?;
        if read == 0 {
            return server.shutdown().await;
        }
        let admitted = line.admit(read);
        server.write_all(&buffer[..admitted]).await?;
        if admitted < read {
            line.cut(true);
        }
    }
}
