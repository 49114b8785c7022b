//! Whether bytes of a file are in the page cache, found out without waiting for the disk, and how they get there.

use std::io;
use std::num::NonZeroU64;

use crate::codec::writer::FileRegion;
use crate::log::{begin_to_read, read_at, read_exact_at, without_waiting};

const PAGE_BYTES: u64 = 4096;
/// About what a disk is asked for at once.
const PROBE_EVERY: usize = 128 * 1024;
/// Read in pieces of this size when reading ahead.
const READ_AHEAD_BYTES: usize = 256 * 1024;

/// Looks at the last page and at one in each [`PROBE_EVERY`], for what is read ahead does not come in order: a page that is
/// missing between them costs a wait, not an error. A file system that cannot tell counts as cached, since asking again on
/// another thread would not help.
pub(crate) fn is_cached(region: &FileRegion) -> bool {
    let Some(last) = region.len.checked_sub(1) else { return true };
    let pages = (0..region.len).step_by(PROBE_EVERY).chain((u64::from(last) >= PAGE_BYTES).then_some(last));
    pages.into_iter().all(|page| probe(region, region.position + u64::from(page)))
}

/// Looks at the first page only.
pub(crate) fn begins_cached(region: &FileRegion) -> bool {
    probe(region, region.position)
}

fn probe(region: &FileRegion, position: u64) -> bool {
    let read = without_waiting(|| read_exact_at(&region.file, &mut [0], position));
    !read.is_err_and(|why| why.kind() == io::ErrorKind::WouldBlock)
}

/// What a sequential reader of a region asks for next. It begins on a page of its own: the one on which the region ends
/// says nothing about it.
pub(crate) fn what_follows(region: &FileRegion) -> FileRegion {
    let end = region.position + u64::from(region.len);
    FileRegion { position: end.next_multiple_of(PAGE_BYTES), ..region.clone() }
}

/// Brings a region into the page cache. Waits for the disk, and says so of each piece that it has given.
pub(crate) fn read_ahead(region: &FileRegion, mut step: impl FnMut()) -> io::Result<()> {
    let Some(len) = NonZeroU64::new(u64::from(region.len)) else { return Ok(()) };
    begin_to_read(&region.file, region.position, len);
    let mut buffer = vec![0_u8; READ_AHEAD_BYTES.min(region.len as usize)];
    let mut left = region.len as usize;
    let mut position = region.position;
    while left > 0 {
        let wanted = left.min(buffer.len());
        let read = read_at(&region.file, &mut buffer[..wanted], position)?;
        if read == 0 {
            break;
        }
        left -= read;
        position += read as u64;
        step();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use rustix::fs::{Advice, fadvise};

    use super::*;

    #[test]
    fn what_follows_is_not_the_page_that_was_just_read() {
        let file = Arc::new(tempfile::tempfile().expect("a temporary file"));
        for (position, len, expected) in [(0, 4096, 4096), (10, 4000, 4096), (10, 5000, 8192), (4096, 4097, 12_288)] {
            let region = FileRegion { file: Arc::clone(&file), position, len, source: None };
            let next = what_follows(&region);
            assert_eq!((next.position, next.len), (expected, len), "{position}, {len}");
        }
    }

    #[test]
    fn what_is_missing_between_the_ends_is_missed() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[7; 1 << 20]).expect("room for it");
        file.sync_all().expect("written");
        let region = FileRegion { file: Arc::new(file), position: 0, len: 1 << 20, source: None };
        assert!(is_cached(&region));
        fadvise(&region.file, 256 << 10, NonZeroU64::new(512 << 10), Advice::DontNeed).expect("a file");
        // A directory in memory has nothing that is not.
        let middle = FileRegion { position: 512 << 10, ..region.clone() };
        assert_eq!(is_cached(&region), begins_cached(&middle));
        read_ahead(&region, || ()).expect("readable");
        assert!(is_cached(&region));
    }

    #[test]
    fn bytes_just_written_are_cached() {
        let mut file = tempfile::tempfile().expect("a temporary file");
        file.write_all(&[7; 100_000]).expect("room for it");
        let region = FileRegion { file: Arc::new(file), position: 10, len: 90_000, source: None };
        assert!(is_cached(&region) && begins_cached(&region));
        let beyond = FileRegion { position: 1 << 30, ..region.clone() };
        assert!(begins_cached(&beyond), "there is nothing to wait for beyond the end");
        assert!(read_ahead(&region, || ()).is_ok());
        assert!(is_cached(&FileRegion { len: 0, ..region }));
    }
}
