//! What must be true after every step, whatever went wrong before it. A check looks at what the step has changed.
//!
//! - One leader an epoch.
//! - A batch that two logs have from the same epoch at the same offset has the same before it in both.
//! - What anybody was told is committed, a producer with acks=all or a consumer by reading it, is in the log of every
//!   later leader, and on every member of the ISR in ZooKeeper.
//! - What a follower has appended leaves its log a prefix of its leader's.
//! - The ISR in ZooKeeper is a part of the maximal ISR of the leader that ZooKeeper names.
//! - The high watermark of a leader does not go back.
//! - What a group was told is committed is what its coordinator says, or something later; also after every move.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use odradek_zookeeper::session::Versioned;
use odradek_zookeeper::znode::partition_state::PartitionState;

use crate::model::{BrokerId, LeaderEpoch, Offset, TopicPartition};
use crate::replica::memory_log::{MemoryLog, Prefix};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::life::Replica;

/// What is wrong.
pub(super) type Checked = Result<(), String>;

#[derive(Default)]
pub(super) struct Checks {
    partitions: BTreeMap<TopicPartition, History>,
    /// The latest offset that a group was told is committed, by the epoch of its coordinator.
    commits: BTreeMap<LeaderEpoch, i64>,
    /// Records that a producer was told are committed.
    pub acknowledged: usize,
    /// The same for the offsets of groups.
    pub commits_acknowledged: usize,
    pub isr_changes: usize,
}

/// What happened to one partition.
#[derive(Default)]
struct History {
    leaders: BTreeMap<LeaderEpoch, BrokerId>,
    batches: HashMap<(Offset, LeaderEpoch), Prefix>,
    /// What is committed, by its end.
    committed: BTreeMap<Offset, Prefix>,
    /// How much of it was told in an epoch.
    told: BTreeMap<LeaderEpoch, Offset>,
    /// Of each life of a broker, as the leader in an epoch.
    high_watermarks: BTreeMap<(u64, LeaderEpoch), Offset>,
    /// As ZooKeeper has it.
    state: Option<Versioned<PartitionState>>,
}

impl History {
    /// What whoever leads in that epoch must have.
    fn owed(&self, epoch: LeaderEpoch) -> Option<Prefix> {
        let end = self.told.range(..=epoch).map(|(_, end)| *end).max()?;
        self.committed.get(&end).copied()
    }
}

impl Checks {
    fn history(&mut self, name: &TopicPartition) -> &mut History {
        if !self.partitions.contains_key(name) {
            self.partitions.insert(name.clone(), History::default());
        }
        self.partitions.get_mut(name).expect("it was inserted if it was missing")
    }

    /// Somebody was told, by a broker in that epoch, that everything up to there is committed.
    pub fn told(&mut self, name: &TopicPartition, epoch: LeaderEpoch, prefix: Option<Prefix>) -> Checked {
        let history = self.history(name);
        let prefix = prefix.ok_or_else(|| format!("{name}: what was told is not in the log of who told it"))?;
        let known = *history.committed.entry(prefix.end).or_insert(prefix);
        if known != prefix {
            return Err(format!("{name}: {known:?} was told, and now {prefix:?}"));
        }
        let told = history.told.entry(epoch).or_default();
        *told = prefix.end.max(*told);
        Ok(())
    }

    pub fn appended(&mut self, name: &TopicPartition, log: &MemoryLog) -> Checked {
        let history = self.history(name);
        for prefix in log.take_news() {
            let known = *history.batches.entry((prefix.end, prefix.epoch)).or_insert(prefix);
            if known != prefix {
                return Err(format!("{name}: two logs differ below {} of epoch {}", prefix.end, prefix.epoch));
            }
        }
        Ok(())
    }

    /// A replica as it is now; `life` is another for each life of each broker.
    pub fn replica(&mut self, life: u64, replica: &Replica, log: &MemoryLog) -> Checked {
        let (name, broker) = (replica.name(), replica.local());
        self.appended(name, log)?;
        let leads = replica.looking_at(|leadership| leadership.is_leader().then(|| leadership.leader_epoch()));
        let Some(epoch) = leads else { return Ok(()) };
        let history = self.history(name);
        let leader = *history.leaders.entry(epoch).or_insert(broker);
        if leader != broker {
            return Err(format!("{name}: brokers {leader} and {broker} lead in epoch {epoch}"));
        }
        if let Some(owed) = history.owed(epoch)
            && log.prefix(owed.end) != Some(owed)
        {
            return Err(format!(
                "{name}: broker {broker} leads in epoch {epoch} without what is committed up to {}",
                owed.end
            ));
        }
        let high_watermark = log.bounds().high_watermark;
        let before = history.high_watermarks.entry((life, epoch)).or_default();
        if *before > high_watermark {
            return Err(format!("{name}: the high watermark of broker {broker} went back from {before}"));
        }
        *before = high_watermark;
        Ok(())
    }

    /// A follower has appended what its leader sent.
    pub fn follows(&self, name: &TopicPartition, follower: &MemoryLog, leader: &MemoryLog) -> Checked {
        let whole = follower.whole();
        match leader.prefix(whole.end) == Some(whole) {
            true => Ok(()),
            false => Err(format!("{name}: a follower has {whole:?}, which is no prefix of its leader's log")),
        }
    }

    /// A partition as ZooKeeper has it now.
    pub fn written(&mut self, name: &TopicPartition, state: Option<Versioned<PartitionState>>) -> Checked {
        let history = self.history(name);
        let mut is_isr_change = false;
        if let (Some(before), Some(after)) = (&history.state, &state) {
            is_isr_change = before.version < after.version && before.value.leader_epoch == after.value.leader_epoch;
            if before.value.leader_epoch > after.value.leader_epoch {
                return Err(format!("{name}: the leader epoch in ZooKeeper went back"));
            }
        }
        history.state = state;
        self.isr_changes += usize::from(is_isr_change);
        Ok(())
    }

    /// The leader that ZooKeeper names.
    pub fn leader_of(&self, name: &TopicPartition) -> Option<BrokerId> {
        Some(BrokerId(self.partitions.get(name)?.state.as_ref()?.value.leader))
    }

    /// `leader` is that leader's replica. `lost` have lost what was committed and are about to be told so.
    pub fn isr(
        &self,
        name: &TopicPartition,
        leader: Option<&Replica>,
        log_of: impl Fn(BrokerId) -> Option<Arc<MemoryLog>>,
        lost: &BTreeSet<BrokerId>,
    ) -> Checked {
        let Some(history) = self.partitions.get(name) else { return Ok(()) };
        let Some(Versioned { value: state, .. }) = &history.state else { return Ok(()) };
        let epoch = LeaderEpoch(state.leader_epoch);
        let in_sync = || state.isr.iter().copied().map(BrokerId);
        if let Some(leader) = leader {
            let unknown = leader.looking_at(|leadership| {
                let is_current = leadership.is_leader() && leadership.leader_epoch() == epoch;
                in_sync().find(|member| is_current && !leadership.isr().maximal_contains(*member))
            });
            if let Some(unknown) = unknown {
                return Err(format!("{name}: broker {unknown} is in sync, and the leader does not know"));
            }
        }
        if let Some(owed) = history.owed(epoch) {
            let has = |member: BrokerId| log_of(member).is_some_and(|log| log.prefix(owed.end) == Some(owed));
            if let Some(without) = in_sync().find(|member| !lost.contains(member) && !has(*member)) {
                return Err(format!(
                    "{name}: broker {without} is in sync without what is committed up to {}",
                    owed.end
                ));
            }
        }
        Ok(())
    }

    /// A coordinator in that epoch has told a group that its offset is committed.
    pub fn committed(&mut self, epoch: LeaderEpoch, offset: i64) {
        let latest = self.commits.entry(epoch).or_insert(offset);
        *latest = offset.max(*latest);
        self.commits_acknowledged += 1;
    }

    /// What a coordinator in that epoch says is committed.
    pub fn group_offset(&self, epoch: LeaderEpoch, offset: Option<i64>) -> Checked {
        let owed = self.commits.range(..=epoch).map(|(_, offset)| *offset).max();
        match offset >= owed {
            true => Ok(()),
            false => Err(format!("a group was told {owed:?}, and its coordinator in epoch {epoch} says {offset:?}")),
        }
    }
}
