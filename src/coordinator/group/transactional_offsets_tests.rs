//! Offsets inside transactions: they count once the marker says so, whatever comes first.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

use crate::config::sections::GroupConfig;
use crate::coordinator::core::{Core, Now};
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::groups::Groups;
use crate::coordinator::group::offsets::FoundOffset;
use crate::coordinator::group::records::{CommittedOffset, GroupBatch};
use crate::coordinator::group::replay::Replay;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, OffsetToCommit};
use crate::coordinator::group::turn::{Action, Answer, AppendId, ReplyTo, Turn};
use crate::coordinator::topic_log::AppendFailure;
use crate::coordinator::transaction::state::Producer;
use crate::model::{GenerationId, LeaderEpoch, Offset, ProducerEpoch, ProducerId, TopicPartition};
use crate::record::build::TransactionOutcome::{self, Abort, Commit as Committed};
use crate::record::build::end_transaction_marker;
use crate::record::read::batches;

const WALL_MS: i64 = 1_700_000_000_000;

/// The groups of one partition over a log that is told when an append ends.
#[derive(Default)]
struct Bench {
    groups: Groups,
    next_reply: u64,
    next_append: u64,
    held: VecDeque<(Arc<str>, AppendId, GroupBatch)>,
    answers: Vec<CommitAnswer>,
    /// Of all groups, unless it is 0.
    max_bytes: u64,
    /// How long it has been since the first step.
    wall_ms: i64,
    /// What a load would read.
    log: Vec<u8>,
    log_end: i64,
}

impl Bench {
    fn step<R>(&mut self, step: impl FnOnce(&mut Groups, ReplyTo, &mut Turn<'_>) -> R) -> R {
        let reply = ReplyTo(self.next_reply);
        self.next_reply += 1;
        let group_coordinator_max_bytes = if self.max_bytes > 0 { self.max_bytes } else { u64::MAX };
        let settings = GroupConfig { group_coordinator_max_bytes, ..GroupConfig::default() };
        let mut actions = VecDeque::new();
        let mut turn = Turn {
            now: Now { instant: Instant::now(), wall_ms: WALL_MS + self.wall_ms },
            settings: &settings,
            leader_epoch: LeaderEpoch(0),
            actions: &mut actions,
            bytes_elsewhere: 0,
            next_append: &mut self.next_append,
        };
        let result = step(&mut self.groups, reply, &mut turn);
        let mut forgotten = Vec::new();
        for action in actions {
            match action {
                Action::Answer(_, Answer::Commit(answer)) => self.answers.push(answer),
                Action::Append { of, append, records } => self.held.push_back((of, append, records)),
                Action::Forget { of, records } => {
                    assert!(self.held.is_empty(), "what was wanted before comes before it");
                    forgotten.push(Groups::encode(&of, &records, &settings, WALL_MS).expect("short texts"));
                }
                _ => {}
            }
        }
        for batch in forgotten {
            self.put(&batch);
        }
        assert_eq!(self.groups.bytes(), self.groups.counted_bytes() as u64);
        result
    }

    fn put(&mut self, batch: &Bytes) -> Offset {
        let at = self.log_end;
        let mut batch = batch.to_vec();
        batch[..8].copy_from_slice(&at.to_be_bytes());
        self.log.extend_from_slice(&batch);
        self.log_end += 1;
        Offset(at)
    }

    fn commit(&mut self, transaction: Option<i64>, offset: i64) {
        self.commit_as(anybody(), transaction, offset);
    }

    fn commit_as(&mut self, caller: Caller, transaction: Option<i64>, offset: i64) {
        let committed = CommittedOffset {
            offset: Offset(offset),
            leader_epoch: LeaderEpoch(-1),
            metadata: "".into(),
            commit_timestamp_ms: WALL_MS + self.wall_ms,
            expire_timestamp_ms: None,
        };
        let offsets = vec![OffsetToCommit { topic: "orders".into(), partition: 0, committed }];
        let transaction = transaction.map(|id| Producer { id: ProducerId(id), epoch: ProducerEpoch(0) });
        let commit = Commit { caller, offsets, transaction, must_be_verified: false };
        self.step(|groups, reply, turn| groups.commit_offsets("g", commit, reply, turn));
    }

    /// The oldest append is in the log. Its fate is for the test to tell.
    fn write(&mut self) -> (Arc<str>, AppendId, Offset) {
        let (of, append, batch) = self.held.pop_front().expect("an append is held");
        let bytes = Groups::encode(&of, &batch, &GroupConfig::default(), WALL_MS).expect("short texts");
        let at = self.put(&bytes);
        (of, append, at)
    }

    fn told(&mut self, (of, append, at): (Arc<str>, AppendId, Offset)) {
        self.step(|groups, _, turn| groups.appended(&of, append, Ok(at), turn));
    }

    fn store(&mut self) {
        let written = self.write();
        self.told(written);
    }

    fn marker(&mut self, producer_id: i64, outcome: TransactionOutcome) -> Offset {
        let at = self.put(&end_transaction_marker(producer_id, 0, outcome, 0, WALL_MS));
        self.step(|groups, _, _| groups.transaction_ended(ProducerId(producer_id), outcome, at));
        at
    }

    fn found(&self, require_stable: bool) -> Option<Result<i64, ()>> {
        match self.groups.get("g")?.offsets().find("orders", 0, require_stable) {
            FoundOffset::None => None,
            FoundOffset::Committed(committed) => Some(Ok(committed.offset.0)),
            FoundOffset::Unstable => Some(Err(())),
        }
    }

    /// What the next coordinator makes of the log.
    fn reload(&self) -> Bench {
        let mut next = Bench { log: self.log.clone(), log_end: self.log_end, ..Bench::default() };
        next.load();
        next
    }

    fn load(&mut self) {
        let (bytes, mut replay) = (Bytes::from(self.log.clone()), Replay::default());
        for batch in batches(&bytes) {
            Groups::replay(&mut replay, batch.expect("our own batch")).expect("our own records");
        }
        self.step(|groups, _, turn| groups.load(replay, LeaderEpoch(1), turn));
    }

    fn expire(&mut self) {
        self.step(|groups, _, turn| groups.expire(turn));
    }
}

fn anybody() -> Caller {
    Caller { member_id: "".into(), group_instance_id: None, generation_id: GenerationId(-1) }
}

const UNSTABLE: Option<Result<i64, ()>> = Some(Err(()));

#[test]
fn offsets_in_a_transaction_count_once_it_is_committed() {
    for (outcome, found) in [(Committed, Some(Ok(9))), (Abort, Some(Ok(5)))] {
        let mut bench = Bench::default();
        bench.commit(None, 5);
        bench.store();
        bench.commit(Some(7), 9);
        assert_eq!((bench.found(false), bench.found(true)), (Some(Ok(5)), UNSTABLE), "it is on its way");
        bench.store();
        assert_eq!(bench.answers, [CommitAnswer::Stored(Ok(())); 2]);
        assert_eq!((bench.found(false), bench.found(true)), (Some(Ok(5)), UNSTABLE));
        bench.marker(8, outcome);
        assert_eq!(bench.found(true), UNSTABLE, "another producer's");
        // The next coordinator hears of the end too.
        let mut next = bench.reload();
        assert_eq!((next.found(false), next.found(true)), (Some(Ok(5)), UNSTABLE));
        for bench in [&mut bench, &mut next] {
            bench.marker(7, outcome);
            assert_eq!((bench.found(false), bench.found(true)), (found, found), "{outcome:?}");
            assert_eq!(bench.reload().found(true), found);
        }
    }
}

#[test]
fn the_later_of_two_commits_counts_wherever_its_transaction_ends() {
    let mut bench = Bench::default();
    bench.commit(Some(7), 9);
    bench.store();
    bench.commit(None, 5);
    bench.store();
    bench.marker(7, Committed);
    assert_eq!((bench.found(true), bench.reload().found(true)), (Some(Ok(5)), Some(Ok(5))));
    bench.commit(Some(7), 11);
    bench.store();
    bench.commit(Some(7), 12);
    bench.store();
    bench.marker(7, Committed);
    assert_eq!((bench.found(true), bench.reload().found(true)), (Some(Ok(12)), Some(Ok(12))));
}

#[test]
fn a_marker_that_is_told_of_before_what_stands_before_it_decides_it_all_the_same() {
    for (outcome, found) in [(Committed, Some(Ok(9))), (Abort, None)] {
        let mut bench = Bench::default();
        bench.commit(Some(7), 9);
        let first = bench.write();
        let marker = bench.marker(7, outcome);
        // Of the next transaction, behind the marker.
        bench.commit(Some(7), 20);
        let second = bench.write();
        assert!(first.2 < marker && marker < second.2);
        bench.told(second);
        bench.step(|groups, _, _| groups.transaction_ended(ProducerId(7), outcome, marker));
        bench.told(first);
        assert_eq!((bench.found(false), bench.found(true)), (found, UNSTABLE), "{outcome:?}");
        bench.marker(7, Committed);
        assert_eq!(bench.found(true), Some(Ok(20)));
        assert_eq!(bench.reload().found(true), Some(Ok(20)));
        assert_eq!(bench.groups.producers_waited_for(), 0);
    }
}

#[test]
fn whoever_has_committed_before_goes_on_when_too_much_is_held() {
    let mut bench = Bench::default();
    bench.commit(Some(7), 9);
    bench.store();
    bench.marker(7, Committed);
    bench.max_bytes = bench.groups.bytes();
    bench.answers.clear();
    for offset in [10, 11] {
        bench.commit(Some(7), offset);
        bench.store();
    }
    assert_eq!(bench.answers, [CommitAnswer::Stored(Ok(())); 2]);
    bench.answers.clear();
    bench.commit(Some(8), 12);
    assert_eq!(bench.answers, [CommitAnswer::Refused(GroupError::InvalidCommitOffsetSize)], "a second one is growth");
    bench.marker(7, Committed);
    bench.answers.clear();
    bench.commit(Some(8), 12);
    bench.store();
    assert_eq!(bench.answers, [CommitAnswer::Stored(Ok(()))]);
}

#[test]
fn a_deleted_offset_waits_for_no_marker() {
    let mut bench = Bench::default();
    bench.commit(None, 5);
    bench.store();
    bench.commit(Some(7), 9);
    bench.store();
    let orders = [("orders".into(), 0)];
    bench.step(|groups, _, turn| groups.delete_offsets("g", &orders, turn)).expect("it is there");
    bench.commit(None, 6);
    bench.store();
    bench.marker(7, Committed);
    assert_eq!((bench.found(true), bench.groups.producers_waited_for()), (Some(Ok(6)), 0));
}

/// Source: kafka 3.9 GroupMetadata.scala, getExpiredOffsets.
#[test]
fn an_offset_past_its_retention_stays_until_the_marker_decides_what_follows_it() {
    for (outcome, found) in [(Committed, Some(Ok(9))), (Abort, None)] {
        let mut bench = Bench::default();
        bench.commit(None, 5);
        bench.store();
        bench.wall_ms = GroupConfig::default().offsets_retention_ms;
        bench.commit(Some(7), 9);
        bench.expire();
        assert_eq!(bench.found(false), Some(Ok(5)), "it is on its way");
        bench.store();
        bench.expire();
        assert_eq!((bench.found(false), bench.found(true)), (Some(Ok(5)), UNSTABLE));
        bench.marker(7, outcome);
        bench.expire();
        assert_eq!((bench.found(true), bench.reload().found(true)), (found, found), "{outcome:?}");
        bench.wall_ms *= 2;
        bench.expire();
        assert!(bench.groups.get("g").is_none() && bench.reload().groups.get("g").is_none(), "{outcome:?}");
    }
}

#[test]
fn what_is_decided_while_another_coordinates_is_not_waited_for() {
    for (outcome, found) in [(Committed, Some(Ok(9))), (Abort, Some(Ok(5)))] {
        let mut bench = Bench::default();
        bench.commit(None, 5);
        bench.store();
        bench.commit(Some(7), 9);
        bench.store();
        // Its fate is told to whoever does not coordinate any more.
        bench.commit(Some(7), 9);
        let late = bench.write();
        bench.step(|groups, _, turn| groups.unload(turn));
        assert_eq!((bench.groups.producers_waited_for(), bench.groups.bytes()), (0, 0));
        bench.told(late);
        bench.put(&end_transaction_marker(7, 0, outcome, 0, WALL_MS));
        bench.load();
        assert_eq!((bench.found(false), bench.found(true)), (found, found), "{outcome:?}");
        assert_eq!(bench.groups.producers_waited_for(), 0, "no marker need come");
        // Nor is what it hears of another transaction of that producer taken for the end of this one.
        bench.commit(Some(7), 11);
        bench.store();
        assert_eq!(bench.found(true), UNSTABLE);
        bench.marker(7, Abort);
        assert_eq!((bench.found(true), bench.groups.producers_waited_for()), (found, 0));
    }
}

/// Source: kafka 3.9 OffsetMetadataManager.java (replay, deleteAllOffsets); its older coordinator forgets them in memory alone.
#[test]
fn what_is_deleted_while_its_transaction_is_open_comes_back_at_no_other_coordinator() {
    let orders = [(Arc::from("orders"), 0)];
    let gone = [TopicPartition::new("orders", 0)];
    let bench_of = |is_committed_before: bool, way: usize| {
        let mut bench = Bench::default();
        if is_committed_before {
            bench.commit(None, 5);
            bench.store();
        }
        bench.commit(Some(7), 9);
        bench.store();
        match way {
            0 => bench.step(|groups, _, turn| groups.delete_offsets("g", &orders, turn)).map(drop),
            1 => bench.step(|groups, _, turn| groups.delete("g", turn)),
            _ => {
                bench.step(|groups, _, turn| groups.forget_partitions(&gone, turn));
                Ok(())
            }
        }
        .expect("it is there");
        bench
    };
    for (is_committed_before, way) in [(false, 0), (true, 0), (false, 1), (true, 1), (false, 2), (true, 2)] {
        let mut bench = bench_of(is_committed_before, way);
        let mut next = bench.reload();
        for bench in [&mut bench, &mut next] {
            assert_eq!(bench.found(true), None, "{is_committed_before} {way}");
            bench.marker(7, Committed);
            assert_eq!((bench.found(true), bench.reload().found(true)), (None, None), "{is_committed_before} {way}");
        }
        // What the producer commits from then on counts.
        let mut bench = bench_of(is_committed_before, way);
        bench.commit(Some(7), 11);
        bench.store();
        bench.marker(7, Committed);
        assert_eq!((bench.found(true), bench.reload().found(true)), (Some(Ok(11)), Some(Ok(11))));
    }
}

#[test]
fn a_commit_that_failed_leaves_nothing_to_wait_for() {
    let mut bench = Bench::default();
    bench.commit(Some(7), 9);
    let (of, append, _) = bench.write();
    let refused = Err(AppendFailure::InvalidProducerEpoch);
    bench.step(|groups, _, turn| groups.appended(&of, append, refused, turn));
    let told = GroupError::Append(AppendFailure::InvalidProducerEpoch);
    assert_eq!(bench.answers, [CommitAnswer::Stored(Err(told))]);
    assert!(bench.groups.get("g").is_none(), "a group of nothing");
    assert_eq!(bench.groups.producers_waited_for(), 0, "no marker need come");
    bench.marker(7, Committed);
    assert!(bench.groups.get("g").is_none());
}

/// KIP-447: a member of an older generation must not commit for its successor.
#[test]
fn who_names_a_member_must_be_that_member() {
    let mut bench = Bench::default();
    bench.commit_as(Caller { generation_id: GenerationId(3), ..anybody() }, Some(7), 9);
    bench.commit_as(Caller { member_id: "m".into(), generation_id: GenerationId(0), ..anybody() }, Some(7), 9);
    assert_eq!(bench.answers, [CommitAnswer::Refused(GroupError::UnknownMemberId); 2]);
    assert!(bench.held.is_empty());
}
