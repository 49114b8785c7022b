//! One pass over one log: learns the last offset of each key in the part that was not compacted yet, and writes every
//! segment below where that ends anew without what the keys have made void.
//! Source: kafka 3.9 core/.../log/LogCleaner.scala (Cleaner).

use std::collections::HashMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Instant, SystemTime};

use super::offset_map::OffsetMap;
use super::output::Output;
use super::selection::{self, Assessment, SegmentFacts};
use super::throttle::Throttle;
use super::transactions::Transactions;
use super::{CleanError, CleanerStats};
use crate::config::log::LogConfig;
use crate::config::sections::CleanerConfig;
use crate::log::error::IoContext;
use crate::log::files::{self, File};
use crate::log::offset_index::Lookup;
use crate::log::replacement::Replaced;
use crate::log::scan::{BatchScan, Found};
use crate::log::segment::{Segment, find_position};
use crate::log::{Log, State};
use crate::model::clock::ms_since_1970;
use crate::model::{Offset, ProducerEpoch};
use crate::record::batch::{Batch, BatchHeader};
use crate::record::cleaning::{BatchCleaner, KeyHasher, KeyedRecord, Selected, delete_horizon, emptied};

/// Whether to go on is asked each time so much was read or written.
const CHECK_BYTES: u64 = 256 << 10;
const IO_BUFFER_BYTES_MIN: usize = 4096;

/// What compaction may use, and who may stop it.
#[derive(Clone, Copy)]
pub(crate) struct Means<'a> {
    pub config: &'a CleanerConfig,
    pub throttle: &'a Throttle,
    pub stop: &'a AtomicBool,
}

pub(crate) struct Pass<'a> {
    log: &'a Log,
    config: Arc<LogConfig>,
    means: Means<'a>,
    now_ms: i64,
    cuts: u64,
    dir: PathBuf,
    segments: Vec<SegmentFacts>,
    batches: BatchCleaner,
    /// Since the last check.
    unchecked_bytes: u64,
    stats: CleanerStats,
}

/// A segment as a pass reads it.
struct Source {
    file: Arc<File>,
    path: PathBuf,
    size: u32,
    modified: SystemTime,
    lookup: Lookup,
}

/// The last that a producer wrote: where its data ends, or, if that is gone, the epoch of its last marker.
struct LastOfProducer {
    last_offset: Option<Offset>,
    epoch: ProducerEpoch,
}

/// What decides about the records of one segment.
struct Rules<'a> {
    map: &'a OffsetMap,
    producers: &'a HashMap<i64, LastOfProducer>,
    /// Up to where this round compacts at most. A batch that ends here is what tells where the log ends if the active segment
    /// is empty, or becomes so.
    end: Offset,
    /// Tombstones of old formats stay.
    retains_legacy_tombstones: bool,
}

impl<'a> Pass<'a> {
    pub fn new(log: &'a Log, segments: Vec<SegmentFacts>, cuts: u64, means: Means<'a>, now_ms: i64) -> Pass<'a> {
        let (config, dir) = {
            let state = log.locked();
            (state.config.clone(), state.dir.clone())
        };
        Pass {
            log,
            config,
            means,
            now_ms,
            cuts,
            dir,
            segments,
            batches: BatchCleaner::new(KeyHasher::new(rand::random())),
            unchecked_bytes: 0,
            stats: CleanerStats::default(),
        }
    }

    /// Returns up to where the log is compacted now.
    pub fn run(mut self, assessment: &Assessment) -> Result<(Offset, CleanerStats), CleanError> {
        let began = Instant::now();
        let tp = self.log.topic_partition().clone();
        // An old value goes only for a new one that no loss of power takes, and what was aborted only with its marker there.
        self.log.flush(self.now_ms)?;
        let (first_dirty, first_uncleanable) = (assessment.first_dirty, assessment.first_uncleanable);
        // Of old formats a tombstone stays for a while after the last pass that saw it as dirty.
        let clean = self.segments.partition_point(|segment| segment.base_offset < first_dirty);
        let legacy_horizon_ms = match clean.checked_sub(1) {
            Some(last) => {
                let last = self.segments[last].base_offset;
                let modified = self.source(last, last)?.modified;
                ms_since_1970(modified).saturating_sub(self.config.delete_retention_ms)
            }
            None => 0,
        };
        log::info!("Cleaner: Building offset map for {tp} in offset range [{first_dirty}, {first_uncleanable})");
        let map = self.build_map(first_dirty, first_uncleanable)?;
        let end = Offset(map.latest_offset().0 + 1);
        self.stats.index_seconds = began.elapsed().as_secs_f64();
        self.stats.buffer_utilization = map.utilization();

        let mut transactions = Transactions::default();
        let count = self.segments.partition_point(|segment| segment.base_offset < end);
        let (bytes_max, index_bytes_max) =
            (u64::from(self.config.segment_bytes), u64::from(self.config.segment_index_bytes));
        let groups = selection::groups(&self.segments[..count], bytes_max, index_bytes_max, first_uncleanable);
        log::info!(
            "Cleaner: Cleaning log {tp} up to offset {end}, {count} segments into {}, discarding tombstones prior to \
             upper bound deletion horizon {legacy_horizon_ms}",
            groups.len()
        );
        for group in groups {
            self.clean_group(group, first_uncleanable, &map, &mut transactions, legacy_horizon_ms)?;
        }
        self.stats.seconds = began.elapsed().as_secs_f64();
        Ok((end, self.stats))
    }

    fn last_of_producers(&self) -> HashMap<i64, LastOfProducer> {
        let state = self.log.locked();
        let last = |(id, producer): (crate::model::ProducerId, &crate::log::producer_state::ProducerState)| {
            let last_offset = producer.last_batch().map(|batch| batch.last_offset);
            (id.0, LastOfProducer { last_offset, epoch: producer.producer_epoch })
        };
        state.producers.iter().map(last).collect()
    }

    /// Goes on, unless there is somebody who has to have the log, or it is no longer what it was.
    fn check(&self) -> Result<(), CleanError> {
        if self.means.stop.load(Ordering::Relaxed) || self.log.is_cleaning_paused() || self.log.is_offline() {
            return Err(CleanError::Overtaken);
        }
        let state = self.log.locked();
        let is_as_before = state.config.compact && !state.is_closed && !state.is_truncating && state.cuts == self.cuts;
        if is_as_before { Ok(()) } else { Err(CleanError::Overtaken) }
    }

    /// Counts what was read or written.
    fn spend(&mut self, bytes: usize) -> Result<(), CleanError> {
        self.unchecked_bytes += bytes as u64;
        if self.unchecked_bytes < CHECK_BYTES {
            return Ok(());
        }
        let bytes = std::mem::take(&mut self.unchecked_bytes);
        let (means, log) = (self.means, self.log);
        means.throttle.spend(bytes, || !means.stop.load(Ordering::Relaxed) && !log.is_cleaning_paused());
        self.check()
    }

    fn io_buffer_bytes(&self) -> usize {
        let threads = self.means.config.threads.max(1);
        (self.means.config.io_buffer_bytes / threads / 2).max(IO_BUFFER_BYTES_MIN)
    }

    /// To be read from `from` on.
    fn source(&self, base_offset: Offset, from: Offset) -> Result<Source, CleanError> {
        let choose = |state: &State| {
            let found = state.segments.binary_search_by_key(&base_offset, Segment::base_offset);
            Ok(found.ok().map(|at| (at, (state.segments[at].log_path(&state.dir), state.segments[at].size()))))
        };
        let looked =
            self.log.look(choose, |_, segment, dir| Ok((segment.open_for_reading(dir)?, segment.lookup(dir, from)?)));
        let Some(((path, size), (file, lookup))) = looked? else { return Err(CleanError::Overtaken) };
        let modified = files::metadata_of(&file).and_then(|metadata| metadata.modified()).doing("look at", &path)?;
        Ok(Source { file, path, size, modified, lookup })
    }

    /// Where the segment behind this one begins.
    fn end_of(&self, at: usize) -> Offset {
        self.segments.get(at + 1).map_or(Offset(i64::MAX), |next| next.base_offset)
    }

    fn build_map(&mut self, from: Offset, until: Offset) -> Result<OffsetMap, CleanError> {
        let threads = self.means.config.threads.max(1) as u64;
        let memory = self.means.config.dedupe_buffer_bytes / threads;
        let keys_max = u64::try_from(until.0.saturating_sub(from.0)).unwrap_or(0);
        let mut map = OffsetMap::new(memory, self.means.config.load_factor, keys_max);
        let dirty = match from < until {
            true => selection::segments_between(&self.segments, from, until),
            false => 0..0,
        };
        let mut transactions = Transactions::default();
        if let Some(first) = self.segments[dirty.clone()].first() {
            transactions.add_aborted(&self.log.aborted_between(first.base_offset, from, until)?);
        }
        // What was done before is known, whatever of it the map holds.
        map.set_latest_offset(Offset(from.0 - 1));
        for at in dirty {
            self.check()?;
            let source = self.source(self.segments[at].base_offset, from)?;
            if self.map_segment(source, from, &mut map, &mut transactions)? {
                break;
            }
            // There may be nothing where it ends.
            map.set_latest_offset(Offset(self.end_of(at).min(until).0 - 1));
        }
        Ok(map)
    }

    /// True if the map became full before all was in it.
    fn map_segment(
        &mut self,
        source: Source,
        from: Offset,
        map: &mut OffsetMap,
        transactions: &mut Transactions,
    ) -> Result<bool, CleanError> {
        let indexed = source.lookup.position().doing("search the index of", &source.path)?;
        let start = find_position(&source.file, indexed, source.size, from).doing("read", &source.path)?;
        let mut scan = BatchScan::reading(self.io_buffer_bytes(), &source.file, start, source.size);
        let mut next_offset = from;
        while let Some(batch) = next_batch(&mut scan, &source.path, next_offset)? {
            let header = batch.header;
            next_offset = Offset(header.next_offset());
            self.stats.map_bytes += header.size_in_bytes as u64;
            if header.is_control {
                transactions.on_control_batch(&batch);
            } else if !transactions.on_batch(&header) {
                let mut is_full = false;
                let shown = self.batches.for_each(&batch, |record| {
                    let Some(key) = record.key.filter(|_| record.offset >= from.0) else {
                        return ControlFlow::Continue(());
                    };
                    if map.is_full() {
                        is_full = true;
                        return ControlFlow::Break(());
                    }
                    map.put(key, Offset(record.offset));
                    ControlFlow::Continue(())
                });
                shown.map_err(|why| CleanError::unreadable(&source.path, Offset(header.base_offset), &why))?;
                if is_full {
                    return Ok(true);
                }
            }
            if header.last_offset >= from.0 {
                map.set_latest_offset(Offset(header.last_offset));
            }
            self.spend(header.size_in_bytes)?;
        }
        Ok(false)
    }

    fn clean_group(
        &mut self,
        group: std::ops::Range<usize>,
        end: Offset,
        map: &OffsetMap,
        transactions: &mut Transactions,
        legacy_horizon_ms: i64,
    ) -> Result<(), CleanError> {
        let sources: Vec<Offset> = self.segments[group.clone()].iter().map(|segment| segment.base_offset).collect();
        let Some(&base_offset) = sources.first() else { return Ok(()) };
        let mut output = Output::create(&self.dir, base_offset, &self.config, self.io_buffer_bytes())?;
        let mut modified = SystemTime::UNIX_EPOCH;
        let producers = &self.last_of_producers();
        for at in group {
            self.check()?;
            let segment = self.segments[at].base_offset;
            let source = self.source(segment, segment)?;
            modified = source.modified;
            transactions.add_aborted(&self.log.aborted_between(segment, segment, self.end_of(at))?);
            let retains_legacy_tombstones = ms_since_1970(modified) > legacy_horizon_ms;
            let rules = Rules { map, producers, end, retains_legacy_tombstones };
            log::debug!("Cleaner: Cleaning {} into the segment at {base_offset}", source.path.display());
            self.clean_into(&mut output, &source, segment, &rules, transactions)?;
            output.txns.extend(transactions.take_observed());
        }
        self.check()?;
        self.stats.bytes_written += u64::from(output.size());
        let cleaned = output.finish(modified, &self.config, self.now_ms)?;
        match self.log.replace_segments(cleaned, &sources, self.cuts, self.now_ms)? {
            Replaced::Yes => Ok(()),
            Replaced::Overtaken => Err(CleanError::Overtaken),
        }
    }

    fn clean_into(
        &mut self,
        output: &mut Output,
        source: &Source,
        base_offset: Offset,
        rules: &Rules<'_>,
        transactions: &mut Transactions,
    ) -> Result<(), CleanError> {
        let mut scan = BatchScan::reading(self.io_buffer_bytes(), &source.file, 0, source.size);
        let mut next_offset = base_offset;
        while let Some(batch) = next_batch(&mut scan, &source.path, next_offset)? {
            next_offset = Offset(batch.header.next_offset());
            let before = output.size();
            self.clean_batch(output, &batch, &source.path, rules, transactions)?;
            self.spend(batch.header.size_in_bytes + (output.size() - before) as usize)?;
        }
        Ok(())
    }

    fn clean_batch(
        &mut self,
        output: &mut Output,
        batch: &Batch<'_>,
        path: &Path,
        rules: &Rules<'_>,
        transactions: &mut Transactions,
    ) -> Result<(), CleanError> {
        let header = &batch.header;
        let unreadable = |why| CleanError::unreadable(path, Offset(header.base_offset), &why);
        // Of an aborted transaction, or the end of one that has left nothing.
        let is_void =
            if header.is_control { transactions.on_control_batch(batch) } else { transactions.on_batch(header) };
        let horizon_ms = delete_horizon(header);
        let goes = match header.is_control {
            true => is_void && horizon_ms.is_some_and(|horizon_ms| horizon_ms <= self.now_ms),
            false => is_void,
        };
        let ends_round = header.next_offset() == rules.end.0;
        let stays_empty = ends_round || rules.is_last_of_its_producer(header);
        self.stats.bytes_read += header.size_in_bytes as u64;
        if goes && !stays_empty {
            return Ok(());
        }
        let selected = if goes {
            Selected { records: u32::try_from(header.record_count).unwrap_or(0), ..Selected::default() }
        } else if header.is_control {
            self.batches.select(batch, |_| true).map_err(unreadable)?
        } else {
            let (now_ms, mut keyless) = (self.now_ms, 0);
            // Which no old batch can do without records.
            let ends_old_round =
                |record: &KeyedRecord| ends_round && header.magic < 2 && record.offset == header.last_offset;
            let stays = |record: &KeyedRecord| {
                rules.retain(record, header, horizon_ms, now_ms, &mut keyless) || ends_old_round(record)
            };
            let selected = self.batches.select(batch, stays).map_err(unreadable)?;
            self.stats.keyless_records += keyless;
            selected
        };
        self.stats.records_read += u64::from(selected.records);
        self.stats.records_retained += u64::from(selected.retained);
        if selected.retained == 0 {
            if !stays_empty {
                return Ok(());
            }
            let bytes = emptied(header);
            return append_written(output, &bytes, path);
        }
        // Readers that lag see a tombstone for `delete.retention.ms` from the first pass that leaves it.
        let is_dated =
            header.magic >= 2 && horizon_ms.is_none() && (selected.has_tombstone || (is_void && header.is_control));
        if selected.is_whole() && !is_dated {
            return output.append(batch.bytes, header);
        }
        let new_horizon_ms = is_dated.then(|| self.now_ms.saturating_add(self.config.delete_retention_ms));
        let bytes = self.batches.rewrite(batch, new_horizon_ms).map_err(unreadable)?;
        if bytes.len() > header.size_in_bytes && bytes.len() > self.config.max_message_bytes as usize {
            log::warn!(
                "[{}] The batch with last offset {} has {} bytes after cleaning, more than max.message.bytes",
                self.log.topic_partition(),
                header.last_offset,
                bytes.len()
            );
        }
        append_written(output, &bytes, path)
    }
}

impl Rules<'_> {
    fn is_last_of_its_producer(&self, header: &BatchHeader) -> bool {
        if !header.has_producer_id() {
            return false;
        }
        self.producers.get(&header.producer_id).is_some_and(|last| match last.last_offset {
            Some(last_offset) => header.last_offset == last_offset.0,
            None => header.is_control && header.producer_epoch == last.epoch.0,
        })
    }

    fn retain(
        &self,
        record: &KeyedRecord,
        header: &BatchHeader,
        horizon_ms: Option<i64>,
        now_ms: i64,
        keyless: &mut u64,
    ) -> bool {
        if record.offset > self.map.latest_offset().0 {
            return true;
        }
        let Some(key) = record.key else {
            *keyless += 1;
            return false;
        };
        let is_latest = self.map.get(key).is_none_or(|latest| record.offset >= latest.0);
        let retains_tombstone = || match header.magic {
            0 | 1 => self.retains_legacy_tombstones,
            _ => horizon_ms.is_none_or(|horizon_ms| now_ms < horizon_ms),
        };
        is_latest && (record.has_value || retains_tombstone())
    }
}

fn append_written(output: &mut Output, bytes: &[u8], path: &Path) -> Result<(), CleanError> {
    match Batch::first_of(bytes) {
        Ok(Some(batch)) => output.append(bytes, &batch.header),
        // A message of an old set whose magic nobody knows.
        _ => Err(CleanError::unreadable(path, Offset(-1), "a batch that cannot be written anew")),
    }
}

/// The next batch, whose checksum holds; `None` at the end.
fn next_batch<'s>(
    scan: &'s mut BatchScan<'_>,
    path: &Path,
    next_offset: Offset,
) -> Result<Option<Batch<'s>>, CleanError> {
    match scan.next().doing("read", path)? {
        Found::End => Ok(None),
        Found::Damage(why) => Err(CleanError::unreadable(path, next_offset, &why)),
        Found::Batch((position, batch)) if !batch.crc_is_valid() => {
            let why = format!("a batch whose checksum does not match at position {position}");
            Err(CleanError::unreadable(path, Offset(batch.header.base_offset), &why))
        }
        Found::Batch((_, batch)) => Ok(Some(batch)),
    }
}
