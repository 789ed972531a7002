//! The bearer token that guards writing, until accounts exist.

use std::{fmt, sync::Arc};

use axum::{
    extract::{FromRef, FromRequestParts},
    http::{header, request::Parts},
};

use super::Problem;

/// The admin's token. Its `Debug` form does not show it.
#[derive(Clone)]
pub(crate) struct AdminToken(Arc<str>);

impl AdminToken {
    /// The shortest token accepted, in bytes.
    pub(crate) const MIN_BYTES: usize = 16;

    /// `None` when the token is too short to be a secret, or cannot stand in a header.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let good = text.len() >= Self::MIN_BYTES && text.bytes().all(|b| b.is_ascii_graphic());
        good.then(|| Self(text.into()))
    }

    /// For showing it to the operator once, at the start.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }

    /// Takes the same time wherever the first difference is.
    fn is(&self, given: &str) -> bool {
        let (ours, given) = (self.0.as_bytes(), given.as_bytes());
        let difference = ours.iter().zip(given).fold(0, |d, (a, b)| std::hint::black_box(d | (a ^ b)));
        ours.len() == given.len() && difference == 0
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// A request that carries the admin's token. Extract it first, so that nothing of the body is read for anybody else.
#[derive(Debug)]
pub(crate) struct Admin;

impl<S: Send + Sync> FromRequestParts<S> for Admin
where
    AdminToken: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let value = parts.headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let given = match value.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => token.trim(),
            _ => return Err(Problem::unauthorized()),
        };
        if AdminToken::from_ref(state).is(given) { Ok(Self) } else { Err(Problem::unauthorized()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_fits() {
        let token = AdminToken::parse("0123456789abcdef").expect("token");
        assert!(token.is("0123456789abcdef"));
        for other in ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef0"] {
            assert!(!token.is(other), "{other}");
        }
        assert_eq!(format!("{token:?}"), "AdminToken(…)");
    }

    #[test]
    fn a_weak_or_unsendable_token_is_refused() {
        for bad in ["", "short", "with a space in it", "пароль-пароль"] {
            assert!(AdminToken::parse(bad).is_none(), "{bad}");
        }
    }
}
