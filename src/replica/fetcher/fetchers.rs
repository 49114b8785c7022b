//! Which fetcher each followed partition has, and the fetchers' coming and going.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::config::sections::ReplicaConfig;
use crate::log::dirs::LogDirs;
use crate::metadata::cache::MetadataCache;
use crate::model::lock::{Guard, Lock};
use crate::model::{BrokerEpoch, BrokerId, TopicId, TopicPartition};
use crate::replica::counters::ReplicaCounters;
use crate::replica::fetcher::state::{Fetcher, Settings, Start};
use crate::replica::fetcher::task::{Command, FetcherTask, Mailbox, Source};
use crate::replica::io::IoThreads;
use crate::replica::partition::Partition;
use crate::replica::throttle::Throttle;

const FIRST_WITH_SESSIONS: i16 = 7;
const FIRST_WITH_TOPIC_IDS: i16 = 13;
/// The default of `replica.socket.receive.buffer.bytes` is less than the system gives by itself, and asking ends the
/// system's own tuning. Any other size is taken as it is.
const STOCK_RECEIVE_BUFFER_BYTES: usize = 64 << 10;

/// The change that a decision makes to what is fetched.
pub enum FetchChange {
    /// Fetched from that broker from here on.
    Follow {
        leader: BrokerId,
        start: Start,
    },
    Stop,
    SetTopicId(TopicId),
}

/// All fetchers of this broker.
pub struct Fetchers {
    local: BrokerId,
    config: ReplicaConfig,
    metadata: Arc<MetadataCache>,
    registered: watch::Receiver<Option<BrokerEpoch>>,
    io: Arc<IoThreads>,
    log_dirs: Arc<LogDirs>,
    throttle: Arc<Throttle>,
    counters: Arc<ReplicaCounters>,
    state: Lock<State>,
    /// Fetchers that are to run.
    begun: mpsc::UnboundedSender<FetcherTask>,
}

struct State {
    fetchers: BTreeMap<(BrokerId, u32), Arc<Mailbox>>,
    places: HashMap<TopicPartition, Place>,
    per_broker: u32,
    /// Counts what was decided of partitions.
    words: u64,
    takes_no_more: bool,
}

/// Which fetcher has a partition.
#[derive(Clone, Copy)]
struct Place {
    leader: BrokerId,
    number: u32,
    /// When that was decided.
    word: u64,
}

/// Fetchers that have begun and do not run yet.
pub struct Begun(mpsc::UnboundedReceiver<FetcherTask>);

impl Fetchers {
    /// The second value is for `run`.
    #[expect(clippy::too_many_arguments, reason = "one for each thing around it")]
    pub fn new(
        local: BrokerId,
        config: &ReplicaConfig,
        metadata: Arc<MetadataCache>,
        registered: watch::Receiver<Option<BrokerEpoch>>,
        io: Arc<IoThreads>,
        log_dirs: Arc<LogDirs>,
        throttle: Arc<Throttle>,
        counters: Arc<ReplicaCounters>,
    ) -> (Arc<Fetchers>, Begun) {
        let (begun, to_run) = mpsc::unbounded_channel();
        let per_broker = per_broker(config.num_replica_fetchers);
        let state = Lock::new(State {
            fetchers: BTreeMap::new(),
            places: HashMap::new(),
            per_broker,
            words: 0,
            takes_no_more: false,
        });
        let config = config.clone();
        let fetchers = Fetchers { local, config, metadata, registered, io, log_dirs, throttle, counters, state, begun };
        (Arc::new(fetchers), Begun(to_run))
    }

    /// Of throttled replicas that follow here.
    pub fn throttle(&self) -> &Throttle {
        &self.throttle
    }

    /// The topic's settings have changed.
    pub fn look_whether_throttled(&self, partition: &Partition) {
        // Before the lock, which all need: it may wait for a disk.
        let is_throttled = partition.is_throttled_follower();
        let state = self.state();
        if let Some(mailbox) = state.mailbox_of(partition.name()) {
            mailbox.put(partition.name().clone(), Command::SetThrottled(is_throttled));
        }
    }

    fn state(&self) -> Guard<'_, State> {
        self.state.lock().expect("nothing panics under it")
    }

    /// Runs the fetchers until the broker stops. One that panics may have left a log behind that must not be served from.
    pub async fn run(begun: Begun, mut shutdown: watch::Receiver<bool>) {
        let Begun(mut begun) = begun;
        let mut tasks = JoinSet::new();
        loop {
            tokio::select! {
                Some(fetcher) = begun.recv() => drop(tasks.spawn(fetcher.run())),
                Some(ended) = tasks.join_next() => {
                    if let Err(panicked) = ended {
                        std::panic::resume_unwind(panicked.into_panic());
                    }
                }
                _ = shutdown.wait_for(|stops| *stops) => return,
            }
        }
    }

    /// From here on nothing is followed under a new leader epoch: a broker that shuts down would be taken for caught up by
    /// whoever it has just made the leader, and be in sync once it is gone.
    /// Source: kafka 3.9 core/src/main/scala/kafka/server/ReplicaManager.scala (makeFollowers).
    pub fn take_no_more(&self) {
        self.state().takes_no_more = true;
    }

    /// Carries out what a request has decided about partitions. Nothing waits.
    pub fn change(self: &Arc<Self>, changes: Vec<(Arc<Partition>, FetchChange)>) {
        let mut state = self.state();
        for (partition, change) in changes {
            let name = partition.name().clone();
            match change {
                FetchChange::Follow { .. } if state.takes_no_more => state.stop(&name),
                FetchChange::Follow { leader, start } => {
                    let number = fetcher_number(&name, state.per_broker);
                    let is_elsewhere = |before: &Place| (before.leader, before.number) != (leader, number);
                    if state.places.get(&name).is_some_and(is_elsewhere) {
                        state.stop(&name);
                    }
                    self.put_at(&mut state, leader, number, partition, start);
                }
                FetchChange::Stop => state.stop(&name),
                FetchChange::SetTopicId(topic_id) => {
                    if let Some(mailbox) = state.mailbox_of(&name) {
                        mailbox.put(name, Command::SetTopicId(topic_id));
                    }
                }
            }
        }
    }

    fn put_at(
        self: &Arc<Self>,
        state: &mut State,
        leader: BrokerId,
        number: u32,
        partition: Arc<Partition>,
        start: Start,
    ) {
        state.words += 1;
        let name = partition.name().clone();
        state.places.insert(name.clone(), Place { leader, number, word: state.words });
        let mailbox = state.fetchers.entry((leader, number)).or_insert_with(|| {
            let fetcher = self.fetcher((leader, number));
            let mailbox = Arc::clone(&fetcher.mailbox);
            // Nobody takes it only when the broker stops.
            let _ = self.begun.send(fetcher);
            mailbox
        });
        mailbox.put(name, Command::Follow(partition, start));
    }

    /// `num.replica.fetchers` has changed: partitions go to the fetchers that they have from now on, each when the one that
    /// has it now is done with what it is at.
    pub fn resize(&self, num_replica_fetchers: usize) {
        let mut state = self.state();
        state.per_broker = per_broker(num_replica_fetchers);
        for (name, place) in &state.places {
            if fetcher_number(name, state.per_broker) == place.number {
                continue;
            }
            // The first hand-over that is heard counts, for whatever number there is by then.
            if let Some(mailbox) = state.fetchers.get(&(place.leader, place.number)) {
                mailbox.put(name.clone(), Command::HandOver(place.word));
            }
        }
    }

    /// The fetcher that had the partition is done with it.
    pub(super) fn hand_over(self: &Arc<Self>, partition: Arc<Partition>, start: Start, word: u64) {
        let mut state = self.state();
        let Some(place) = state.places.get(partition.name()).copied() else { return };
        if place.word == word {
            let number = fetcher_number(partition.name(), state.per_broker);
            self.put_at(&mut state, place.leader, number, partition, start);
        }
    }

    /// These are not fetched any more.
    pub fn stop<'a>(&self, partitions: impl IntoIterator<Item = &'a TopicPartition>) {
        let mut state = self.state();
        partitions.into_iter().for_each(|name| state.stop(name));
    }

    /// A fetcher without partitions ends, unless it has been given one meanwhile.
    pub(super) fn end(&self, leader: BrokerId, number: u32, mailbox: &Arc<Mailbox>) -> bool {
        let mut state = self.state();
        if !mailbox.is_empty() {
            return false;
        }
        if state.fetchers.get(&(leader, number)).is_some_and(|current| Arc::ptr_eq(current, mailbox)) {
            state.fetchers.remove(&(leader, number));
        }
        true
    }

    #[cfg(test)]
    pub fn follows(&self, partition: &TopicPartition) -> bool {
        self.state().places.contains_key(partition)
    }

    pub(super) fn fetcher(self: &Arc<Self>, (leader, number): (BrokerId, u32)) -> FetcherTask {
        let (local, config) = (self.local, &self.config);
        let protocol = config.inter_broker_protocol_version;
        let version = protocol.fetch_request_version();
        let name = format!("[ReplicaFetcher replicaId={local}, leaderId={leader}, fetcherId={number}]");
        let settings = Settings {
            name: name.clone(),
            wait_max_ms: config.replica_fetch_wait_max_ms,
            min_bytes: config.replica_fetch_min_bytes,
            max_bytes: config.replica_fetch_max_bytes,
            response_max_bytes: config.replica_fetch_response_max_bytes,
            backoff: Duration::from_millis(config.replica_fetch_backoff_ms),
            has_sessions: version >= FIRST_WITH_SESSIONS,
            has_topic_ids: version >= FIRST_WITH_TOPIC_IDS,
            truncates_on_fetch: protocol.is_truncation_on_fetch_supported(),
            asks_for_epochs: protocol.is_offset_for_leader_epoch_supported(),
        };
        let receive_buffer_bytes = config.replica_socket_receive_buffer_bytes;
        let receive_buffer_bytes = receive_buffer_bytes.filter(|bytes| *bytes != STOCK_RECEIVE_BUFFER_BYTES);
        let source = Source {
            local,
            leader,
            number,
            listener: config.inter_broker_listener_name.clone(),
            protocol,
            socket_timeout: Duration::from_millis(config.replica_socket_timeout_ms),
            receive_buffer_bytes: receive_buffer_bytes.and_then(|bytes| u32::try_from(bytes).ok()),
        };
        FetcherTask {
            source,
            core: Fetcher::new(settings),
            name,
            mailbox: Arc::default(),
            metadata: Arc::clone(&self.metadata),
            registered: self.registered.clone(),
            io: Arc::clone(&self.io),
            log_dirs: Arc::clone(&self.log_dirs),
            throttle: Arc::clone(&self.throttle),
            counters: Arc::clone(&self.counters),
            fetchers: Arc::clone(self),
            partitions: BTreeMap::new(),
            jobs: JoinSet::new(),
            under_way: HashMap::new(),
            left: HashMap::new(),
            slow_until: HashMap::new(),
            handed_over_later: BTreeMap::new(),
            connection: None,
            complained: false,
        }
    }
}

impl State {
    fn stop(&mut self, name: &TopicPartition) {
        if let Some(mailbox) = self.mailbox_of(name) {
            mailbox.put(name.clone(), Command::Unfollow);
        }
        self.places.remove(name);
    }

    fn mailbox_of(&self, name: &TopicPartition) -> Option<&Arc<Mailbox>> {
        let place = self.places.get(name)?;
        self.fetchers.get(&(place.leader, place.number))
    }
}

fn per_broker(num_replica_fetchers: usize) -> u32 {
    u32::try_from(num_replica_fetchers).unwrap_or(u32::MAX).max(1)
}

/// Which of a broker's fetchers a partition has: Java's hash of its topic, as in Kafka.
/// Source: kafka 3.9 core/src/main/scala/kafka/server/AbstractFetcherManager.scala (getFetcherId).
fn fetcher_number(name: &TopicPartition, per_broker: u32) -> u32 {
    let of_topic = name.topic.encode_utf16().fold(0i32, |hash, unit| hash.wrapping_mul(31).wrapping_add(unit.into()));
    let hash = of_topic.wrapping_mul(31).wrapping_add(name.partition);
    // Kafka takes the smallest number for 0, whose absolute value is no number.
    hash.checked_abs().map_or(0, i32::unsigned_abs) % per_broker
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{LeaderEpoch, Offset};
    use crate::replica::follower::Position;
    use crate::replica::tests::Fixture;

    #[tokio::test]
    async fn a_partition_whose_disk_does_not_answer_is_handed_over_without_its_fetcher_waiting() {
        let fixture = Fixture::new();
        fixture.publish(&[("t", 0)]).await;
        assert_eq!(fixture.decide("t", 0, 1, 0, &[1]).await, Ok(()));
        let partition = fixture.replicas.partition("t", 0).expect("hosted");
        let fetcher = fixture.replicas.fetchers().fetcher((BrokerId(2), 0));
        let position = Position {
            log_start_offset: Offset(0),
            high_watermark: Offset(0),
            log_end_offset: Offset(0),
            last_epoch: None,
        };
        let start = Start { topic_id: TopicId::ZERO, leader_epoch: LeaderEpoch(0), position, is_throttled: false };
        fetcher.mailbox.put(partition.name().clone(), Command::Follow(Arc::clone(&partition), start));
        fetcher.mailbox.put(partition.name().clone(), Command::HandOver(1));
        let disk = fixture.hang("t", 0, None).await;
        fetcher.run().await;
        assert!(!disk.has_answered(), "it has no partition left, and ends");
        for appended in disk.answer() {
            appended.expect("appended");
        }
    }

    /// Expected values computed with `Utils.abs(31 * topic.hashCode() + partition) % n` in a JVM.
    #[test]
    fn a_partitions_fetcher_is_that_of_kafkas_hash() {
        let number =
            |topic: &str, partition, per_broker| fetcher_number(&TopicPartition::new(topic, partition), per_broker);
        // "a".hashCode() is 97, "ab".hashCode() 3105.
        assert_eq!(number("a", 0, 10), (31 * 97) % 10);
        assert_eq!(number("ab", 7, 1000), (31 * 3105 + 7) % 1000);
        // "polygenelubricants".hashCode() is Integer.MIN_VALUE, and times 31 it stays that.
        assert_eq!(number("polygenelubricants", 0, 7), 0);
        assert_eq!(number("polygenelubricants", 1, 7), (i32::MAX % 7) as u32);
        assert_eq!(number("whatever", 3, 1), 0);
    }

    /// A change may at most double them, so that a greater one is made of two.
    #[tokio::test]
    async fn a_partition_is_handed_over_though_the_number_changes_again_before_its_fetcher_has_heard() {
        let fixture = Fixture::new();
        let fetchers = fixture.replicas.fetchers();
        for number in 0..8 {
            assert_eq!(fixture.decide("t", number, 2, 0, &[1, 2]).await, Ok(()));
        }
        fetchers.resize(2);
        let asked: Vec<(TopicPartition, u64)> =
            fetchers.state().places.iter().map(|(name, place)| (name.clone(), place.word)).collect();
        fetchers.resize(4);
        for (name, word) in asked {
            let partition = fixture.replicas.partition(&name.topic, name.partition).expect("hosted");
            let leader_epoch = LeaderEpoch(0);
            let position = partition.follower_position(leader_epoch).expect("it follows");
            let start = Start { topic_id: TopicId::ZERO, leader_epoch, position, is_throttled: false };
            fetchers.hand_over(partition, start, word);
            let number = fetchers.state().places[&name].number;
            assert_eq!(number, fetcher_number(&name, 4), "{name}");
        }
    }
}
