use std::time::Duration;

use anyhow::Context;
use opensearch::{
    BulkOperations, BulkParts, OpenSearch,
    http::{
        Method, StatusCode, Url,
        headers::HeaderMap,
        transport::{SingleNodeConnectionPool, TransportBuilder},
    },
};
use serde_json::Value;

/// Requests to one OpenSearch.
pub(super) struct Client(OpenSearch);

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CallError {
    #[error("OpenSearch cannot be reached")]
    Transport(#[source] opensearch::Error),
    #[error("OpenSearch answered {status}: {reason}")]
    Status { status: u16, reason: String },
    #[error("the index {alias} was made from another log ({of}); remove it, or set another --search-index")]
    AnotherLog { alias: String, of: String },
    #[error("OpenSearch answered with something else than expected")]
    Unexpected(#[source] serde_json::Error),
}

impl CallError {
    /// Whether the same request may succeed later. An index that is not there yet counts too.
    pub(super) fn is_away(&self) -> bool {
        match self {
            Self::Transport(_) => true,
            Self::Status { status, .. } => *status >= 500 || *status == 429 || *status == 404,
            Self::AnotherLog { .. } | Self::Unexpected(_) => false,
        }
    }

    pub(super) fn status(&self) -> Option<u16> {
        match self {
            Self::Status { status, .. } => Some(*status),
            _ => None,
        }
    }
}

impl Client {
    pub(super) fn new(url: &str) -> anyhow::Result<Self> {
        // The address may hold a password, so it is in no message.
        let url = Url::parse(url).ok().context("MARKETPLACE_OPENSEARCH_URL is no address such as http://host:9200")?;
        let transport = TransportBuilder::new(SingleNodeConnectionPool::new(url)).timeout(TIMEOUT).disable_proxy();
        Ok(Self(OpenSearch::new(transport.build().context("the OpenSearch client cannot be made")?)))
    }

    /// The body of a successful answer; null when there is none.
    pub(super) async fn call(&self, method: Method, path: &str, body: Option<Value>) -> Result<Value, CallError> {
        let body = body.map(|body| body.to_string());
        let transport = self.0.transport();
        let sent = transport.send(method, path, HeaderMap::new(), Option::<&()>::None, body, None).await;
        read(sent.map_err(CallError::Transport)?).await
    }

    pub(super) async fn bulk(&self, alias: &str, operations: BulkOperations) -> Result<Value, CallError> {
        // Without the alias a missing index would be made by guessing its mapping.
        let request = self.0.bulk(BulkParts::Index(alias)).require_alias(true).body(vec![operations]);
        read(request.send().await.map_err(CallError::Transport)?).await
    }
}

async fn read(response: opensearch::http::response::Response) -> Result<Value, CallError> {
    let status = response.status_code();
    let text = response.text().await.map_err(CallError::Transport)?;
    let body = if text.is_empty() { Ok(Value::Null) } else { serde_json::from_str::<Value>(&text) };
    if status.is_success() {
        return body.map_err(CallError::Unexpected);
    }
    let reason = match body {
        Ok(body) => reason(&body["error"]),
        // A proxy's page.
        Err(_) => status.canonical_reason().unwrap_or("no reason given").to_owned(),
    };
    Err(CallError::Status { status: StatusCode::as_u16(&status), reason })
}

/// What an error object of OpenSearch says, with its cause.
pub(super) fn reason(error: &Value) -> String {
    let reasons = [&error["reason"], &error["caused_by"]["reason"]].into_iter().filter_map(Value::as_str);
    let reasons = reasons.collect::<Vec<_>>().join(": ");
    if reasons.is_empty() { "no reason given".to_owned() } else { reasons }
}
