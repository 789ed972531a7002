//! The directory of the embedded shape, used by one process at a time.

use std::{
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// An open data directory; locked until dropped, also when the process is killed.
pub(crate) struct DataDir {
    path: PathBuf,
    was_empty: bool,
    _lock: File,
}

impl DataDir {
    /// Opens the directory, or makes it.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("the data directory {} cannot be used", path.display());
        fs::create_dir_all(path).with_context(cannot)?;
        let was_empty = fs::read_dir(path).with_context(cannot)?.next().is_none();
        let lock = File::create(path.join("lock")).with_context(cannot)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "the data directory {} is in use by another marketplace: stop that one first, or choose another --data-dir",
                    path.display()
                )
            }
            Err(TryLockError::Error(e)) => return Err(e).with_context(cannot),
        }
        if was_empty {
            // The default directory lies where the program is started, often in a repository.
            fs::write(path.join(".gitignore"), "*\n").with_context(cannot)?;
        }
        Ok(Self { path: path.to_owned(), was_empty, _lock: lock })
    }

    /// Whether nothing was in it, or it did not exist, before it was opened.
    pub(crate) fn was_empty(&self) -> bool {
        self.was_empty
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_at_a_time_and_empty_only_once() {
        let parent = tempfile::TempDir::new().expect("directory");
        let path = parent.path().join("data");
        let first = DataDir::open(&path).expect("made");
        assert!(first.was_empty());
        let error = DataDir::open(&path).err().expect("locked");
        assert!(error.to_string().contains("in use"), "{error}");
        drop(first);
        assert!(!DataDir::open(&path).expect("free again").was_empty());
    }
}
