//! The byte limits of fetches against a plain model of Kafka's rules: random batches in random segments, read in random
//! orders from random offsets under random limits, by consumers of both kinds and by followers.
//! Source: kafka 3.9.0-rc3 ReplicaManager.scala (readFromLog), LogSegment.java (read), DelayedFetch.scala (tryComplete).

use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::tests::{Fixture, NOW_MS, ROLLING_SEGMENT_BYTES, TERMS, follower};
use crate::model::Offset;
use crate::record::build::BatchBuilder;
use crate::replica::fetch::LimitRule;

const PARTITIONS: i32 = 5;

struct ModelBatch {
    base: i64,
    last: i64,
    bytes: u64,
    segment: usize,
}

#[derive(Default)]
struct ModelPartition {
    batches: Vec<ModelBatch>,
    end: i64,
    high_watermark: i64,
}

/// What the model says of one partition of a fetch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct ModelRead {
    bytes: u64,
    waited_for: u64,
    goes_on: bool,
}

impl ModelPartition {
    fn append(&mut self, records: i64, bytes: u64) {
        let last_segment = self.batches.last().map_or(0, |batch| batch.segment);
        let in_segment: u64 =
            self.batches.iter().filter(|batch| batch.segment == last_segment).map(|batch| batch.bytes).sum();
        let segment =
            last_segment + usize::from(in_segment + bytes > u64::from(ROLLING_SEGMENT_BYTES) && in_segment > 0);
        self.batches.push(ModelBatch { base: self.end, last: self.end + records - 1, bytes, segment });
        self.end += records;
    }

    fn read(&self, from: i64, end: i64, bytes_max: u64, bytes_left: u64, soft: bool, is_first: bool) -> ModelRead {
        let visible: Vec<&ModelBatch> = self.batches.iter().filter(|b| b.last >= from && b.base < end).collect();
        let Some(first) = visible.first() else { return ModelRead::default() };
        let here: u64 = visible.iter().filter(|batch| batch.segment == first.segment).map(|batch| batch.bytes).sum();
        let goes_on = visible.iter().any(|batch| batch.segment != first.segment);
        let mut limit = bytes_max.min(bytes_left);
        if soft && is_first {
            limit = limit.max(first.bytes);
        }
        let bytes = if soft && limit < first.bytes { 0 } else { here.min(limit) };
        ModelRead { bytes, waited_for: here.min(bytes_max), goes_on }
    }
}

fn records(rng: &mut StdRng) -> (i64, Bytes) {
    let count = rng.random_range(1..4);
    let mut builder = BatchBuilder::new();
    for _ in 0..count {
        let length_max = if rng.random_bool(0.2) { 1_500 } else { 100 };
        let value = vec![b'v'; rng.random_range(1..length_max)];
        builder.append(NOW_MS, None, Some(&value), &[]);
    }
    (count, builder.build())
}

#[tokio::test]
async fn fetches_keep_to_their_limits_as_kafka_does_and_wait_as_long() {
    let (mut whole, mut cut, mut empty, mut waited) = (0, 0, 0, 0);
    for seed in 0..12 {
        let mut rng = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new();
        let names: Vec<(&str, i32)> = (0..PARTITIONS).map(|partition| ("rolling", partition)).collect();
        fixture.publish(&names).await;
        let mut model: Vec<ModelPartition> = Vec::new();
        for partition in 0..PARTITIONS {
            // The last ones wait for a follower, which sees more than consumers do.
            let replicas: &[i32] = if partition < 3 { &[1] } else { &[1, 2] };
            assert_eq!(fixture.decide("rolling", partition, 1, 0, replicas).await, Ok(()));
            let mut told = ModelPartition::default();
            for _ in 0..rng.random_range(0..12) {
                let (count, batch) = records(&mut rng);
                told.append(count, batch.len() as u64);
                fixture.replicas.append("rolling", partition, batch, TERMS, NOW_MS).expect("this broker leads");
            }
            told.high_watermark = told.end;
            if replicas.len() > 1 {
                let ends: Vec<i64> = told.batches.iter().map(|batch| batch.base).chain([told.end]).collect();
                told.high_watermark = ends[rng.random_range(0..ends.len())];
                let mut query = fixture.consumer("rolling", told.high_watermark, 0);
                query.fetcher = follower(2);
                query.partitions[0].partition = partition;
                fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await[0]
                    .as_ref()
                    .expect("it is a replica");
            }
            model.push(told);
        }
        for round in 0..150 {
            let soft = rng.random_bool(0.6);
            let is_follower = rng.random_bool(0.3);
            let bytes_max = if rng.random_bool(0.2) { 1 << 20 } else { rng.random_range(0..6_000) };
            let mut query = fixture.consumer("rolling", 0, rng.random_range(0..8_000).min(bytes_max));
            query.bytes_max = bytes_max as u32;
            query.limits = if soft { LimitRule::Soft } else { LimitRule::Hard };
            if is_follower {
                query.fetcher = follower(2);
            }
            let asked = query.partitions.remove(0);
            let mut order: Vec<i32> = if is_follower { vec![3, 4] } else { (0..PARTITIONS).collect() };
            for at in 0..order.len() {
                let other = rng.random_range(at..order.len());
                order.swap(at, other);
            }
            order.truncate(rng.random_range(1..=order.len()));
            let (mut left, mut is_first) = (bytes_max as u64, true);
            let mut expected = Vec::new();
            for &partition in &order {
                let told = &model[partition as usize];
                let mut asked = asked.clone();
                // A follower that asks for what it has not moves no high watermark backwards or forwards here.
                let from = rng.random_range(0..=told.high_watermark);
                asked.partition = partition;
                asked.params.fetch_offset = Offset(from);
                asked.params.log_start_offset = Offset(0);
                asked.params.bytes_max = if rng.random_bool(0.3) {
                    1 << 20
                } else {
                    [0, 1, 50, 100, 500, 1_500, 3_000][rng.random_range(0..7)]
                };
                let end = if is_follower { told.end } else { told.high_watermark };
                let read = told.read(from, end, asked.params.bytes_max as u64, left, soft, is_first);
                is_first &= read.bytes == 0;
                left = left.saturating_sub(read.bytes);
                expected.push(read);
                query.partitions.push(asked);
            }
            let what = format!("seed {seed} round {round}: {query:?}");
            let bytes: u64 = expected.iter().map(|read| read.bytes).sum();
            let min_bytes = query.min_bytes as u64;
            let waits = bytes < min_bytes
                && !expected.iter().any(|read| read.goes_on)
                && expected.iter().map(|read| read.waited_for).sum::<u64>() < min_bytes;
            let long = Instant::now() + Duration::from_secs(3600);
            // Polled once: what need not wait is there at once, since all of it is in the page cache.
            let at_once = tokio::time::timeout_at(
                Instant::now(),
                fixture.replicas.fetch(&query, long, std::time::Instant::now()),
            )
            .await;
            assert_eq!(at_once.is_err(), waits, "{what}: {expected:?}");
            let outcomes = match at_once {
                Ok(outcomes) => outcomes,
                Err(_) => fixture.replicas.fetch(&query, Instant::now(), std::time::Instant::now()).await,
            };
            let got: Vec<u64> =
                outcomes.iter().map(|outcome| outcome.as_ref().expect("readable").bytes() as u64).collect();
            assert_eq!(got, expected.iter().map(|read| read.bytes).collect::<Vec<_>>(), "{what}");
            waited += usize::from(waits);
            for (read, asked) in expected.iter().zip(&query.partitions) {
                let told = &model[asked.partition as usize];
                let first = told.batches.iter().find(|batch| batch.last >= asked.params.fetch_offset.0);
                match first {
                    Some(first) if read.bytes >= first.bytes => whole += 1,
                    Some(_) if read.bytes > 0 => cut += 1,
                    Some(_) => empty += 1,
                    None => {}
                }
            }
        }
    }
    assert!([whole, cut, empty, waited].into_iter().all(|seen| seen > 100), "{whole} {cut} {empty} {waited}");
}
