//! One broker for the tests that do it no harm.

use std::sync::{Arc, Weak};

use test_services::OwnKafka;
use tokio::sync::Mutex;

/// The broker, as long as a test has it. Whoever is not forbidden anything may do everything.
pub(crate) async fn broker() -> Arc<OwnKafka> {
    static BROKER: Mutex<Weak<OwnKafka>> = Mutex::const_new(Weak::new());
    let mut broker = BROKER.lock().await;
    if let Some(broker) = broker.upgrade() {
        return broker;
    }
    let authorizer = "org.apache.kafka.metadata.authorizer.StandardAuthorizer";
    let settings = [("authorizer.class.name", authorizer), ("allow.everyone.if.no.acl.found", "true")];
    let own = Arc::new(OwnKafka::create(&settings).await);
    *broker = Arc::downgrade(&own);
    own
}
