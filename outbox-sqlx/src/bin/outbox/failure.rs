//! How the command ends when it does not end well.

use std::{
    io::{self, Write as _},
    process::ExitCode,
};

use outbox_core::{
    error::chain,
    log::{LogError, LogErrorKind},
};

use crate::secrets::without_secrets;

/// Why the command ended.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It could not be done: exit code 1.
    Failed(String),
    /// It was not asked for properly, and nothing was done: exit code 2.
    Usage(String),
    /// Problems were found, and have been printed if anybody reads: exit code 3.
    Problems,
    /// Nobody reads the output any more: exit code 0.
    NobodyReads,
}

impl Failure {
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::Failed(message.into())
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::Usage(message.into())
    }

    /// Says why, on standard error.
    pub(crate) fn report(self) -> ExitCode {
        let (message, code) = match self {
            Self::Failed(message) => (message, 1),
            Self::Usage(message) => (message, 2),
            Self::Problems => return ExitCode::from(3),
            Self::NobodyReads => return ExitCode::SUCCESS,
        };
        // If even that fails there is nobody left to tell.
        let _told = writeln!(io::stderr(), "outbox: {}", without_secrets(&message));
        ExitCode::from(code)
    }
}

impl From<LogError> for Failure {
    fn from(error: LogError) -> Self {
        let advice = match error.kind() {
            LogErrorKind::NotMigrated => "; run `outbox migrate`",
            LogErrorKind::UnknownConsumer => "; `outbox consumers` lists them",
            LogErrorKind::BadCursor => "; see `outbox doctor` and `outbox reanchor --help`",
            LogErrorKind::BadName => return Self::Usage(chain(&error)),
            _ => "",
        };
        Self::Failed(format!("{}{advice}", chain(&error)))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::BrokenPipe => Self::NobodyReads,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}

/// Prints help or what is wrong with the arguments. Clap repeats them, and a URL typed in the wrong place may hold a
/// password.
pub(crate) fn of_arguments(told: &clap::Error) -> ExitCode {
    let text = told.render();
    let written = if told.use_stderr() {
        write!(io::stderr(), "{}", without_secrets(&text.to_string()))
    } else {
        write!(io::stdout(), "{text}")
    };
    drop(written);
    ExitCode::from(u8::try_from(told.exit_code()).unwrap_or(1))
}
