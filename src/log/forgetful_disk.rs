//! A disk that may forget what was not fsynced: it watches the fsyncs, renames and removals of one thread, and makes what a
//! loss of power may leave of a directory. Only in tests.
//!
//! Of a file it keeps what the last fsync gave it, and any beginning of what was appended since, with or without zeros for
//! the rest. A directory it keeps as it was at its last fsync or before any change of a name since, or as it is, each
//! directory for itself: journals of file systems keep changes of names in their order. Now and then it keeps any of the
//! changes, for there are file systems whose journals do not.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// Entries of a directory: each name and the inode that it stands for.
type Names = BTreeMap<OsString, u64>;

#[derive(Debug, Default)]
struct Disk {
    root: PathBuf,
    files: HashMap<u64, Vec<u8>>,
    dirs: HashMap<u64, Names>,
    /// Since the fsync of each directory, by its inode: what it looked like before each change of a name.
    earlier: HashMap<u64, Vec<Names>>,
    events: u64,
    /// When the power goes, and what is made of the directory then.
    loss: Option<Loss>,
}

#[derive(Debug)]
struct Loss {
    at_event: u64,
    seed: u64,
    into: PathBuf,
}

thread_local! {
    static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
}

fn names_of(dir: &Path) -> Names {
    let Ok(entries) = fs::read_dir(dir) else { return Names::new() };
    let entry = |entry: fs::DirEntry| Some((entry.file_name(), fs::symlink_metadata(entry.path()).ok()?.ino()));
    entries.flatten().filter_map(entry).collect()
}

fn inode(path: &Path) -> Option<u64> {
    fs::symlink_metadata(path).ok().map(|metadata| metadata.ino())
}

/// From now on; all that is there is on the disk. The power goes before the event of that number, and `into` is what is left.
pub(crate) fn watch(root: &Path, at_event: u64, seed: u64, into: &Path) {
    let mut disk = Disk { root: root.to_path_buf(), ..Disk::default() };
    disk.take_all(root);
    disk.loss = Some(Loss { at_event, seed, into: into.to_path_buf() });
    DISK.set(Some(disk));
}

/// Ends the watch. If the power has not gone yet it goes now; the number of events until then.
pub(crate) fn lose_power() -> u64 {
    let mut disk = DISK.take().expect("a disk is watched");
    disk.lose_power();
    disk.events
}

pub(crate) fn has_lost_power() -> bool {
    DISK.with_borrow(|disk| disk.as_ref().is_some_and(|disk| disk.loss.is_none()))
}

/// How many there have been.
pub(crate) fn events() -> u64 {
    DISK.with_borrow(|disk| disk.as_ref().map_or(0, |disk| disk.events))
}

/// Before an fsync.
pub(crate) fn syncing() {
    DISK.with_borrow_mut(|disk| {
        if let Some(disk) = disk {
            disk.event();
        }
    });
}

/// After an fsync.
pub(crate) fn synced(file: &File) {
    DISK.with_borrow_mut(|disk| {
        let Some(disk) = disk else { return };
        let Ok(path) = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd())) else { return };
        if let Some(inode) = inode(&path).filter(|_| path.starts_with(&disk.root)) {
            disk.take(&path, inode);
        }
    });
}

/// Before a rename to that path, or its removal.
pub(crate) fn changing(path: &Path) {
    DISK.with_borrow_mut(|disk| {
        let Some(disk) = disk else { return };
        disk.event();
        let Some(dir) = path.parent().filter(|dir| dir.starts_with(&disk.root)) else { return };
        if let Some(inode) = inode(path).filter(|_| path.is_dir()) {
            // Should it be back.
            disk.dirs.entry(inode).or_default();
        }
        if let Some(inode) = inode(dir) {
            disk.earlier.entry(inode).or_default().push(names_of(dir));
        }
    });
}

impl Disk {
    fn take(&mut self, path: &Path, inode: u64) {
        if path.is_dir() {
            self.dirs.insert(inode, names_of(path));
            self.earlier.remove(&inode);
        } else if let Ok(content) = fs::read(path) {
            self.files.insert(inode, content);
        }
    }

    fn take_all(&mut self, path: &Path) {
        let Some(inode) = inode(path) else { return };
        self.take(path, inode);
        for name in names_of(path).keys() {
            self.take_all(&path.join(name));
        }
    }

    fn event(&mut self) {
        if self.loss.as_ref().is_some_and(|loss| loss.at_event == self.events) {
            self.lose_power();
        }
        self.events += 1;
    }

    fn lose_power(&mut self) {
        let Some(loss) = self.loss.take() else { return };
        let mut rng = StdRng::seed_from_u64(loss.seed);
        let mut paths = HashMap::new();
        walk(&self.root, &mut paths);
        let root = inode(&self.root).expect("the root is there");
        self.leave_dir(root, &paths, &loss.into, &mut rng);
    }

    /// Writes what is left of a directory.
    fn leave_dir(&self, dir: u64, paths: &HashMap<u64, PathBuf>, into: &Path, rng: &mut StdRng) {
        fs::create_dir_all(into).expect("writable");
        let now = paths.get(&dir).map(|path| names_of(path)).unwrap_or_default();
        let durable = self.dirs.get(&dir).cloned().unwrap_or_default();
        let earlier = self.earlier.get(&dir).cloned().unwrap_or_default();
        let mut ever: Vec<Names> = [durable].into_iter().chain(earlier).chain([now]).collect();
        let names = match rng.random_bool(ANY_ORDER) {
            true => any_of(&ever, rng),
            false => ever.swap_remove(rng.random_range(0..ever.len())),
        };
        // Names of copies and of what was deleted are random.
        let mut names: Vec<(OsString, u64)> = names.into_iter().collect();
        names.sort_by_key(|(name, _)| without_id(&name.to_string_lossy()));
        for (name, inode) in names {
            let path = paths.get(&inode);
            let is_dir = path.map_or_else(|| self.dirs.contains_key(&inode), |path| path.is_dir());
            if is_dir {
                self.leave_dir(inode, paths, &into.join(name), rng);
            } else {
                fs::write(into.join(name), self.left_of(inode, path, rng)).expect("writable");
            }
        }
    }

    fn left_of(&self, inode: u64, path: Option<&PathBuf>, rng: &mut StdRng) -> Vec<u8> {
        let before = self.files.get(&inode).cloned().unwrap_or_default();
        let Some(mut now) = path.and_then(|path| fs::read(path).ok()) else { return before };
        if !now.starts_with(&before) {
            return if rng.random() { now } else { before };
        }
        let len = match rng.random_range(0..4) {
            0 => before.len(),
            1 => now.len(),
            _ => rng.random_range(before.len()..=now.len()),
        };
        if rng.random_bool(0.2) {
            now[len..].fill(0);
        } else {
            now.truncate(len);
        }
        now
    }
}

/// How often a directory keeps changes in another order.
const ANY_ORDER: f64 = 0.3;

/// The first of these, and any of the changes that follow. A rename is one change.
fn any_of(ever: &[Names], rng: &mut StdRng) -> Names {
    let mut names = ever[0].clone();
    for pair in ever.windows(2) {
        let (before, after) = (&pair[0], &pair[1]);
        let changed = before.iter().filter(|(name, inode)| after.get(*name) != Some(inode)).map(|(_, inode)| *inode);
        let new = after.iter().filter(|(name, inode)| before.get(*name) != Some(inode)).map(|(_, inode)| *inode);
        let inodes: BTreeSet<u64> = changed.chain(new).collect();
        for inode in inodes {
            if rng.random() {
                names.retain(|name, there| *there != inode || after.contains_key(name));
                names.extend(
                    after.iter().filter(|(_, there)| **there == inode).map(|(name, there)| (name.clone(), *there)),
                );
            }
        }
    }
    names
}

fn without_id(name: &str) -> String {
    match (name.split_once('.'), name.rsplit_once('-')) {
        (Some((partition, _)), Some((_, kind))) if name.len() > 32 => format!("{partition}-{kind}"),
        _ => name.to_string(),
    }
}

fn walk(path: &Path, paths: &mut HashMap<u64, PathBuf>) {
    if let Some(inode) = inode(path) {
        paths.insert(inode, path.to_path_buf());
    }
    for name in names_of(path).keys() {
        walk(&path.join(name), paths);
    }
}
