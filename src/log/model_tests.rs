//! Random histories of one log against a list of batches.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::error::LogError;
use super::testing::*;
use super::{FirstBatch, Log, ReadUntil};
use crate::config::log::LogConfig;
use crate::model::Offset;
use crate::record::batch::Batches;
use crate::record::compression::Codec;

#[derive(Clone, Debug)]
struct ModelBatch {
    base: i64,
    last: i64,
    max_timestamp: i64,
    bytes: u32,
}

#[derive(Default)]
struct Model {
    batches: Vec<ModelBatch>,
    start: i64,
    end: i64,
    high_watermark: i64,
}

impl Model {
    fn truncate(&mut self, to: i64) {
        if to < self.end {
            self.batches.retain(|batch| batch.last < to);
            self.end = to;
            self.start = self.start.min(to);
            self.high_watermark = self.high_watermark.min(to).max(self.start);
        }
    }
}

#[test]
fn any_history_reads_as_the_list_of_its_batches() {
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let one = OneLog::new(LogConfig {
            segment_bytes: rng.random_range(400..3000),
            index_interval_bytes: rng.random_range(0..500),
            segment_index_bytes: rng.random_range(64..1000),
            retention_ms: None,
            preallocate: rng.random_bool(0.2),
            ..LogConfig::default()
        });
        let mut log = one.open_clean();
        let mut model = Model::default();
        for step in 0..120 {
            let what = format!("seed {seed} step {step}");
            match rng.random_range(0..20) {
                0..=10 => {
                    let count = rng.random_range(1..5);
                    let timestamps: Vec<i64> = (0..count).map(|_| rng.random_range(0..10_000)).collect();
                    let codec = if rng.random_bool(0.3) { Codec::Lz4 } else { Codec::None };
                    let builder = compressed_batch(&timestamps, rng.random_range(0..60), codec);
                    log.follow(crate::model::LeaderEpoch(step / 40)).expect("epochs rise");
                    let mut prepared = prepared(builder);
                    let bytes = prepared.size_in_bytes() as u32;
                    let info = log
                        .append_as_leader(
                            &mut prepared,
                            crate::model::LeaderEpoch(step / 40),
                            crate::record::append_rules::AppendOrigin::Client,
                            0,
                        )
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(info.first_offset.0, model.end, "{what}");
                    let last = model.end + count - 1;
                    let max_timestamp = timestamps.iter().copied().max().expect("not empty");
                    model.batches.push(ModelBatch { base: model.end, last, max_timestamp, bytes });
                    model.end = last + 1;
                }
                11 => log.roll(0).expect("rollable"),
                12 => {
                    model.high_watermark = rng.random_range(model.start..=model.end);
                    log.update_high_watermark(Offset(model.high_watermark));
                }
                13 => {
                    let to = rng.random_range(model.start..=model.end);
                    log.truncate_to(Offset(to), log.leader_epoch(), 0).expect("truncatable");
                    model.truncate(to);
                }
                14 => {
                    let before = rng.random_range(0..=model.high_watermark);
                    log.delete_records(Offset(before), log.leader_epoch()).expect("deletable");
                    model.start = model.start.max(before);
                    log.delete_old_segments(0).expect("deletable");
                }
                15 => log.flush(0).expect("flushable"),
                16 | 17 => {
                    let clean = rng.random_bool(0.5);
                    let recovery_point = log.recovery_point();
                    if clean {
                        log.close(0).expect("closable");
                    } else {
                        log.abandon();
                    }
                    log = one
                        .open_at(clean, recovery_point, Offset(model.start))
                        .unwrap_or_else(|error| panic!("{what}: {error}"));
                    // A truncation into the middle of a batch leaves an end that only the running broker knows.
                    let on_disk = model.batches.last().map_or(log.log_end_offset().0, |batch| batch.last + 1);
                    assert!(
                        log.log_end_offset().0 == model.end || log.log_end_offset().0 == on_disk.max(model.start),
                        "{what}: {:?}",
                        log.bounds()
                    );
                    model.end = log.log_end_offset().0;
                    model.start = log.log_start_offset().0;
                    model.high_watermark = model.high_watermark.clamp(model.start, model.end);
                    log.update_high_watermark(Offset(model.high_watermark));
                }
                _ => check_one_read(&log, &model, &mut rng, &what),
            }
            let bounds = log.bounds();
            assert_eq!(
                (bounds.log_start_offset.0, bounds.high_watermark.0, bounds.log_end_offset.0),
                (model.start, model.high_watermark, model.end),
                "{what}"
            );
        }
        for _ in 0..20 {
            check_one_read(&log, &model, &mut rng, &format!("seed {seed} at the end"));
        }
    }
}

fn check_one_read(log: &Log, model: &Model, rng: &mut StdRng, what: &str) {
    let from = rng.random_range(-1..=model.end + 1);
    let until = if rng.random_bool(0.5) { ReadUntil::LogEnd } else { ReadUntil::HighWatermark };
    let limit = if until == ReadUntil::LogEnd { model.end } else { model.high_watermark };
    let max_bytes = rng.random_range(0..2000);
    let first_batch = [FirstBatch::Whole, FirstBatch::IfItFits, FirstBatch::Cut][rng.random_range(0..3)];
    let what = format!("{what}: read from {from} to {limit}, at most {max_bytes} bytes, {first_batch:?}");
    let fetched = match log.read(Offset(from), max_bytes, until, first_batch) {
        Ok(fetched) => fetched,
        Err(LogError::OffsetOutOfRange { .. }) => {
            assert!(from < model.start || from > model.end, "{what}");
            return;
        }
        Err(error) => panic!("{what}: {error}"),
    };
    assert!(from >= model.start && from <= model.end, "{what}");
    let expected: Vec<&ModelBatch> = model.batches.iter().filter(|b| b.last >= from && b.last < limit).collect();
    let Some(region) = fetched.region else {
        let may_be_nothing = match first_batch {
            FirstBatch::Whole => false,
            FirstBatch::IfItFits => {
                expected.first().is_some_and(|batch| fetched.visible_bytes >= batch.bytes && max_bytes < batch.bytes)
            }
            FirstBatch::Cut => max_bytes == 0,
        };
        assert!(expected.is_empty() || may_be_nothing || from >= limit, "{what}: nothing, but {:?}", expected[0]);
        return;
    };
    let mut bytes = vec![0; region.len as usize];
    std::os::unix::fs::FileExt::read_exact_at(&*region.file, &mut bytes, region.position).expect("readable");
    let mut expected = expected.into_iter();
    let mut whole = 0;
    for batch in Batches::new(&bytes) {
        let header = batch.expect("well-formed").header;
        let model = expected.next().unwrap_or_else(|| panic!("{what}: read {} beyond the limit", header.base_offset));
        assert_eq!(
            (header.base_offset, header.last_offset, header.max_timestamp),
            (model.base, model.last, model.max_timestamp),
            "{what}"
        );
        whole += 1;
    }
    assert!(whole > 0 || first_batch == FirstBatch::Cut, "{what}: not one whole batch");
    assert!(
        region.len <= max_bytes || (first_batch == FirstBatch::Whole && whole == 1),
        "{what}: {} bytes",
        region.len
    );
}
