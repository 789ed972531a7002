//! The files of the page, inside the program.

use axum::{
    extract::Path,
    http::header,
    response::{IntoResponse, Response},
};

use crate::http::Problem;

struct File {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

const FILES: [File; 4] = [
    File {
        name: "style.css",
        content_type: "text/css; charset=utf-8",
        bytes: include_bytes!("../../static/style.css"),
    },
    File {
        name: "htmx-2.0.11.min.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../static/htmx-2.0.11.min.js"),
    },
    File {
        name: "htmx-ext-sse-2.2.4.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("../../static/htmx-ext-sse-2.2.4.js"),
    },
    File { name: "icon.svg", content_type: "image/svg+xml", bytes: include_bytes!("../../static/icon.svg") },
];

pub(super) async fn file(Path(name): Path<String>) -> Result<Response, Problem> {
    let file = FILES.iter().find(|f| f.name == name).ok_or_else(|| Problem::not_found("file"))?;
    let headers = [(header::CONTENT_TYPE, file.content_type), (header::CACHE_CONTROL, "max-age=600")];
    Ok((headers, file.bytes).into_response())
}
