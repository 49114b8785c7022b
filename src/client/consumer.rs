//! The tools' consumer: finds leaders, fetches, resolves lost positions, and hands out records.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client::admin::{Committed, CommittedOffset, EARLIEST, FoundOffsets, LATEST, by_topic};
use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, is_retriable_code};
use crate::client::group::{Group, Joined, Verdict};
use crate::client::pattern::Pattern;
use crate::client::settings::{ConsumerSettings, OffsetReset};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::fetch::{
    AbortedTransaction, FetchPartition, FetchRequest, FetchResponse, FetchTopic, PartitionData,
};
use crate::record::batch::{BatchHeader, TimestampType};
use crate::record::read::{self, Record};

/// Of one partition, so many answers may wait unread before it is fetched again.
const ANSWERS_BUFFERED_MAX: usize = 2;
/// A subscribed topic that does not exist is looked for this often.
const MISSING_TOPIC_INTERVAL: Duration = Duration::from_secs(1);

/// A record as a consumer gets it.
#[derive(Clone, Debug)]
pub struct ConsumedRecord {
    pub partition: TopicPartition,
    /// `None` for messages of magic 0, which carry no time.
    pub timestamp_type: Option<TimestampType>,
    pub record: Record,
}

/// What a group gave a member, or took from it; sorted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rebalance {
    Assigned(Vec<TopicPartition>),
    Revoked(Vec<TopicPartition>),
}

#[derive(Clone, Debug)]
enum Subscription {
    Assigned,
    Topics(Vec<String>),
    Pattern(Pattern),
}

/// Where a partition is read next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Start {
    /// Where the group left off, or where the reset policy says.
    Committed,
    /// At a time or end of the log.
    Timestamp(i64),
    At,
}

#[derive(Debug)]
struct Position {
    start: Start,
    /// The next record that the caller will get.
    offset: i64,
    /// The next record to be fetched; ahead of `offset` by what is buffered.
    fetch_offset: i64,
    leader_epoch: i32,
    is_fetching: bool,
    answers_buffered: usize,
}

impl Position {
    fn new(start: Start) -> Position {
        let (offset, fetch_offset) = (-1, -1);
        Position { start, offset, fetch_offset, leader_epoch: -1, is_fetching: false, answers_buffered: 0 }
    }

    fn seek(&mut self, offset: i64) {
        *self = Position { offset, fetch_offset: offset, is_fetching: self.is_fetching, ..Position::new(Start::At) };
    }
}

/// What one fetch brought for one partition and the caller has not seen yet.
#[derive(Debug)]
struct Answer {
    partition: TopicPartition,
    /// Whole and partial batches that are not decoded yet.
    rest: Bytes,
    decoded: VecDeque<ConsumedRecord>,
    /// Where the log goes on after what was decoded, skipped records included.
    next_offset: i64,
    /// What is wrong with what came behind the whole batches.
    fault: Option<ClientError>,
    /// Only with read_committed.
    aborted: AbortedBatches,
}

/// By which a reader of committed records passes over those that were aborted: it is shown the batches of an answer in turn.
#[derive(Debug)]
pub(crate) struct AbortedBatches {
    /// Those of which no batch has been shown, by first offset.
    transactions: VecDeque<AbortedTransaction>,
    /// Whose transactions are aborted by their next markers.
    producers: HashSet<i64>,
}

impl AbortedBatches {
    /// As the answer names the transactions.
    pub(crate) fn new(mut transactions: Vec<AbortedTransaction>) -> AbortedBatches {
        transactions.sort_unstable_by_key(|transaction| transaction.first_offset);
        AbortedBatches { transactions: transactions.into(), producers: HashSet::new() }
    }

    /// Whether the next batch is part of a transaction that was aborted.
    pub(crate) fn hides(&mut self, header: &BatchHeader) -> bool {
        while self.transactions.front().is_some_and(|transaction| transaction.first_offset <= header.last_offset) {
            self.producers.extend(self.transactions.pop_front().map(|transaction| transaction.producer_id));
        }
        if header.is_control {
            // Either marker ends the transaction; only an aborted one has an entry.
            self.producers.remove(&header.producer_id);
            return false;
        }
        header.is_transactional && self.producers.contains(&header.producer_id)
    }
}

type Fetched = (BrokerId, Vec<(TopicPartition, i64)>, Result<FetchResponse, ClientError>);

enum Membership {
    None,
    Joining(JoinSet<Result<Joined, ClientError>>),
    Joined(Box<Joined>),
}

/// Reads records of partitions that are assigned by hand, or by a group.
pub struct Consumer {
    cluster: Arc<Cluster>,
    settings: Arc<ConsumerSettings>,
    subscription: Subscription,
    group: Option<Group>,
    membership: Membership,
    member_id: String,
    /// Who is told of what the group gives and takes.
    listener: Option<mpsc::UnboundedSender<Rebalance>>,
    /// What the last metadata said of the subscribed topics.
    topics: BTreeMap<String, usize>,
    topics_refreshed: Option<Instant>,
    positions: BTreeMap<TopicPartition, Position>,
    leaders: HashMap<TopicPartition, BrokerId>,
    leaders_stale: bool,
    leaders_not_before: Instant,
    /// When positions that could not be found are looked for again.
    positions_not_before: Instant,
    fetches: JoinSet<Fetched>,
    fetching: HashSet<BrokerId>,
    answers: VecDeque<Answer>,
    next_commit: Instant,
    rebalance_started: Option<Instant>,
    /// Time spent without an assignment, waiting for the group.
    pub rebalance_time: Duration,
}

impl Consumer {
    pub fn new(settings: ConsumerSettings) -> Result<Consumer, ClientError> {
        let cluster = Arc::new(Cluster::new(settings.cluster.clone())?);
        let settings = Arc::new(settings);
        let group = settings.group_id.as_ref().map(|id| Group {
            id: id.clone(),
            cluster: Arc::clone(&cluster),
            settings: Arc::clone(&settings),
        });
        let now = Instant::now();
        Ok(Consumer {
            group,
            cluster,
            subscription: Subscription::Assigned,
            membership: Membership::None,
            member_id: String::new(),
            listener: None,
            topics: BTreeMap::new(),
            topics_refreshed: None,
            positions: BTreeMap::new(),
            leaders: HashMap::new(),
            leaders_stale: true,
            leaders_not_before: now,
            positions_not_before: now,
            fetches: JoinSet::new(),
            fetching: HashSet::new(),
            answers: VecDeque::new(),
            next_commit: now + settings.auto_commit_interval.unwrap_or_default(),
            rebalance_started: None,
            rebalance_time: Duration::ZERO,
            settings,
        })
    }

    /// Takes part in the group for these topics.
    pub fn subscribe(&mut self, topics: Vec<String>) {
        self.subscription = Subscription::Topics(topics);
    }

    /// Takes part in the group for the topics whose whole name matches.
    pub fn subscribe_pattern(&mut self, pattern: Pattern) {
        self.subscription = Subscription::Pattern(pattern);
    }

    /// What the group gives and takes from now on, while the consumer polls and as it closes.
    pub fn rebalances(&mut self) -> mpsc::UnboundedReceiver<Rebalance> {
        let (listener, rebalances) = mpsc::unbounded_channel();
        self.listener = Some(listener);
        rebalances
    }

    fn tell(&self, rebalance: Rebalance) {
        if let Some(listener) = &self.listener {
            // Whoever listened may have gone.
            let _ = listener.send(rebalance);
        }
    }

    /// Reads these partitions, without the group's say.
    pub fn assign(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.subscription = Subscription::Assigned;
        self.take_assignment(partitions);
    }

    /// The next record of an assigned partition is at this offset.
    pub fn seek(&mut self, partition: &TopicPartition, offset: i64) {
        if let Some(position) = self.positions.get_mut(partition) {
            position.seek(offset);
        }
        self.answers.retain(|answer| answer.partition != *partition);
    }

    /// The next record of an assigned partition is the first at or after this time; `LATEST`, `EARLIEST` for an end.
    pub fn seek_to_timestamp(&mut self, partition: &TopicPartition, timestamp: i64) {
        if let Some(position) = self.positions.get_mut(partition) {
            *position = Position { is_fetching: position.is_fetching, ..Position::new(Start::Timestamp(timestamp)) };
        }
        self.answers.retain(|answer| answer.partition != *partition);
    }

    fn take_assignment(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        let assigned: BTreeSet<TopicPartition> = partitions.into_iter().collect();
        // Positions of partitions that stay are read anew too: another member may have moved them meanwhile.
        self.positions = assigned.into_iter().map(|key| (key, Position::new(Start::Committed))).collect();
        self.answers.clear();
        self.leaders_stale = true;
        self.positions_not_before = Instant::now();
    }

    /// Whether it is known before the time is over where every assigned partition is read on: a record that is sent from
    /// then on is read.
    pub async fn finds_positions(&mut self, wait: Duration) -> Result<bool, ClientError> {
        let deadline = Instant::now() + wait;
        loop {
            self.find_positions(deadline).await?;
            let is_over = Instant::now() >= deadline;
            if is_over || self.positions.values().all(|position| position.start == Start::At) {
                return Ok(!is_over);
            }
            sleep_until(self.positions_not_before.min(deadline)).await;
        }
    }

    /// Records that have come in, at most `records_max`; none when the time is over.
    pub async fn poll(&mut self, wait: Duration, records_max: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
        let deadline = Instant::now() + wait;
        let records_max = records_max.min(self.settings.poll_records_max);
        loop {
            self.keep_membership(deadline).await?;
            self.commit_if_due().await;
            self.refresh_leaders(deadline).await;
            self.find_positions(deadline).await?;
            self.start_fetches();
            let records = self.take_buffered(records_max)?;
            if !records.is_empty() || Instant::now() >= deadline {
                // What comes next is fetched while the caller is busy.
                self.start_fetches();
                return Ok(records);
            }
            self.wait_for_news(deadline).await?;
        }
    }

    async fn wait_for_news(&mut self, deadline: Instant) -> Result<(), ClientError> {
        let mut until = deadline;
        if self.settings.auto_commit_interval.is_some() {
            until = until.min(self.next_commit);
        }
        if self.leaders_stale {
            until = until.min(self.leaders_not_before);
        }
        if self.positions.values().any(|position| position.start != Start::At) {
            until = until.min(self.positions_not_before);
        }
        if matches!(self.subscription, Subscription::Topics(_) | Subscription::Pattern(_)) {
            until = until.min(Instant::now() + MISSING_TOPIC_INTERVAL);
        }
        let news = match &mut self.membership {
            Membership::None => {
                tokio::select! {
                    Some(fetched) = self.fetches.join_next() => News::Fetched(fetched.ok()),
                    () = sleep_until(until) => News::Time,
                }
            }
            Membership::Joining(join) => {
                tokio::select! {
                    Some(joined) = join.join_next() => News::Joined(joined.ok()),
                    Some(fetched) = self.fetches.join_next() => News::Fetched(fetched.ok()),
                    () = sleep_until(until) => News::Time,
                }
            }
            Membership::Joined(joined) => {
                tokio::select! {
                    () = joined.disturbed() => News::Time,
                    Some(fetched) = self.fetches.join_next() => News::Fetched(fetched.ok()),
                    () = sleep_until(until) => News::Time,
                }
            }
        };
        match news {
            News::Time | News::Fetched(None) => Ok(()),
            News::Fetched(Some(fetched)) => self.take_fetched(fetched),
            News::Joined(joined) => self.settle_in(joined),
        }
    }

    fn settle_in(&mut self, joined: Option<Result<Joined, ClientError>>) -> Result<(), ClientError> {
        self.membership = Membership::None;
        let Some(joined) = joined else { return Ok(()) };
        let joined = joined?;
        self.member_id.clone_from(&joined.member_id);
        self.take_assignment(joined.assignment.iter().cloned());
        self.tell(Rebalance::Assigned(self.positions.keys().cloned().collect()));
        self.membership = Membership::Joined(Box::new(joined));
        self.rebalance_time += self.rebalance_started.take().map_or(Duration::ZERO, |start| start.elapsed());
        Ok(())
    }

    /// Joins the group, and again when it rebalances or the topics change.
    async fn keep_membership(&mut self, deadline: Instant) -> Result<(), ClientError> {
        if matches!(self.subscription, Subscription::Assigned) {
            return Ok(());
        }
        let Some(group) = self.group.clone() else {
            let reason = "a subscription needs a group".to_owned();
            return Err(ClientError::Setting { name: "group.id".to_owned(), reason });
        };
        let topics_changed = self.refresh_topics(deadline).await?;
        let must_join = match &self.membership {
            Membership::None => self.topics_refreshed.is_some(),
            Membership::Joining(_) => false,
            Membership::Joined(joined) => match joined.verdict() {
                Verdict::Stable => topics_changed && joined.partition_counts.is_some(),
                Verdict::Rejoin => true,
                Verdict::Lost => {
                    self.member_id.clear();
                    true
                }
                Verdict::Fenced => return Err(group.refused("stay in", ErrorCode::FencedInstanceId)),
            },
        };
        if must_join {
            self.commit_positions().await;
            let held: Vec<TopicPartition> = std::mem::take(&mut self.positions).into_keys().collect();
            // A member that has nothing gives it back all the same, unless the group has forgotten it.
            // Source: kafka 3.9.0-rc3 clients/.../consumer/internals/ConsumerCoordinator.java, onJoinPrepare.
            let is_member = matches!(self.membership, Membership::Joined(_)) && !self.member_id.is_empty();
            if is_member || !held.is_empty() {
                self.tell(Rebalance::Revoked(held));
            }
            self.answers.clear();
            self.rebalance_started.get_or_insert_with(Instant::now);
            let topics = match &self.subscription {
                Subscription::Topics(topics) => topics.clone(),
                _ => self.topics.keys().cloned().collect(),
            };
            let mut join = JoinSet::new();
            join.spawn(group.join(self.member_id.clone(), topics));
            self.membership = Membership::Joining(join);
        }
        Ok(())
    }

    /// Looks at the subscribed topics now and then. Says whether they, or their partitions, are others than before.
    async fn refresh_topics(&mut self, deadline: Instant) -> Result<bool, ClientError> {
        let is_complete = match &self.subscription {
            Subscription::Topics(topics) => topics.iter().all(|topic| self.topics.contains_key(topic)),
            _ => true,
        };
        let interval = if is_complete { self.settings.cluster.metadata_max_age } else { MISSING_TOPIC_INTERVAL };
        if self.topics_refreshed.is_some_and(|instant| instant.elapsed() < interval) {
            return Ok(false);
        }
        let ask = async {
            match &self.subscription {
                Subscription::Topics(topics) => {
                    let allows = self.settings.allows_auto_topic_creation;
                    self.cluster.metadata(Some(topics), allows).await
                }
                _ => self.cluster.metadata(None, false).await,
            }
        };
        let cluster = &self.cluster;
        let metadata = match timeout_at(deadline, ask).await {
            Ok(Ok(metadata)) => metadata,
            Ok(Err(error)) if error.is_retriable() => {
                log::debug!("ask for topics: {error}");
                tokio::time::sleep(cluster.settings.retry_backoff).await;
                return Ok(false);
            }
            Ok(Err(error)) => return Err(error),
            Err(_) => return Ok(false),
        };
        let mut found = BTreeMap::new();
        let mut missing = Vec::new();
        for topic in metadata.topics {
            let Some(name) = topic.name else { continue };
            let wanted = match &self.subscription {
                // Source: kafka 3.9.0-rc3 clients/.../consumer/internals/ConsumerMetadata.java, retainTopic.
                Subscription::Pattern(pattern) => {
                    (!topic.is_internal || self.settings.includes_internal_topics) && pattern.is_match(&name)
                }
                _ => true,
            };
            match ErrorCode::from_code(topic.error_code) {
                ErrorCode::None if wanted => {
                    found.insert(name, topic.partitions.len());
                }
                ErrorCode::None => {}
                code @ (ErrorCode::InvalidTopicException | ErrorCode::TopicAuthorizationFailed) => {
                    return Err(ClientError::refused(format!("subscribe to topic {name}"), code, None));
                }
                code => missing.push(format!("{name}={code}")),
            }
        }
        if !missing.is_empty() {
            log::warn!("Error while fetching metadata : {{{}}}", missing.join(", "));
        }
        self.topics_refreshed = Some(Instant::now());
        let is_changed = found != self.topics;
        self.topics = found;
        Ok(is_changed)
    }

    /// The positions that the caller has reached.
    fn committable(&self) -> BTreeMap<TopicPartition, CommittedOffset> {
        self.positions
            .iter()
            .filter(|(_, position)| position.start == Start::At)
            .map(|(partition, position)| {
                let (offset, leader_epoch) = (position.offset, position.leader_epoch);
                (partition.clone(), CommittedOffset { offset, leader_epoch, metadata: None })
            })
            .collect()
    }

    /// Commits if positions are committed by themselves; a failure is only told, the next commit covers it.
    async fn commit_positions(&mut self) {
        if self.settings.auto_commit_interval.is_some()
            && let Err(error) = self.commit().await
        {
            log::warn!("Auto-commit of offsets failed: {error}");
        }
    }

    async fn commit_if_due(&mut self) {
        if let Some(interval) = self.settings.auto_commit_interval
            && Instant::now() >= self.next_commit
        {
            self.next_commit = Instant::now() + interval;
            self.commit_positions().await;
        }
    }

    /// Stores the positions that the caller has reached.
    pub async fn commit(&self) -> Result<(), ClientError> {
        self.commit_offsets(&self.committable()).await
    }

    /// Stores these positions: of each partition the next record that is to be read.
    pub async fn commit_offsets(
        &self,
        positions: &BTreeMap<TopicPartition, CommittedOffset>,
    ) -> Result<(), ClientError> {
        let Some(group) = &self.group else { return Ok(()) };
        match (&self.membership, &self.subscription) {
            (Membership::Joined(joined), _) => group.commit(joined, positions).await,
            (_, Subscription::Assigned) if !positions.is_empty() => {
                let offsets = positions.iter().map(|(partition, position)| (partition.clone(), position.offset));
                let offsets = offsets.collect();
                self.cluster.alter_committed_offsets(&group.id, &offsets).await
            }
            _ => Ok(()),
        }
    }

    /// Commits, if that happens by itself, and leaves the group.
    pub async fn close(mut self) {
        self.commit_positions().await;
        if let (Some(group), Membership::Joined(joined)) = (&self.group, &self.membership) {
            if !self.positions.is_empty() {
                self.tell(Rebalance::Revoked(self.positions.keys().cloned().collect()));
            }
            group.leave(joined).await;
        }
    }

    async fn refresh_leaders(&mut self, deadline: Instant) {
        if !self.leaders_stale || self.positions.is_empty() || Instant::now() < self.leaders_not_before {
            return;
        }
        self.leaders_not_before = Instant::now() + self.settings.cluster.retry_backoff;
        let mut topics: Vec<String> = self.positions.keys().map(|partition| partition.topic.to_string()).collect();
        topics.dedup();
        match timeout_at(deadline, self.cluster.leaders(&topics)).await {
            Ok(Ok(leaders)) => {
                self.leaders_stale = !self.positions.keys().all(|partition| leaders.contains_key(partition));
                self.leaders = leaders;
            }
            // A failure to connect has been told where it happened.
            Ok(Err(error)) => log::debug!("ask for leaders: {error}"),
            Err(_) => {}
        }
    }

    /// Finds out where partitions without a position begin. What the time does not suffice for is found later, and
    /// those whose leader is not there (yet): the others are read meanwhile.
    async fn find_positions(&mut self, deadline: Instant) -> Result<(), ClientError> {
        if Instant::now() < self.positions_not_before {
            return Ok(());
        }
        let unknown: Vec<TopicPartition> = self
            .positions
            .iter()
            .filter(|(_, position)| position.start == Start::Committed)
            .map(|(partition, _)| partition.clone())
            .collect();
        if !unknown.is_empty() {
            let committed = match &self.group {
                None => BTreeMap::new(),
                Some(group) => {
                    let ask = self.cluster.committed_offsets(&group.id, Some(&unknown), Committed::Stable);
                    match timeout_at(deadline, ask).await {
                        Ok(committed) => committed?,
                        Err(_) => return Ok(()),
                    }
                }
            };
            let reset = match self.settings.offset_reset {
                OffsetReset::Earliest => Some(EARLIEST),
                OffsetReset::Latest => Some(LATEST),
                OffsetReset::None => None,
            };
            for partition in unknown {
                let Some(position) = self.positions.get_mut(&partition) else { continue };
                match (committed.get(&partition).and_then(Option::as_ref), reset) {
                    (Some(committed), _) => position.seek(committed.offset),
                    (None, Some(timestamp)) => position.start = Start::Timestamp(timestamp),
                    (None, None) => {
                        let doing = format!("find a position in {partition}, which has none, without a reset policy");
                        return Err(ClientError::refused(doing, ErrorCode::OffsetOutOfRange, None));
                    }
                }
            }
        }
        let asked: BTreeMap<TopicPartition, i64> = self
            .positions
            .iter()
            .filter_map(|(partition, position)| match position.start {
                Start::Timestamp(timestamp) => Some((partition.clone(), timestamp)),
                _ => None,
            })
            .collect();
        if asked.is_empty() {
            return Ok(());
        }
        self.positions_not_before = Instant::now() + self.settings.cluster.retry_backoff;
        let ask = self.cluster.list_offsets_once(&asked, self.settings.is_read_committed);
        let Ok(outcome) = timeout_at(deadline, ask).await else { return Ok(()) };
        let (found, retry) = match outcome {
            Ok(found) => found,
            Err(error) if error.is_retriable() => (FoundOffsets::new(), Some(error)),
            Err(error) => return Err(error),
        };
        if let Some(error) = retry {
            log::debug!("{error}");
        }
        let mut missing = BTreeSet::new();
        for (partition, result) in found {
            let Some(position) = self.positions.get_mut(&partition) else { continue };
            // What was buffered lies before the reset and was not asked for any more.
            self.answers.retain(|answer| answer.partition != partition);
            match result {
                Ok(found) if found.offset >= 0 => position.seek(found.offset),
                // Nothing at or after the time: what is still to come.
                Ok(_) => position.start = Start::Timestamp(LATEST),
                // The topic may come, or come back.
                Err(code) if is_retriable_code(code) => {
                    missing.insert(format!("{}={code}", partition.topic));
                }
                Err(code) => {
                    return Err(ClientError::refused(format!("find a position in {partition}"), code, None));
                }
            }
        }
        if !missing.is_empty() {
            log::warn!("Error while fetching metadata : {{{}}}", Vec::from_iter(missing).join(", "));
            self.positions_not_before = Instant::now() + MISSING_TOPIC_INTERVAL;
        }
        Ok(())
    }

    /// Sends one request to every leader that has none under way and something to ask for.
    fn start_fetches(&mut self) {
        let mut by_leader: HashMap<BrokerId, Vec<(TopicPartition, i64)>> = HashMap::new();
        for (partition, position) in &self.positions {
            let is_wanted = position.start == Start::At
                && !position.is_fetching
                && position.answers_buffered < ANSWERS_BUFFERED_MAX;
            match self.leaders.get(partition) {
                Some(leader) if is_wanted && leader.0 >= 0 && !self.fetching.contains(leader) => {
                    by_leader.entry(*leader).or_default().push((partition.clone(), position.fetch_offset));
                }
                _ => {}
            }
        }
        for (leader, asked) in by_leader {
            let request = FetchRequest {
                max_wait_ms: i32::try_from(self.settings.fetch_wait.as_millis()).unwrap_or(i32::MAX),
                min_bytes: self.settings.fetch_bytes_min,
                max_bytes: self.settings.fetch_bytes_max,
                isolation_level: i8::from(self.settings.is_read_committed),
                topics: fetch_topics(&asked, self.settings.partition_bytes_max),
                ..Default::default()
            };
            for (partition, _) in &asked {
                if let Some(position) = self.positions.get_mut(partition) {
                    position.is_fetching = true;
                }
            }
            self.fetching.insert(leader);
            let cluster = Arc::clone(&self.cluster);
            self.fetches.spawn(async move {
                let outcome = fetch(&cluster, leader, &request).await;
                (leader, asked, outcome)
            });
        }
    }

    fn take_fetched(&mut self, (leader, asked, outcome): Fetched) -> Result<(), ClientError> {
        self.fetching.remove(&leader);
        for (partition, _) in &asked {
            if let Some(position) = self.positions.get_mut(partition) {
                position.is_fetching = false;
            }
        }
        let answer = match outcome {
            Ok(answer) => answer,
            Err(error) if error.is_retriable() => {
                log::warn!("fetch from broker {leader}: {error}");
                self.leaders_stale = true;
                // Nothing is asked of that broker before the leaders are known anew.
                self.leaders.retain(|_, known| *known != leader);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let code = ErrorCode::from_code(answer.error_code);
        if code.is_error() {
            return Err(ClientError::refused(format!("fetch from broker {leader}"), code, None));
        }
        let asked: HashMap<TopicPartition, i64> = asked.into_iter().collect();
        for topic in answer.responses {
            let name: Arc<str> = topic.topic.into();
            for data in topic.partitions {
                let key = TopicPartition::new(name.clone(), data.partition_index);
                let Some(position) = self.positions.get_mut(&key) else { continue };
                // A seek or a rebalance since then makes the answer one to another question.
                if asked.get(&key) != Some(&position.fetch_offset) || position.start != Start::At {
                    continue;
                }
                match ErrorCode::from_code(data.error_code) {
                    ErrorCode::None => self.answers.extend(Answer::new(key, position, data)),
                    ErrorCode::OffsetOutOfRange => {
                        let timestamp = match self.settings.offset_reset {
                            OffsetReset::Earliest => EARLIEST,
                            OffsetReset::Latest => LATEST,
                            OffsetReset::None => {
                                let doing = format!("fetch {key} at offset {}", position.fetch_offset);
                                return Err(ClientError::refused(doing, ErrorCode::OffsetOutOfRange, None));
                            }
                        };
                        log::warn!("Fetch position {} is out of range for partition {key}", position.fetch_offset);
                        position.start = Start::Timestamp(timestamp);
                    }
                    code if is_retriable_code(code) => {
                        log::debug!("fetch {key}: {code}");
                        self.leaders_stale = true;
                        self.leaders.remove(&key);
                    }
                    code => return Err(ClientError::refused(format!("fetch {key}"), code, None)),
                }
            }
        }
        Ok(())
    }

    /// What cannot be read is told when nothing comes before it, and again until the caller seeks past it.
    /// Source: kafka 3.9.0-rc3 clients/.../consumer/internals/CompletedFetch.java, fetchRecords.
    fn take_buffered(&mut self, records_max: usize) -> Result<Vec<ConsumedRecord>, ClientError> {
        let mut records = Vec::new();
        while let Some(answer) = self.answers.front_mut() {
            let Some(position) = self.positions.get_mut(&answer.partition) else {
                self.answers.pop_front();
                continue;
            };
            while records.len() < records_max {
                if let Some(record) = answer.decoded.pop_front() {
                    position.offset = record.record.offset + 1;
                    records.push(record);
                    continue;
                }
                match answer.decode_batch(position.offset, &self.settings) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) if records.is_empty() => return Err(error),
                    Err(_) => return Ok(records),
                }
            }
            if !answer.decoded.is_empty() || !answer.rest.is_empty() || answer.fault.is_some() {
                break;
            }
            position.offset = position.offset.max(answer.next_offset);
            position.answers_buffered = position.answers_buffered.saturating_sub(1);
            self.answers.pop_front();
        }
        Ok(records)
    }
}

/// The body of a fetch of each partition from its offset on.
pub(crate) fn fetch_topics(asked: &[(TopicPartition, i64)], partition_max_bytes: i32) -> Vec<FetchTopic> {
    let partition = |(partition, fetch_offset)| FetchPartition {
        partition,
        fetch_offset,
        partition_max_bytes,
        ..Default::default()
    };
    by_topic(asked.iter().map(|(partition, offset)| (partition, *offset)))
        .into_iter()
        .map(|(topic, partitions)| FetchTopic {
            topic: topic.to_owned(),
            partitions: partitions.into_iter().map(partition).collect(),
            ..Default::default()
        })
        .collect()
}

pub(crate) async fn fetch(
    cluster: &Cluster,
    broker: BrokerId,
    request: &FetchRequest,
) -> Result<FetchResponse, ClientError> {
    let connection = cluster.broker(broker).await?;
    // From version 13 on, topics are named by id, which says nothing new here.
    let version = connection.version_of::<FetchRequest>(12)?;
    connection.send_at(request, version).await
}

enum News {
    Time,
    Fetched(Option<Fetched>),
    Joined(Option<Result<Joined, ClientError>>),
}

impl Answer {
    /// Moves the fetch position behind the answer's last whole batch. `None` if it brings nothing.
    fn new(partition: TopicPartition, position: &mut Position, data: PartitionData) -> Option<Answer> {
        let rest = match data.records {
            Some(Payload::Bytes(bytes)) => bytes,
            _ => Bytes::new(),
        };
        let mut next_offset = position.fetch_offset;
        let mut whole = 0;
        let mut fault = None;
        for batch in read::batches(&rest) {
            match batch {
                Ok(batch) => {
                    next_offset = next_offset.max(batch.header().next_offset());
                    position.leader_epoch = batch.header().partition_leader_epoch;
                    whole += batch.header().size_in_bytes;
                }
                Err(error) => {
                    fault = Some(unreadable(&partition, next_offset, error.to_string()));
                    break;
                }
            }
        }
        if whole == 0 && fault.is_none() {
            if rest.is_empty() {
                return None;
            }
            let reason = "a batch is larger than the fetch size".to_owned();
            fault = Some(unreadable(&partition, next_offset, reason));
        }
        position.fetch_offset = next_offset;
        position.answers_buffered += 1;
        Some(Answer {
            partition,
            rest: rest.slice(..whole),
            decoded: VecDeque::new(),
            next_offset,
            fault,
            aborted: AbortedBatches::new(data.aborted_transactions.unwrap_or_default()),
        })
    }

    /// Decodes the next batch; false when there is none. Records before `from` and what readers never see are left out.
    /// A batch that cannot be read stays the next one, once the records before its damage have been taken.
    fn decode_batch(&mut self, from: i64, settings: &ConsumerSettings) -> Result<bool, ClientError> {
        let fail = |reason: String| unreadable(&self.partition, from, reason);
        let bytes = self.rest.clone();
        let Some(batch) = read::batches(&bytes).next() else {
            self.rest = Bytes::new();
            return self.fault.clone().map_or(Ok(false), Err);
        };
        let batch = batch.map_err(|error| fail(error.to_string()))?;
        let header = *batch.header();
        let behind = self.rest.slice(header.size_in_bytes..);
        if settings.checks_crc && !batch.crc_is_valid() {
            return Err(fail("the checksum does not match".to_owned()));
        }
        let is_hidden = settings.is_read_committed && header.has_producer_id() && self.aborted.hides(&header);
        if is_hidden || header.is_control {
            self.rest = behind;
            return Ok(true);
        }
        let timestamp_type = (header.magic > 0).then_some(header.timestamp_type);
        for record in batch.records().map_err(|error| fail(error.to_string()))? {
            let record = match record {
                Ok(record) => record,
                Err(error) if self.decoded.is_empty() => return Err(fail(error.to_string())),
                Err(_) => return Ok(true),
            };
            if record.offset >= from {
                self.decoded.push_back(ConsumedRecord { partition: self.partition.clone(), timestamp_type, record });
            }
        }
        self.rest = behind;
        Ok(true)
    }
}

fn unreadable(partition: &TopicPartition, offset: i64, reason: String) -> ClientError {
    ClientError::Records { topic: partition.topic.to_string(), partition: partition.partition, offset, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::settings::ClientProperties;
    use crate::protocol::messages::fetch::FetchableTopicResponse;
    use crate::record::build::BatchBuilder;

    fn settings(isolation: &str) -> ConsumerSettings {
        let mut properties = ClientProperties::default();
        properties.set("bootstrap.servers", "127.0.0.1:1");
        properties.set("isolation.level", isolation);
        ConsumerSettings::take(&mut properties, "test").unwrap()
    }

    fn batch(base_offset: i64, producer_id: i64, is_control: bool, values: &[&str]) -> Bytes {
        let mut builder = BatchBuilder::new().base_offset(base_offset);
        if producer_id >= 0 {
            builder = builder.producer(producer_id, 0, 0).transactional(true).control(is_control);
        }
        for value in values {
            builder.append(1, None, Some(value.as_bytes()), &[]);
        }
        builder.build()
    }

    /// Offsets 0 and 1 of an aborted transaction, 2 of a committed one, 3 of none, 4 and 5 the markers.
    fn log() -> Bytes {
        let batches = [
            batch(0, 7, false, &["aborted", "aborted too"]),
            batch(2, 8, false, &["committed"]),
            batch(3, -1, false, &["plain"]),
            batch(4, 7, true, &["abort"]),
            batch(5, 8, true, &["commit"]),
            batch(6, 7, false, &["after"]),
        ];
        batches.concat().into()
    }

    fn read(isolation: &str, from: i64, records: Bytes) -> Result<(Vec<i64>, i64), ClientError> {
        let mut position = Position::new(Start::At);
        position.seek(from);
        let aborted = vec![AbortedTransaction { producer_id: 7, first_offset: 0 }];
        let data = PartitionData {
            records: Some(Payload::Bytes(records)),
            aborted_transactions: Some(aborted),
            ..Default::default()
        };
        let settings = settings(isolation);
        let Some(mut answer) = Answer::new(TopicPartition::new("t", 0), &mut position, data) else {
            return Ok((Vec::new(), position.fetch_offset));
        };
        while answer.decode_batch(from, &settings)? {}
        Ok((answer.decoded.iter().map(|record| record.record.offset).collect(), position.fetch_offset))
    }

    #[test]
    fn markers_are_never_seen_and_aborted_records_only_without_read_committed() {
        assert_eq!(read("read_uncommitted", 0, log()).unwrap(), (vec![0, 1, 2, 3, 6], 7));
        assert_eq!(read("read_committed", 0, log()).unwrap(), (vec![2, 3, 6], 7));
    }

    #[test]
    fn records_before_the_position_are_left_out_and_a_partial_batch_waits() {
        assert_eq!(read("read_uncommitted", 1, log()).unwrap().0, [1, 2, 3, 6]);
        let whole = batch(0, -1, false, &["a"]);
        let cut = [whole.clone(), whole.slice(..whole.len() - 1)].concat();
        assert_eq!(read("read_uncommitted", 0, cut.into()).unwrap(), (vec![0], 1));
        assert!(matches!(
            read("read_uncommitted", 0, whole.slice(..whole.len() - 1)),
            Err(ClientError::Records { offset: 0, .. })
        ));
    }

    #[test]
    fn a_batch_that_was_damaged_on_its_way_is_refused() {
        let mut damaged = batch(0, -1, false, &["a"]).to_vec();
        *damaged.last_mut().unwrap() ^= 1;
        let error = read("read_uncommitted", 0, damaged.into()).unwrap_err();
        assert!(error.to_string().contains("checksum"), "{error}");
    }

    fn damaged(mut batch: Vec<u8>, at: usize) -> Vec<u8> {
        batch[at] ^= 0x40;
        batch
    }

    /// As Kafka's consumer: what can be read comes first, and the position stays at what cannot.
    #[tokio::test]
    async fn what_stands_before_a_damaged_batch_is_read_and_the_damage_told_until_it_is_passed() {
        let (good, bad) = (batch(0, -1, false, &["a", "b"]), batch(2, -1, false, &["c"]).to_vec());
        let checksum = damaged(bad.clone(), bad.len() - 1);
        let magic = damaged(bad, 16);
        for behind in [checksum, magic] {
            let partition = TopicPartition::new("t", 0);
            let mut consumer = Consumer::new(settings("read_uncommitted")).unwrap();
            consumer.assign([partition.clone()]);
            consumer.seek(&partition, 0);
            let records = Some(Payload::Bytes([good.to_vec(), behind].concat().into()));
            let data = PartitionData { records, ..Default::default() };
            let topic = FetchableTopicResponse { topic: "t".to_owned(), partitions: vec![data], ..Default::default() };
            let fetched = FetchResponse { responses: vec![topic], ..Default::default() };
            consumer.take_fetched((BrokerId(0), vec![(partition.clone(), 0)], Ok(fetched))).unwrap();
            let offsets = |records: Vec<ConsumedRecord>| records.iter().map(|r| r.record.offset).collect::<Vec<_>>();
            assert_eq!(offsets(consumer.take_buffered(500).unwrap()), [0, 1]);
            for _ in 0..2 {
                assert!(matches!(consumer.take_buffered(500), Err(ClientError::Records { offset: 2, .. })));
                assert_eq!(consumer.committable()[&partition].offset, 2);
            }
            consumer.seek(&partition, 3);
            assert_eq!(offsets(consumer.take_buffered(500).unwrap()), [0; 0]);
        }
    }
}
