//! The in-process signal that something was committed.

use tokio::sync::watch;

/// Rings when events were committed in this process, so that readers need not wait for their next poll.
///
/// A hint, never a guarantee: readers poll as well. Cloning shares the bell. Rings are never lost between
/// [`WakeListener::arm`] and [`WakeListener::rung`]; several rings before a wait count as one.
#[derive(Debug, Clone)]
pub struct Wake(watch::Sender<()>);

impl Default for Wake {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Wake {
    /// Wakes all listeners.
    pub fn ring(&self) {
        self.0.send_replace(());
    }

    /// A listener of its own.
    #[must_use]
    pub fn listen(&self) -> WakeListener {
        WakeListener { rung: self.0.subscribe(), _bell: self.0.clone() }
    }
}

/// Waits for [`Wake::ring`].
#[derive(Debug)]
pub struct WakeListener {
    rung: watch::Receiver<()>,
    // Holding the bell keeps `changed` from failing when every other handle is gone.
    _bell: watch::Sender<()>,
}

impl WakeListener {
    /// Forgets earlier rings. Arm *before* looking for events: a ring during the look is then not missed.
    pub fn arm(&mut self) {
        self.rung.mark_unchanged();
    }

    /// Whether it rang since the last [`WakeListener::arm`].
    #[must_use]
    pub fn has_rung(&self) -> bool {
        self.rung.has_changed().unwrap_or_default()
    }

    /// Waits for a ring since the last [`WakeListener::arm`]. Cancel safe.
    pub async fn rung(&mut self) {
        let _closed_is_impossible = self.rung.changed().await;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[tokio::test]
    async fn a_ring_after_arming_is_kept_and_one_before_is_forgotten() {
        let bell = Wake::default();
        let mut listener = bell.listen();
        bell.ring();
        listener.arm();
        assert!(listener.rung().now_or_never().is_none(), "rung before arming");
        bell.ring();
        bell.ring();
        drop(bell);
        listener.rung().await;
        assert!(listener.rung().now_or_never().is_none(), "two rings count once");
    }
}
