//! The one place where files are fsynced and renamed, which no thread may do that serves connections or holds a lock.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::file_names::with_suffix;
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
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}

pub(crate) fn rename(from: &Path, to: &Path) -> io::Result<()> {
    about_to_wait_for_disk();
    fs::rename(from, to)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    about_to_wait_for_disk();
    #[cfg(test)]
    faults::before_sync()?;
    file.sync_all()
}

/// Makes renames, creations and removals in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    sync(&File::open(dir)?)
}

/// Reads a whole file; a missing one is `None`.
pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file; a missing one is fine.
pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Makes an fsync of this thread fail the way a disk does that found itself full when it wrote back.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        static FAILS: Cell<bool> = const { Cell::new(false) };
    }

    pub fn fail_next_sync() {
        FAILS.set(true);
    }

    pub fn before_sync() -> io::Result<()> {
        if FAILS.take() { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }
}
