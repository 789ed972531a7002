//! The admin's token: made once and kept in a file when embedded, required from the configuration otherwise.

#[cfg(feature = "embedded")]
use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::Write as _,
    path::Path,
};

use anyhow::Context;

use crate::{config::Secret, http::AdminToken};

/// The configured token.
pub(crate) fn configured(token: &Secret) -> anyhow::Result<AdminToken> {
    let least = AdminToken::MIN_BYTES;
    AdminToken::parse(&token.0).with_context(|| {
        format!("MARKETPLACE_ADMIN_TOKEN is no good: at least {least} printable ASCII characters without spaces")
    })
}

/// The token of a file, which is made with 32 random bytes when it is missing and readable by its owner only.
#[cfg(feature = "embedded")]
pub(crate) fn kept(file: &Path) -> anyhow::Result<AdminToken> {
    let cannot = || format!("the admin's token cannot be kept in {}", file.display());
    if !file.exists() {
        make(file).with_context(cannot)?;
    }
    let text = fs::read_to_string(file).with_context(cannot)?;
    AdminToken::parse(text.trim())
        .with_context(|| format!("{} holds no usable token; delete it to have another made", file.display()))
}

/// Under another name first, so that a crash leaves no half a token.
#[cfg(feature = "embedded")]
fn make(file: &Path) -> std::io::Result<()> {
    let token = rand::random::<[u8; 32]>().iter().fold(String::with_capacity(65), |mut hex, byte| {
        let _never_fails = write!(hex, "{byte:02x}");
        hex
    });
    let new = file.with_extension("new");
    let _absent_is_fine = fs::remove_file(&new);
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut out = options.open(&new)?;
    writeln!(out, "{token}")?;
    out.sync_all()?;
    fs::rename(&new, file)
}

#[cfg(all(test, feature = "embedded"))]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_made_once_for_its_owner_only() {
        let directory = tempfile::TempDir::new().expect("directory");
        let file = directory.path().join("admin-token");
        let token = kept(&file).expect("made");
        assert_eq!(token.reveal().len(), 64);
        assert_eq!(kept(&file).expect("read").reveal(), token.reveal());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(fs::metadata(&file).expect("file").permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn a_spoilt_file_is_an_error_that_says_what_to_do() {
        let directory = tempfile::TempDir::new().expect("directory");
        let file = directory.path().join("admin-token");
        fs::write(&file, "\n").expect("write");
        let error = kept(&file).expect_err("empty").to_string();
        assert!(error.contains("delete it"), "{error}");
    }
}
