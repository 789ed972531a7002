//! Whether the cluster answers.

use tokio::sync::watch;

/// What was last heard of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reach {
    /// Nothing yet.
    Unknown,
    /// It answered.
    Up,
    /// No broker is connected.
    Down,
}

/// Shared by the producers of one publisher, one after the other.
#[derive(Debug)]
pub(crate) struct Reachability(watch::Sender<Reach>);

impl Default for Reachability {
    fn default() -> Self {
        Self(watch::Sender::new(Reach::Unknown))
    }
}

impl Reachability {
    pub(crate) fn is_up(&self) -> bool {
        *self.0.borrow() == Reach::Up
    }

    pub(crate) fn set(&self, reach: Reach) {
        if *self.0.borrow() != reach {
            self.0.send_replace(reach);
        }
    }

    /// Waits until no broker is connected.
    pub(crate) async fn lost(&self) {
        let mut reach = self.0.subscribe();
        if reach.wait_for(|reach| *reach == Reach::Down).await.is_err() {
            // The sender is `self`, so it lives.
            std::future::pending::<()>().await;
        }
    }
}
