use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// Failures to come, shared by the clones of a wrapper.
#[derive(Debug)]
pub(super) struct Cues<O, K>(Arc<Mutex<Vec<Cue<O, K>>>>);

#[derive(Debug)]
struct Cue<O, K> {
    operation: O,
    times: usize,
    kind: K,
    when: When,
}

/// Whether a call with a cue had its effect.
#[derive(Debug, Clone, Copy)]
pub(super) enum When {
    /// It had none, and no answer ever comes.
    Never,
    /// It had none.
    Before,
    /// It had, and only the answer is lost.
    After,
    /// It had, and the answer takes so long.
    Late(Duration),
}

impl<O, K> Clone for Cues<O, K> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<O, K> Default for Cues<O, K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<O: Copy + PartialEq, K: Copy> Cues<O, K> {
    pub(super) fn add(&self, operation: O, times: usize, kind: K, when: When) {
        self.lock().push(Cue { operation, times, kind, when });
    }

    /// How many failures are still to come.
    pub(super) fn left(&self) -> usize {
        self.lock().iter().map(|cue| cue.times).sum()
    }

    /// Runs a call, or fails as the earliest cue for the operation says; `error` makes the error of a kind.
    pub(super) async fn run<T, E>(
        &self,
        operation: O,
        call: impl Future<Output = Result<T, E>>,
        error: impl FnOnce(K) -> E,
    ) -> Result<T, E> {
        match self.take(operation) {
            None => call.await,
            Some((_, When::Never)) => std::future::pending().await,
            Some((_, When::Late(by))) => {
                let answer = call.await;
                // Not a wait: it is the slow answer that was asked for.
                tokio::time::sleep(by).await;
                answer
            }
            Some((kind, When::Before)) => Err(error(kind)),
            Some((kind, When::After)) => {
                let _lost = call.await?;
                Err(error(kind))
            }
        }
    }

    fn take(&self, operation: O) -> Option<(K, When)> {
        let mut cues = self.lock();
        let cue = cues.iter_mut().find(|cue| cue.operation == operation && cue.times > 0)?;
        cue.times -= 1;
        Some((cue.kind, cue.when))
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Cue<O, K>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the errors of all wrappers say.
pub(super) const ON_CUE: &str = "failed on cue";
