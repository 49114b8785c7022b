//! What a partition remembers of its idempotent and transactional producers: enough to drop duplicates, refuse gaps,
//! fence old incarnations, and know where open transactions begin.
//!
//! Pure: the log feeds batches and the time, and reads and writes the snapshot files (`producer_snapshot.rs`).
//! Source: kafka 3.9 storage/.../log/{ProducerStateManager,ProducerAppendInfo,ProducerStateEntry}.java.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::error::LogError;
use super::transaction_index::AbortedTxn;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{Offset, ProducerEpoch, ProducerId};
use crate::record::append_rules::AppendOrigin;

/// Batches remembered per producer, for a retry to be recognised.
const BATCHES_MAX: usize = 5;
const NO_SEQUENCE: i32 = -1;
/// For so long a wish to open a transaction is kept that nobody has confirmed, or asked about again: anybody may have it.
const UNCONFIRMED_MS: i64 = 10 * 60 * 1000;

/// A batch as the producer state sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProducerBatch {
    pub producer_id: ProducerId,
    pub producer_epoch: ProducerEpoch,
    pub base_sequence: i32,
    pub last_sequence: i32,
    pub first_offset: Offset,
    pub last_offset: Offset,
    pub max_timestamp_ms: i64,
    pub is_transactional: bool,
    /// Set for a batch that ends a transaction.
    pub marker: Option<EndTxnMarker>,
}

impl ProducerBatch {
    /// It is the marker that aborts a transaction.
    pub fn is_abort(&self) -> bool {
        self.marker.as_ref().is_some_and(|marker| marker.is_abort)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct EndTxnMarker {
    pub is_abort: bool,
    pub coordinator_epoch: i32,
    pub timestamp_ms: i64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct BatchMetadata {
    pub last_sequence: i32,
    pub last_offset: Offset,
    pub offset_delta: i32,
    pub timestamp_ms: i64,
}

impl BatchMetadata {
    pub fn first_offset(&self) -> Offset {
        Offset(self.last_offset.0 - i64::from(self.offset_delta))
    }

    /// Sequences go from the largest i32 back to 0.
    fn first_sequence(&self) -> i32 {
        if self.last_sequence >= self.offset_delta {
            self.last_sequence - self.offset_delta
        } else {
            i32::MAX - (self.offset_delta - self.last_sequence) + 1
        }
    }
}

/// One producer. Without batches only its epoch is known: a marker was the last thing seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ProducerState {
    pub producer_epoch: ProducerEpoch,
    pub coordinator_epoch: i32,
    pub last_timestamp_ms: i64,
    pub current_txn_first_offset: Option<Offset>,
    /// Where it was last heard of, by a batch or a marker; -1 if nobody knows.
    last_written: Offset,
    batches: [BatchMetadata; BATCHES_MAX],
    batch_count: u8,
}

impl ProducerState {
    pub fn new(
        producer_epoch: ProducerEpoch,
        coordinator_epoch: i32,
        last_timestamp_ms: i64,
        current_txn_first_offset: Option<Offset>,
        last_batch: Option<BatchMetadata>,
    ) -> ProducerState {
        let mut state = ProducerState {
            producer_epoch,
            coordinator_epoch,
            last_timestamp_ms,
            current_txn_first_offset,
            last_written: last_batch.map_or(Offset(-1), |batch| batch.last_offset),
            batches: Default::default(),
            batch_count: 0,
        };
        if let Some(batch) = last_batch {
            state.push(batch);
        }
        state
    }

    fn unknown() -> ProducerState {
        ProducerState::new(ProducerEpoch(-1), -1, -1, None, None)
    }

    pub fn batches(&self) -> &[BatchMetadata] {
        &self.batches[..usize::from(self.batch_count)]
    }

    pub fn last_batch(&self) -> Option<&BatchMetadata> {
        self.batches().last()
    }

    pub fn last_sequence(&self) -> i32 {
        self.last_batch().map_or(NO_SEQUENCE, |batch| batch.last_sequence)
    }

    fn push(&mut self, batch: BatchMetadata) {
        if usize::from(self.batch_count) == BATCHES_MAX {
            self.batches.rotate_left(1);
        } else {
            self.batch_count += 1;
        }
        self.batches[usize::from(self.batch_count) - 1] = batch;
    }

    fn enter_epoch(&mut self, epoch: ProducerEpoch) {
        if self.producer_epoch != epoch {
            self.batch_count = 0;
            self.producer_epoch = epoch;
        }
    }

    /// A transaction of that epoch is open here.
    fn is_open(&self, epoch: ProducerEpoch) -> bool {
        self.current_txn_first_offset.is_some() && self.producer_epoch == epoch
    }

    fn duplicate_of(&self, batch: &ProducerBatch) -> Option<BatchMetadata> {
        if batch.producer_epoch != self.producer_epoch {
            return None;
        }
        let same =
            |b: &&BatchMetadata| b.first_sequence() == batch.base_sequence && b.last_sequence == batch.last_sequence;
        self.batches().iter().find(same).copied()
    }

    fn is_expired(&self, now_ms: i64, expiration_ms: i64) -> bool {
        self.current_txn_first_offset.is_none() && now_ms.saturating_sub(self.last_timestamp_ms) >= expiration_ms
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Append,
    /// The batch is in the log already, here.
    Duplicate(BatchMetadata),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct CompletedTxn {
    producer_id: ProducerId,
    first_offset: Offset,
    last_offset: Offset,
    is_abort: bool,
}

/// How many producers the partitions of one broker remember.
#[derive(Debug)]
pub(crate) struct ProducerLimits {
    pub per_partition: usize,
    pub per_broker: usize,
    /// Over all partitions.
    remembered: AtomicUsize,
    /// The same of wishes to open a transaction, of which there may be as many.
    wishes: AtomicUsize,
}

impl ProducerLimits {
    pub fn new(per_partition: usize, per_broker: usize) -> Arc<ProducerLimits> {
        Arc::new(ProducerLimits { per_partition, per_broker, ..ProducerLimits::default() })
    }

    /// Once the broker has no room left, a partition that has some takes no more than it has.
    fn most(&self, over_all: &AtomicUsize, here: usize) -> usize {
        match over_all.load(Ordering::Relaxed) < self.per_broker {
            true => self.per_partition,
            false => self.per_partition.min(here.max(1)),
        }
    }
}

impl Default for ProducerLimits {
    fn default() -> ProducerLimits {
        let (remembered, wishes) = Default::default();
        ProducerLimits { per_partition: usize::MAX, per_broker: usize::MAX, remembered, wishes }
    }
}

/// One wish to open a transaction: what is confirmed for it counts for no later one, which a marker would be between, and
/// for no other epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerificationGuard {
    producer_id: ProducerId,
    producer_epoch: ProducerEpoch,
    number: u64,
}

/// Unlike any before, in every log.
static NEXT_GUARD: AtomicU64 = AtomicU64::new(0);

/// Source: kafka 3.9 storage/.../log/VerificationStateEntry.java.
#[derive(Clone, Copy, Debug)]
struct Verification {
    /// Of its guard.
    number: u64,
    is_verified: bool,
    version: TransactionVersion,
    /// A marker of its epoch has come since, and is that of the transaction before if the coordinator follows version 2 too.
    has_outlived_marker: bool,
    /// Of the batches that want to open it; `None` where it says nothing.
    lowest_sequence: Option<i32>,
    /// When it was last asked about.
    asked_ms: i64,
}

impl Verification {
    /// A batch of its epoch has come: a transaction is open now, or has ended, and what may be confirmed yet is about another
    /// one. But the marker that ends the transaction before carries the epoch of the next with version 2, whose first write
    /// may have been asked about already.
    fn outlives(&self, batch: &ProducerBatch) -> bool {
        batch.marker.is_some() && self.version.bumps_epoch() && !self.is_verified
    }
}

#[derive(Debug, Default)]
pub(crate) struct Producers {
    limits: Arc<ProducerLimits>,
    /// As last added to what the broker remembers: producers, and wishes.
    counted: (usize, usize),
    producers: HashMap<ProducerId, ProducerState>,
    /// Open transactions by their first offset.
    ongoing: BTreeMap<Offset, ProducerId>,
    /// Completed transactions, first offset to marker, whose marker may lie above the high watermark.
    unreplicated: BTreeMap<Offset, Offset>,
    /// Producers whose coordinators are asked whether they may open a transaction here (KIP-890), or were and did not say
    /// yes for now. Each epoch for itself: anybody may name any.
    verifications: BTreeMap<(ProducerId, ProducerEpoch), Verification>,
    /// The state covers the log up to here, exclusive.
    end_offset: Offset,
}

impl Drop for Producers {
    fn drop(&mut self) {
        self.producers.clear();
        self.verifications.clear();
        self.count();
    }
}

fn count(over_all: &AtomicUsize, counted: &mut usize, here: usize) {
    if here > *counted {
        over_all.fetch_add(here - *counted, Ordering::Relaxed);
    } else if here < *counted {
        over_all.fetch_sub(*counted - here, Ordering::Relaxed);
    }
    *counted = here;
}

impl Producers {
    pub fn new(limits: Arc<ProducerLimits>) -> Producers {
        let mut producers = Producers::default();
        producers.limits = limits;
        producers
    }

    /// Forgets everything: the state covers the log up to `offset`, which it begins with.
    pub fn restart_at(&mut self, offset: Offset) {
        *self = Producers::new(Arc::clone(&self.limits));
        self.end_offset = offset;
    }

    fn count(&mut self) {
        count(&self.limits.remembered, &mut self.counted.0, self.producers.len());
        count(&self.limits.wishes, &mut self.counted.1, self.verifications.len());
    }

    pub fn end_offset(&self) -> Offset {
        self.end_offset
    }

    pub fn set_end_offset(&mut self, offset: Offset) {
        self.end_offset = offset;
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (ProducerId, &ProducerState)> {
        self.producers.iter().map(|(id, state)| (*id, state))
    }

    /// Takes over a producer from a snapshot.
    pub fn insert(&mut self, producer_id: ProducerId, state: ProducerState) {
        if let Some(first_offset) = state.current_txn_first_offset {
            self.ongoing.insert(first_offset, producer_id);
        }
        self.producers.insert(producer_id, state);
        self.count();
    }

    /// Decides on a batch before anything of it is written. Changes nothing.
    pub fn check(&self, batch: &ProducerBatch, origin: AppendOrigin) -> Result<Verdict, LogError> {
        let unknown = ProducerState::unknown();
        let current = self.producers.get(&batch.producer_id).unwrap_or(&unknown);
        if origin.is_client()
            && batch.marker.is_none()
            && let Some(duplicate) = current.duplicate_of(batch)
        {
            return Ok(Verdict::Duplicate(duplicate));
        }
        if origin == AppendOrigin::Replication {
            return Ok(Verdict::Append);
        }
        if batch.producer_epoch < current.producer_epoch {
            return Err(LogError::InvalidProducerEpoch {
                producer_id: batch.producer_id,
                given: batch.producer_epoch,
                latest: current.producer_epoch,
            });
        }
        match batch.marker {
            Some(marker) if marker.coordinator_epoch < current.coordinator_epoch => {
                Err(LogError::TransactionCoordinatorFenced {
                    producer_id: batch.producer_id,
                    given: marker.coordinator_epoch,
                    latest: current.coordinator_epoch,
                })
            }
            Some(_) => Ok(Verdict::Append),
            None => {
                self.check_verification(batch, origin, current)?;
                if origin.is_client() {
                    let begins_anew = self.wish_of(batch).is_some_and(|wish| wish.version.bumps_epoch());
                    check_sequence(batch, current, begins_anew)?;
                }
                if current.current_txn_first_offset.is_some() && !batch.is_transactional {
                    return Err(LogError::InvalidTxnState { producer_id: batch.producer_id });
                }
                Ok(Verdict::Append)
            }
        }
    }

    /// To open a transaction with such a batch. What a zombie wishes holds nobody else up.
    fn wish_of(&self, batch: &ProducerBatch) -> Option<&Verification> {
        self.verifications.get(&(batch.producer_id, batch.producer_epoch))
    }

    /// A batch that opens a transaction must have been confirmed since the last marker. While one is not, none overtakes
    /// the lowest that was seen of its producer: that one will be sent again, and then be refused for the gap.
    fn check_verification(
        &self,
        batch: &ProducerBatch,
        origin: AppendOrigin,
        current: &ProducerState,
    ) -> Result<(), LogError> {
        let verification = self.wish_of(batch);
        if let Some(Verification { lowest_sequence: Some(lowest_sequence), .. }) = verification
            && comes_after(batch.base_sequence, *lowest_sequence)
            && origin.is_client()
        {
            let (producer_id, given) = (batch.producer_id, batch.base_sequence);
            return Err(LogError::OutOfOrderSequence { producer_id, given, last: lowest_sequence.wrapping_sub(1) });
        }
        let opens = batch.is_transactional && !current.is_open(batch.producer_epoch);
        let is_verified = verification.is_some_and(|verification| verification.is_verified);
        match opens && origin.is_verified() && !is_verified {
            true => Err(LogError::InvalidTxnState { producer_id: batch.producer_id }),
            false => Ok(()),
        }
    }

    /// A producer wants to open a transaction with a batch of that sequence: what its coordinator is asked is told to
    /// `verified` or `refused`. `None` if it has one open. One of another epoch is another one, whose marker is on its way.
    pub fn begin_verification(
        &mut self,
        producer_id: ProducerId,
        epoch: ProducerEpoch,
        base_sequence: i32,
        version: TransactionVersion,
        now_ms: i64,
    ) -> Option<VerificationGuard> {
        if self.producers.get(&producer_id).is_some_and(|state| state.is_open(epoch)) {
            return None;
        }
        let key = (producer_id, epoch);
        let most = self.limits.most(&self.limits.wishes, self.verifications.len()).max(1);
        if self.verifications.len() >= most && !self.verifications.contains_key(&key) {
            // Most are left over from requests that were refused. Who is forgotten in the middle asks again.
            let mut numbers: Vec<u64> = self.verifications.values().map(|one| one.number).collect();
            let evicted = (numbers.len() / 8).max(1);
            let (_, &mut last_evicted, _) = numbers.select_nth_unstable(evicted - 1);
            self.verifications.retain(|_, one| one.number > last_evicted);
        }
        let verification = self.verifications.entry(key).or_insert_with(|| Verification {
            number: NEXT_GUARD.fetch_add(1, Ordering::Relaxed),
            is_verified: false,
            version,
            has_outlived_marker: false,
            lowest_sequence: None,
            asked_ms: now_ms,
        });
        verification.asked_ms = now_ms;
        if verification.lowest_sequence.is_none_or(|lowest| comes_after(lowest, base_sequence)) {
            verification.lowest_sequence = Some(base_sequence);
        }
        if !verification.is_verified {
            verification.version = verification.version.max(version);
        }
        let number = verification.number;
        self.count();
        Some(VerificationGuard { producer_id, producer_epoch: epoch, number })
    }

    /// The coordinator has confirmed the transaction, by the version of the protocol in which it will end it. It counts
    /// unless a marker has ended that one meanwhile.
    pub fn verified(&mut self, guard: VerificationGuard, version: TransactionVersion) {
        let key = (guard.producer_id, guard.producer_epoch);
        let Some(wish) = self.verifications.get_mut(&key).filter(|one| one.number == guard.number) else { return };
        if wish.has_outlived_marker && !version.bumps_epoch() {
            self.verifications.remove(&key);
            self.count();
        } else {
            wish.is_verified = true;
            wish.version = version;
        }
    }

    /// The coordinator knows no such producer as had this wish. It may know one of the same name, and have been asked for that
    /// one too, to which the sequence of this one says nothing.
    pub fn refused(&mut self, guard: VerificationGuard) {
        let key = (guard.producer_id, guard.producer_epoch);
        if let Some(wish) = self.verifications.get_mut(&key).filter(|one| one.number == guard.number) {
            wish.lowest_sequence = None;
        }
    }

    /// What a batch in the log leaves of the wishes of its producer: none of an epoch before.
    fn forget_wishes(&mut self, batch: &ProducerBatch) {
        let this = (batch.producer_id, batch.producer_epoch);
        let before = (batch.producer_id, ProducerEpoch(i16::MIN))..this;
        while let Some(key) = self.verifications.range(before.clone()).next().map(|(key, _)| *key) {
            self.verifications.remove(&key);
        }
        match self.verifications.get_mut(&this) {
            Some(wish) if wish.outlives(batch) => wish.has_outlived_marker = true,
            Some(_) => drop(self.verifications.remove(&this)),
            None => {}
        }
        self.count();
    }

    /// Takes note of a batch that is now in the log. Returns the transaction it aborted, for the transaction index.
    pub fn apply(&mut self, batch: &ProducerBatch) -> Option<AbortedTxn> {
        self.make_room_for(batch);
        if !self.verifications.is_empty() {
            self.forget_wishes(batch);
        }
        let is_new = !self.producers.contains_key(&batch.producer_id);
        if is_new {
            self.producers.insert(batch.producer_id, ProducerState::unknown());
            self.count();
        }
        let state = self.producers.get_mut(&batch.producer_id).expect("it is there, or was put there");
        state.enter_epoch(batch.producer_epoch);
        state.last_written = batch.last_offset;
        let Some(marker) = batch.marker else {
            state.push(BatchMetadata {
                last_sequence: batch.last_sequence,
                last_offset: batch.last_offset,
                offset_delta: (batch.last_offset.0 - batch.first_offset.0) as i32,
                timestamp_ms: batch.max_timestamp_ms,
            });
            state.last_timestamp_ms = batch.max_timestamp_ms;
            if batch.is_transactional && state.current_txn_first_offset.is_none() {
                state.current_txn_first_offset = Some(batch.first_offset);
                self.ongoing.insert(batch.first_offset, batch.producer_id);
            }
            return None;
        };
        state.coordinator_epoch = marker.coordinator_epoch;
        state.last_timestamp_ms = marker.timestamp_ms;
        let completed = CompletedTxn {
            producer_id: batch.producer_id,
            // A marker without data before it changes nothing a reader could see.
            first_offset: state.current_txn_first_offset.take()?,
            last_offset: batch.first_offset,
            is_abort: marker.is_abort,
        };
        self.complete(completed)
    }

    fn complete(&mut self, txn: CompletedTxn) -> Option<AbortedTxn> {
        let next_open = self.ongoing.iter().find(|(_, id)| **id != txn.producer_id).map(|(first, _)| *first);
        self.ongoing.remove(&txn.first_offset);
        self.unreplicated.insert(txn.first_offset, txn.last_offset);
        txn.is_abort.then_some(AbortedTxn {
            producer_id: txn.producer_id,
            first_offset: txn.first_offset,
            last_offset: txn.last_offset,
            last_stable_offset: next_open.unwrap_or(Offset(txn.last_offset.0 + 1)),
        })
    }

    /// Where the first transaction begins that is open, or whose marker is not below the high watermark yet.
    pub fn first_unstable_offset(&self) -> Option<Offset> {
        let open = self.ongoing.keys().next();
        let unreplicated = self.unreplicated.keys().next();
        open.into_iter().chain(unreplicated).min().copied()
    }

    /// Transactions whose marker lies below `offset` are done with.
    pub fn forget_completed_below(&mut self, offset: Offset) {
        if !self.unreplicated.is_empty() {
            self.unreplicated.retain(|_, marker| *marker >= offset);
        }
    }

    /// Whether a transaction has ended whose marker is not below the high watermark.
    #[cfg(test)]
    pub fn has_unreplicated(&self) -> bool {
        !self.unreplicated.is_empty()
    }

    /// Of as many producers as there may be the longest silent eighth goes, if this one is not among them. Silent is who
    /// wrote or ended a transaction lowest in the log, since timestamps are what clients make of them. Open transactions stay. Nothing breaks for
    /// who is forgotten: what it sends next may have any sequence, and only a retry of what it sent before would no longer
    /// be known as one.
    fn make_room_for(&mut self, batch: &ProducerBatch) {
        let most = self.limits.most(&self.limits.remembered, self.producers.len());
        if self.producers.len() < most || self.producers.contains_key(&batch.producer_id) {
            return;
        }
        let idle = self.producers.iter().filter(|(_, state)| state.current_txn_first_offset.is_none());
        let mut idle: Vec<(Offset, ProducerId)> = idle.map(|(id, state)| (state.last_written, *id)).collect();
        // Many at once, so that a look at all of them is paid for by many batches.
        let gone = (most / 8).max(1).min(idle.len());
        if gone < idle.len() {
            idle.select_nth_unstable(gone);
        }
        for (_, id) in &idle[..gone] {
            self.producers.remove(id);
        }
    }

    /// Refuses a transaction beyond what may be open at once: `make_room_for` could not forget it.
    pub fn check_room_for(&self, batch: &ProducerBatch, origin: AppendOrigin) -> Result<(), LogError> {
        let is_new = batch.is_transactional && !self.producers.contains_key(&batch.producer_id);
        if origin.is_client() && is_new && self.ongoing.len() >= self.limits.per_partition {
            return Err(LogError::InvalidTxnState { producer_id: batch.producer_id });
        }
        Ok(())
    }

    pub fn remove_expired(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, state| !state.is_expired(now_ms, expiration_ms));
        let kept_ms = |one: &Verification| match one.is_verified {
            true => expiration_ms,
            false => expiration_ms.min(UNCONFIRMED_MS),
        };
        self.verifications.retain(|_, one| now_ms.saturating_sub(one.asked_ms) < kept_ms(one));
        self.count();
    }
}

/// Of two sequences that are near each other: they go from the largest i32 back to 0.
fn comes_after(sequence: i32, other: i32) -> bool {
    let distance = sequence.wrapping_sub(other) & i32::MAX;
    distance > 0 && distance < i32::MAX / 2
}

/// A producer that has another epoch with each transaction `begins_anew` with it.
fn check_sequence(batch: &ProducerBatch, current: &ProducerState, begins_anew: bool) -> Result<(), LogError> {
    // Nothing is known of the producer, perhaps because retention removed all it wrote: any sequence may come.
    if current.producer_epoch == ProducerEpoch(-1) && (!begins_anew || batch.base_sequence == 0) {
        return Ok(());
    }
    let same_epoch = batch.producer_epoch == current.producer_epoch;
    let last = if same_epoch { current.last_sequence() } else { NO_SEQUENCE };
    let follows = match (same_epoch, last) {
        (false, _) => batch.base_sequence == 0,
        (true, i32::MAX) => batch.base_sequence == 0,
        (true, last) => batch.base_sequence == last + 1,
    };
    if follows {
        return Ok(());
    }
    Err(LogError::OutOfOrderSequence { producer_id: batch.producer_id, given: batch.base_sequence, last })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn data(epoch: i16, base_sequence: i32, first_offset: i64, count: i32) -> ProducerBatch {
        let last_sequence = ((i64::from(base_sequence) + i64::from(count) - 1) & i64::from(i32::MAX)) as i32;
        ProducerBatch {
            producer_id: ProducerId(7),
            producer_epoch: ProducerEpoch(epoch),
            base_sequence,
            last_sequence,
            first_offset: Offset(first_offset),
            last_offset: Offset(first_offset + i64::from(count) - 1),
            max_timestamp_ms: 1000,
            is_transactional: false,
            marker: None,
        }
    }

    fn marker(producer_id: i64, epoch: i16, offset: i64, coordinator_epoch: i32, is_abort: bool) -> ProducerBatch {
        ProducerBatch {
            producer_id: ProducerId(producer_id),
            base_sequence: -1,
            last_sequence: -1,
            is_transactional: true,
            marker: Some(EndTxnMarker { is_abort, coordinator_epoch, timestamp_ms: 2000 }),
            ..data(epoch, 0, offset, 1)
        }
    }

    /// The sequence rules of coordinators.md B6, as one table over a producer at epoch 3 with last sequence 9.
    #[test]
    fn of_too_many_producers_the_longest_silent_are_forgotten_and_open_transactions_are_not() {
        const MOST: usize = 80;
        let limits = ProducerLimits::new(MOST, usize::MAX);
        let mut producers = Producers::new(Arc::clone(&limits));
        let of = |id: i64, offset: i64, is_transactional: bool| ProducerBatch {
            producer_id: ProducerId(id),
            is_transactional,
            // As a client would have it that wants to stay: later than all others.
            max_timestamp_ms: i64::MAX - offset,
            ..data(0, 0, offset, 1)
        };
        let mut write = |batch: ProducerBatch| {
            producers.check_room_for(&batch, AppendOrigin::Client)?;
            producers.apply(&batch);
            assert!(producers.iter().len() <= MOST);
            Ok::<(), LogError>(())
        };
        write(of(0, 0, true)).expect("there is room");
        for id in 1..1_000 {
            write(of(id, id, false)).expect("there is always room");
        }
        let kept: std::collections::BTreeSet<i64> = producers.iter().map(|(id, _)| id.0).collect();
        assert!(kept.contains(&0), "its transaction is open");
        assert!((930..1_000).all(|id| kept.contains(&id)), "{kept:?}");

        let mut producers = Producers::new(limits);
        for id in 0..80 {
            producers.apply(&of(id, id, true));
        }
        let refused = producers.check_room_for(&of(80, 80, true), AppendOrigin::Client);
        assert!(matches!(refused, Err(LogError::InvalidTxnState { .. })));
        assert!(producers.check_room_for(&of(7, 81, true), AppendOrigin::Client).is_ok(), "open already");
        producers.make_room_for(&of(80, 80, false));
        assert_eq!(producers.iter().len(), 80, "none of them may go");
    }

    /// With version 2 of the protocol each marker is of another epoch, of which no batch is known.
    #[test]
    fn whose_transaction_has_only_just_ended_is_not_the_longest_silent() {
        let mut producers = Producers::new(ProducerLimits::new(80, usize::MAX));
        for id in 0..79 {
            producers.apply(&ProducerBatch { producer_id: ProducerId(id), ..data(0, 0, id, 1) });
        }
        let of =
            |id, offset| ProducerBatch { producer_id: ProducerId(id), is_transactional: true, ..data(0, 0, offset, 1) };
        producers.apply(&of(100, 100));
        producers.apply(&marker(100, 1, 101, 0, false));
        producers.apply(&of(101, 102));
        let kept = |id| producers.producers.contains_key(&ProducerId(id));
        assert_eq!([kept(0), kept(9), kept(10), kept(100), kept(101)], [false, false, true, true, true]);
    }

    #[test]
    fn over_all_partitions_producers_are_bounded_and_a_partition_that_ends_gives_its_room_back() {
        let limits = ProducerLimits::new(100, 150);
        let mut partitions: Vec<Producers> = (0..4).map(|_| Producers::new(Arc::clone(&limits))).collect();
        for id in 0..1_000 {
            for producers in &mut partitions {
                producers.apply(&ProducerBatch { producer_id: ProducerId(id), ..data(0, 0, id, 1) });
            }
        }
        let remembered = |partitions: &[Producers]| partitions.iter().map(|producers| producers.iter().len()).sum();
        let total: usize = remembered(&partitions);
        assert!((100..=154).contains(&total), "{total}");
        assert!(partitions.iter().all(|producers| producers.producers.contains_key(&ProducerId(999))));
        assert_eq!(limits.remembered.load(Ordering::Relaxed), total);
        partitions[0].remove_expired(i64::MAX, 0);
        partitions[1].restart_at(Offset(0));
        drop(partitions.pop());
        assert_eq!(limits.remembered.load(Ordering::Relaxed), remembered(&partitions));
        drop(partitions);
        assert_eq!(limits.remembered.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn sequences_are_checked_as_kafka_checks_them() {
        let mut producers = Producers::default();
        producers.apply(&data(3, 0, 0, 10));
        let check = |batch: ProducerBatch| producers.check(&batch, AppendOrigin::Client);
        assert!(matches!(check(data(3, 10, 10, 1)), Ok(Verdict::Append)));
        assert!(matches!(check(data(3, 0, 10, 10)), Ok(Verdict::Duplicate(b)) if b.first_offset() == Offset(0)));
        assert!(matches!(check(data(3, 11, 10, 1)), Err(LogError::OutOfOrderSequence { given: 11, last: 9, .. })));
        assert!(matches!(check(data(3, 0, 10, 5)), Err(LogError::OutOfOrderSequence { .. })), "half a duplicate");
        assert!(matches!(check(data(2, 10, 10, 1)), Err(LogError::InvalidProducerEpoch { .. })));
        assert!(matches!(check(data(4, 0, 10, 1)), Ok(Verdict::Append)));
        assert!(matches!(check(data(4, 10, 10, 1)), Err(LogError::OutOfOrderSequence { .. })));
        let other = ProducerBatch { producer_id: ProducerId(8), ..data(0, 77, 10, 1) };
        assert!(matches!(check(other), Ok(Verdict::Append)), "an unknown producer may start anywhere");
        for origin in [AppendOrigin::Coordinator, AppendOrigin::Replication] {
            assert!(matches!(producers.check(&data(3, 50, 10, 1), origin), Ok(Verdict::Append)));
        }
    }

    #[test]
    fn the_last_five_batches_are_recognised_as_duplicates_and_a_sixth_is_not() {
        let mut producers = Producers::default();
        for i in 0..6 {
            producers.apply(&data(0, i * 2, i64::from(i) * 2, 2));
        }
        for i in 1..6 {
            let verdict = producers.check(&data(0, i * 2, 100, 2), AppendOrigin::Client);
            assert!(matches!(verdict, Ok(Verdict::Duplicate(b)) if b.first_offset() == Offset(i64::from(i) * 2)));
        }
        let oldest = producers.check(&data(0, 0, 100, 2), AppendOrigin::Client);
        assert!(matches!(oldest, Err(LogError::OutOfOrderSequence { .. })));
    }

    #[test]
    fn sequences_wrap_from_the_largest_int_to_zero() {
        let mut producers = Producers::default();
        producers.apply(&data(0, i32::MAX - 1, 0, 2));
        assert!(matches!(producers.check(&data(0, 0, 2, 1), AppendOrigin::Client), Ok(Verdict::Append)));
        // A batch across the wrap: its first sequence is i32::MAX, its last 1.
        let mut producers = Producers::default();
        producers.apply(&data(0, i32::MAX, 0, 3));
        let again = producers.check(&data(0, i32::MAX, 3, 3), AppendOrigin::Client);
        assert!(matches!(again, Ok(Verdict::Duplicate(_))));
        assert!(matches!(producers.check(&data(0, 2, 3, 1), AppendOrigin::Client), Ok(Verdict::Append)));
    }

    #[test]
    fn after_a_marker_of_a_new_epoch_only_sequence_zero_follows() {
        let mut producers = Producers::default();
        producers.apply(&data(0, 0, 0, 10));
        assert_eq!(producers.apply(&marker(7, 1, 10, 0, true)), None, "no data, no entry in the index");
        assert!(matches!(producers.check(&data(1, 0, 11, 1), AppendOrigin::Client), Ok(Verdict::Append)));
        let gap = producers.check(&data(1, 10, 11, 1), AppendOrigin::Client);
        assert!(matches!(gap, Err(LogError::OutOfOrderSequence { last: -1, .. })));
    }

    #[test]
    fn transactions_hold_the_last_stable_offset_until_their_marker_is_replicated() {
        let mut producers = Producers::default();
        let transactional =
            |id, offset| ProducerBatch { producer_id: ProducerId(id), is_transactional: true, ..data(0, 0, offset, 1) };
        producers.apply(&transactional(1, 10));
        producers.apply(&transactional(2, 20));
        assert_eq!(producers.first_unstable_offset(), Some(Offset(10)));
        let plain = ProducerBatch { producer_id: ProducerId(1), ..data(0, 1, 30, 1) };
        assert!(matches!(producers.check(&plain, AppendOrigin::Client), Err(LogError::InvalidTxnState { .. })));
        let aborted = producers.apply(&marker(1, 0, 30, 5, true)).expect("data was aborted");
        assert_eq!(
            (aborted.first_offset, aborted.last_offset, aborted.last_stable_offset),
            (Offset(10), Offset(30), Offset(20))
        );
        assert_eq!(producers.first_unstable_offset(), Some(Offset(10)), "the marker is not below the high watermark");
        producers.forget_completed_below(Offset(30));
        assert_eq!(producers.first_unstable_offset(), Some(Offset(10)));
        producers.forget_completed_below(Offset(31));
        assert_eq!(producers.first_unstable_offset(), Some(Offset(20)));
        assert_eq!(producers.apply(&marker(2, 0, 31, 5, false)), None, "a commit has no entry in the index");
        let zombie = producers.check(&marker(2, 0, 32, 4, false), AppendOrigin::Coordinator);
        assert!(matches!(zombie, Err(LogError::TransactionCoordinatorFenced { given: 4, latest: 5, .. })));
    }

    #[test]
    fn producers_expire_unless_a_transaction_is_open() {
        let mut producers = Producers::default();
        producers.apply(&data(0, 0, 0, 1));
        producers.apply(&ProducerBatch { producer_id: ProducerId(9), is_transactional: true, ..data(0, 0, 1, 1) });
        producers.remove_expired(1000 + 99, 100);
        assert_eq!(producers.iter().len(), 2);
        producers.remove_expired(1000 + 100, 100);
        assert_eq!(producers.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [9]);
    }

    #[test]
    fn a_transaction_is_opened_once_it_is_verified_and_not_after_the_next_marker() {
        let mut producers = Producers::default();
        let of = |base_sequence| ProducerBatch { is_transactional: true, ..data(0, base_sequence, 10, 1) };
        let check = |producers: &Producers, batch: ProducerBatch| {
            producers.check(&batch, AppendOrigin::VerifiedClient).map_err(|error| match error {
                LogError::InvalidTxnState { .. } => "state",
                LogError::OutOfOrderSequence { .. } => "sequence",
                _ => "other",
            })
        };
        let begin = |producers: &mut Producers, sequence| {
            producers.begin_verification(ProducerId(7), ProducerEpoch(0), sequence, TransactionVersion::V0, 0)
        };
        assert_eq!(check(&producers, of(0)), Err("state"), "nobody asked");
        assert_eq!(check(&producers, data(0, 0, 10, 1)), Ok(Verdict::Append), "it is in no transaction");
        for origin in [AppendOrigin::Client, AppendOrigin::Coordinator] {
            assert!(producers.check(&of(0), origin).is_ok(), "nobody asks");
        }
        assert!(producers.check(&of(0), AppendOrigin::VerifiedCoordinator).is_err());
        let guard = begin(&mut producers, 0).expect("none is open");
        assert_eq!(check(&producers, of(0)), Err("state"), "not answered");
        producers.verified(guard, TransactionVersion::V0);
        assert_eq!(check(&producers, of(0)), Ok(Verdict::Append));
        assert_eq!(check(&producers, of(5)), Err("sequence"), "it would overtake");
        // The marker that ends the transaction comes first.
        producers.apply(&marker(7, 0, 11, 1, true));
        assert_eq!(check(&producers, of(0)), Err("state"));
        let next = begin(&mut producers, 0).expect("none is open");
        producers.verified(guard, TransactionVersion::V0);
        assert_eq!(check(&producers, of(0)), Err("state"), "the answer is about the last one");
        producers.verified(next, TransactionVersion::V0);
        assert_eq!(check(&producers, of(0)), Ok(Verdict::Append));
        producers.apply(&of(0));
        assert_eq!(begin(&mut producers, 1), None, "it is open");
        assert_eq!(check(&producers, of(1)), Ok(Verdict::Append));
    }

    /// KIP-890 part 2: each transaction has an epoch of its own.
    #[test]
    fn a_transaction_of_the_next_epoch_is_another_one_and_begins_with_the_first_sequence() {
        let mut producers = Producers::default();
        let of = |epoch, sequence| ProducerBatch { is_transactional: true, ..data(epoch, sequence, 10, 1) };
        let check = |producers: &Producers, batch: ProducerBatch| {
            producers.check(&batch, AppendOrigin::VerifiedClient).map_err(|error| match error {
                LogError::InvalidTxnState { .. } => "state",
                LogError::OutOfOrderSequence { .. } => "sequence",
                LogError::InvalidProducerEpoch { .. } => "epoch",
                _ => "other",
            })
        };
        let begin = |producers: &mut Producers, epoch, sequence| {
            let version = TransactionVersion::V2;
            producers.begin_verification(ProducerId(7), ProducerEpoch(epoch), sequence, version, 0)
        };
        let late = begin(&mut producers, 0, 3).expect("none is open");
        producers.verified(late, TransactionVersion::V2);
        assert_eq!(check(&producers, of(0, 3)), Err("sequence"), "what came before is missing");
        let first = begin(&mut producers, 0, 0).expect("none is open");
        producers.verified(first, TransactionVersion::V2);
        assert_eq!(check(&producers, of(0, 0)), Ok(Verdict::Append));
        producers.apply(&of(0, 0));
        assert_eq!(begin(&mut producers, 0, 1), None, "it is open");

        // The next one, while the marker of this one is on its way.
        let next = begin(&mut producers, 1, 0).expect("that one is another");
        assert_eq!(check(&producers, of(1, 0)), Err("state"), "it would be ended by the marker of the one before");
        producers.apply(&marker(7, 1, 11, 1, false));
        assert_eq!(check(&producers, of(1, 0)), Err("state"), "not answered");
        assert_eq!(check(&producers, of(0, 1)), Err("epoch"), "delayed until after the marker");
        assert_eq!(begin(&mut producers, 1, 0), Some(next), "the marker was that of the one before");
        producers.verified(next, TransactionVersion::V2);
        assert_eq!(check(&producers, of(1, 0)), Ok(Verdict::Append));
        // What was confirmed and has come to nothing is over with the marker.
        producers.apply(&marker(7, 1, 11, 1, false));
        assert_eq!(check(&producers, of(1, 0)), Err("state"));
        let again = begin(&mut producers, 1, 0).expect("none is open");
        producers.verified(again, TransactionVersion::V2);
        assert_eq!(check(&producers, of(1, 0)), Ok(Verdict::Append));

        // Nor does what is confirmed of one epoch open a transaction of the next.
        let third = begin(&mut producers, 2, 0).expect("none is open");
        assert_eq!(check(&producers, of(2, 0)), Err("state"));
        producers.verified(again, TransactionVersion::V2);
        assert_eq!(check(&producers, of(2, 0)), Err("state"));
        producers.verified(third, TransactionVersion::V2);
        assert_eq!(check(&producers, of(2, 0)), Ok(Verdict::Append));
        producers.apply(&of(2, 0));
        begin(&mut producers, 1, 0).expect("none of that epoch is open");
        assert_eq!(check(&producers, of(2, 1)), Ok(Verdict::Append), "a zombie holds nobody up");
    }

    #[test]
    fn of_a_wish_to_go_on_across_the_largest_sequence_the_first_batch_is_the_one_before_it() {
        let of = |base_sequence| ProducerBatch { is_transactional: true, ..data(0, base_sequence, 10, 2) };
        for first_seen in [i32::MAX - 1, 0] {
            let mut producers = Producers::default();
            producers.apply(&data(0, i32::MAX - 3, 0, 2));
            let mut begin = |sequence| {
                let version = TransactionVersion::V0;
                let guard = producers.begin_verification(ProducerId(7), ProducerEpoch(0), sequence, version, 0);
                guard.expect("none is open")
            };
            let guard = begin(first_seen);
            assert_eq!([begin(0), begin(i32::MAX - 1), begin(2)], [guard; 3]);
            producers.verified(guard, TransactionVersion::V0);
            let check = |sequence| producers.check(&of(sequence), AppendOrigin::VerifiedClient);
            assert!(matches!(check(0), Err(LogError::OutOfOrderSequence { .. })), "it would overtake");
            assert!(matches!(check(i32::MAX - 1), Ok(Verdict::Append)));
        }
    }

    #[test]
    fn over_all_partitions_wishes_are_bounded_and_nobody_keeps_for_long_what_was_not_confirmed() {
        let limits = ProducerLimits::new(100, 150);
        let mut partitions: Vec<Producers> = (0..4).map(|_| Producers::new(Arc::clone(&limits))).collect();
        let begin = |producers: &mut Producers, id, now_ms| {
            let (id, version) = (ProducerId(id), TransactionVersion::V0);
            producers.begin_verification(id, ProducerEpoch(0), 0, version, now_ms).expect("none is open")
        };
        for id in 0..1_000 {
            for producers in &mut partitions {
                let guard = begin(producers, id, 0);
                producers.verified(guard, TransactionVersion::V0);
            }
        }
        let wished = |partitions: &[Producers]| partitions.iter().map(|producers| producers.verifications.len()).sum();
        let total: usize = wished(&partitions);
        assert!((100..=154).contains(&total), "{total}");
        assert!(partitions.iter().all(|one| one.verifications.contains_key(&(ProducerId(999), ProducerEpoch(0)))));
        assert_eq!(limits.wishes.load(Ordering::Relaxed), total);
        partitions[0].apply(&ProducerBatch { producer_id: ProducerId(999), ..data(0, 0, 0, 1) });
        assert_eq!(limits.wishes.load(Ordering::Relaxed), total - 1);
        partitions[1].restart_at(Offset(0));
        drop(partitions.pop());
        assert_eq!(limits.wishes.load(Ordering::Relaxed), wished(&partitions));

        let (mut producers, day_ms) = (Producers::default(), 86_400_000);
        let confirmed = begin(&mut producers, 1, 0);
        producers.verified(confirmed, TransactionVersion::V0);
        for (id, asked_ms) in [(2, 0), (3, 0), (3, 1)] {
            begin(&mut producers, id, asked_ms);
        }
        producers.remove_expired(UNCONFIRMED_MS, day_ms);
        let left: Vec<i64> = producers.verifications.keys().map(|(id, _)| id.0).collect();
        assert_eq!(left, [1, 3]);
        producers.remove_expired(day_ms, day_ms);
        assert_eq!(producers.verifications.len(), 0);
    }

    /// Whoever may write to the partition may name any producer that there is, and any epoch.
    #[test]
    fn what_a_stranger_wishes_in_the_name_of_a_producer_is_nowhere_in_its_way_and_never_comes_true() {
        let of = |epoch, sequence| ProducerBatch { is_transactional: true, ..data(epoch, sequence, 10, 1) };
        let check = |producers: &Producers, batch: ProducerBatch| {
            producers.check(&batch, AppendOrigin::VerifiedClient).map_err(|error| match error {
                LogError::InvalidTxnState { .. } => "state",
                LogError::OutOfOrderSequence { .. } => "sequence",
                _ => "other",
            })
        };
        let begin = |producers: &mut Producers, epoch, sequence, version| {
            let guard = producers.begin_verification(ProducerId(7), ProducerEpoch(epoch), sequence, version, 0);
            guard.expect("none is open")
        };
        let (v0, v2) = (TransactionVersion::V0, TransactionVersion::V2);

        // Of the last epoch there is.
        let mut producers = Producers::default();
        let strange = begin(&mut producers, i16::MAX, 0, v2);
        let own = begin(&mut producers, 3, 0, v2);
        assert_ne!(own, strange);
        let again = begin(&mut producers, i16::MAX, 0, v2);
        producers.verified(own, v2);
        assert_eq!(check(&producers, of(i16::MAX, 0)), Err("state"), "the other was confirmed");
        assert_eq!(check(&producers, of(3, 0)), Ok(Verdict::Append));
        producers.apply(&of(3, 0));
        producers.refused(again);
        assert_eq!(check(&producers, of(3, 1)), Ok(Verdict::Append));
        begin(&mut producers, i16::MAX, 0, v2);
        assert_eq!(check(&producers, of(i16::MAX, 0)), Err("state"));

        // Of the same epoch, before the producer itself or meanwhile.
        for is_before in [true, false] {
            let mut producers = Producers::default();
            producers.apply(&data(3, 0, 0, 5));
            let strange = begin(&mut producers, 3, 0, v0);
            if is_before {
                producers.refused(strange);
            }
            let own = begin(&mut producers, 3, 5, v2);
            producers.refused(strange);
            assert_eq!(check(&producers, of(3, 5)), Err("state"));
            producers.apply(&marker(7, 3, 5, 1, true));
            assert_eq!(begin(&mut producers, 3, 5, v2), own, "its transaction is the next");
            producers.verified(own, v2);
            assert_eq!(check(&producers, of(3, 5)), Ok(Verdict::Append));
        }
    }

    /// A client that has not heard that version 2 was taken back, at a coordinator that knows only the one before.
    #[test]
    fn where_the_coordinator_keeps_the_epoch_a_marker_of_the_same_epoch_ends_what_was_wished() {
        let of = |sequence| ProducerBatch { is_transactional: true, ..data(0, sequence, 10, 1) };
        let begin = |producers: &mut Producers| {
            let guard = producers.begin_verification(ProducerId(7), ProducerEpoch(0), 0, TransactionVersion::V2, 0);
            guard.expect("none is open")
        };
        let opens = |producers: &Producers| producers.check(&of(0), AppendOrigin::VerifiedClient).is_ok();
        // Confirmed before the marker, or only after it.
        let mut producers = Producers::default();
        let guard = begin(&mut producers);
        producers.verified(guard, TransactionVersion::V0);
        assert!(opens(&producers));
        producers.apply(&marker(7, 0, 10, 1, true));
        assert!(!opens(&producers));
        let mut producers = Producers::default();
        let guard = begin(&mut producers);
        producers.apply(&marker(7, 0, 10, 1, true));
        producers.verified(guard, TransactionVersion::V0);
        assert!(!opens(&producers), "nobody would end it");
        assert_ne!(begin(&mut producers), guard);
    }

    #[test]
    fn wishes_that_nobody_confirmed_do_not_pile_up() {
        let mut producers = Producers::new(ProducerLimits::new(80, 800));
        for id in 0..1000 {
            // All at one time: the order in which they came decides.
            let (id, version) = (ProducerId(id), TransactionVersion::V0);
            assert!(producers.begin_verification(id, ProducerEpoch(0), 0, version, 1000).is_some());
            assert!(producers.verifications.len() <= 80);
            assert!(id.0 < 79 || producers.verifications.len() > 70, "an eighth goes at once");
        }
        assert!((930..1000).all(|id| producers.verifications.contains_key(&(ProducerId(id), ProducerEpoch(0)))));
        producers.remove_expired(100_000, 1000);
        assert_eq!(producers.verifications.len(), 0);
    }
}
