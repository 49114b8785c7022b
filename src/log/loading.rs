//! Opens a partition's directory: completes what a crash interrupted, recovers what may be torn, and rebuilds the rest.
//! Source: kafka 3.9 core/.../log/LogLoader.scala.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;

use super::append::producer_batch_of;
use super::error::{IoContext, LogError};
use super::file_names::{self, offset_file};
use super::files::Kind;
use super::leader_epochs::LeaderEpochs;
use super::log_dir::LogDir;
use super::producer_state::Producers;
use super::recent::RecentBatches;
use super::scan::{Found, HeaderScan};
use super::segment::{Durability, RELATIVE_OFFSET_MAX, Recovered, Segment};
use super::snapshots::Snapshots;
use super::synced::Synced;
use super::transaction_index::TransactionIndex;
use super::{Log, State, Unwritten, files, partition_metadata, splitting, transaction_index};
use crate::config::log::LogConfig;
use crate::model::lock::Lock;
use crate::model::{LeaderEpoch, Offset, TopicId, TopicPartition};
use crate::record::batch::BatchHeader;

/// What the checkpoints and the last shutdown say about one log.
#[derive(Clone, Debug)]
pub(crate) struct LoadInput {
    pub topic_partition: TopicPartition,
    pub dir: PathBuf,
    pub config: Arc<LogConfig>,
    pub recovery_point: Offset,
    pub log_start_offset: Offset,
    pub high_watermark: Offset,
    /// Compaction has done everything below.
    pub cleaned_to: Option<Offset>,
    pub had_clean_shutdown: bool,
}

impl LoadInput {
    /// Of a log that was open, and whose files did not get their final form.
    pub fn of(log: &Log) -> LoadInput {
        let state = log.locked();
        LoadInput {
            topic_partition: log.topic_partition.clone(),
            dir: state.dir.clone(),
            config: state.config.clone(),
            recovery_point: state.recovery_point,
            log_start_offset: state.log_start_offset,
            high_watermark: state.high_watermark,
            cleaned_to: state.cleaned_to,
            had_clean_shutdown: false,
        }
    }
}

/// Told of each segment that had to be walked, with its bytes.
pub(crate) type OnRecovered<'a> = &'a (dyn Fn(u64) + Sync);

pub(crate) fn load(
    input: LoadInput,
    parent: Arc<LogDir>,
    now_ms: i64,
    on_recovered: OnRecovered<'_>,
) -> Result<Log, LogError> {
    let mut last_split = None;
    loop {
        match load_sound(input.clone(), Arc::clone(&parent), now_ms, on_recovered) {
            Err(LogError::SegmentOverflows { base_offset }) if last_split != Some(base_offset) => {
                last_split = Some(base_offset);
                log::warn!(
                    "[{}] Splitting the segment at offset {base_offset}, which reaches further than its indexes can say",
                    input.topic_partition
                );
                let logs = Files::of(&input.dir, file_names_in(&input.dir)?)?.logs;
                let next = logs.iter().map(|(offset, _)| *offset).find(|offset| *offset > base_offset);
                splitting::split(&input.dir, base_offset, next.unwrap_or(Offset(i64::MAX)))?;
            }
            // It is none that a split mends.
            Err(error @ LogError::SegmentOverflows { .. }) => {
                return Err(LogError::Corrupt { context: format!("{}: {error}", input.dir.display()) });
            }
            loaded => return loaded,
        }
    }
}

/// The same of a log in which each segment's indexes can say what is in it.
fn load_sound(
    input: LoadInput,
    parent: Arc<LogDir>,
    now_ms: i64,
    on_recovered: OnRecovered<'_>,
) -> Result<Log, LogError> {
    let dir = input.dir.clone();
    let mut names = file_names_in(&dir)?;
    if names.iter().any(|name| INTERRUPTED.iter().any(|suffix| name.ends_with(suffix))) {
        finish_swaps(&dir, names)?;
        names = file_names_in(&dir)?;
    }
    let files = Files::of(&dir, names)?;
    remove_orphaned_indexes(&dir, &files)?;

    let (epochs, epochs_are_lost) = match LeaderEpochs::read(&dir.join(file_names::LEADER_EPOCH_CHECKPOINT)) {
        Ok(epochs) => (epochs, false),
        Err(LogError::Corrupt { context }) => {
            log::warn!("[{}] {context}; reading the epochs from the batches", input.topic_partition);
            (LeaderEpochs::default(), true)
        }
        Err(error) => return Err(error),
    };
    let mut segments = Vec::with_capacity(files.logs.len());
    let mut unusable = BTreeSet::new();
    for (base_offset, bytes) in &files.logs {
        let has_txn_index = files.txn_indexes.contains(base_offset);
        segments.push(Segment::existing(&dir, *base_offset, *bytes, has_txn_index, &input.config, now_ms)?);
        // A log without records is closed without a time index.
        let has_time_index = *bytes == 0 || files.time_indexes.contains(base_offset);
        if !files.offset_indexes.contains(base_offset) || !has_time_index {
            unusable.insert(*base_offset);
        }
        if has_txn_index {
            let path = offset_file(&dir, *base_offset, file_names::TXN_INDEX);
            match transaction_index::read(&path, *base_offset) {
                Err(LogError::Corrupt { context }) => {
                    log::warn!("[{}] {context}; rebuilding the segment's indexes", input.topic_partition);
                    unusable.insert(*base_offset);
                }
                read => drop(read?),
            }
        }
    }
    let metadata_path = dir.join(file_names::PARTITION_METADATA);
    let mut topic_id = partition_metadata::read(&metadata_path)?;
    let mut unwritten = Unwritten::default();
    if topic_id.is_none() {
        topic_id = partition_metadata::read_unsynced(&metadata_path)?;
        unwritten.topic_id = topic_id.is_some();
    }
    if unwritten.topic_id {
        parent.note_unwritten(&input.topic_partition);
    }
    let mut loader = Loader {
        state: State {
            topic_partition: input.topic_partition.clone(),
            parent: parent.clone(),
            topic_id,
            unwritten,
            dir,
            config: input.config.clone(),
            segments,
            recent: RecentBatches::default(),
            log_start_offset: input.log_start_offset,
            high_watermark: input.log_start_offset,
            log_end_offset: input.log_start_offset,
            recovery_point: input.recovery_point,
            synced: Synced::default(),
            last_flush_ms: now_ms,
            leader_epoch: LeaderEpoch(-1),
            epochs,
            producers: Producers::new(Arc::clone(&parent.producer_limits)),
            snapshots: Snapshots::found(files.snapshots),
            truncations: 0,
            cuts: 0,
            rebuilds: 0,
            cleaned_to: input.cleaned_to,
            is_truncating: false,
            cut_at: None,
            shadow: None,
            kept_bytes: 0,
            is_closed: false,
        },
        believed: None,
        parent,
        input,
        now_ms,
        on_recovered,
    };
    loader.load(unusable, epochs_are_lost)?;
    let Loader { mut state, parent, input, .. } = loader;
    // Whoever uses the log opens what it needs: partitions that nobody uses have no descriptor.
    state.segments.iter_mut().for_each(Segment::close);
    Ok(Log {
        topic_partition: input.topic_partition,
        parent: ArcSwap::new(parent),
        failed: AtomicBool::new(false),
        replacements: AtomicU64::new(0),
        cleaning_pauses: Arc::default(),
        state: Lock::new(state),
        renaming: Mutex::default(),
    })
}

/// Creates the directory and the first segment of a new partition, or takes up what a crash left of that.
pub(crate) fn create(
    topic_partition: TopicPartition,
    dir: PathBuf,
    topic_id: Option<TopicId>,
    config: Arc<LogConfig>,
    parent: Arc<LogDir>,
    now_ms: i64,
) -> Result<Log, LogError> {
    let is_new = match files::create_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => false,
        created => created.doing("create", &dir).map(|()| true)?,
    };
    let input = LoadInput {
        topic_partition,
        dir: dir.clone(),
        config,
        recovery_point: Offset(0),
        log_start_offset: Offset(0),
        high_watermark: Offset(0),
        cleaned_to: None,
        had_clean_shutdown: true,
    };
    let created = load(input, parent, now_ms, &|_| {}).and_then(|log| {
        if let Some(id) = topic_id {
            log.assign_topic_id(id)?;
            // So that it survives the process at once; the disk has it when the small files are written.
            partition_metadata::write_unsynced(&dir.join(file_names::PARTITION_METADATA), id)?;
        }
        Ok(log)
    });
    if created.is_err() && is_new {
        // Half a directory would be taken for a second one of the partition if another directory gets it now.
        let _ = files::remove_all(&dir);
    }
    created
}

/// The files of a partition's directory, by kind.
#[derive(Default)]
struct Files {
    logs: Vec<(Offset, u64)>,
    offset_indexes: BTreeSet<Offset>,
    time_indexes: BTreeSet<Offset>,
    txn_indexes: BTreeSet<Offset>,
    snapshots: BTreeSet<Offset>,
}

impl Files {
    fn of(dir: &Path, names: Vec<String>) -> Result<Files, LogError> {
        let mut files = Files::default();
        for name in names {
            let Some(offset) = file_names::offset_of(&name) else { continue };
            match name.split_once('.').map(|(_, extension)| extension) {
                Some(file_names::LOG) => {
                    let path = dir.join(&name);
                    files.logs.push((offset, files::metadata(&path).doing("read", &path)?.len()));
                }
                Some(file_names::OFFSET_INDEX) => drop(files.offset_indexes.insert(offset)),
                Some(file_names::TIME_INDEX) => drop(files.time_indexes.insert(offset)),
                Some(file_names::TXN_INDEX) => drop(files.txn_indexes.insert(offset)),
                Some(file_names::SNAPSHOT) => drop(files.snapshots.insert(offset)),
                _ => {}
            }
        }
        files.logs.sort_unstable();
        Ok(files)
    }
}

/// Plain files only, and of those that are linked the ones that are there: without a segment the log would have a hole. A name that
/// is not text is none of ours.
pub(super) fn file_names_in(dir: &Path) -> Result<Vec<String>, LogError> {
    let mut names = Vec::new();
    for entry in files::list(dir).doing("list", dir)? {
        let Ok(name) = entry.file_name().into_string() else { continue };
        match files::kind_of(&entry).doing("list", dir)? {
            Kind::File => names.push(name),
            Kind::BrokenLink if file_names::offset_of(&name).is_some() => {
                let path = entry.path();
                files::metadata(&path).doing("follow the link", &path)?;
                names.push(name);
            }
            _ => {}
        }
    }
    Ok(names)
}

/// What a crash leaves of a deletion or of the cleaner's work.
const INTERRUPTED: [&str; 3] = [file_names::DELETED, file_names::CLEANED, file_names::SWAP];

/// Removes files scheduled for deletion, and completes or undoes the replacement of segments by the cleaner. A loss of power
/// may undo any of it that the directory's fsync has not made certain, and the log goes on meanwhile.
pub(super) fn finish_swaps(dir: &Path, names: Vec<String>) -> Result<(), LogError> {
    let sync_dir = || files::sync_path(dir).doing("fsync", dir);
    let mut swaps = Vec::new();
    let mut cleaned = Vec::new();
    for name in names {
        let Some(offset) = file_names::offset_of(&name) else { continue };
        if name.ends_with(file_names::DELETED) {
            remove(&dir.join(name))?;
        } else if name.ends_with(file_names::CLEANED) {
            cleaned.push((offset, name));
        } else if name.ends_with(file_names::SWAP) {
            swaps.push((offset, name));
        }
    }
    if swaps.is_empty() && cleaned.is_empty() {
        return Ok(());
    }
    // Outputs are renamed from the last to the first: a `.cleaned` left over proves that those behind it are half a set.
    if let Some(first_cleaned) = cleaned.iter().map(|(offset, _)| *offset).min() {
        for (_, name) in swaps.extract_if(.., |(offset, _)| *offset >= first_cleaned) {
            remove(&dir.join(name))?;
        }
        sync_dir()?;
    }
    for (_, name) in cleaned {
        remove(&dir.join(name))?;
    }

    // The swapped-in segments replace everything in their range.
    let mut range: Option<(Offset, Offset)> = None;
    let mut logs = BTreeSet::new();
    for (base_offset, name) in &swaps {
        if name.strip_suffix(file_names::SWAP).is_some_and(|name| name.ends_with(".log")) {
            let end = end_of_swapped_log(&dir.join(name), *base_offset)?;
            let (from, to) = range.unwrap_or((*base_offset, end));
            range = Some((from.min(*base_offset), to.max(end)));
            logs.insert(*base_offset);
        }
    }
    if let Some((from, to)) = range {
        for name in file_names_in(dir)? {
            let replaced = file_names::offset_of(&name).is_some_and(|offset| offset >= from && offset < to);
            if replaced && !name.ends_with(file_names::SWAP) {
                remove(&dir.join(name))?;
            }
        }
    }
    // Of which log the others are nothing tells: the indexes of the one that is there are built anew.
    for (base_offset, _) in swaps.iter().filter(|(base_offset, _)| !logs.contains(base_offset)) {
        remove(&offset_file(dir, *base_offset, file_names::OFFSET_INDEX))?;
    }
    sync_dir()?;
    // From the last to the first, each for certain before the next: what a crash leaves to do spans nothing that is in place.
    swaps.sort_unstable_by(|one, other| other.cmp(one));
    let mut before = None;
    for (base_offset, name) in swaps {
        if before.is_some_and(|before| before != base_offset) {
            sync_dir()?;
        }
        before = Some(base_offset);
        let path = dir.join(&name);
        if !logs.contains(&base_offset) {
            remove(&path)?;
            continue;
        }
        let name = name.strip_suffix(file_names::SWAP).expect("collected by this suffix");
        files::rename(&path, &dir.join(name)).doing("rename", &path)?;
    }
    sync_dir()
}

fn end_of_swapped_log(path: &Path, base_offset: Offset) -> Result<Offset, LogError> {
    let file = files::open(path).doing("open", path)?;
    let size = u32::try_from(files::metadata_of(&file).doing("read", path)?.len()).unwrap_or(u32::MAX);
    let mut scan = HeaderScan::new(&file, 0, size);
    let mut end = base_offset;
    while let Found::Batch((_, header)) = scan.next().doing("read", path)? {
        end = end.max(Offset(header.next_offset()));
    }
    Ok(end)
}

fn remove_orphaned_indexes(dir: &Path, files: &Files) -> Result<(), LogError> {
    let kinds = [
        (&files.offset_indexes, file_names::OFFSET_INDEX),
        (&files.time_indexes, file_names::TIME_INDEX),
        (&files.txn_indexes, file_names::TXN_INDEX),
    ];
    for (offsets, extension) in kinds {
        for offset in offsets {
            if files.logs.binary_search_by_key(offset, |(base_offset, _)| *base_offset).is_err() {
                let path = offset_file(dir, *offset, extension);
                log::warn!("Found an orphaned index file {}, with no corresponding log file.", path.display());
                remove(&path)?;
            }
        }
    }
    Ok(())
}

fn remove(path: &Path) -> Result<(), LogError> {
    files::remove_if_exists(path).doing("delete", path)
}

/// The epochs of the file, for as long as the batches that a recovery walks say nothing else. Compaction may have taken the first
/// batches of an epoch, and then they alone would have it begin too late.
struct Believed {
    epochs: LeaderEpochs,
    last_writer: Option<LeaderEpoch>,
}

impl Believed {
    /// False if the batch is not of the epoch that wrote there by what the file says. An epoch that follows at once on the last
    /// of the file's is one that the file did not get to know: others a truncation may have come before.
    fn agrees(&mut self, header: &BatchHeader, log_start_offset: Offset) -> bool {
        if header.magic < 2 || header.partition_leader_epoch < 0 || header.last_offset < log_start_offset.0 {
            return true;
        }
        let written_by = LeaderEpoch(header.partition_leader_epoch);
        let follows = self.epochs.latest().is_none_or(|last| {
            written_by > last.epoch && last.start_offset.0 < header.base_offset && self.last_writer == Some(last.epoch)
        });
        if follows {
            self.epochs.assign(written_by, Offset(header.base_offset));
        }
        self.last_writer = Some(written_by);
        is_of_a_known_epoch(&self.epochs, header)
    }
}

/// Of what an earlier epoch wrote before the first that is known, which is where the log started when the file was written,
/// there is nothing to know: the checkpoint of log start offsets follows up to a minute later.
fn is_of_a_known_epoch(epochs: &LeaderEpochs, header: &BatchHeader) -> bool {
    let written_by = LeaderEpoch(header.partition_leader_epoch);
    [header.base_offset, header.last_offset].into_iter().all(|offset| match epochs.epoch_at(Offset(offset)) {
        Some(epoch) => epoch == written_by,
        None => epochs.earliest().is_none_or(|first| written_by <= first.epoch),
    })
}

struct Loader<'a> {
    state: State,
    /// While a recovery walks all batches from some segment on.
    believed: Option<Believed>,
    parent: Arc<LogDir>,
    input: LoadInput,
    now_ms: i64,
    on_recovered: OnRecovered<'a>,
}

impl Loader<'_> {
    fn load(&mut self, unusable: BTreeSet<Offset>, epochs_are_lost: bool) -> Result<(), LogError> {
        let tp = self.input.topic_partition.clone();
        let found_no_snapshot = self.state.snapshots.is_empty();
        if epochs_are_lost {
            self.reread_epochs()?;
        }
        let epochs_before = self.state.epochs.clone();
        self.check_reach(&unusable)?;
        for base_offset in unusable {
            let at = self.state.segment_of(base_offset);
            // Those above the recovery point are recovered below in any case.
            if self.input.had_clean_shutdown || base_offset < self.input.recovery_point {
                log::warn!("[{tp}] Rebuilding the indexes of the segment at offset {base_offset}.");
                self.recover_segment(at, Durability::Now)?;
            }
        }
        if !self.input.had_clean_shutdown && !self.state.segments.is_empty() {
            let first = self.first_to_recover()?;
            self.recover_from(first)?;
        }
        let end = self.log_end_offset()?;
        match end {
            Some(end) if end >= self.input.log_start_offset => self.state.log_end_offset = end,
            found => self.start_empty(found)?,
        }
        let state = &mut self.state;
        let end = state.log_end_offset;
        // Only a flush may move the recovery point, else a second crash would skip what this one left unflushed.
        state.recovery_point = if self.input.had_clean_shutdown { end } else { self.input.recovery_point.min(end) };
        state.log_start_offset = self.input.log_start_offset.max(state.segments[0].base_offset());
        state.epochs.truncate_from_end(end);
        state.epochs.truncate_from_start(self.input.log_start_offset);
        if state.epochs != epochs_before || epochs_are_lost {
            state.note_epochs_changed();
        }
        self.load_producers(found_no_snapshot)?;
        let high_watermark = self.input.high_watermark;
        self.state.set_high_watermark(high_watermark);
        let active = self.state.active().base_offset();
        if self.state.cleaned_to.is_some_and(|cleaned_to| cleaned_to > active) {
            // What was lost will be written again: the checkpoint must not say that it has been compacted.
            self.state.cleaned_to = Some(active);
            self.parent.note_truncated();
        }
        Ok(())
    }

    /// Looks for segments that are to be split, among those that are not walked in any case.
    fn check_reach(&mut self, unusable: &BTreeSet<Offset>) -> Result<(), LogError> {
        let State { segments, dir, .. } = &mut self.state;
        let reaches_far = |base_offset: Offset, end: Offset| end.0 - 1 - base_offset.0 > RELATIVE_OFFSET_MAX;
        for at in 1..segments.len() {
            let next_base = segments[at].base_offset();
            let segment = &mut segments[at - 1];
            let base_offset = segment.base_offset();
            // Compaction may have left a gap behind what is in it.
            if reaches_far(base_offset, next_base) && segment.size() > 0 && !unusable.contains(&base_offset) {
                let tail = segment.next_offset(dir)?;
                segment.close();
                if tail.is_sound && tail.next_offset <= next_base && reaches_far(base_offset, tail.next_offset) {
                    return Err(LogError::SegmentOverflows { base_offset });
                }
            }
        }
        Ok(())
    }

    /// The end of the last segment; `None` without segments. A torn tail is cut even after a clean shutdown.
    fn log_end_offset(&mut self) -> Result<Option<Offset>, LogError> {
        let Some(last) = self.state.segments.len().checked_sub(1) else { return Ok(None) };
        let State { segments, dir, .. } = &mut self.state;
        let tail = segments[last].next_offset(dir)?;
        // What is appended builds on what these say.
        let indexes_are_right = !tail.index_is_wrong && segments[last].verified_max_timestamp(dir)?.is_some();
        if tail.is_sound && indexes_are_right {
            return Ok(Some(tail.next_offset));
        }
        if tail.is_sound {
            let tp = &self.input.topic_partition;
            log::warn!("[{tp}] The indexes of the last segment do not fit its batches, rebuilding them");
            return self.recover_segment(last, Durability::Now).map(Some);
        }
        log::warn!(
            "[{}] The last segment ends in damaged bytes in spite of a clean shutdown, recovering it",
            self.input.topic_partition
        );
        self.recover_segment(last, Durability::Now).map(Some)
    }

    fn start_empty(&mut self, found: Option<Offset>) -> Result<(), LogError> {
        let start = self.input.log_start_offset;
        let state = &mut self.state;
        if let Some(end) = found {
            log::warn!(
                "[{}] Deleting all segments because logEndOffset ({end}) is smaller than logStartOffset {start}. This \
                 could happen if segment files were deleted from the file system.",
                self.input.topic_partition
            );
            let count = state.segments.len();
            state.drop_segments(0..count).rename(&self.parent, state.due(self.now_ms))?;
            state.epochs.clear();
            state.snapshots.retain(&state.dir, |_| false)?;
        }
        state.segments.push(Segment::create(&state.dir, start, &state.config, self.now_ms)?);
        state.log_end_offset = start;
        state.producers.restart_at(start);
        state.snapshots.set_last(Offset(0));
        Ok(())
    }

    /// The segment that holds the recovery point; or an earlier one, if the file of epochs does not know who wrote there. A
    /// truncation moves both back, and for up to a second the disk has neither: what was appended and rolled meanwhile
    /// lies below the old recovery point and stands under the old epochs.
    fn first_to_recover(&mut self) -> Result<usize, LogError> {
        let recovery_point = self.input.recovery_point;
        let mut first = self.state.segment_of(recovery_point);
        for at in (0..=first).rev() {
            match self.first_batch_of(at)? {
                None => {}
                Some(header) if self.is_of_a_known_epoch(&header) => break,
                Some(_) => first = at.saturating_sub(1),
            }
        }
        let base_offset = self.state.segments[first].base_offset();
        if first < self.state.segment_of(recovery_point) {
            let tp = &self.input.topic_partition;
            log::warn!(
                "[{tp}] The leader epochs on the disk are those of before a truncation, recovering from {base_offset}"
            );
            self.input.recovery_point = recovery_point.min(base_offset);
        }
        Ok(first)
    }

    fn first_batch_of(&mut self, at: usize) -> Result<Option<BatchHeader>, LogError> {
        let State { segments, dir, .. } = &mut self.state;
        if segments[at].size() == 0 {
            return Ok(None);
        }
        let path = segments[at].log_path(dir);
        let file = files::open(&path).doing("open", &path)?;
        match HeaderScan::new(&file, 0, segments[at].size()).next().doing("read", &path)? {
            Found::Batch((_, header)) => Ok(Some(header)),
            Found::End | Found::Damage(_) => Ok(None),
        }
    }

    /// Of old formats, which carry no epoch, and of what lies before the log's start there is nothing to know.
    fn is_of_a_known_epoch(&self, header: &BatchHeader) -> bool {
        header.magic < 2
            || header.partition_leader_epoch < 0
            || header.base_offset < self.input.log_start_offset.0
            || is_of_a_known_epoch(&self.state.epochs, header)
    }

    /// Recovers segments from this one on, and deletes those behind the first that had to be cut.
    fn recover_from(&mut self, first: usize) -> Result<(), LogError> {
        let tp = self.input.topic_partition.clone();
        let count = self.state.segments.len();
        // The file may tell of epochs that a truncation took away before the crash; the batches know.
        let first_base = self.state.segments[first].base_offset();
        self.believed = Some(Believed { epochs: self.state.epochs.clone(), last_writer: None });
        self.state.epochs.truncate_from_end(first_base);
        for at in first..count {
            let base_offset = self.state.segments[at].base_offset();
            log::info!(
                "[{tp}] Recovering unflushed segment {base_offset}. {}/{} recovered for {tp}.",
                at - first,
                count - first
            );
            let recovered = self.walk_segment(at)?;
            let is_cut = recovered.truncated_bytes > 0;
            if is_cut && at + 1 < count {
                // Before the cut, after which nothing tells that there is a gap in front of them.
                let due = self.state.due(self.now_ms);
                self.state.drop_segments(at + 1..count).rename(&self.parent, due)?;
                files::sync_path(&self.state.dir).doing("fsync", &self.state.dir)?;
            }
            self.finish_segment(at, &recovered, Durability::LeftToTheSystem)?;
            if is_cut {
                break;
            }
        }
        if let Some(believed) = self.believed.take() {
            self.state.epochs = believed.epochs;
        }
        Ok(())
    }

    /// Recovers one segment and returns where it ends.
    fn recover_segment(&mut self, at: usize, durability: Durability) -> Result<Offset, LogError> {
        let recovered = self.walk_segment(at)?;
        self.finish_segment(at, &recovered, durability)?;
        Ok(recovered.next_offset)
    }

    /// Walks a segment with the producer state of everything before it, and writes its transaction index.
    fn walk_segment(&mut self, at: usize) -> Result<Recovered, LogError> {
        let expiration_ms = self.parent.producer_id_expiration_ms();
        let log_start_offset = self.input.log_start_offset;
        let Loader { state, believed, now_ms, .. } = self;
        state.log_end_offset = state.segments[at].base_offset();
        state.rebuild_producers(expiration_ms, *now_ms)?;
        let State { segments, dir, config, epochs, producers, .. } = state;
        let limit = segments.get(at + 1).map_or(Offset(i64::MAX), Segment::base_offset);
        let segment = &mut segments[at];
        let txn_index = segment.txn_index_path(dir);
        let mut has_txn_index = false;
        let recovered = segment.recover(dir, config, limit, epochs, |batch| {
            believed.take_if(|believed| !believed.agrees(&batch.header, log_start_offset));
            let Some(of_producer) = producer_batch_of(batch) else { return Ok(()) };
            if let Some(aborted) = producers.apply(&of_producer) {
                TransactionIndex::open(txn_index.clone())?.append(&aborted)?;
                has_txn_index = true;
            }
            Ok(())
        })?;
        segment.has_txn_index = has_txn_index;
        producers.set_end_offset(recovered.next_offset);
        Ok(recovered)
    }

    fn finish_segment(&mut self, at: usize, recovered: &Recovered, durability: Durability) -> Result<(), LogError> {
        let State { segments, dir, producers, snapshots, .. } = &mut self.state;
        let is_last = at + 1 == segments.len();
        let segment = &mut segments[at];
        if recovered.truncated_bytes > 0 {
            log::warn!(
                "[{}] Corruption found in segment {}, truncating to offset {}: cut {} bytes at {}",
                self.input.topic_partition,
                segment.base_offset(),
                recovered.next_offset,
                recovered.truncated_bytes,
                recovered.why.as_deref().unwrap_or("the end"),
            );
        }
        segment.finish_recovery(dir, recovered, durability)?;
        snapshots.take_if_possible(dir, producers)?;
        (self.on_recovered)(u64::from(segment.size()));
        if !is_last {
            segment.close();
        }
        Ok(())
    }

    fn load_producers(&mut self, found_no_snapshot: bool) -> Result<(), LogError> {
        let expiration_ms = self.parent.producer_id_expiration_ms();
        let now_ms = self.now_ms;
        let state = &mut self.state;
        let base_offsets: Vec<Offset> = state.segments.iter().map(Segment::base_offset).collect();
        state.snapshots.remove_strays(&state.dir, &base_offsets)?;
        if found_no_snapshot && self.input.had_clean_shutdown {
            // A log from before producer state existed has none: empty snapshots spare the next truncation a full walk.
            let end = state.log_end_offset;
            for offset in base_offsets.iter().rev().take(2).rev().copied().chain([end]) {
                state.producers.set_end_offset(offset);
                state.snapshots.take_if_possible(&state.dir, &state.producers)?;
            }
            return Ok(());
        }
        state.rebuild_producers(expiration_ms, now_ms)?;
        state.producers.remove_expired(now_ms, expiration_ms);
        Ok(())
    }

    /// Finds out which epoch wrote from where by walking the headers of the whole log.
    fn reread_epochs(&mut self) -> Result<(), LogError> {
        let State { segments, dir, epochs, .. } = &mut self.state;
        for segment in segments {
            let file = segment.file(dir)?;
            let path = segment.log_path(dir);
            let mut scan = HeaderScan::new(&file, 0, segment.size());
            while let Found::Batch((_, header)) = scan.next().doing("read", &path)? {
                if header.magic >= 2 && epochs.latest().is_none_or(|e| header.partition_leader_epoch > e.epoch.0) {
                    epochs.assign(LeaderEpoch(header.partition_leader_epoch), Offset(header.base_offset));
                }
            }
            segment.close();
        }
        Ok(())
    }
}
