//! Errors as RFC 9457 problem details.

use std::{borrow::Cow, collections::BTreeMap};

use axum::{
    extract::Request,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use serde::Serialize;

/// What went wrong, for a client: never text of a database or of a panic.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    /// The last part of `type`; `None` where the status says it all.
    name: Option<&'static str>,
    detail: Cow<'static, str>,
    errors: FieldErrors,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Serialize)]
struct Body<'a> {
    r#type: String,
    title: &'a str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "FieldErrors::is_empty")]
    errors: &'a FieldErrors,
}

impl Problem {
    pub(crate) fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { status, name: None, detail: detail.into(), errors: FieldErrors::default(), headers: Vec::new() }
    }

    /// 400: fields of a body or of the query are missing or wrong.
    pub(crate) fn fields(errors: FieldErrors) -> Self {
        let mut problem = Self::new(StatusCode::BAD_REQUEST, "Some fields are missing or wrong; see errors.");
        problem.name = Some("invalid-fields");
        problem.errors = errors;
        problem
    }

    /// 422: the change is valid, but what it would tell the world cannot be published.
    pub(crate) fn unpublishable(field: &str, reason: &str) -> Self {
        let mut problem = Self::fields(FieldErrors::of(field, reason));
        problem.status = StatusCode::UNPROCESSABLE_ENTITY;
        problem.name = Some("unpublishable-event");
        problem.detail = "The change was not made: its event cannot be published.".into();
        problem
    }

    pub(crate) fn not_found(what: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, format!("There is no {what} here."))
    }

    pub(crate) fn unauthorized() -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "Send the admin's token: Authorization: Bearer <token>.")
            .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"admin\""))
    }

    /// 503: something we need is away; it is being waited for.
    pub(crate) fn unavailable(what: &str) -> Self {
        let mut problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, format!("The {what} cannot be reached. Try again soon."))
                .with_header(header::RETRY_AFTER, HeaderValue::from_static("2"));
        problem.name = Some("unavailable");
        problem
    }

    /// 500. The cause belongs into the log, before.
    pub(crate) fn internal() -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong here. It has been logged.")
    }

    fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            r#type: self.name.map_or_else(|| "about:blank".to_owned(), |n| format!("urn:problem-type:marketplace:{n}")),
            title: match self.name {
                Some("invalid-fields") => "Invalid fields",
                Some("unpublishable-event") => "The event cannot be published",
                _ => self.status.canonical_reason().unwrap_or("Error"),
            },
            status: self.status.as_u16(),
            detail: &self.detail,
            errors: &self.errors,
        };
        let mut response = (self.status, axum::Json(body)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, PROBLEM_JSON);
        response.headers_mut().extend(self.headers);
        response
    }
}

const PROBLEM_JSON: HeaderValue = HeaderValue::from_static("application/problem+json");

/// Turns whatever error the layers and the router answer by themselves (no route, wrong method, body too long, a
/// panic) into a problem, keeping headers such as `Allow`.
pub(crate) async fn all_errors_are_problems(request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    let status = response.status();
    let is_problem = response.headers().get(header::CONTENT_TYPE) == Some(&PROBLEM_JSON);
    if is_problem || !(status.is_client_error() || status.is_server_error()) {
        return response;
    }
    let detail = match status {
        StatusCode::NOT_FOUND => "There is nothing under this path.",
        StatusCode::METHOD_NOT_ALLOWED => "This path does not know the method; see the Allow header.",
        StatusCode::PAYLOAD_TOO_LARGE => "The body is too long.",
        StatusCode::REQUEST_TIMEOUT => "The request took too long.",
        s if s.is_server_error() => "Something went wrong here. It has been logged.",
        _ => "The request cannot be understood.",
    };
    let mut problem = Problem::new(status, detail);
    for name in [header::ALLOW, header::RETRY_AFTER] {
        if let Some(value) = response.headers().get(&name) {
            problem.headers.push((name, value.clone()));
        }
    }
    problem.into_response()
}

/// What is wrong, by field. A field can have several faults.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct FieldErrors(BTreeMap<String, Vec<String>>);

impl FieldErrors {
    pub(crate) fn of(field: &str, message: impl Into<String>) -> Self {
        let mut errors = Self::default();
        errors.add(field, message);
        errors
    }

    pub(crate) fn add(&mut self, field: &str, message: impl Into<String>) {
        self.0.entry(field.to_owned()).or_default().push(message.into());
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The value, unless something was found.
    pub(crate) fn or<T>(self, value: T) -> Result<T, Self> {
        if self.is_empty() { Ok(value) } else { Err(self) }
    }

    /// All messages on one line, for the page.
    pub(crate) fn sentence(&self) -> String {
        let lines =
            self.0.iter().map(|(field, messages)| format!("{}: {}", field.replace('_', " "), messages.join(" ")));
        lines.collect::<Vec<_>>().join(" ")
    }

    #[cfg(test)]
    pub(crate) fn fields(&self) -> Vec<&str> {
        self.0.keys().map(String::as_str).collect()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::to_bytes;
    use serde_json::{Value, json};

    use super::*;

    async fn body(response: Response) -> Value {
        let bytes = to_bytes(response.into_body(), 10_000).await.expect("body");
        serde_json::from_slice(&bytes).expect("JSON")
    }

    #[tokio::test]
    async fn fields_are_named() {
        let mut errors = FieldErrors::of("bio", "Too long.");
        errors.add("full_name", "This field is required.");
        let response = Problem::fields(errors).into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        let expected = json!({
            "type": "urn:problem-type:marketplace:invalid-fields", "title": "Invalid fields", "status": 400,
            "detail": "Some fields are missing or wrong; see errors.",
            "errors": {"bio": ["Too long."], "full_name": ["This field is required."]},
        });
        assert_eq!(body(response).await, expected);
    }

    #[tokio::test]
    async fn a_missing_service_says_when_to_come_back() {
        let response = Problem::unavailable("database").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[header::RETRY_AFTER], "2");
        let body = body(response).await;
        assert_eq!(body["status"], 503);
        assert!(body.get("errors").is_none(), "no empty errors");
    }
}
