//! Asking before something cannot be undone.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::Args;

use crate::{failure::Failure, secrets::without_secrets};

#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Confirm {
    /// Does not ask
    #[arg(long, short = 'y')]
    yes: bool,
}

impl Confirm {
    /// Goes on only if somebody agrees to what `question` says.
    ///
    /// # Errors
    /// [`Failure::Usage`] when nobody does, or can be asked.
    pub(crate) fn ask(self, question: &str) -> Result<(), Failure> {
        if self.yes {
            return Ok(());
        }
        let mut err = io::stderr();
        if !io::stdin().is_terminal() || !err.is_terminal() {
            return Err(Failure::usage(format!("{question} Nothing was done: say --yes to do it without being asked")));
        }
        write!(err, "{} [y/N] ", without_secrets(question))?;
        err.flush()?;
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer)?;
        match answer.trim().to_lowercase().as_str() {
            "y" | "yes" => Ok(()),
            _ => Err(Failure::usage("nothing was done")),
        }
    }
}
