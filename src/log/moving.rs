//! A log moves to another directory: it is copied there into a log of its own, a future log, and goes on in the files of
//! that one as soon as these hold all that it has.
//! Source: kafka 3.9 core/.../server/ReplicaAlterLogDirsThread.scala, core/.../cluster/Partition.scala
//! (maybeReplaceCurrentWithFutureReplica).

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;

use super::error::{IoContext, LogError};
use super::files::{self, File};
use super::scan::{Found, HeaderScan};
use super::segment::Segment;
use super::{FirstBatch, Log, ReadUntil, State};
use crate::model::Offset;
use crate::record::batch::BatchHeader;

/// The last segment of a log in the directory that it has left, as long as that directory bears the log's name: after a crash
/// the next start may find both. It must hold all that was appended, for the longer of the two is the log then; that its
/// indexes do not, recovery sets right.
#[derive(Debug)]
pub(super) struct Shadow {
    file: Arc<File>,
    /// `None` once a write has failed.
    size: Option<u64>,
}

impl Shadow {
    pub fn append(&mut self, bytes: &[u8]) {
        let Some(size) = self.size else { return };
        self.size = files::write_all_at(&self.file, bytes, size).ok().map(|()| size + bytes.len() as u64);
    }
}

/// Keeps the files of a log from being renamed or removed by anybody else.
pub(crate) struct FilesHeld<'a> {
    _renaming: MutexGuard<'a, ()>,
}

struct SegmentFile {
    file: Arc<File>,
    size: u32,
    path: PathBuf,
}

/// Walks the headers of the batches in some segments.
struct Headers<'a> {
    files: std::slice::Iter<'a, SegmentFile>,
    scan: Option<(HeaderScan<'a>, &'a Path)>,
}

impl<'a> Headers<'a> {
    fn of(files: &'a [SegmentFile]) -> Headers<'a> {
        Headers { files: files.iter(), scan: None }
    }

    fn next(&mut self) -> Result<Option<BatchHeader>, LogError> {
        loop {
            if let Some((scan, path)) = &mut self.scan
                && let Found::Batch((_, header)) = scan.next().doing("read", path)?
            {
                return Ok(Some(header));
            }
            let Some(SegmentFile { file, size, path }) = self.files.next() else { return Ok(None) };
            self.scan = Some((HeaderScan::new(file, 0, *size), path));
        }
    }
}

/// What came of a step of a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Copied {
    /// 0 when there was nothing more.
    pub bytes: u32,
    /// Of the log that is copied, before it was looked at.
    pub end: End,
}

/// Where a log ended, and its last segment, which begins at `segment`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    pub log_end_offset: Offset,
    segment: Offset,
    segment_bytes: u32,
}

/// So much is copied while nobody may append: as much as a few appends, just written.
pub(crate) const LAST_BYTES_MAX: u32 = 256 << 10;

impl Log {
    /// Where its files are.
    pub(crate) fn dir(&self) -> PathBuf {
        self.locked().dir.clone()
    }

    /// Waits for a truncation that is under way.
    pub(crate) fn hold_files(&self) -> FilesHeld<'_> {
        FilesHeld { _renaming: self.begin_renaming() }
    }

    /// Gives the directory another name. Nobody else may use the log but to ask how long it is.
    pub(crate) fn rename_dir(&self, to: &Path) -> Result<(), LogError> {
        let from = self.dir();
        self.observe(files::rename(&from, to).doing("rename", &from))?;
        self.parent().has_moved(&from, to);
        self.locked().dir = to.to_path_buf();
        Ok(())
    }

    /// Cuts off this copy, which a crash has left, what was not flushed: it may go on behind what the disk has lost, and the
    /// log that was copied has all of it.
    pub(crate) fn forget_unflushed(&self, now_ms: i64) -> Result<(), LogError> {
        self.truncate_to(self.recovery_point(), self.leader_epoch(), now_ms).map(|_| ())
    }

    /// Cuts off this copy what `source` does not have, by the leader epochs of both.
    pub(crate) fn align_with(&self, source: &Log, now_ms: i64) -> Result<(), LogError> {
        // What a crash took out of the middle of the log no producer state knows of any more: the copy does not give it back.
        self.truncate_to(source.sound_end(self)?, self.leader_epoch(), now_ms)?;
        loop {
            let Some(last) = self.epochs().last().copied() else {
                // Nothing tells how far they are equal, but that what was committed is.
                let high_watermark = self.high_watermark();
                self.truncate_to(high_watermark, self.leader_epoch(), now_ms)?;
                return Ok(());
            };
            let there = source.end_offset_for_epoch(last.epoch);
            let (cut, is_known) = match there.epoch {
                epoch if epoch == last.epoch => (there.end_offset, true),
                // Of a later epoch than the source knows all is cut, and then looked at what precedes it.
                _ => (last.start_offset, false),
            };
            self.truncate_to(cut.max(Offset(0)), self.leader_epoch(), now_ms)?;
            if is_known {
                return Ok(());
            }
        }
    }

    /// Whether the batches between two offsets were written in the epochs that `other` has there: of one epoch no two logs have
    /// different records. Where an epoch began two logs may say differently, if compaction took its first batches from one.
    pub(crate) fn agrees_with(&self, other: &Log, from: Offset, until: Offset) -> Result<bool, LogError> {
        let epochs = other.epochs();
        let mut agrees = true;
        self.each_batch(from, |header| {
            let begun = epochs.iter().rfind(|epoch| epoch.start_offset.0 <= header.base_offset);
            let epoch = begun.map_or(-1, |epoch| epoch.epoch.0);
            let is_between = header.base_offset >= from.0 && header.base_offset < until.0;
            agrees &= !is_between || header.magic < 2 || header.partition_leader_epoch == epoch;
        })?;
        Ok(agrees)
    }

    /// Up to where this log has all that `other` has. Below its recovery point it lacks only what compaction has taken; above,
    /// a crash may have taken the end of any segment.
    pub(crate) fn sound_end(&self, other: &Log) -> Result<Offset, LogError> {
        let from = self.recovery_point().max(self.log_start_offset());
        let (files, files_there) = (self.files_from(from)?, other.files_from(from)?);
        let (mut here, mut there) = (Headers::of(&files), Headers::of(&files_there));
        let mut next = here.next()?;
        while let Some(wanted) = there.next()? {
            if wanted.base_offset < from.0 {
                continue;
            }
            while next.is_some_and(|header| header.base_offset < wanted.base_offset) {
                next = here.next()?;
            }
            if next.is_none_or(|header| header.base_offset > wanted.base_offset) {
                return Ok(self.log_end_offset().min(Offset(wanted.base_offset)));
            }
        }
        Ok(self.log_end_offset())
    }

    /// Shows the headers of all batches from the segment of that offset on.
    fn each_batch(&self, from: Offset, mut each: impl FnMut(&BatchHeader)) -> Result<(), LogError> {
        let files = self.files_from(from)?;
        let mut headers = Headers::of(&files);
        while let Some(header) = headers.next()? {
            each(&header);
        }
        Ok(())
    }

    /// Of the segment of that offset and of later ones.
    fn files_from(&self, from: Offset) -> Result<Vec<SegmentFile>, LogError> {
        let mut state = self.usable()?;
        let first = state.segment_of(from);
        let State { segments, dir, .. } = &mut *state;
        let files = segments[first..].iter_mut().map(|segment| {
            Ok(SegmentFile { file: segment.file(dir)?, size: segment.size(), path: segment.log_path(dir) })
        });
        files.collect()
    }

    /// Where a reader found nothing from that offset on to the end of its segment, as compaction leaves it, there is nothing:
    /// behind damage a copy would go on without what follows.
    fn check_rest_of_segment(&self, from: Offset, found: Option<&BatchHeader>) -> Result<(), LogError> {
        let (segment, index) = {
            let mut state = self.usable()?;
            let at = state.segment_of(from);
            let next_segment = state.segments.get(at + 1).map(Segment::base_offset);
            if found.is_some_and(|found| next_segment.is_none_or(|next| found.base_offset < next.0)) {
                return Ok(());
            }
            let State { segments, dir, .. } = &mut *state;
            let segment = &mut segments[at];
            let file = SegmentFile { file: segment.file(dir)?, size: segment.size(), path: segment.log_path(dir) };
            (file, segment.lookup(dir, from)?)
        };
        let position = index.position().doing("search the index of", &segment.path)?;
        let damage = |position| {
            let mut scan = HeaderScan::new(&segment.file, position, segment.size);
            loop {
                match scan.next().doing("read", &segment.path)? {
                    Found::Batch(_) => {}
                    Found::End => return Ok(None),
                    Found::Damage(why) => return Ok::<_, LogError>(Some(why)),
                }
            }
        };
        // The index may lead astray.
        let Some(_) = damage(position)? else { return Ok(()) };
        let Some(why) = damage(0)? else { return Ok(()) };
        Err(LogError::Corrupt { context: format!("{} has {why}, and is copied no further", segment.path.display()) })
    }

    /// Appends to this copy what `source` has behind its end, as it is there: batches of so many bytes in all, or one that
    /// is larger.
    pub(crate) fn copy_from(&self, source: &Log, bytes_max: u32, now_ms: i64) -> Result<Copied, LogError> {
        let epoch = self.leader_epoch();
        let (cut_at, there, end) = {
            let mut state = source.serving()?;
            (state.cut_at.take(), state.bounds(), state.end())
        };
        if let Some(cut_at) = cut_at {
            self.truncate_to(cut_at, epoch, now_ms)?;
        }
        let here = self.bounds();
        if here.log_end_offset < there.log_start_offset || here.log_end_offset > there.log_end_offset {
            // Nothing of it is in the source.
            self.truncate_fully_and_start_at(there.log_start_offset, None, epoch, now_ms)?;
        }
        let from = self.log_end_offset();
        let bytes_max = bytes_max.min(self.config().segment_bytes);
        let fetched = source.read(from, bytes_max, ReadUntil::LogEnd, FirstBatch::Whole)?;
        let mut copied = Copied { bytes: 0, end };
        if fetched.region.is_none() && from < there.log_end_offset {
            source.check_rest_of_segment(from, None)?;
        }
        if let Some(region) = fetched.region {
            let mut bytes = vec![0; region.len as usize];
            match files::read_exact_at(&region.file, &mut bytes, region.position) {
                // A truncation has cut them off meanwhile.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    return Ok(Copied { bytes: region.len, ..copied });
                }
                read => source.observe(read.doing("read", &source.dir()))?,
            }
            let first = BatchHeader::read(&bytes).ok().flatten();
            if first.as_ref().is_none_or(|first| first.base_offset > from.0) {
                source.check_rest_of_segment(from, first.as_ref())?;
            }
            if let Some(first) = first.filter(|first| first.base_offset < from.0 && first.last_offset >= from.0) {
                // The log starts within a batch, after DeleteRecords: a copy that is empty starts with all of it.
                self.truncate_fully_and_start_at(Offset(first.base_offset), None, epoch, now_ms)?;
            }
            let before = self.bounds().log_end_offset;
            let info = self.append_as_follower(&Bytes::from(bytes), epoch, before, now_ms)?;
            copied.bytes = if info.log_end_offset > before { region.len } else { 0 };
        }
        if copied.bytes == 0 && self.log_end_offset() < there.log_end_offset {
            // What compaction took away from the end has no batch: the next one goes to a segment that begins there.
            let mut state = self.usable()?;
            state.roll(there.log_end_offset, now_ms)?;
            state.log_end_offset = there.log_end_offset;
        }
        self.update_high_watermark(there.high_watermark);
        let log_start_offset = there.log_start_offset.min(self.high_watermark());
        self.increment_log_start_offset(log_start_offset, epoch)?;
        Ok(copied)
    }

    /// Goes on in the files of `future`, a copy in another directory, with all that memory knows of the log, if the copy has
    /// all that there is up to `end`, and if as much of it is on the disk as of the log. What little has been appended since is
    /// copied too. The copy has the old files then, and serves nobody. The files of both must be held.
    pub(crate) fn take_over(&self, future: &Log, end: End, now_ms: i64) -> Result<bool, LogError> {
        let mut current = self.usable()?;
        let mut copy = future.usable()?;
        let is_flushed = copy.recovery_point >= current.recovery_point;
        let ends_there = copy.log_end_offset == end.log_end_offset;
        if current.cut_at.is_some() || current.is_truncating || !ends_there || !is_flushed {
            return Ok(false);
        }
        let dir = current.dir.clone();
        let more = current.active().size().checked_sub(end.segment_bytes);
        let more_max = LAST_BYTES_MAX.min(copy.config.segment_bytes);
        match more.filter(|more| end.segment == current.active().base_offset() && *more <= more_max) {
            Some(0) if current.log_end_offset == end.log_end_offset => {}
            Some(more) if more > 0 => {
                let mut bytes = vec![0; more as usize];
                let file = current.active_mut().file(&dir)?;
                files::read_exact_at(&file, &mut bytes, u64::from(end.segment_bytes)).doing("read", &dir)?;
                let (epoch, from) = (copy.leader_epoch, copy.log_end_offset);
                copy.append_as_follower(&Bytes::from(bytes), epoch, from, now_ms)?;
                if copy.log_end_offset != current.log_end_offset {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
        let size = u64::from(current.active().size());
        let shadow = Shadow { file: current.active_mut().file(&dir)?, size: Some(size) };
        let (here, there) = (&mut *current, &mut *copy);
        std::mem::swap(&mut here.dir, &mut there.dir);
        std::mem::swap(&mut here.parent, &mut there.parent);
        std::mem::swap(&mut here.segments, &mut there.segments);
        std::mem::swap(&mut here.recent, &mut there.recent);
        std::mem::swap(&mut here.snapshots, &mut there.snapshots);
        std::mem::swap(&mut here.recovery_point, &mut there.recovery_point);
        std::mem::swap(&mut here.synced, &mut there.synced);
        // What was deleted the copy may lack, and a crash may have made the log forget it.
        here.set_high_watermark(here.high_watermark.max(there.log_start_offset));
        here.increment_log_start_offset(there.log_start_offset)?;
        // What the files of the copy say of these may be less than what memory knows.
        here.unwritten.epochs = true;
        here.unwritten.topic_id = here.topic_id.is_some();
        // Of what was done of it before, a part would be done in each directory.
        here.truncations += 1;
        here.cuts += 1;
        self.replacements.fetch_add(1, Ordering::AcqRel);
        // A copy that an earlier life of the broker has begun may have what compaction took away from the log since.
        let cleaned_to = here.cleaned_to.min(there.cleaned_to);
        here.cleaned_to = cleaned_to.map(|cleaned_to| cleaned_to.min(here.active().base_offset()));
        here.shadow = Some(shadow);
        there.is_closed = true;
        self.parent.store(Arc::clone(&here.parent));
        future.parent.store(Arc::clone(&there.parent));
        Ok(true)
    }

    /// The old directory does not bear the log's name any more.
    pub(crate) fn has_left(&self) {
        self.locked().shadow = None;
    }
}

impl State {
    fn end(&self) -> End {
        let active = self.active();
        End { log_end_offset: self.log_end_offset, segment: active.base_offset(), segment_bytes: active.size() }
    }
}
