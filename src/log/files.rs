//! The one door of this room to the file system. What fsyncs or renames is here alone too: no thread may do that which serves
//! connections or holds a lock. In tests each call may be counted, made to wait or to fail; see `faults`.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
pub(crate) use std::fs::File;
use std::fs::{self, DirEntry, Metadata, OpenOptions};
use std::io::{self, IoSlice, IoSliceMut};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use rustix::fs::{Access, Advice, CWD, FallocateFlags, FlockOperation, Mode, OFlags, ResolveFlags, StatVfs};
use rustix::io::{Errno, ReadWriteFlags};
use rustix::process::{Flock, FlockType};

#[cfg(test)]
use self::faults::before;
use super::file_names::{offset_of, with_suffix};
#[cfg(test)]
use super::forgetful_disk;
use crate::model::lock::about_to_wait_for_disk;

/// What the file system is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    /// For reading or writing; the file is there, or is made, empty.
    Open,
    Create,
    /// All entries of a directory.
    List,
    MakeDir,
    /// What is told of a file or a volume.
    Stat,
    Read,
    /// Of a whole file.
    Write,
    /// Of some bytes of a file.
    WriteAt,
    SetLen,
    /// Of room behind the end of a file.
    Reserve,
    SetModified,
    Sync,
    Rename,
    /// Of one file.
    Unlink,
    /// Of what was deleted.
    Removal,
    Lock,
}

#[cfg(not(test))]
#[inline(always)]
fn before<P: ?Sized>(_: Op, _: &P) -> io::Result<()> {
    Ok(())
}

/// What a thread does to open or to read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Patience {
    Waits,
    /// Takes what the system has in memory.
    AsksTheSystem,
    /// Asks nobody.
    None,
}

thread_local! {
    static PATIENCE: Cell<Patience> = const { Cell::new(Patience::Waits) };
}

fn with_patience<T>(patience: Patience, work: impl FnOnce() -> T) -> T {
    struct Restored(Patience);
    impl Drop for Restored {
        fn drop(&mut self) {
            PATIENCE.set(self.0);
        }
    }
    let _restored = Restored(PATIENCE.replace(patience));
    work()
}

/// What `work` would have to wait for a disk for, to open or to read a file, is `WouldBlock` instead: then the caller asks
/// again where it may wait. A file system that cannot tell is waited for.
pub(crate) fn without_waiting<T>(work: impl FnOnce() -> T) -> T {
    with_patience(Patience::AsksTheSystem, work)
}

/// What `work` would have to open or to read a file for is `WouldBlock` instead.
pub(super) fn from_memory<T>(work: impl FnOnce() -> T) -> T {
    with_patience(Patience::None, work)
}

/// Whether the thread may wait for a disk now, as far as it has said.
pub(crate) fn may_wait() -> bool {
    PATIENCE.get() == Patience::Waits
}

/// Comes before whatever only opens or reads.
fn may_ask() -> io::Result<()> {
    if PATIENCE.get() == Patience::None { Err(Errno::AGAIN.into()) } else { Ok(()) }
}

thread_local! {
    static SPARES: RefCell<Vec<File>> = const { RefCell::new(Vec::new()) };
}

/// Descriptors for a change that must not stop half way: while this is held, what its thread opens takes them where the process
/// has no more.
#[must_use]
pub(crate) struct Spares(());

impl Drop for Spares {
    fn drop(&mut self) {
        SPARES.take();
    }
}

/// As many as the change opens, before it has begun: an error leaves it undone.
pub(crate) fn spare_descriptors(dir: &Path, count: usize) -> io::Result<Spares> {
    let spares = (0..count).map(|_| open(dir)).collect::<io::Result<Vec<File>>>()?;
    SPARES.set(spares);
    Ok(Spares(()))
}

/// What takes a descriptor, with a spare one if there is no other. Others may be quicker to take one of them.
fn opened<T>(op: Op, path: &Path, open: impl Fn() -> io::Result<T>) -> io::Result<T> {
    let mut opened = before(op, path).and_then(|()| open());
    while let Err(error) = &opened
        && matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
        && SPARES.with_borrow_mut(Vec::pop).is_some()
    {
        opened = open();
    }
    opened
}

/// Opens a file that is there, by what memory knows of the directory if the thread may not wait.
fn open_there(path: &Path, options: &OpenOptions, flags: OFlags) -> io::Result<File> {
    may_ask()?;
    opened(Op::Open, path, || {
        if !may_wait() {
            match rustix::fs::openat2(CWD, path, flags | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::CACHED) {
                Ok(file) => return Ok(file.into()),
                Err(Errno::AGAIN) => return Err(Errno::AGAIN.into()),
                // The system may not know how, and says it in more than one way.
                Err(_) => {}
            }
        }
        options.open(path)
    })
}

pub(crate) fn open(path: &Path) -> io::Result<File> {
    open_there(path, OpenOptions::new().read(true), OFlags::RDONLY)
}

/// Opens a file that is there.
pub(crate) fn open_to_read_and_write(path: &Path) -> io::Result<File> {
    open_there(path, OpenOptions::new().read(true).write(true), OFlags::RDWR)
}

/// Opens a file that is there.
pub(crate) fn open_to_write(path: &Path) -> io::Result<File> {
    open_there(path, OpenOptions::new().write(true), OFlags::WRONLY)
}

/// Opens a file with what it has, or makes it.
pub(crate) fn open_or_create(path: &Path) -> io::Result<File> {
    opened(Op::Create, path, || OpenOptions::new().write(true).create(true).truncate(false).open(path))
}

/// Makes an empty file.
pub(crate) fn create(path: &Path) -> io::Result<File> {
    opened(Op::Create, path, || OpenOptions::new().read(true).write(true).create(true).truncate(true).open(path))
}

pub(crate) fn create_dir(path: &Path) -> io::Result<()> {
    before(Op::MakeDir, path)?;
    fs::create_dir(path)
}

pub(crate) fn create_dir_all(path: &Path) -> io::Result<()> {
    before(Op::MakeDir, path)?;
    fs::create_dir_all(path)
}

/// The entries of a directory.
pub(crate) fn list(dir: &Path) -> io::Result<Vec<DirEntry>> {
    opened(Op::List, dir, || fs::read_dir(dir)?.collect())
}

/// What an entry of a directory is, or what it is linked to: as in java.io.File, links are followed.
#[derive(Debug)]
pub(crate) enum Kind {
    Dir,
    File,
    BrokenLink,
    Other,
}

/// Only what is linked costs a look.
pub(crate) fn kind_of(entry: &DirEntry) -> io::Result<Kind> {
    let mut kind = entry.file_type()?;
    if kind.is_symlink() {
        match metadata(&entry.path()) {
            Ok(target) => kind = target.file_type(),
            Err(_) => return Ok(Kind::BrokenLink),
        }
    }
    Ok(match () {
        () if kind.is_dir() => Kind::Dir,
        () if kind.is_file() => Kind::File,
        () => Kind::Other,
    })
}

/// By which a file or a directory is the same under all its names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Identity {
        Identity { device: metadata.dev(), inode: metadata.ino() }
    }
}

pub(crate) fn identity(path: &Path) -> io::Result<Identity> {
    Ok(Identity::of(&metadata(path)?))
}

pub(crate) fn exists(path: &Path) -> io::Result<bool> {
    may_ask()?;
    before(Op::Stat, path)?;
    path.try_exists()
}

pub(crate) fn metadata(path: &Path) -> io::Result<Metadata> {
    may_ask()?;
    before(Op::Stat, path)?;
    if !may_wait() {
        return Err(Errno::AGAIN.into());
    }
    fs::metadata(path)
}

pub(crate) fn metadata_of(file: &File) -> io::Result<Metadata> {
    may_ask()?;
    before(Op::Stat, file)?;
    file.metadata()
}

pub(crate) fn volume(path: &Path) -> io::Result<StatVfs> {
    before(Op::Stat, path)?;
    Ok(rustix::fs::statvfs(path)?)
}

pub(crate) fn read(path: &Path) -> io::Result<Vec<u8>> {
    if !may_wait() {
        let file = open(path)?;
        let mut bytes = vec![0; usize::try_from(metadata_of(&file)?.len()).unwrap_or(usize::MAX)];
        return read_exact_at(&file, &mut bytes, 0).map(|()| bytes);
    }
    opened(Op::Read, path, || fs::read(path))
}

/// The system is not to read ahead of what is asked of this file: it does so within whichever call comes upon the last of
/// what it read ahead, one that must not wait too, and that call waits for room in the queue of a busy disk.
/// Source: Linux, mm/filemap.c (filemap_readahead) and mm/readahead.c.
pub(crate) fn read_nothing_ahead(file: &File) {
    // A file system that knows no such thing is none the worse.
    let _ = rustix::fs::fadvise(file, 0, None, Advice::Random);
}

/// Lets the disk begin to read what is about to be read. It may wait for the disk.
pub(crate) fn begin_to_read(file: &File, position: u64, len: NonZeroU64) {
    let _ = rustix::fs::fadvise(file, position, Some(len), Advice::WillNeed);
}

pub(crate) fn read_exact_at(file: &File, bytes: &mut [u8], position: u64) -> io::Result<()> {
    may_ask()?;
    before(Op::Read, file)?;
    if may_wait() { file.read_exact_at(bytes, position) } else { read_cached(file, bytes, position) }
}

/// As many bytes as one read brings; none at the end.
pub(crate) fn read_at(file: &File, bytes: &mut [u8], position: u64) -> io::Result<usize> {
    may_ask()?;
    before(Op::Read, file)?;
    file.read_at(bytes, position)
}

fn read_cached(file: &File, mut bytes: &mut [u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::preadv2(file, &mut [IoSliceMut::new(bytes)], position, ReadWriteFlags::NOWAIT) {
            // Linux 5.9 and 5.10 may say that of bytes that are there (preadv2(2), BUGS).
            Ok(0) if metadata_of(file)?.len() > position => return Err(Errno::AGAIN.into()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(read) => {
                bytes = &mut bytes[read..];
                position += read as u64;
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Err(Errno::AGAIN.into()),
            // Whatever else it is, the system may not know how.
            Err(_) => return file.read_exact_at(bytes, position),
        }
    }
    Ok(())
}

pub(crate) fn write_all_at(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    write_parts_at(file, &mut [IoSlice::new(bytes)], position)
}

/// Writes all parts, one behind the other, resuming after short writes.
pub(crate) fn write_parts_at(file: &File, mut parts: &mut [IoSlice<'_>], mut position: u64) -> io::Result<()> {
    // Longest vector Linux takes.
    const PARTS_MAX: usize = 1024;
    let asked = before(Op::WriteAt, file);
    #[cfg(test)]
    let asked = asked.inspect_err(|_| faults::tear(file, parts, position));
    asked?;
    IoSlice::advance_slices(&mut parts, 0);
    while !parts.is_empty() {
        let count = parts.len().min(PARTS_MAX);
        match rustix::io::pwritev(file, &parts[..count], position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                position += written as u64;
                IoSlice::advance_slices(&mut parts, written);
            }
            Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

pub(crate) fn set_len(file: &File, len: u64) -> io::Result<()> {
    before(Op::SetLen, file)?;
    file.set_len(len)
}

/// Room behind the end of a file, which stays as long as it is. Not every file system can do that.
pub(crate) fn reserve(file: &File, position: u64, len: u64) -> io::Result<()> {
    before(Op::Reserve, file)?;
    match rustix::fs::fallocate(file, FallocateFlags::KEEP_SIZE, position, len) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
        reserved => Ok(reserved?),
    }
}

pub(crate) fn set_modified(file: &File, modified: SystemTime) -> io::Result<()> {
    before(Op::SetModified, file)?;
    file.set_modified(modified)
}

/// The lock that a JVM takes on a file, so that each sees the other's: by fcntl, and by nothing else, since NFS makes the same of
/// flock, for another owner. It does not keep out who is in the same process, and is gone when the process closes any descriptor of
/// the file. So whoever is about to open one looks at `LOCKED` first, as a JVM does.
/// Source: OpenJDK sun/nio/ch/FileLockTable.java; Linux, fs/nfs/file.c (nfs_flock).
#[derive(Debug)]
pub(crate) struct FileLock {
    file: Option<File>,
    identity: Identity,
}

/// What this process has locked.
static LOCKED: Mutex<BTreeSet<Identity>> = Mutex::new(BTreeSet::new());

impl Drop for FileLock {
    fn drop(&mut self) {
        // In this order: nobody opens the file before this descriptor has gone.
        drop(self.file.take());
        LOCKED.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.identity);
    }
}

/// Locks a file, which is made if it is not there. `None` if somebody has the lock.
pub(crate) fn lock(path: &Path) -> io::Result<Option<FileLock>> {
    let mut locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
    if exists(path)? && locked.contains(&identity(path)?) {
        return Ok(None);
    }
    let file = open_or_create(path)?;
    before(Op::Lock, &file)?;
    match rustix::fs::fcntl_lock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {
            let identity = Identity::of(&metadata_of(&file)?);
            locked.insert(identity);
            Ok(Some(FileLock { file: Some(file), identity }))
        }
        Err(Errno::AGAIN | Errno::ACCESS) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Which process has that lock; 0 if it cannot be seen from here.
pub(crate) fn lock_holder(path: &Path) -> io::Result<Option<i32>> {
    let locked = LOCKED.lock().unwrap_or_else(PoisonError::into_inner);
    if !exists(path)? {
        return Ok(None);
    }
    if locked.contains(&identity(path)?) {
        return Ok(Some(rustix::process::getpid().as_raw_nonzero().get()));
    }
    let file = open(path)?;
    before(Op::Lock, &file)?;
    let held = rustix::process::fcntl_getlk(&file, &Flock::from(FlockType::ReadLock))?;
    Ok(held.map(|held| held.pid.map_or(0, |pid| pid.as_raw_nonzero().get())))
}

/// Whether a broker may work in a directory.
pub(crate) fn may_use(dir: &Path) -> io::Result<()> {
    before(Op::Stat, dir)?;
    Ok(rustix::fs::access(dir, Access::READ_OK | Access::WRITE_OK | Access::EXEC_OK)?)
}

/// Replaces a small file whole, so that a crash leaves the old content or the new, never a mixture: writes `<path>.tmp`,
/// fsyncs it, renames it over `path`, and fsyncs the directory.
/// Source: kafka 3.9 server-common/.../CheckpointFile.java (write), clients/.../Utils.java (atomicMoveWithFallback).
pub(crate) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = with_suffix(path, ".tmp");
    let file = create(&temporary)?;
    write_all_at(&file, content, 0)?;
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
    before(Op::Rename, from)?;
    #[cfg(test)]
    forgetful_disk::changing(to);
    fs::rename(from, to)
}

pub(crate) fn sync(file: &File) -> io::Result<()> {
    sync_by(file, File::sync_all)
}

/// The same without what only tells when the file was written.
pub(crate) fn sync_data(file: &File) -> io::Result<()> {
    sync_by(file, File::sync_data)
}

fn sync_by(file: &File, how: fn(&File) -> io::Result<()>) -> io::Result<()> {
    about_to_wait_for_disk();
    before(Op::Sync, file)?;
    #[cfg(test)]
    forgetful_disk::syncing();
    how(file)?;
    #[cfg(test)]
    forgetful_disk::synced(file);
    Ok(())
}

/// Makes durable what is in a file; of a directory, renames, creations and removals.
pub(crate) fn sync_path(path: &Path) -> io::Result<()> {
    sync(&open(path)?)
}

/// Writes a whole file. It may be there in part after an error or a crash.
pub(crate) fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    opened(Op::Write, path, || fs::write(path, content))
}

/// Reads a whole file; a missing one is `None`.
pub(crate) fn read_if_exists(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes a file or a whole directory; a missing one is fine. Of a directory that is linked goes what a JVM broker takes away: the
/// files of segments, and the link.
/// Source: kafka 3.9 core/.../log/LocalLog.scala (deleteAllSegments), clients/.../Utils.java (delete).
pub(crate) fn remove_all(path: &Path) -> io::Result<()> {
    before(Op::Removal, path)?;
    #[cfg(test)]
    forgetful_disk::changing(path);
    let removed = match (path.is_dir(), path.is_symlink()) {
        (true, true) => remove_linked(path),
        (true, false) => fs::remove_dir_all(path),
        (false, _) => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn remove_linked(dir: &Path) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_name().to_str().and_then(offset_of).is_some() {
            fs::remove_file(entry.path())?;
        }
    }
    fs::remove_file(dir)
}

/// Removes a file; a missing one is fine.
pub(crate) fn remove_if_exists(path: &Path) -> io::Result<()> {
    before(Op::Unlink, path)?;
    #[cfg(test)]
    forgetful_disk::changing(path);
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

/// Counts calls, and makes them wait or fail.
#[cfg(test)]
pub(crate) mod faults {
    use super::*;
    use std::cell::RefCell;
    use std::os::fd::AsRawFd;
    use std::path::PathBuf;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Mutex, PoisonError};

    pub(crate) use super::{Op, may_wait};

    type Watcher = Box<dyn FnMut(Op)>;
    type Fault = dyn Fn(Op, &Path) -> io::Result<()> + Send + Sync;

    thread_local! {
        static FAILS: Cell<Option<(Op, u32)>> = const { Cell::new(None) };
        static FILLS_AFTER: Cell<Option<usize>> = const { Cell::new(None) };
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    /// Of any thread, below each of these directories.
    static DIRS: Mutex<Vec<(PathBuf, Arc<Fault>)>> = Mutex::new(Vec::new());
    /// How many there are: hardly any test has one.
    static DIRS_LEN: AtomicUsize = AtomicUsize::new(0);

    /// As long as it lives, a fault comes before each call on its directory.
    pub struct InForce(PathBuf);

    impl Drop for InForce {
        fn drop(&mut self) {
            let mut dirs = DIRS.lock().unwrap_or_else(PoisonError::into_inner);
            dirs.retain(|(dir, _)| *dir != self.0);
            DIRS_LEN.store(dirs.len(), Ordering::Release);
        }
    }

    /// Before each call of any thread on this directory and on what is in it.
    pub fn below(dir: &Path, fault: impl Fn(Op, &Path) -> io::Result<()> + Send + Sync + 'static) -> InForce {
        let mut dirs = DIRS.lock().unwrap_or_else(PoisonError::into_inner);
        dirs.push((dir.to_path_buf(), Arc::new(fault)));
        DIRS_LEN.store(dirs.len(), Ordering::Release);
        InForce(dir.to_path_buf())
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

    /// The next append of this thread writes this many bytes and then finds the disk full.
    pub fn fill_disk_after(bytes: usize) {
        FILLS_AFTER.set(Some(bytes));
    }

    /// What a call is about.
    pub trait Place {
        fn path(&self) -> PathBuf;
    }

    impl Place for Path {
        fn path(&self) -> PathBuf {
            self.to_path_buf()
        }
    }

    impl Place for File {
        fn path(&self) -> PathBuf {
            fs::read_link(format!("/proc/self/fd/{}", self.as_raw_fd())).unwrap_or_default()
        }
    }

    pub fn before(op: Op, place: &(impl Place + ?Sized)) -> io::Result<()> {
        if DIRS_LEN.load(Ordering::Acquire) > 0 {
            let path = place.path();
            let fault = {
                let dirs = DIRS.lock().unwrap_or_else(PoisonError::into_inner);
                dirs.iter().find(|(dir, _)| path.starts_with(dir)).map(|(_, fault)| Arc::clone(fault))
            };
            // It may wait.
            fault.map_or(Ok(()), |fault| fault(op, &path))?;
        }
        // What the watcher does itself is not watched.
        if let Some(mut watcher) = WATCHER.take() {
            watcher(op);
            WATCHER.set(Some(watcher));
        }
        let is_log = || place.path().extension().is_some_and(|extension| extension == "log");
        if op == Op::WriteAt && FILLS_AFTER.get().is_some() && is_log() {
            return Err(Errno::NOSPC.into());
        }
        match FAILS.get() {
            Some((failing, others)) if failing == op => {
                FAILS.set(others.checked_sub(1).map(|others| (op, others)));
                if others == 0 { Err(Errno::NOSPC.into()) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// A write that fails is half done.
    pub fn tear(file: &File, parts: &[IoSlice<'_>], position: u64) {
        let whole: usize = parts.iter().map(|part| part.len()).sum();
        let bytes = FILLS_AFTER.take().unwrap_or(whole / 2);
        let written: Vec<u8> = parts.iter().flat_map(|part| part.iter().copied()).take(bytes).collect();
        file.write_all_at(&written, position).expect("writable");
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

    #[test]
    fn what_is_not_in_memory_is_not_waited_for_where_nobody_may_wait() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("file");
        fs::write(&path, vec![7; 1 << 20]).expect("writable");
        let file = open(&path).expect("readable");
        sync(&file).expect("written");
        let mut bytes = vec![0; 100_000];
        let far = 500_000;
        without_waiting(|| read_exact_at(&file, &mut bytes, far)).expect("it was just written");
        rustix::fs::fadvise(&file, 0, None, Advice::DontNeed).expect("a file");
        let is_cold = rustix::io::preadv2(&file, &mut [IoSliceMut::new(&mut [0])], far, ReadWriteFlags::NOWAIT);
        // A directory in memory has nothing that is not.
        if is_cold == Err(Errno::AGAIN) {
            let cold = without_waiting(|| read_exact_at(&file, &mut bytes, far));
            assert_eq!(cold.expect_err("it is on the disk alone").kind(), io::ErrorKind::WouldBlock);
            assert_eq!(without_waiting(|| read(&path)).expect_err("nor this").kind(), io::ErrorKind::WouldBlock);
        }
        read_exact_at(&file, &mut bytes, far).expect("waited for");
        bytes.fill(0);
        without_waiting(|| read_exact_at(&file, &mut bytes, far)).expect("it is in memory");
        assert_eq!(bytes, [7; 100_000]);
        let beyond = without_waiting(|| read_exact_at(&file, &mut bytes, 1 << 20));
        assert_eq!(beyond.expect_err("there is no more").kind(), io::ErrorKind::UnexpectedEof);
        read(&path).expect("waited for");
        assert_eq!(without_waiting(|| read(&path)).expect("all of it is there now"), vec![7; 1 << 20]);
    }

    #[test]
    fn a_fault_is_of_its_directory_alone_whoever_calls() {
        let (dir, other) = (tempfile::tempdir().expect("made"), tempfile::tempdir().expect("made"));
        let paths = [dir.path().join("file"), other.path().join("file")];
        let files = paths.each_ref().map(|path| create(path).expect("writable"));
        let fault = faults::below(dir.path(), |op, _| if op == Op::Stat { Ok(()) } else { Err(Errno::IO.into()) });
        let calls = |at: usize| {
            let (path, file) = (&paths[at], &files[at]);
            let results = [
                write_all_at(file, b"four", 0),
                write(path, b"four"),
                read(path).map(drop),
                rename(path, path),
                exists(path).map(drop),
            ];
            results.map(|result| result.is_ok())
        };
        let seen = std::thread::scope(|scope| scope.spawn(|| [calls(0), calls(1)]).join().expect("none panics"));
        assert_eq!(seen, [[false, false, false, false, true], [true; 5]]);
        assert_eq!(fs::read(&paths[0]).expect("readable"), b"fo", "half of what failed");
        drop(fault);
        assert_eq!(calls(0), [true; 5]);
    }
}
