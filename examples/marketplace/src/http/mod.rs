//! What every route shares: problem details, reading requests, the admin's token, security headers.

mod admin_token;
mod layers;
mod problem;
mod request;

pub(crate) use admin_token::{Admin, AdminToken};
pub(crate) use layers::with_layers;
pub(crate) use problem::{FieldErrors, Problem};
pub(crate) use request::{Id, JsonObject, QueryPairs, slashed};
