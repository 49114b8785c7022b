//! What must be true after every step, whatever went wrong before it. A check looks at what the step has changed.
//!
//! - One leader an epoch.
//! - A batch that two logs have from the same epoch at the same offset has the same before it in both.
//! - What anybody was told is committed, a producer with acks=all or a consumer by reading it, is in the log of every
//!   later leader, and on every member of the ISR in ZooKeeper.
//! - What a follower has appended leaves its log a prefix of its leader's.
//! - The ISR in ZooKeeper is a part of the maximal ISR of the leader that ZooKeeper names.
//! - The high watermark of a leader does not go back.
//! - Who leads was in sync before, but where an unclean election is allowed: there what was told before it may be lost.
//! - A broker that was let go leads nothing but what it was told.
//! - When a topic is gone from ZooKeeper, no broker has any of its logs.
//! - No two members of a group have a partition in one generation, and no commit of an earlier generation is stored.
//! - What a group was told is committed is what its coordinator says, or something later; also after every move.
//! - And of transactions what `transactions.rs` says.

pub(super) mod transactions;

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use odradek_zookeeper::session::Versioned;
use odradek_zookeeper::znode::partition_state::PartitionState;

use crate::model::{BrokerEpoch, BrokerId, GenerationId, LeaderEpoch, Offset, TopicPartition};
use crate::replica::memory_log::{MemoryLog, Prefix};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::checks::transactions::TransactionChecks;
use crate::simulation::life::Replica;

/// What is wrong.
pub(super) type Checked = Result<(), String>;

#[derive(Default)]
pub(super) struct Checks {
    partitions: BTreeMap<TopicPartition, History>,
    /// The latest offset that a group was told is committed of a partition, by the epoch of its coordinator.
    commits: BTreeMap<(&'static str, u8), BTreeMap<LeaderEpoch, i64>>,
    /// Who has a partition in a generation.
    owners: BTreeMap<(GenerationId, u8), Arc<str>>,
    /// The latest generation in which members were given partitions, by the epoch of their coordinator.
    generations: BTreeMap<LeaderEpoch, GenerationId>,
    pub transactions: TransactionChecks,
    /// Records that a producer was told are committed.
    pub acknowledged: usize,
    /// The same for the offsets of groups.
    pub commits_acknowledged: usize,
    pub isr_changes: usize,
    pub unclean_elections: usize,
    pub let_go: usize,
    pub topics_deleted: usize,
    pub assignments: usize,
    pub dirs_failed: usize,
}

/// What happened to one partition.
#[derive(Default)]
struct History {
    leaders: BTreeMap<LeaderEpoch, BrokerId>,
    batches: HashMap<(Offset, LeaderEpoch), Prefix>,
    /// Epochs whose leaders had not been in sync.
    unclean: BTreeSet<LeaderEpoch>,
    /// What is committed, by how many of those were before it, and by its end.
    committed: BTreeMap<(usize, Offset), Prefix>,
    /// How much of it was told in an epoch.
    told: BTreeMap<LeaderEpoch, Offset>,
    /// Of each life of a broker, as the leader in an epoch.
    high_watermarks: BTreeMap<(u64, LeaderEpoch), Offset>,
    /// As ZooKeeper has it.
    state: Option<Versioned<PartitionState>>,
    /// It is to be deleted: nothing of it is promised any more.
    is_doomed: bool,
    /// What every member of the ISR must have has changed, or who that is.
    is_news: bool,
    /// What is owed in the epoch that was asked for last, unless that has changed.
    owed: Cell<Option<(LeaderEpoch, Option<Prefix>)>>,
}

impl History {
    /// What whoever leads in that epoch must have.
    fn owed(&self, epoch: LeaderEpoch) -> Option<Prefix> {
        if let Some((of, owed)) = self.owed.get()
            && of == epoch
        {
            return owed;
        }
        let owed = self.look_for_owed(epoch);
        self.owed.set(Some((epoch, owed)));
        owed
    }

    fn look_for_owed(&self, epoch: LeaderEpoch) -> Option<Prefix> {
        if self.is_doomed {
            return None;
        }
        let since = self.unclean.range(..=epoch).next_back().copied().unwrap_or(LeaderEpoch(i32::MIN));
        let end = self.told.range(since..=epoch).map(|(_, end)| *end).max()?;
        self.committed.get(&(self.unclean_before(epoch), end)).copied()
    }

    fn unclean_before(&self, epoch: LeaderEpoch) -> usize {
        self.unclean.range(..=epoch).count()
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
        if history.is_doomed {
            return Ok(());
        }
        let prefix = prefix.ok_or_else(|| format!("{name}: what was told is not in the log of who told it"))?;
        let era = history.unclean_before(epoch);
        let known = *history.committed.entry((era, prefix.end)).or_insert(prefix);
        if known != prefix {
            return Err(format!("{name}: {known:?} was told, and now {prefix:?}"));
        }
        let told = history.told.entry(epoch).or_default();
        history.is_news |= prefix.end > *told;
        *told = prefix.end.max(*told);
        history.owed.set(None);
        Ok(())
    }

    pub fn appended(&mut self, name: &TopicPartition, log: &MemoryLog) -> Checked {
        let news = log.take_news();
        if news.is_empty() {
            return Ok(());
        }
        let history = self.history(name);
        for prefix in news {
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

    /// A partition as it was written to ZooKeeper; `None` when it is gone.
    pub fn written(
        &mut self,
        name: &TopicPartition,
        state: Option<Versioned<PartitionState>>,
        may_be_unclean: bool,
    ) -> Checked {
        let history = self.history(name);
        history.is_news = true;
        let Some(after) = &state else {
            history.state = None;
            return Ok(());
        };
        let mut is_isr_change = false;
        if let Some(before) = &history.state {
            let (was, is) = (&before.value, &after.value);
            is_isr_change = before.version < after.version && was.leader_epoch == is.leader_epoch;
            if was.leader_epoch > is.leader_epoch {
                return Err(format!("{name}: the leader epoch in ZooKeeper went back"));
            }
            if is.leader >= 0 && !was.isr.contains(&is.leader) {
                if !may_be_unclean {
                    return Err(format!("{name}: broker {} leads and was not in sync: {was:?}, {is:?}", is.leader));
                }
                history.unclean.insert(LeaderEpoch(is.leader_epoch));
                history.owed.set(None);
                self.unclean_elections += 1;
            }
        }
        self.history(name).state = state;
        self.isr_changes += usize::from(is_isr_change);
        Ok(())
    }

    /// A topic with this partition is there.
    pub fn begins(&mut self, name: &TopicPartition) {
        *self.history(name) = History::default();
    }

    /// It is to be deleted.
    pub fn is_doomed(&mut self, name: &TopicPartition) {
        let history = self.history(name);
        history.is_doomed = true;
        history.owed.set(None);
    }

    /// Whether somebody has led that was not in sync.
    pub fn was_unclean(&self, name: &TopicPartition) -> bool {
        self.partitions.get(name).is_some_and(|history| !history.unclean.is_empty())
    }

    /// A broker was told that it may leave, and what it leads all the same. `shared` are partitions that others have, too.
    pub fn let_go(&mut self, broker: BrokerId, left: &[TopicPartition], shared: &[TopicPartition]) -> Checked {
        self.let_go += 1;
        let leads = |name: &&TopicPartition| {
            let state = self.partitions.get(name).and_then(|history| history.state.as_ref());
            state.is_some_and(|state| state.value.leader == broker.0)
        };
        match shared.iter().filter(leads).find(|name| !left.contains(name)) {
            Some(name) => Err(format!("{name}: broker {broker} leads it and was let go")),
            None => Ok(()),
        }
    }

    /// After a step of that broker. `lost` have lost what was committed and are about to be told so.
    pub fn isr(
        &mut self,
        name: &TopicPartition,
        broker: BrokerId,
        leader: impl FnOnce(BrokerId) -> Option<Replica>,
        log_of: impl Fn(BrokerId) -> Option<Arc<MemoryLog>>,
        lost: &BTreeMap<BrokerId, Option<BrokerEpoch>>,
    ) -> Checked {
        let Some(history) = self.partitions.get_mut(name) else { return Ok(()) };
        let is_news = std::mem::take(&mut history.is_news);
        let Some(Versioned { value: state, .. }) = &history.state else { return Ok(()) };
        let epoch = LeaderEpoch(state.leader_epoch);
        let in_sync = || state.isr.iter().copied().map(BrokerId);
        if (is_news || state.leader == broker.0)
            && let Some(leader) = leader(BrokerId(state.leader))
        {
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
            let mut touched = in_sync().filter(|member| is_news || *member == broker);
            if let Some(without) = touched.find(|member| !lost.contains_key(member) && !has(*member)) {
                return Err(format!(
                    "{name}: broker {without} is in sync without what is committed up to {}",
                    owed.end
                ));
            }
        }
        Ok(())
    }

    /// A coordinator in that epoch has told a group that its offset of that partition is committed.
    pub fn committed(&mut self, group: &'static str, partition: u8, epoch: LeaderEpoch, offset: i64) {
        let latest = self.commits.entry((group, partition)).or_default().entry(epoch).or_insert(offset);
        *latest = offset.max(*latest);
        self.commits_acknowledged += 1;
    }

    /// What a coordinator in that epoch says is committed.
    pub fn group_offset(&self, group: &'static str, partition: u8, epoch: LeaderEpoch, offset: Option<i64>) -> Checked {
        let commits = self.commits.get(&(group, partition));
        let owed = commits.and_then(|commits| commits.range(..=epoch).map(|(_, offset)| *offset).max());
        match offset >= owed {
            true => Ok(()),
            false => {
                let told = format!("group {group} was told {owed:?} of partition {partition}");
                Err(format!("{told}, and its coordinator in epoch {epoch} says {offset:?}"))
            }
        }
    }

    /// A coordinator in that epoch has given a member its partitions.
    pub fn assigned(
        &mut self,
        epoch: LeaderEpoch,
        generation: GenerationId,
        member: &Arc<str>,
        partitions: &[u8],
    ) -> Checked {
        self.assignments += 1;
        let latest = self.generations.entry(epoch).or_insert(generation);
        *latest = generation.max(*latest);
        for partition in partitions {
            let owner = self.owners.entry((generation, *partition)).or_insert_with(|| Arc::clone(member));
            if owner != member {
                return Err(format!("{owner} and {member} both have partition {partition} in {generation:?}"));
            }
        }
        Ok(())
    }

    /// The latest generation in which a coordinator in that epoch, or one before it, has given members partitions.
    pub fn generation(&self, epoch: LeaderEpoch) -> Option<GenerationId> {
        self.generations.range(..=epoch).map(|(_, generation)| *generation).max()
    }

    /// A member was told that what it committed in a generation is stored, by a coordinator that knew of another.
    pub fn committed_in(&self, generation: GenerationId, known: Option<GenerationId>) -> Checked {
        match known.filter(|known| generation < *known) {
            None => Ok(()),
            Some(known) => Err(format!("a commit of {generation:?} is stored in {known:?}")),
        }
    }
}
