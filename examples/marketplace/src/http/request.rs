//! Reading requests so that every fault becomes a problem.

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Path, Request},
    http::{HeaderMap, StatusCode, Uri, header, request::Parts},
    response::{IntoResponse, Redirect, Response},
    routing::{MethodRouter, get},
};
use futures_util::StreamExt;
use serde_json::{Map, Value};

use super::{FieldErrors, Problem};

/// The longest request body: the longest tutor allowed fits several times over.
const MAX_BODY_BYTES: usize = 256 * 1024;

/// A request body that is one JSON object.
#[derive(Debug)]
pub(crate) struct JsonObject(pub(crate) Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !says_json(request.headers()) {
            let detail = "Send the body as JSON: Content-Type: application/json.";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail));
        }
        let bytes = whole(request.into_body()).await?;
        match serde_json::from_slice(&bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(Problem::new(StatusCode::BAD_REQUEST, "The body must be a JSON object.")),
            Err(e) => {
                let detail = format!("The body is not JSON; see line {}, column {}.", e.line(), e.column());
                Err(Problem::new(StatusCode::BAD_REQUEST, detail))
            }
        }
    }
}

fn says_json(headers: &HeaderMap) -> bool {
    let value = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    value.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

/// What is read of a body that is too long, to no purpose but the sender's: one that is cut off while sending sees a
/// broken connection instead of the answer.
const MAX_DRAINED_BYTES: usize = 8 * 1024 * 1024;

async fn whole(body: Body) -> Result<Vec<u8>, Problem> {
    let mut chunks = body.into_data_stream();
    let (mut bytes, mut length) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let cut = |_| Problem::new(StatusCode::BAD_REQUEST, "The body could not be read to its end.");
        let chunk = chunk.map_err(cut)?;
        length += chunk.len();
        if length <= MAX_BODY_BYTES {
            bytes.extend_from_slice(&chunk);
        } else if length > MAX_DRAINED_BYTES {
            break;
        }
    }
    if length > MAX_BODY_BYTES {
        let detail = format!("The body is longer than {} KiB.", MAX_BODY_BYTES / 1024);
        return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail));
    }
    Ok(bytes)
}

/// The `{id}` of a path. Anything but a positive number names nothing: 404.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Id(pub(crate) i64);

impl<S: Send + Sync> FromRequestParts<S> for Id {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text = Path::<String>::from_request_parts(parts, state).await.map(|p| p.0).unwrap_or_default();
        text.parse().ok().filter(|id| *id > 0).map(Self).ok_or_else(|| Problem::not_found("tutor"))
    }
}

/// The query's names and values in order; a name may repeat. An empty value counts as absent: that is what forms send.
#[derive(Debug, Default, Clone)]
pub(crate) struct QueryPairs(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for QueryPairs {
    type Rejection = std::convert::Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Self::Rejection> {
        Ok(Self::parse(parts.uri.query().unwrap_or_default()))
    }
}

impl QueryPairs {
    pub(crate) fn parse(query: &str) -> Self {
        let pairs = url::form_urlencoded::parse(query.as_bytes()).into_owned();
        Self(pairs.map(|(n, v)| (n, v.trim().to_owned())).filter(|(_, v)| !v.is_empty()).collect())
    }

    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// The last one wins, as with most servers.
    pub(crate) fn one(&self, name: &str) -> Option<&str> {
        self.all(name).last()
    }

    /// Text of at most `limit` characters.
    pub(crate) fn text(&self, name: &str, limit: usize, errors: &mut FieldErrors) -> Option<String> {
        let text = self.one(name)?;
        if text.chars().count() > limit {
            errors.add(name, format!("At most {limit} characters."));
            return None;
        }
        if text.contains('\0') {
            errors.add(name, "Control characters are not allowed.");
            return None;
        }
        Some(text.to_owned())
    }

    /// A value that `parse` can read; what it cannot goes to the errors.
    pub(crate) fn parsed<T, E: Into<String>>(
        &self,
        name: &str,
        errors: &mut FieldErrors,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match parse(self.one(name)?) {
            Ok(value) => Some(value),
            Err(message) => {
                errors.add(name, message);
                None
            }
        }
    }

    /// The query again, with one name set to another value.
    pub(crate) fn with(&self, name: &str, value: &str) -> String {
        let mut out = url::form_urlencoded::Serializer::new(String::new());
        out.extend_pairs(self.0.iter().filter(|(n, _)| n != name));
        out.append_pair(name, value).finish()
    }
}

/// A route that ends in a slash, and its twin without one that leads a GET there.
pub(crate) fn slashed<S: Clone + Send + Sync + 'static>(
    router: axum::Router<S>,
    path: &str,
    methods: MethodRouter<S>,
) -> axum::Router<S> {
    router.route(path, methods).route(path.trim_end_matches('/'), get(add_slash))
}

async fn add_slash(uri: Uri) -> Response {
    let query = uri.query().map(|q| format!("?{q}")).unwrap_or_default();
    Redirect::permanent(&format!("{}/{query}", uri.path())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_repeat_and_blanks_are_absent() {
        let pairs = QueryPairs::parse("subjects=Maths&subjects=Piano+for+two&q=&limit=+20+&limit=30");
        assert_eq!(pairs.all("subjects").collect::<Vec<_>>(), ["Maths", "Piano for two"]);
        assert_eq!(pairs.one("q"), None);
        assert_eq!(pairs.one("limit"), Some("30"));
        assert_eq!(pairs.with("limit", "5&6"), "subjects=Maths&subjects=Piano+for+two&limit=5%266");
    }
}
