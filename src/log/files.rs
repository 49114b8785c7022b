//! The one place where files are fsynced and renamed, which no thread may do that serves connections or holds a lock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::file_names::with_suffix;
#[cfg(test)]
use super::forgetful_disk;
use crate::model::lock::about_to_wait_for_disk;

/// Replaces a small file whole, so that a crash leaves the old content or the new, never a mixture: writes `<path>.tmp`,
/// fsyncs it, renames it over `path`, and fsyncs the directory.
/// Source: kafka 3.9 server-common/.../CheckpointFile.java (write), clients/.../Utils.java (atomicMoveWithFallback).
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".tmp");
    let mut file = File::create(&temporary)?;
    file.write_all(content)?;
    sync(&file)?;
    drop(file);
    rename(&temporary, path)?;
    match path.parent() {
        Some(dir) => sync_path(dir),
        None => Ok(()),
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    about_to_wait_for_disk();
    #[cfg(test)]
    faults::before(faults::Op::Rename)?;
    #[cfg(test)]
    forgetful_disk::renaming(to);
    fs::rename(from, to)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    about_to_wait_for_disk();
    #[cfg(test)]
    faults::before(faults::Op::Sync)?;
    #[cfg(test)]
    forgetful_disk::syncing();
    file.sync_all()?;
    #[cfg(test)]
    forgetful_disk::synced(file);
    Ok(())
}

/// Makes durable what is in a file; of a directory, renames, creations and removals.
pub(crate) fn sync_path(path: &Path) -> io::Result<()> {
    sync(&File::open(path)?)
}

/// Writes a whole file. It may be there in part after an error or a crash.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    #[cfg(test)]
    faults::before(faults::Op::Write)?;
    fs::write(path, content)
}

/// Reads a whole file; a missing one is `None`.
pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file or a whole directory; a missing one is fine.
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    #[cfg(test)]
    faults::before(faults::Op::Removal)?;
    let removed = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file; a missing one is fine.
pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Removes a file for good: one that a start must not find after the machine failed either.
pub(crate) fn remove_durably(path: &Path) -> io::Result<()> {
    remove_if_exists(path)?;
    match path.parent() {
        Some(dir) => sync_path(dir),
        None => Ok(()),
    }
}

/// Makes something of this thread fail the way a full disk lets it fail.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::cell::{Cell, RefCell};

    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Op {
        Sync,
        /// Of a whole file.
        Write,
        Rename,
        /// Of what was deleted.
        Removal,
    }

    type Watcher = Box<dyn FnMut(Op)>;

    thread_local! {
        static FAILS: Cell<Option<(Op, u32)>> = const { Cell::new(None) };
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Called before each that this thread comes to, until there is another watcher or none.
    pub fn watch(watcher: Option<Watcher>) {
        WATCHER.set(watcher);
    }

    /// The one that comes after so many others fails.
    pub fn fail(op: Op, others: u32) {
        FAILS.set(Some((op, others)));
    }

    /// Nothing fails any more. True if what was to fail has not been reached.
    pub fn clear() -> bool {
        FAILS.take().is_some()
    }

    pub fn before(op: Op) -> io::Result<()> {
        WATCHER.with_borrow_mut(|watcher| {
            if let Some(watcher) = watcher {
                watcher(op);
            }
        });
        match FAILS.get() {
            Some((failing, others)) if failing == op => {
                FAILS.set(others.checked_sub(1).map(|others| (op, others)));
                if others == 0 { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_gone_for_good_when_the_disk_has_the_directory_without_it() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let marker = dir.path().join("marker");
        fs::write(&marker, "").expect("writable");
        faults::fail(faults::Op::Sync, 0);
        assert!(remove_durably(&marker).is_err());
        remove_durably(&marker).expect("what is gone already may not be gone from the disk");
        assert!(!marker.exists());
    }
}
