//! A TCP connection that a test can cut.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// A TCP proxy in front of a service, to take the network away and bring it back while the service itself runs on.
///
/// It suits clients that stay with the address they were given, such as PostgreSQL's. Kafka's do not: they go on to the
/// address that the broker advertises.
#[derive(Debug)]
pub struct TcpProxy {
    addr: SocketAddr,
    line: watch::Sender<Line>,
    task: AbortHandle,
}

/// Is the line open? Counted, so that a connection which sleeps through a cut and its repair still learns of the cut.
#[derive(Debug, Clone, Copy)]
struct Line {
    open: bool,
    cuts: u64,
}

impl TcpProxy {
    /// Listens on a free port of 127.0.0.1 and passes every connection on to `target`.
    ///
    /// # Panics
    ///
    /// If no port can be opened.
    pub async fn start(target: SocketAddr) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a free port on 127.0.0.1");
        let addr = listener.local_addr().expect("the address of a bound socket");
        let (line, receiver) = watch::channel(Line { open: true, cuts: 0 });
        let task = tokio::spawn(accept(listener, target, receiver)).abort_handle();
        Self { addr, line, task }
    }

    /// Where it listens; connect here instead of to the target.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes every connection. New ones are accepted and closed at once, until [`restore`](Self::restore).
    pub fn cut(&self) {
        self.line.send_modify(|line| *line = Line { open: false, cuts: line.cuts + 1 });
    }

    /// Passes new connections on again.
    pub fn restore(&self) {
        self.line.send_modify(|line| line.open = true);
    }
}

impl Drop for TcpProxy {
    /// Stops listening. The connections end too: they notice that the sender is gone.
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, line: watch::Receiver<Line>) {
    loop {
        let Ok((client, _)) = listener.accept().await else { continue };
        let state = *line.borrow();
        if state.open {
            tokio::spawn(connection(client, target, line.clone(), state.cuts));
        }
    }
}

/// Carries bytes both ways until either side closes or the line is cut; both sockets are closed on return.
async fn connection(mut client: TcpStream, target: SocketAddr, mut line: watch::Receiver<Line>, cuts: u64) {
    let carry = async {
        let mut server = TcpStream::connect(target).await?;
        // The two ends have their own idea of what to send when; a proxy must not delay it.
        client.set_nodelay(true)?;
        server.set_nodelay(true)?;
        copy_bidirectional(&mut client, &mut server).await?;
        Ok::<(), io::Error>(())
    };
    tokio::select! {
        _ = carry => {} // a broken connection is an ordinary end
        _ = line.wait_for(|line| line.cuts != cuts) => {}
    }
}
