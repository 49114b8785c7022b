//! Which log is to be compacted next, how much of it, and which segments become one. Knows nothing but the facts it is
//! given.
//! Source: kafka 3.9 core/.../log/LogCleanerManager.scala, LogCleaner.scala (groupSegmentsBySize).

use std::ops::Range;

use crate::model::Offset;

/// One segment, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SegmentFacts {
    pub base_offset: Offset,
    pub bytes: u64,
    /// Of its offset index and its time index.
    pub index_bytes: (u64, u64),
}

/// The offsets of one log. Ends are exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LogFacts {
    pub log_start_offset: Offset,
    pub log_end_offset: Offset,
    pub last_stable_offset: Offset,
    /// Compaction has done everything below.
    pub cleaned_to: Option<Offset>,
}

/// Where compaction goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FirstDirty {
    pub offset: Offset,
    /// What was written down is not in the log.
    pub invalid: Option<Offset>,
}

impl LogFacts {
    pub fn first_dirty(&self) -> FirstDirty {
        let written = self.cleaned_to.unwrap_or(self.log_start_offset);
        if written < self.log_start_offset || written > self.log_end_offset {
            return FirstDirty { offset: self.log_start_offset, invalid: Some(written) };
        }
        FirstDirty { offset: written, invalid: None }
    }
}

/// The segments with something in `[from, to)`, as Kafka finds them: from the one in which `from` is on, those that begin
/// before `to`.
pub(crate) fn segments_between(segments: &[SegmentFacts], from: Offset, to: Offset) -> Range<usize> {
    let first = segments.partition_point(|segment| segment.base_offset <= from).saturating_sub(1);
    let end = segments.partition_point(|segment| segment.base_offset < to);
    first..end.max(first)
}

/// What of the lag settings holds a log up or hurries it, told by its dirty segments but the active one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lags {
    /// The first with a record younger than `min.compaction.lag.ms`.
    pub first_too_young: Option<Offset>,
    /// For how long `max.compaction.lag.ms` has been over; 0 if it is not.
    pub overdue_ms: i64,
}

/// What there is to be done with one log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Assessment {
    pub first_dirty: Offset,
    /// Where a segment begins that is left alone, like all behind it.
    pub first_uncleanable: Offset,
    pub cleanable_bytes: u64,
    /// Those and what was compacted before.
    pub total_bytes: u64,
    pub overdue_ms: i64,
}

impl Assessment {
    /// `segments` ends with the active one.
    pub fn of(facts: &LogFacts, segments: &[SegmentFacts], lags: &Lags) -> Option<Assessment> {
        let (active, inactive) = segments.split_last()?;
        let first_dirty = facts.first_dirty().offset;
        let mut uncleanable = facts.last_stable_offset.min(active.base_offset);
        if let Some(too_young) = lags.first_too_young {
            uncleanable = uncleanable.min(too_young);
        }
        let uncleanable = uncleanable.max(first_dirty);
        let first_uncleanable = match uncleanable < active.base_offset {
            true => inactive[segments_between(inactive, uncleanable, active.base_offset)].first()?.base_offset,
            false => active.base_offset,
        };
        let bytes = |range: Range<usize>| segments[range].iter().map(|segment| segment.bytes).sum::<u64>();
        let dirty = segments_between(segments, first_dirty.min(first_uncleanable), first_uncleanable);
        let cleanable_bytes = if first_dirty < first_uncleanable { bytes(dirty) } else { 0 };
        let clean_bytes = bytes(0..segments.partition_point(|segment| segment.base_offset < first_dirty));
        let total_bytes = clean_bytes + cleanable_bytes;
        let overdue_ms = lags.overdue_ms;
        Some(Assessment { first_dirty, first_uncleanable, cleanable_bytes, total_bytes, overdue_ms })
    }

    pub fn dirty_ratio(&self) -> f64 {
        if self.total_bytes == 0 { 0.0 } else { self.cleanable_bytes as f64 / self.total_bytes as f64 }
    }

    pub fn is_due(&self, min_cleanable_dirty_ratio: f64) -> bool {
        self.total_bytes > 0
            && ((self.overdue_ms > 0 && self.cleanable_bytes > 0) || self.dirty_ratio() > min_cleanable_dirty_ratio)
    }
}

/// How long the oldest of these dates is behind what `max.compaction.lag.ms` allows.
pub(crate) fn overdue_ms(first_dates_ms: impl Iterator<Item = i64>, max_compaction_lag_ms: i64, now_ms: i64) -> i64 {
    let until_ms = now_ms.saturating_sub(max_compaction_lag_ms.max(0));
    let oldest_ms = first_dates_ms.filter(|date_ms| *date_ms > 0).min();
    oldest_ms.map_or(0, |oldest_ms| until_ms.saturating_sub(oldest_ms).max(0))
}

/// Neighbours that fit into one segment together.
pub(crate) fn groups(
    segments: &[SegmentFacts],
    bytes_max: u64,
    index_bytes_max: u64,
    first_uncleanable: Offset,
) -> Vec<Range<usize>> {
    let mut groups = Vec::new();
    let mut first = 0;
    while first < segments.len() {
        let mut end = first + 1;
        let (mut bytes, mut index) = (segments[first].bytes, segments[first].index_bytes);
        while let Some(next) = segments.get(end) {
            // Where the one after it begins is as far as it can reach.
            let reach = segments.get(end + 1).map_or(first_uncleanable, |after| after.base_offset).0 - 1;
            let sum = (index.0 + next.index_bytes.0, index.1 + next.index_bytes.1);
            let fits = bytes + next.bytes <= bytes_max
                && sum.0 <= index_bytes_max
                && sum.1 <= index_bytes_max
                && (next.bytes == 0 || reach - segments[first].base_offset.0 <= i64::from(i32::MAX));
            if !fits {
                break;
            }
            (bytes, index, end) = (bytes + next.bytes, sum, end + 1);
        }
        groups.push(first..end);
        first = end;
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segments(of: &[(i64, u64)]) -> Vec<SegmentFacts> {
        let segment =
            |&(base, bytes): &(i64, u64)| SegmentFacts { base_offset: Offset(base), bytes, index_bytes: (8, 12) };
        of.iter().map(segment).collect()
    }

    fn facts(cleaned_to: Option<i64>, last_stable: i64) -> LogFacts {
        LogFacts {
            log_start_offset: Offset(5),
            log_end_offset: Offset(100),
            last_stable_offset: Offset(last_stable),
            cleaned_to: cleaned_to.map(Offset),
        }
    }

    #[test]
    fn what_was_written_down_counts_if_it_is_in_the_log() {
        let first = |cleaned_to| facts(cleaned_to, 100).first_dirty();
        assert_eq!(first(None), FirstDirty { offset: Offset(5), invalid: None });
        assert_eq!(first(Some(50)), FirstDirty { offset: Offset(50), invalid: None });
        assert_eq!(first(Some(100)).invalid, None);
        assert_eq!(first(Some(4)), FirstDirty { offset: Offset(5), invalid: Some(Offset(4)) });
        assert_eq!(first(Some(101)), FirstDirty { offset: Offset(5), invalid: Some(Offset(101)) });
    }

    #[test]
    fn the_ratio_is_of_whole_segments_below_what_may_not_be_touched() {
        let segments = segments(&[(0, 100), (20, 200), (40, 300), (60, 400), (80, 1000)]);
        let assess = |cleaned_to, last_stable, lags: Lags| {
            let found = Assessment::of(&facts(cleaned_to, last_stable), &segments, &lags).expect("an active segment");
            (found.first_dirty.0, found.first_uncleanable.0, found.cleanable_bytes, found.total_bytes)
        };
        let none = Lags::default();
        assert_eq!(assess(Some(40), 100, none), (40, 80, 700, 1000));
        // The segment in which it goes on counts on both sides.
        assert_eq!(assess(Some(45), 100, none), (45, 80, 700, 1300));
        assert_eq!(assess(Some(40), 70, none), (40, 60, 300, 600), "an open transaction");
        assert_eq!(assess(Some(40), 30, none), (40, 40, 0, 300), "nothing is stable behind what was done");
        let young = Lags { first_too_young: Some(Offset(60)), ..none };
        assert_eq!(assess(Some(40), 100, young), (40, 60, 300, 600));
        assert_eq!(assess(Some(80), 100, none), (80, 80, 0, 1000));
        assert_eq!(assess(Some(90), 100, none), (90, 80, 0, 2000), "beyond the active segment's beginning");
        assert_eq!(assess(None, 100, none), (5, 80, 1000, 1100));
    }

    #[test]
    fn a_log_is_due_by_its_ratio_or_by_its_age() {
        let of = |cleanable_bytes, total_bytes, overdue_ms| Assessment {
            first_dirty: Offset(0),
            first_uncleanable: Offset(1),
            cleanable_bytes,
            total_bytes,
            overdue_ms,
        };
        assert!(!of(50, 100, 0).is_due(0.5) && of(51, 100, 0).is_due(0.5));
        assert!(of(1, 100, 1).is_due(0.5) && !of(0, 100, 1).is_due(0.5));
        assert!(!of(0, 0, 1).is_due(0.0));
        assert_eq!(overdue_ms([500, -1, 0, 400].into_iter(), 100, 1000), 500);
        assert_eq!(overdue_ms([950].into_iter(), 100, 1000), 0);
        assert_eq!(overdue_ms([1].into_iter(), i64::MAX, 1000), 0);
    }

    #[test]
    fn neighbours_are_one_while_they_fit() {
        let groups = |of: &[(i64, u64)], bytes_max, index_max| {
            let found = groups(&segments(of), bytes_max, index_max, Offset(1 << 40));
            found.into_iter().map(|group| (group.start, group.end)).collect::<Vec<_>>()
        };
        let three = [(0, 10), (5, 10), (9, 10)];
        assert_eq!(groups(&three, 30, 100), [(0, 2), (2, 3)], "the last reaches too far");
        assert_eq!(groups(&[(0, 10), (5, 10), (9, 10), (12, 0)], 30, 100), [(0, 4)], "unless it is empty");
        assert_eq!(groups(&three, 15, 100), [(0, 1), (1, 2), (2, 3)]);
        assert_eq!(groups(&three, 30, 12), [(0, 1), (1, 2), (2, 3)], "their indexes are too long");
        assert_eq!(groups(&[(0, 10), (5, 10), (1 << 32, 0), (1 << 33, 0)], 30, 100), [(0, 1), (1, 4)]);
    }
}
