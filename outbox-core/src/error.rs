//! The shape all errors of the crates share: a kind to match on, a message that says what to do, the source kept.

/// A boxed source error.
pub type BoxError = Box<dyn std::error::Error + Send + Sync + 'static>;

/// Defines an error struct with a `kind`, a message and an optional source.
macro_rules! kinded_error {
    ($(#[$meta:meta])* $name:ident, $kind:ident) => {
        $(#[$meta])*
        #[derive(Debug)]
        pub struct $name {
            kind: $kind,
            message: std::borrow::Cow<'static, str>,
            source: Option<$crate::error::BoxError>,
        }

        impl $name {
            /// An error of this kind; `message` says what happened and what to do about it.
            #[must_use]
            pub fn new(kind: $kind, message: impl Into<std::borrow::Cow<'static, str>>) -> Self {
                Self { kind, message: message.into(), source: None }
            }

            /// Keeps the error that caused this one.
            #[must_use]
            pub fn with_source(mut self, source: impl Into<$crate::error::BoxError>) -> Self {
                self.source = Some(source.into());
                self
            }

            /// What a caller can match on.
            #[must_use]
            pub fn kind(&self) -> $kind {
                self.kind
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(&self.message)
            }
        }

        impl std::error::Error for $name {
            fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
                self.source.as_deref().map(|e| e as &(dyn std::error::Error + 'static))
            }
        }
    };
}
pub(crate) use kinded_error;

/// An error and all its sources on one line, for logs and status pages: `a: b: c`.
#[must_use]
pub fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        text.push_str(": ");
        text.push_str(&source.to_string());
        next = source.source();
    }
    text
}
