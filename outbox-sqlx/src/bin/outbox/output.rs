//! Where results go.

use std::io::{self, IsTerminal as _, Write as _};

use serde_json::Value;

use crate::failure::Failure;

/// Standard output, for people or for programs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    /// JSON was asked for.
    pub(crate) json: bool,
    /// Somebody watches.
    pub(crate) terminal: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json, terminal: io::stdout().is_terminal() }
    }

    /// # Errors
    /// [`Failure::NobodyReads`] when the reader has gone away.
    #[expect(clippy::unused_self, reason = "whoever prints has been given the right to")]
    pub(crate) fn line(self, text: impl AsRef<str>) -> Result<(), Failure> {
        let mut out = io::stdout().lock();
        writeln!(out, "{}", text.as_ref())?;
        Ok(out.flush()?)
    }

    /// # Errors
    /// See [`Output::line`].
    pub(crate) fn value(self, value: &Value) -> Result<(), Failure> {
        self.line(value.to_string())
    }

    /// Prints for whom it was asked: the value, or else the lines.
    ///
    /// # Errors
    /// See [`Output::line`].
    pub(crate) fn either(self, value: impl FnOnce() -> Value, text: impl FnOnce() -> String) -> Result<(), Failure> {
        if self.json { self.value(&value()) } else { self.line(text()) }
    }

    /// Empties the screen, if it is one.
    ///
    /// # Errors
    /// See [`Output::line`].
    pub(crate) fn clear(self) -> Result<(), Failure> {
        if self.terminal && !self.json {
            let mut out = io::stdout().lock();
            write!(out, "\x1b[2J\x1b[H")?;
            out.flush()?;
        }
        Ok(())
    }

    /// How many characters fit into a line; `None` when nobody watches and nothing has to be cut.
    pub(crate) fn width(self) -> Option<usize> {
        self.terminal.then(|| terminal_columns().unwrap_or(80))
    }
}

#[cfg(unix)]
fn terminal_columns() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0).then(|| usize::from(size.ws_col))
}

#[cfg(not(unix))]
fn terminal_columns() -> Option<usize> {
    std::env::var("COLUMNS").ok()?.parse().ok()
}
