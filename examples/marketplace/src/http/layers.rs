//! The layers around all routes.

use std::{any::Any, time::Duration};

use axum::{
    Router,
    http::{HeaderName, HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
};
use tower_http::{
    catch_panic::CatchPanicLayer, set_header::SetResponseHeaderLayer, timeout::TimeoutLayer, trace::TraceLayer,
};

use super::{Problem, problem};

/// How long a handler may take until its response begins. Event streams begin at once.
const HANDLER_TIMEOUT: Duration = Duration::from_secs(30);

/// Scripts, styles and connections of our own only, nothing inline, no frames.
const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
     connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

const HEADERS: [(HeaderName, HeaderValue); 4] = [
    (header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(CONTENT_SECURITY_POLICY)),
    (header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff")),
    (header::REFERRER_POLICY, HeaderValue::from_static("same-origin")),
    (HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin")),
];

/// Limits, security headers, one trace span a request (method and path, never headers), and problems for all errors.
pub(crate) fn with_layers(router: Router) -> Router {
    let router = router
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, HANDLER_TIMEOUT))
        .layer(CatchPanicLayer::custom(panicked))
        .layer(middleware::from_fn(problem::all_errors_are_problems))
        .layer(TraceLayer::new_for_http());
    HEADERS
        .into_iter()
        .fold(router, |router, (name, value)| router.layer(SetResponseHeaderLayer::if_not_present(name, value)))
}

/// The panic hook has printed the panic; the client learns only that there was one.
fn panicked(_: Box<dyn Any + Send + 'static>) -> Response {
    Problem::internal().into_response()
}

#[cfg(test)]
mod tests {
    use axum::{body::Body, http::Request, routing::get};
    use tower::ServiceExt;

    use super::*;

    async fn explode() -> &'static str {
        panic!("a secret of the program")
    }

    async fn ask(method: &str, path: &str) -> (StatusCode, String, String) {
        let app = with_layers(Router::new().route("/explode", get(explode)));
        let request = Request::builder().method(method).uri(path).body(Body::empty()).expect("request");
        let response = app.oneshot(request).await.expect("infallible");
        let content_type = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
        assert!(response.headers().contains_key(header::CONTENT_SECURITY_POLICY), "security headers on {path}");
        let status = response.status();
        let body = axum::body::to_bytes(response.into_body(), 10_000).await.expect("body");
        (status, content_type, String::from_utf8(body.to_vec()).expect("UTF-8"))
    }

    #[tokio::test]
    async fn a_panic_and_a_missing_route_and_a_wrong_method_are_problems() {
        let cases = [
            ("GET", "/explode", StatusCode::INTERNAL_SERVER_ERROR),
            ("GET", "/nowhere", StatusCode::NOT_FOUND),
            ("POST", "/explode", StatusCode::METHOD_NOT_ALLOWED),
        ];
        for (method, path, expected) in cases {
            let (status, content_type, body) = ask(method, path).await;
            assert_eq!((status, content_type.as_str()), (expected, "application/problem+json"), "{method} {path}");
            assert!(body.contains(&format!("\"status\":{}", expected.as_u16())), "{body}");
            assert!(!body.contains("secret"), "{body}");
        }
    }
}
