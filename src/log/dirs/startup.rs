//! Loads every log of every directory, and says how far it has come.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::{Dir, LogDirs};
use crate::config::log::LogConfig;
use crate::log::counters::add;
use crate::log::error::{Condemned, IoContext, LogError};
use crate::log::file_names::{self, DirKind};
use crate::log::files::Kind;
use crate::log::loading::{self, LoadInput};
use crate::log::pending::Due;
use crate::log::{Log, checkpoint, files};
use crate::model::{Offset, TopicPartition};

/// How far loading has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoadProgress {
    pub logs_total: u64,
    pub logs_loaded: u64,
    /// Segments that had to be walked because the last shutdown was not clean, and their bytes.
    pub segments_recovered: u64,
    pub bytes_recovered: u64,
}

#[derive(Default)]
struct Counters {
    logs_total: AtomicU64,
    logs_loaded: AtomicU64,
    segments_recovered: AtomicU64,
    bytes_recovered: AtomicU64,
}

impl Counters {
    fn progress(&self) -> LoadProgress {
        LoadProgress {
            logs_total: self.logs_total.load(Ordering::Relaxed),
            logs_loaded: self.logs_loaded.load(Ordering::Relaxed),
            segments_recovered: self.segments_recovered.load(Ordering::Relaxed),
            bytes_recovered: self.bytes_recovered.load(Ordering::Relaxed),
        }
    }
}

impl Dir {
    /// A log that cannot be opened for a fault of its own costs nothing but itself; any other error is given back.
    fn set_aside(&self, kind: DirKind, input: LoadInput, error: LogError) -> Result<(), LogError> {
        let is_own_fault = matches!(error, LogError::Io { .. } | LogError::Corrupt { .. })
            && self.shared.condemned_by(&error) != Condemned::Dir;
        if !is_own_fault {
            return Err(error);
        }
        log::error!("[{}] {error}; the partition is offline until it can be opened", input.topic_partition);
        if kind == DirKind::Live {
            let mut unloadable = self.unloadable.lock().expect("nothing panics under this lock");
            unloadable.insert(input.topic_partition.clone(), input);
        }
        Ok(())
    }
}

impl LogDirs {
    /// Loads every log of every directory, recovering those that a crash may have torn. `config_of` gives the settings
    /// of a topic; `on_progress` is called from several threads.
    pub fn load(
        &self,
        config_of: &(dyn Fn(&str) -> Arc<LogConfig> + Sync),
        now_ms: i64,
        on_progress: &(dyn Fn(LoadProgress) + Sync),
    ) -> Result<(), LogError> {
        let counters = Counters::default();
        let refused: Mutex<Option<LogError>> = Mutex::new(None);
        let duplicates = Mutex::default();
        std::thread::scope(|scope| {
            for dir in self.live() {
                let work = || {
                    if let Err(error) = self.load_dir(dir, config_of, now_ms, &duplicates, &counters, on_progress) {
                        match error {
                            LogError::StartRefused { .. } => {
                                refused.lock().expect("nothing panics under this lock").get_or_insert(error);
                            }
                            error => dir.shared.fail(&error),
                        }
                    }
                };
                scope.spawn(work);
            }
        });
        if let Some(refused) = refused.into_inner().expect("nothing panics under this lock") {
            return Err(refused);
        }
        on_progress(counters.progress());
        // What a directory had loaded before it failed is not served.
        for dir in self.dirs.iter().filter(|dir| dir.shared.is_offline()) {
            self.abandon_logs_of(&dir.shared);
        }
        self.take_out_doubtful();
        let duplicates = duplicates.into_inner().expect("nothing panics under this lock");
        duplicates.into_iter().try_for_each(|log| self.settle_duplicate(log, now_ms))?;
        self.logs().iter().for_each(|log| self.take_up_future(log, now_ms));
        self.write_recovery_points_moved_back(now_ms);
        Ok(())
    }

    fn load_dir(
        &self,
        dir: &Dir,
        config_of: &(dyn Fn(&str) -> Arc<LogConfig> + Sync),
        now_ms: i64,
        duplicates: &Mutex<Vec<Arc<Log>>>,
        counters: &Counters,
        on_progress: &(dyn Fn(LoadProgress) + Sync),
    ) -> Result<(), LogError> {
        let root = dir.shared.path();
        let marker = root.join(file_names::CLEAN_SHUTDOWN);
        let had_clean_shutdown = files::exists(&marker).doing("look for", &marker)?;
        dir.had_clean_shutdown.store(had_clean_shutdown, Ordering::Release);
        // A crash from here on must not find it, nor must one of the machine.
        files::remove_durably(&marker).doing("delete", &marker)?;
        if !had_clean_shutdown {
            log::info!("Attempting recovery for all logs in {} since no clean shutdown file was found", root.display());
        }
        let recovery_points = read_checkpoint(root, file_names::RECOVERY_POINT_CHECKPOINT, "everything is recovered")?;
        let log_starts =
            read_checkpoint(root, file_names::LOG_START_OFFSET_CHECKPOINT, "logs start at their first segment")?;
        let high_watermarks = read_checkpoint(
            root,
            file_names::HIGH_WATERMARK_CHECKPOINT,
            "high watermarks begin at the start of each log",
        )?;

        let cleaned =
            read_checkpoint(root, file_names::CLEANER_OFFSET_CHECKPOINT, "logs are compacted from their beginning")?;

        let mut queue = VecDeque::new();
        for (name, kind, topic_partition) in partition_dirs(root)? {
            match kind {
                DirKind::Deleting => {
                    let due = Due::after(now_ms, self.file_delete_delay_ms());
                    dir.shared.doom(due, [root.join(name)]);
                }
                DirKind::Stray => {
                    log::warn!("Found a stray log directory {}, leaving it alone", root.join(name).display())
                }
                DirKind::Live | DirKind::Future => {
                    let offset = |checkpoint: &HashMap<TopicPartition, Offset>| {
                        checkpoint.get(&topic_partition).copied().unwrap_or(Offset(0)).max(Offset(0))
                    };
                    let input = LoadInput {
                        dir: root.join(name),
                        config: config_of(&topic_partition.topic),
                        recovery_point: offset(&recovery_points),
                        log_start_offset: offset(&log_starts),
                        high_watermark: offset(&high_watermarks),
                        cleaned_to: cleaned.get(&topic_partition).copied(),
                        had_clean_shutdown,
                        topic_partition,
                    };
                    queue.push_back((kind, input));
                }
            }
        }
        counters.logs_total.fetch_add(queue.len() as u64, Ordering::Relaxed);
        on_progress(counters.progress());

        let on_recovered = |bytes: u64| {
            counters.segments_recovered.fetch_add(1, Ordering::Relaxed);
            add(&dir.shared.counters.segments_recovered, 1);
            counters.bytes_recovered.fetch_add(bytes, Ordering::Relaxed);
            on_progress(counters.progress());
        };
        // Opening many small logs is work for all processors, also where the setting is the one thread of Kafka's default.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = self.recovery_threads_per_dir.load(Ordering::Relaxed).max(processors).min(queue.len());
        let queue = Mutex::new(queue);
        let failure: Mutex<Option<LogError>> = Mutex::new(None);
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| {
                    while let Some((kind, input)) =
                        { queue.lock().expect("nothing panics under this lock").pop_front() }
                    {
                        let loaded = loading::load(input.clone(), dir.shared.clone(), now_ms, &on_recovered);
                        let loaded = loaded.and_then(|log| {
                            if kind == DirKind::Future && !had_clean_shutdown {
                                log.forget_unflushed(now_ms)?;
                            }
                            Ok(log)
                        });
                        let added = match loaded {
                            Ok(log) => {
                                self.add_loaded(kind, log, duplicates, now_ms);
                                Ok(())
                            }
                            Err(error) => dir.set_aside(kind, input, error),
                        };
                        if let Err(error) = added {
                            queue.lock().expect("nothing panics under this lock").clear();
                            failure.lock().expect("nothing panics under this lock").get_or_insert(error);
                            break;
                        }
                        counters.logs_loaded.fetch_add(1, Ordering::Relaxed);
                        on_progress(counters.progress());
                    }
                });
            }
        });
        if let Some(error) = failure.into_inner().expect("nothing panics under this lock") {
            return Err(error);
        }
        dir.is_loaded.store(true, Ordering::Release);
        Ok(())
    }

    /// A second log of a partition waits until all directories are loaded.
    fn add_loaded(&self, kind: DirKind, log: Log, duplicates: &Mutex<Vec<Arc<Log>>>, now_ms: i64) {
        let log = Arc::new(log);
        let map = if kind == DirKind::Future { &self.future_logs } else { &self.logs };
        let other = match map.write().expect("nothing panics under this lock").entry(log.topic_partition().clone()) {
            Entry::Vacant(place) => {
                log.parent().count_log();
                place.insert(log);
                return;
            }
            Entry::Occupied(other) => Arc::clone(other.get()),
        };
        if kind == DirKind::Future {
            // Either is but a copy.
            log::warn!("{} is a copy of the same log as {} and is deleted", log.dir().display(), other.dir().display());
            log.abandon();
            log.parent().doom(Due::at_once(now_ms), [log.dir()]);
        } else {
            duplicates.lock().expect("nothing panics under this lock").push(log);
        }
    }
}

/// What a damaged checkpoint held is made up for as if it had never been written; so is one of a later version.
fn read_checkpoint(root: &Path, name: &str, instead: &str) -> Result<HashMap<TopicPartition, Offset>, LogError> {
    match checkpoint::read_offsets(&root.join(name)) {
        Err(LogError::Corrupt { context }) => {
            log::error!("{context}; {instead}");
            Ok(HashMap::new())
        }
        read => read,
    }
}

/// Directories of other features, which are no partitions of ours.
pub(super) const NOT_PARTITIONS: [&str; 2] = ["__cluster_metadata-0", "remote-log-index-cache"];

fn partition_dirs(root: &Path) -> Result<Vec<(String, DirKind, TopicPartition)>, LogError> {
    let mut dirs = Vec::new();
    for entry in files::list(root).doing("list", root)? {
        let name = entry.file_name().to_string_lossy().into_owned();
        match files::kind_of(&entry).doing("list", root)? {
            Kind::Dir => {}
            // The log is where nobody finds it now: it is one that cannot be opened, and is not made anew.
            Kind::BrokenLink => {
                log::warn!("{} is a link that leads nowhere", entry.path().display());
                if file_names::parse_dir_name(&name).is_none() {
                    continue;
                }
            }
            Kind::File | Kind::Other => continue,
        }
        if NOT_PARTITIONS.contains(&name.as_str()) {
            continue;
        }
        let Some((topic_partition, kind)) = file_names::parse_dir_name(&name) else {
            let context = format!(
                "Found directory {}, '{name}' is not in the form of topic-partition or topic-partition.uniqueId-delete \
                 (if marked for deletion). Kafka's log directories (and children) should only contain Kafka topic data.",
                entry.path().display()
            );
            return Err(LogError::StartRefused { context });
        };
        dirs.push((name, kind, topic_partition));
    }
    dirs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
    Ok(dirs)
}
