//! ISR changes over partitions in memory: what followers do, what is asked, and every order in which answers, decisions
//! and fetches can come.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::time::timeout;

use crate::config::log::LogConfig;
use crate::metadata::image::{Broker, Update};
use crate::model::{
    BrokerEpoch, BrokerId, ControllerEpoch, LeaderEpoch, Offset, PartitionEpoch, TopicId, TopicPartition,
};
use crate::replica::error::ReplicaError;
use crate::replica::interleaving_tests::{
    Clock, NOW_MS, TERMS, decision, follower, limits, params, partition, records,
};
use crate::replica::isr_changes::{AfterAnswer, IsrAnswer, IsrChanges, IsrProposal};
use crate::replica::leader::Decision;
use crate::replica::memory_log::MemoryLog;
use crate::replica::partition::{AppendTerms, Partition, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::replica::waiters::Commit;

const LEADER_ONLY: AppendTerms = AppendTerms { required_acks: RequiredAcks::Leader, ..TERMS };

/// Broker 1 leads; time stands still unless a test moves it.
struct Leader {
    partition: Arc<Partition<MemoryLog>>,
    log: Arc<MemoryLog>,
    clock: Clock,
}

impl Leader {
    /// In epoch 6, which begins behind three records: committed only if no other is in sync.
    fn with_isr(isr: &[i32]) -> Leader {
        let clock = Arc::new(Mutex::new(Instant::now()));
        let leader = Leader { partition: partition(1, &clock), log: Arc::new(MemoryLog::new()), clock };
        leader.decide(5, isr);
        (0..3).for_each(|value| _ = leader.partition.append(records(value), LEADER_ONLY, NOW_MS).expect("it leads"));
        leader.decide(6, isr);
        leader.asked_nothing();
        leader
    }

    /// The partition epoch of each decision is its leader epoch.
    fn decide(&self, epoch: i32, isr: &[i32]) {
        self.partition.lead(&decision(1, epoch, isr), &self.log).expect("nothing fails in memory");
    }

    fn fetch(&self, broker: i32, offset: i64) {
        self.fetch_as(broker, -1, offset).expect("a replica");
    }

    fn fetch_as(&self, broker: i32, broker_epoch: i64, offset: i64) -> Result<(), ReplicaError> {
        let asked = params(Offset(offset), None, None);
        let now = limits(*self.clock.lock().expect("no test panics under it"));
        self.partition.fetch(follower(broker, broker_epoch), &asked, TopicId::ZERO, now).map(drop)
    }

    fn passes(&self, seconds: u64) {
        *self.clock.lock().expect("no test panics under it") += Duration::from_secs(seconds);
    }

    fn alive(&self, brokers: &[i32]) {
        let broker = |id: &i32| Broker { id: BrokerId(*id), rack: None, endpoints: Vec::new() };
        let brokers = brokers.iter().map(broker).collect();
        let update = Update { controller: BrokerId(1), brokers, topics: Vec::new() };
        self.partition.around.metadata.apply(update);
    }

    fn asked(&self) -> IsrProposal {
        let asked = self.partition.around.isr_changes.take();
        let [proposal] = &asked[..] else { panic!("one change is asked for: {asked:?}") };
        proposal.clone()
    }

    fn asked_nothing(&self) {
        assert_eq!(self.partition.around.isr_changes.take(), []);
    }

    fn append(&self) -> Option<Commit> {
        self.partition.append(records(9), TERMS, NOW_MS).expect("enough are in sync").commit
    }

    fn high_watermark(&self) -> i64 {
        self.log.bounds().high_watermark.0
    }

    fn isr(&self) -> Vec<i32> {
        self.partition.isr().into_iter().map(|member| member.0).collect()
    }

    fn answer(&self, proposal: &IsrProposal, answer: IsrAnswer) -> AfterAnswer {
        self.partition.isr_answered(proposal, answer)
    }
}

/// What was asked for is in force.
fn in_force(proposal: &IsrProposal) -> IsrAnswer {
    IsrAnswer::InForce {
        leader_epoch: proposal.leader_epoch,
        partition_epoch: PartitionEpoch(proposal.partition_epoch.0 + 1),
        isr: proposal.isr.clone(),
    }
}

fn ids(isr: &[BrokerId]) -> Vec<i32> {
    isr.iter().map(|member| member.0).collect()
}

#[tokio::test]
async fn a_follower_that_has_caught_up_is_asked_for_and_counts_at_once_for_what_is_committed() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 2);
    leader.asked_nothing();
    leader.fetch(2, 3);
    let proposal = leader.asked();
    assert_eq!(
        (ids(&proposal.isr), proposal.leader_epoch, proposal.partition_epoch.0),
        (vec![1, 2], LeaderEpoch(6), 6)
    );
    leader.passes(31);
    assert!(leader.append().is_some(), "it waits for the follower that may be in sync by now");
    assert_eq!((leader.isr(), leader.high_watermark()), (vec![1], 3));
    assert_eq!(leader.answer(&proposal, in_force(&proposal)), AfterAnswer::Nothing);
    assert_eq!((leader.isr(), leader.high_watermark()), (vec![1, 2], 3));
    leader.fetch(2, 4);
    assert_eq!(leader.high_watermark(), 4);
    leader.asked_nothing();
}

#[tokio::test]
async fn a_follower_joins_only_with_what_is_committed_and_with_what_this_epoch_began_with() {
    let leader = Leader::with_isr(&[1, 3]);
    // All that is known to be committed, but not what the epoch began with: more may have been.
    assert_eq!(leader.high_watermark(), 0);
    leader.fetch(2, 2);
    leader.asked_nothing();
    // Nor does a fetch of an earlier epoch count, of which nobody knows whether it is still true.
    leader.decide(7, &[1, 3]);
    leader.asked_nothing();
    leader.fetch(2, 3);
    assert_eq!(ids(&leader.asked().isr), [1, 3, 2]);
}

#[tokio::test]
async fn a_follower_whose_broker_is_not_alive_or_whose_life_is_over_does_not_join() {
    let leader = Leader::with_isr(&[1]);
    leader.alive(&[1, 3]);
    leader.fetch_as(2, 20, 3).expect("a replica");
    leader.asked_nothing();
    leader.alive(&[1, 2, 3]);
    leader.asked_nothing();
    leader.fetch_as(2, 20, 3).expect("a replica");
    assert_eq!(ids(&leader.asked().isr), [1, 2]);

    let leader = Leader::with_isr(&[1]);
    leader.fetch_as(2, 20, 1).expect("a replica");
    assert!(matches!(leader.fetch_as(2, 19, 3), Err(ReplicaError::NotLeaderOrFollower)));
    leader.asked_nothing();
}

/// It may come back with another disk.
#[tokio::test]
async fn what_a_follower_had_before_its_broker_went_away_does_not_let_it_in() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    let refused = leader.asked();
    leader.alive(&[1, 3]);
    assert_eq!(leader.answer(&refused, IsrAnswer::NotApplied), AfterAnswer::Nothing);
    leader.alive(&[1, 2, 3]);
    leader.fetch(3, 3);
    let other = leader.asked();
    assert_eq!(ids(&other.isr), [1, 3]);
    leader.answer(&other, in_force(&other));
    leader.asked_nothing();
    leader.fetch(2, 0);
    leader.asked_nothing();
    leader.fetch(2, 3);
    assert_eq!(ids(&leader.asked().isr), [1, 3, 2]);
}

/// What is asked may be asked again, long after the follower that it is about has gone.
#[tokio::test]
async fn a_follower_is_asked_for_as_who_it_was_when_it_fetched() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch_as(2, 20, 3).expect("a replica");
    let proposal = leader.asked();
    assert_eq!(proposal.joining, Some((BrokerId(2), BrokerEpoch(20))));
    leader.fetch_as(2, 21, 0).expect("a replica");
    leader.asked_nothing();
    assert!(leader.partition.still_wants(&proposal), "it may be in force already");
    leader.answer(&proposal, IsrAnswer::NotApplied);
    leader.fetch_as(2, 21, 3).expect("a replica");
    let again = leader.asked();
    assert_eq!(again.joining, Some((BrokerId(2), BrokerEpoch(21))));
    leader.answer(&again, IsrAnswer::NotApplied);
    // In an older protocol nobody says who he is, whatever he said before.
    leader.fetch_as(2, -1, 3).expect("a replica");
    assert_eq!(leader.asked().joining, Some((BrokerId(2), BrokerEpoch(-1))));
}

#[tokio::test]
async fn a_follower_that_is_refused_keeps_no_other_out() {
    let leader = Leader::with_isr(&[1]);
    for _ in 0..2 {
        leader.fetch(2, 3);
        let refused = leader.asked();
        assert_eq!(ids(&refused.isr), [1, 2]);
        leader.answer(&refused, IsrAnswer::NotApplied);
    }
    leader.fetch(3, 3);
    assert_eq!(ids(&leader.asked().isr), [1, 3]);
}

/// What is committed stands still then, so those that were left behind have all of it, however long they are silent.
#[tokio::test]
async fn below_min_insync_replicas_those_that_have_left_are_asked_for_when_they_fetch_again() {
    let leader = Leader::with_isr(&[1, 2, 3]);
    leader.log.set_config(Arc::new(LogConfig { min_insync_replicas: 2, ..LogConfig::default() }));
    leader.fetch(2, 3);
    leader.fetch(3, 3);
    let commit = leader.append().expect("it waits for the followers");
    leader.passes(31);
    leader.partition.shrink_isr();
    let shrink = leader.asked();
    assert_eq!(ids(&shrink.isr), [1]);
    leader.answer(&shrink, in_force(&shrink));
    assert_eq!((leader.isr(), leader.high_watermark()), (vec![1], 3));
    leader.asked_nothing();
    let refused = leader.partition.append(records(9), TERMS, NOW_MS);
    assert!(matches!(refused, Err(ReplicaError::NotEnoughReplicas { in_sync: 1 })), "{refused:?}");
    leader.fetch(2, 3);
    let expand = leader.asked();
    assert_eq!(ids(&expand.isr), [1, 2]);
    leader.answer(&expand, in_force(&expand));
    assert_eq!(leader.high_watermark(), 3);
    leader.fetch(2, 4);
    assert_eq!(leader.high_watermark(), 4);
    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    assert_eq!(commit.wait(soon).await, Ok(()));
}

/// A coordinator loads then, as Kafka's does, which waits for nobody: who is elected next has what it has read.
#[tokio::test]
async fn below_min_insync_replicas_all_is_replicated_that_those_in_sync_have() {
    let leader = Leader::with_isr(&[1, 2, 3]);
    let all_replicated = || leader.partition.all_replicated(LeaderEpoch(6)).expect("it leads");
    leader.log.set_config(Arc::new(LogConfig { min_insync_replicas: 3, ..LogConfig::default() }));
    let mut by_isr = all_replicated().expect("the others have not fetched");
    leader.fetch(2, 3);
    leader.passes(31);
    leader.partition.shrink_isr();
    let shrink = leader.asked();
    assert_eq!((ids(&shrink.isr), by_isr.outcome()), (vec![1, 2], None));
    leader.answer(&shrink, in_force(&shrink));
    assert_eq!((by_isr.outcome(), leader.high_watermark()), (Some(Ok(())), 0));
    assert!(all_replicated().is_none());

    leader.partition.append(records(9), LEADER_ONLY, NOW_MS).expect("it leads");
    let mut by_fetch = all_replicated().expect("broker 2 has not fetched it");
    leader.fetch(2, 3);
    assert_eq!(by_fetch.outcome(), None);
    leader.fetch(2, 4);
    assert_eq!((by_fetch.outcome(), leader.high_watermark()), (Some(Ok(())), 0));
}

#[tokio::test]
async fn those_that_come_up_while_a_change_is_pending_are_asked_for_after_it() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    leader.fetch(3, 3);
    let first = leader.asked();
    leader.answer(&first, in_force(&first));
    leader.asked_nothing();
    leader.fetch(3, 3);
    let second = leader.asked();
    assert_eq!((ids(&second.isr), second.partition_epoch), (vec![1, 2, 3], PartitionEpoch(7)));
}

#[tokio::test]
async fn followers_that_lag_leave_and_what_waited_for_them_is_committed_once_that_is_in_force() {
    let leader = Leader::with_isr(&[1, 2, 3]);
    leader.fetch(2, 3);
    leader.fetch(3, 3);
    let commit = leader.append().expect("it waits for the followers");
    leader.fetch(2, 4);
    leader.passes(30);
    leader.partition.shrink_isr();
    leader.asked_nothing();
    leader.passes(1);
    leader.partition.shrink_isr();
    leader.partition.shrink_isr();
    let proposal = leader.asked();
    assert_eq!(ids(&proposal.isr), [1, 2], "one that has everything stays, however long ago it said so");
    assert_eq!(leader.high_watermark(), 3, "nobody knows yet whether the others will count");
    leader.answer(&proposal, in_force(&proposal));
    assert_eq!((leader.isr(), leader.high_watermark()), (vec![1, 2], 4));
    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    assert_eq!(commit.wait(soon).await, Ok(()));
}

/// As long as it keeps up it may be let in any moment, and what is committed would be without it.
#[tokio::test]
async fn what_waits_for_one_that_was_not_let_in_is_committed_once_it_lags_though_nothing_else_happens() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    let refused = leader.asked();
    leader.answer(&refused, IsrAnswer::NotApplied);
    let commit = leader.append().expect("it waits for the one that keeps up");
    leader.passes(30);
    leader.partition.shrink_isr();
    assert_eq!(leader.high_watermark(), 3);
    leader.passes(1);
    leader.partition.shrink_isr();
    assert_eq!(leader.high_watermark(), 4);
    let soon = tokio::time::Instant::now() + Duration::from_secs(5);
    assert_eq!(commit.wait(soon).await, Ok(()));
}

#[tokio::test]
async fn a_follower_that_has_said_nothing_since_this_broker_leads_is_given_the_whole_time() {
    let leader = Leader::with_isr(&[1, 2]);
    leader.passes(30);
    leader.partition.shrink_isr();
    leader.asked_nothing();
    leader.passes(1);
    leader.partition.shrink_isr();
    assert_eq!(ids(&leader.asked().isr), [1]);
}

/// A controller that has agreed does not tell, and one that has refused may be heard late: who knows.
#[tokio::test]
async fn an_answer_counts_once_and_only_for_what_is_still_pending() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    let first = leader.asked();
    // Refused: asked again, and what was said to the first says nothing of the second.
    assert_eq!(leader.answer(&first, IsrAnswer::NotApplied), AfterAnswer::Nothing);
    leader.fetch(2, 3);
    let second = leader.asked();
    assert_ne!(first.number, second.number);
    for late in [IsrAnswer::NotApplied, IsrAnswer::Failed, in_force(&first)] {
        assert_eq!(leader.answer(&first, late), AfterAnswer::Nothing);
        assert_eq!(leader.isr(), [1]);
    }
    leader.fetch(2, 3);
    leader.asked_nothing();
    assert_eq!(leader.answer(&second, IsrAnswer::Failed), AfterAnswer::AskAgain);
    leader.answer(&second, in_force(&second));
    assert_eq!(leader.isr(), [1, 2]);
    // The same once more, and an older one after it.
    leader.answer(&second, in_force(&second));
    leader.answer(&second, IsrAnswer::NotApplied);
    assert_eq!(leader.isr(), [1, 2]);
}

#[tokio::test]
async fn a_decision_that_overtakes_an_answer_stands() {
    let leader = Leader::with_isr(&[1, 3]);
    leader.fetch(2, 3);
    let proposal = leader.asked();
    // The controller has let the follower in, and then taken both out, which is heard of first.
    leader.decide(9, &[1]);
    for late in [in_force(&proposal), IsrAnswer::NotApplied, IsrAnswer::Unclear, IsrAnswer::Failed] {
        assert_eq!(leader.answer(&proposal, late), AfterAnswer::Nothing);
        assert_eq!(leader.isr(), [1]);
    }
    // A broker that follows by now, or that does not host the partition any more, has nothing to settle.
    leader.fetch(2, 3);
    let proposal = leader.asked();
    leader.partition.follow(&decision(2, 10, &[1, 2]), &leader.log).expect("nothing fails in memory");
    assert_eq!(leader.answer(&proposal, in_force(&proposal)), AfterAnswer::Nothing);
    assert_eq!(leader.isr(), [0; 0]);
    leader.partition.close();
    assert_eq!(leader.answer(&proposal, in_force(&proposal)), AfterAnswer::Nothing);
}

#[tokio::test]
async fn an_answer_of_another_epoch_leaves_the_change_pending_until_the_decision_comes() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    let proposal = leader.asked();
    let with = |leader_epoch, partition_epoch| IsrAnswer::InForce {
        leader_epoch: LeaderEpoch(leader_epoch),
        partition_epoch: PartitionEpoch(partition_epoch),
        isr: vec![BrokerId(1), BrokerId(2)],
    };
    for other in [with(7, 8), with(5, 7), with(6, 5), IsrAnswer::Unclear] {
        assert_eq!(leader.answer(&proposal, other), AfterAnswer::Nothing);
        assert_eq!(leader.isr(), [1]);
        leader.passes(31);
        leader.partition.shrink_isr();
        leader.fetch(2, 3);
        leader.asked_nothing();
    }
    assert_eq!(leader.high_watermark(), 3);
    leader.append();
    assert_eq!(leader.high_watermark(), 3, "the follower may be in sync, so it counts");
    leader.decide(7, &[1]);
    assert_eq!(leader.high_watermark(), 4);
}

/// The answer to a change is heard before the decision that was made before it.
#[tokio::test]
async fn a_decision_older_than_an_answer_is_skipped() {
    let leader = Leader::with_isr(&[1]);
    leader.fetch(2, 3);
    let proposal = leader.asked();
    leader.answer(&proposal, in_force(&proposal));
    let older = Decision { partition_epoch: PartitionEpoch(6), ..decision(1, 6, &[1]) };
    leader.partition.lead(&older, &leader.log).expect("nothing fails in memory");
    assert_eq!((leader.isr(), leader.partition.leader_epoch()), (vec![1, 2], LeaderEpoch(6)));
}

#[tokio::test]
async fn what_is_wanted_waits_until_it_is_taken_and_a_newer_wish_stands_in_for_an_older_one() {
    let leader = Leader::with_isr(&[1]);
    let changes = &leader.partition.around.isr_changes;
    assert!(timeout(Duration::from_millis(1), changes.next()).await.is_err());
    leader.fetch(2, 3);
    let older = changes.next().await.unsent;
    leader.decide(7, &[1]);
    leader.fetch(2, 3);
    changes.put_back(older.clone());
    let newer = changes.next().await.unsent;
    assert_eq!(newer.iter().map(|proposal| proposal.leader_epoch).collect::<Vec<_>>(), [LeaderEpoch(7)]);
    changes.put_back(newer.clone());
    assert_eq!(changes.next().await.unsent, newer);
}

/// What was asked under an earlier decision may be put back after what is wanted now has been looked at.
#[tokio::test]
async fn of_two_changes_of_a_partition_the_one_that_was_wanted_last_is_asked_for() {
    let proposal = |number| IsrProposal {
        partition: TopicPartition::new("t", 0),
        topic_id: TopicId::ZERO,
        controller_epoch: ControllerEpoch(1),
        leader_epoch: LeaderEpoch(5),
        partition_epoch: PartitionEpoch(0),
        isr: vec![BrokerId(1)],
        joining: None,
        number,
    };
    for (confirmed, put_back) in [(2, 1), (1, 2)] {
        let changes = IsrChanges::default();
        changes.confirmed(vec![proposal(confirmed)]);
        changes.put_back([proposal(put_back)]);
        let wanted = changes.next().await;
        let wanted: Vec<u64> = wanted.confirmed.iter().chain(&wanted.unsent).map(|wanted| wanted.number).collect();
        assert_eq!(wanted, [2]);
        changes.put_back([proposal(confirmed)]);
        changes.put_back([proposal(put_back)]);
        assert_eq!(changes.take(), [proposal(2)]);
        changes.confirmed(vec![proposal(confirmed)]);
        changes.confirmed(vec![proposal(put_back)]);
        assert_eq!(changes.next().await.confirmed, [proposal(2)], "whichever look ends first");
    }
}
