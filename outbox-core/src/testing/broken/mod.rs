//! Adapters that break a promise on purpose, and the case that catches each: a suite that lets them pass is worth
//! nothing. Without their flaw the same adapters pass, so it is the flaw that is caught.

mod log;
mod projection;
mod publisher;
mod source;

use std::{any::Any, future::Future, panic::AssertUnwindSafe};

use futures_util::FutureExt;

/// Fails unless the case panics with a message that holds `complaint`.
async fn assert_caught(case: impl Future<Output = ()>, complaint: &str) {
    match AssertUnwindSafe(case).catch_unwind().await {
        Ok(()) => panic!("the case lets the broken adapter pass; it should complain: {complaint}"),
        Err(panic) => {
            let said = text(&*panic);
            assert!(said.contains(complaint), "caught for another reason: {said:?} instead of {complaint:?}");
        }
    }
}

fn text(panic: &(dyn Any + Send)) -> &str {
    let owned = panic.downcast_ref::<String>().map(String::as_str);
    owned.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without a text")
}
