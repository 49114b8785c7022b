//! The tools' producer: collects records into batches, sends them to leaders, and repeats what may succeed yet.

mod transactions;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};

use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, is_retriable_code};
use crate::client::partitioner::partition_of_key;
use crate::client::producer::transactions::Transaction;
use crate::client::settings::ProducerSettings;
use crate::model::clock::wall_clock_ms;
use crate::model::transaction_version::TransactionVersion;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::Payload;
use crate::protocol::messages::init_producer_id::InitProducerIdRequest;
use crate::protocol::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use crate::protocol::transaction_version::versions_of;
use crate::record::batch::incremented_sequence;
use crate::record::build::{BatchBuilder, Header};
use crate::record::compression::Codec;
use crate::record::read::{self, Record};

/// The longest pause before a batch is sent again.
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// A record to be sent. Without a partition, the key chooses it; without a key, whatever batch is filling.
#[derive(Clone, Debug, Default)]
pub struct OutgoingRecord {
    pub partition: Option<i32>,
    /// Now, if absent.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Bytes>,
    pub value: Option<Bytes>,
    pub headers: Vec<(Bytes, Option<Bytes>)>,
}

impl OutgoingRecord {
    fn size(&self) -> usize {
        let len = |field: &Option<Bytes>| field.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(key, value)| key.len() + len(value) + 10).sum();
        // A v2 record spends at most this much on lengths, deltas and attributes.
        len(&self.key) + len(&self.value) + headers + 21
    }
}

/// Where a record came to lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    pub partition: i32,
    /// -1 with acks=0.
    pub offset: i64,
}

/// Resolves when the record is acknowledged, or will never be.
pub type Delivery = oneshot::Receiver<Result<Sent, ClientError>>;

/// Called once, when the record is acknowledged or will never be; must not call the producer.
pub type OnSettled = Box<dyn FnOnce(Result<Sent, ClientError>) + Send>;

/// Sends records in batches, per partition in the order of `send`.
///
/// Order and idempotence: a batch gets its sequence when it is first sent; after a failure that may pass, the partition
/// sends nothing more until all its requests are answered, and then starts over with the oldest batch. A batch that is
/// given up leaves a gap in its partition's sequences, so a new producer id is taken once nothing is in flight. One with a
/// transactional id keeps its producer id: there the batch costs the transaction.
pub struct Producer {
    shared: Arc<Shared>,
    /// The sender; ends with the producer.
    _sender: JoinSet<()>,
}

struct Shared {
    cluster: Cluster,
    settings: ProducerSettings,
    codec: Codec,
    state: Mutex<State>,
    /// The sender has something new to look at.
    wake: Notify,
    /// Bytes that may still be buffered.
    room: Semaphore,
    room_total: u32,
}

#[derive(Default)]
struct State {
    topics: HashMap<Arc<str>, Topic>,
    queues: HashMap<TopicPartition, Queue>,
    /// Batches that are not settled yet.
    outstanding: usize,
    /// Answered when nothing is outstanding; while there are any, no batch lingers.
    flushes: Vec<oneshot::Sender<()>>,
    identity: Option<Identity>,
    transaction: Option<Transaction>,
    /// What transactions follow: the one that is open, or else the next.
    protocol: TransactionVersion,
    /// Of the transactional id, as it was last found.
    coordinator: Option<BrokerId>,
}

#[derive(Debug, Default)]
struct Topic {
    /// By partition.
    leaders: Vec<Option<BrokerId>>,
    sticky_partition: Option<usize>,
    sticky_bytes: usize,
}

#[derive(Default)]
struct Queue {
    /// Oldest first. Only the last may still be open.
    batches: VecDeque<Batch>,
    next_ordinal: u64,
    next_sequence: i32,
    in_flight: usize,
    /// A batch came back: nothing is sent until all others have, too.
    is_starting_over: bool,
    not_before: Option<Instant>,
}

struct Batch {
    /// How many records of its partition came before.
    ordinal: u64,
    contents: Contents,
    record_count: i32,
    /// What its records hold of the buffer.
    room: usize,
    created: Instant,
    attempts: u32,
    deliveries: Vec<OnSettled>,
}

enum Contents {
    Open(Box<BatchBuilder>),
    Built(Bytes),
}

impl Topic {
    /// The partition for a record without a key: the same until a batch's worth of bytes has gone there (KIP-794).
    fn sticky(&mut self, size: usize, batch_bytes: usize) -> usize {
        let is_full = self.sticky_bytes + size > batch_bytes;
        match self.sticky_partition.filter(|partition| !is_full && *partition < self.leaders.len()) {
            Some(partition) => {
                self.sticky_bytes += size;
                partition
            }
            None => {
                let led: Vec<usize> = (0..self.leaders.len()).filter(|index| self.leaders[*index].is_some()).collect();
                let partition = match led.len() {
                    0 => rand::random_range(0..self.leaders.len().max(1)),
                    count => led[rand::random_range(0..count)],
                };
                self.sticky_partition = Some(partition);
                self.sticky_bytes = size;
                partition
            }
        }
    }
}

impl Queue {
    fn is_ready(&self, now: Instant, linger: Duration, is_flushing: bool) -> bool {
        let may_send = !self.is_starting_over && self.not_before.is_none_or(|instant| instant <= now);
        let first_is_ready = |batch: &Batch| {
            let is_filling = matches!(batch.contents, Contents::Open(_)) && self.batches.len() == 1;
            !is_filling || is_flushing || now >= batch.created + linger || batch.attempts > 0
        };
        may_send && self.batches.front().is_some_and(first_is_ready)
    }

    /// Puts a batch back in its place.
    fn put_back(&mut self, batch: Batch) {
        let place = self.batches.partition_point(|other| other.ordinal < batch.ordinal);
        self.batches.insert(place, batch);
    }
}

/// A batch on its way and the partition it is for.
struct Sending {
    partition: TopicPartition,
    batch: Batch,
}

impl Producer {
    pub fn new(settings: ProducerSettings) -> Result<Producer, ClientError> {
        let codec = Codec::from_name(&settings.compression).ok_or_else(|| ClientError::Setting {
            name: "compression.type".to_owned(),
            reason: format!("unknown compression name: {}", settings.compression),
        })?;
        let room_total = u32::try_from(settings.buffer_bytes.min(Semaphore::MAX_PERMITS)).unwrap_or(u32::MAX);
        let shared = Arc::new(Shared {
            cluster: Cluster::new(settings.cluster.clone())?,
            settings,
            codec,
            state: Mutex::default(),
            wake: Notify::new(),
            room: Semaphore::new(room_total as usize),
            room_total,
        });
        let mut sender = JoinSet::new();
        sender.spawn(Sender::new(Arc::clone(&shared)).run());
        Ok(Producer { shared, _sender: sender })
    }

    /// Adds a record to its partition's batch. Waits for the topic's metadata and for room in the buffer, at most
    /// `max.block.ms`.
    pub async fn send(&self, topic: &Arc<str>, record: OutgoingRecord) -> Result<Delivery, ClientError> {
        let (sender, receiver) = oneshot::channel();
        // The caller may not care.
        let on_settled = Box::new(move |outcome| drop(sender.send(outcome)));
        self.send_then(topic, record, on_settled).await.map(|()| receiver)
    }

    /// As `send`, with a call instead of something to wait for. The call is made only if this returns `Ok`.
    pub async fn send_then(
        &self,
        topic: &Arc<str>,
        record: OutgoingRecord,
        on_settled: OnSettled,
    ) -> Result<(), ClientError> {
        let shared = &self.shared;
        let size = record.size();
        if size > shared.settings.request_bytes_max {
            let why = format!(
                "The message is {size} bytes when serialized which is larger than {}, which is the value of the \
                 max.request.size configuration.",
                shared.settings.request_bytes_max
            );
            return Err(ClientError::refused("send", ErrorCode::MessageTooLarge, Some(why)));
        }
        let room = u32::try_from(size).unwrap_or(u32::MAX).min(shared.room_total);
        if shared.room.try_acquire_many(room).map(|permit| permit.forget()).is_err() {
            let waited = timeout(shared.settings.max_block, shared.room.acquire_many(room)).await;
            match waited {
                Ok(Ok(permit)) => permit.forget(),
                _ => {
                    let after = shared.settings.max_block;
                    return Err(ClientError::GaveUp { doing: "wait for buffer memory".to_owned(), after, last: None });
                }
            }
        }
        if !shared.state().topics.contains_key(topic)
            && let Err(error) = shared.await_topic(topic).await
        {
            shared.room.add_permits(room as usize);
            return Err(error);
        }
        shared.append(topic, record, room, on_settled)
    }

    /// Sends all there is and waits until every record is acknowledged or given up.
    pub async fn flush(&self) {
        let receiver = {
            let mut state = self.shared.state();
            if state.outstanding == 0 {
                return;
            }
            let (sender, receiver) = oneshot::channel();
            state.flushes.push(sender);
            receiver
        };
        self.shared.wake.notify_one();
        // The sender lives as long as we do.
        let _ = receiver.await;
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn await_topic(&self, topic: &Arc<str>) -> Result<(), ClientError> {
        let names = [topic.to_string()];
        let allowed = self.settings.max_block;
        crate::client::connection::retried(
            &format!("wait for metadata of topic {topic}"),
            allowed,
            self.settings.cluster.retry_backoff,
            || async {
                self.refresh(&names).await.map_err(|error| match error.code() {
                    // A name or a permission does not change; all else, such as too few brokers, may.
                    None | Some(ErrorCode::InvalidTopicException | ErrorCode::TopicAuthorizationFailed) => error,
                    Some(code) if is_retriable_code(code) => error,
                    Some(_) => {
                        let reason = error.to_string();
                        ClientError::refused("", ErrorCode::LeaderNotAvailable, Some(reason))
                    }
                })
            },
        )
        .await
    }

    /// Asks for the leaders of the topics. Fails if one of them has an error.
    async fn refresh(&self, names: &[String]) -> Result<(), ClientError> {
        let metadata = self.cluster.metadata(Some(names), true).await?;
        let mut outcome = Ok(());
        let mut state = self.state();
        for topic in metadata.topics {
            let name = topic.name.unwrap_or_default();
            let code = ErrorCode::from_code(topic.error_code);
            if code.is_error() {
                log::warn!("Error while fetching metadata : {{{name}={code}}}");
                outcome = Err(ClientError::refused(format!("fetch metadata of topic {name}"), code, None));
                continue;
            }
            let mut leaders = vec![None; topic.partitions.len()];
            for partition in &topic.partitions {
                let index = usize::try_from(partition.partition_index).unwrap_or(usize::MAX);
                if let Some(leader) = leaders.get_mut(index) {
                    *leader = Some(BrokerId(partition.leader_id)).filter(|id| id.0 >= 0);
                }
            }
            state.topics.entry(name.into()).or_default().leaders = leaders;
        }
        outcome
    }

    fn append(
        &self,
        topic: &Arc<str>,
        record: OutgoingRecord,
        room: u32,
        on_settled: OnSettled,
    ) -> Result<(), ClientError> {
        let size = record.size();
        let mut guard = self.state();
        let state = &mut *guard;
        let known = state.topics.entry(topic.clone()).or_default();
        let count = known.leaders.len();
        let partition = match (record.partition, &record.key) {
            (Some(partition), _) => usize::try_from(partition).unwrap_or(usize::MAX),
            (None, Some(key)) => partition_of_key(key, count.max(1)),
            (None, None) => known.sticky(size, self.settings.batch_bytes),
        };
        if partition >= count {
            self.room.add_permits(room as usize);
            let reason = format!("there is no partition {partition} in topic {topic}, which has {count} partitions");
            return Err(ClientError::refused(reason, ErrorCode::UnknownTopicOrPartition, None));
        }
        let key = TopicPartition { topic: topic.clone(), partition: i32::try_from(partition).unwrap_or(i32::MAX) };
        if self.settings.transactional_id.is_some() {
            let doing = "send a record outside of a transaction";
            let outside = || ClientError::refused(doing, ErrorCode::InvalidTxnState, None);
            let refusal = match &state.transaction {
                Some(transaction) => transaction.failure().cloned().or_else(|| transaction.is_ending().then(outside)),
                None => Some(outside()),
            };
            if let Some(refusal) = refusal {
                self.room.add_permits(room as usize);
                return Err(refusal);
            }
        }
        let queue = state.queues.entry(key).or_default();
        let has_place = |batch: &Batch| match &batch.contents {
            Contents::Open(builder) => builder.uncompressed_size() + size <= self.settings.batch_bytes,
            Contents::Built(_) => false,
        };
        if !queue.batches.back().is_some_and(has_place) {
            queue.batches.push_back(Batch {
                ordinal: queue.next_ordinal,
                contents: Contents::Open(Box::new(BatchBuilder::new().compression(self.codec, None))),
                record_count: 0,
                room: 0,
                created: Instant::now(),
                attempts: 0,
                deliveries: Vec::new(),
            });
            state.outstanding += 1;
        }
        queue.next_ordinal += 1;
        let batch_count = queue.batches.len();
        let Some(batch) = queue.batches.back_mut() else { unreachable!("a batch was just added") };
        let Contents::Open(builder) = &mut batch.contents else { unreachable!("only open batches have place") };
        let headers: Vec<Header<'_>> =
            record.headers.iter().map(|(key, value)| (key.as_ref(), value.as_deref())).collect();
        let timestamp = record.timestamp_ms.unwrap_or_else(wall_clock_ms);
        builder.append(timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
        let is_full = builder.uncompressed_size() >= self.settings.batch_bytes;
        batch.record_count += 1;
        batch.room += room as usize;
        batch.deliveries.push(on_settled);
        let is_first = batch.record_count == 1;
        drop(guard);
        // Later records of a batch change nothing about when it is sent, unless they fill it.
        if is_first || is_full || batch_count > 1 {
            self.wake.notify_one();
        }
        Ok(())
    }

    /// Gives up all batches that are not in flight.
    fn give_up_waiting(&self, state: &mut State, error: &ClientError) {
        let waiting: Vec<Batch> = state.queues.values_mut().flat_map(|queue| queue.batches.drain(..)).collect();
        for batch in waiting {
            self.settle(state, batch, Err(error.clone()));
        }
    }

    fn settle(&self, state: &mut State, batch: Batch, outcome: Result<Sent, ClientError>) {
        self.room.add_permits(batch.room);
        state.outstanding -= 1;
        for (index, on_settled) in (0..).zip(batch.deliveries) {
            on_settled(outcome.clone().map(|sent| match sent.offset {
                -1 => sent,
                base => Sent { offset: base + index, ..sent },
            }));
        }
        if state.outstanding == 0 {
            for flush in state.flushes.drain(..) {
                let _ = flush.send(());
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Identity {
    producer_id: i64,
    producer_epoch: i16,
}

type Answer = (BrokerId, Vec<Sending>, Result<ProduceResponse, ClientError>);

/// The task that sends what is ready and settles what comes back.
struct Sender {
    shared: Arc<Shared>,
    /// A batch was given up: the sequences have a gap.
    needs_identity: bool,
    /// Something waits for them that are not in the transaction yet.
    unannounced: HashSet<TopicPartition>,
    in_flight: HashMap<BrokerId, usize>,
    answers: JoinSet<Answer>,
    stale_topics: HashSet<Arc<str>>,
    refresh_not_before: Instant,
    last_refresh: Instant,
}

impl Sender {
    fn new(shared: Arc<Shared>) -> Sender {
        let now = Instant::now();
        Sender {
            needs_identity: shared.settings.is_idempotent && shared.settings.transactional_id.is_none(),
            shared,
            unannounced: HashSet::new(),
            in_flight: HashMap::new(),
            answers: JoinSet::new(),
            stale_topics: HashSet::new(),
            refresh_not_before: now,
            last_refresh: now,
        }
    }

    async fn run(mut self) {
        loop {
            self.give_up_expired();
            self.refresh_metadata().await;
            if self.needs_identity && self.answers.is_empty() && self.shared.state().outstanding > 0 {
                self.take_identity().await;
            }
            let is_held = self.needs_identity;
            let next = if is_held { None } else { self.send_ready().await };
            let backoff = Instant::now() + self.shared.settings.cluster.retry_backoff;
            let has_work = !self.stale_topics.is_empty() || (is_held && self.shared.state().outstanding > 0);
            let deadline = match next {
                Some(next) if has_work => next.min(backoff),
                Some(next) => next,
                None if has_work => backoff,
                // Expiry is looked at now and then, also when nothing else happens.
                None => Instant::now() + Duration::from_secs(1),
            };
            tokio::select! {
                () = self.shared.wake.notified() => {}
                Some(answer) = self.answers.join_next() => {
                    // A wait for an answer neither panics nor is cancelled.
                    let mut answered = answer.ok();
                    while let Some((leader, sent, outcome)) = answered {
                        self.settle(leader, sent, outcome);
                        answered = self.answers.try_join_next().and_then(Result::ok);
                    }
                }
                () = sleep_until(deadline) => {}
            }
        }
    }

    async fn refresh_metadata(&mut self) {
        let now = Instant::now();
        if now >= self.last_refresh + self.shared.settings.cluster.metadata_max_age {
            self.stale_topics.extend(self.shared.state().topics.keys().cloned());
        }
        if self.stale_topics.is_empty() || now < self.refresh_not_before {
            return;
        }
        let names: Vec<String> = self.stale_topics.iter().map(|name| name.to_string()).collect();
        match self.shared.refresh(&names).await {
            Ok(()) => {
                self.stale_topics.clear();
                self.last_refresh = Instant::now();
            }
            Err(error) => log::debug!("refresh metadata: {error}"),
        }
        self.refresh_not_before = Instant::now() + self.shared.settings.cluster.retry_backoff;
    }

    /// Takes a new producer id and starts all sequences from 0. Nothing is in flight.
    async fn take_identity(&mut self) {
        let request =
            InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: i32::MAX, ..Default::default() };
        let attempt = async {
            let answer = self.shared.cluster.any().await?.send(&request).await?;
            match ErrorCode::from_code(answer.error_code) {
                ErrorCode::None => Ok(answer),
                code => Err(ClientError::refused("take a producer id", code, None)),
            }
        };
        match attempt.await {
            Ok(answer) => {
                let (producer_id, producer_epoch) = (answer.producer_id, answer.producer_epoch);
                self.needs_identity = false;
                let mut state = self.shared.state();
                state.identity = Some(Identity { producer_id, producer_epoch });
                for queue in state.queues.values_mut() {
                    queue.next_sequence = 0;
                    for batch in &mut queue.batches {
                        reopen(batch, self.shared.codec);
                    }
                }
            }
            Err(error) if error.is_retriable() => log::debug!("take a producer id: {error}"),
            Err(error) => {
                let mut state = self.shared.state();
                self.shared.give_up_waiting(&mut state, &error);
            }
        }
    }

    /// Sends a request to every leader that has ready batches and may take one more. Says when to look again.
    async fn send_ready(&mut self) -> Option<Instant> {
        loop {
            let (requests, next) = self.drain_ready();
            if requests.is_empty() && !self.add_partitions().await {
                return next;
            }
            for (leader, sent) in requests {
                self.send(leader, sent).await;
            }
        }
    }

    /// Takes the first ready batch of each partition, per leader up to `max.request.size`.
    fn drain_ready(&mut self) -> (HashMap<BrokerId, Vec<Sending>>, Option<Instant>) {
        let now = Instant::now();
        let settings = &self.shared.settings;
        let mut next: Option<Instant> = None;
        let mut sizes: HashMap<BrokerId, usize> = HashMap::new();
        let mut requests: HashMap<BrokerId, Vec<Sending>> = HashMap::new();
        let mut guard = self.shared.state();
        let state = &mut *guard;
        let is_flushing = !state.flushes.is_empty();
        for (partition, queue) in &mut state.queues {
            let Some(first) = queue.batches.front() else { continue };
            if !queue.is_ready(now, settings.linger, is_flushing) {
                if !queue.is_starting_over {
                    let at =
                        queue.not_before.filter(|instant| *instant > now).unwrap_or(first.created + settings.linger);
                    next = Some(next.map_or(at, |known| known.min(at)));
                }
                continue;
            }
            let index = usize::try_from(partition.partition).unwrap_or(usize::MAX);
            let leader = state.topics.get(&partition.topic).and_then(|topic| *topic.leaders.get(index)?);
            let Some(leader) = leader else {
                self.stale_topics.insert(partition.topic.clone());
                continue;
            };
            if self.in_flight.get(&leader).is_some_and(|count| *count >= settings.in_flight_max) {
                continue;
            }
            if let Some(transaction) = state.transaction.as_mut().filter(|transaction| !transaction.has(partition)) {
                if !state.protocol.bumps_epoch() {
                    self.unannounced.insert(partition.clone());
                    continue;
                }
                // The first write adds it.
                transaction.add([partition.clone()]);
            }
            let size = match &first.contents {
                Contents::Open(builder) => builder.uncompressed_size(),
                Contents::Built(bytes) => bytes.len(),
            };
            let total = sizes.entry(leader).or_default();
            if *total > 0 && *total + size > settings.request_bytes_max {
                continue;
            }
            *total += size;
            let Some(mut batch) = queue.batches.pop_front() else { continue };
            build(&mut batch, queue, state.identity, state.transaction.is_some());
            queue.in_flight += 1;
            requests.entry(leader).or_default().push(Sending { partition: partition.clone(), batch });
        }
        (requests, next)
    }

    async fn send(&mut self, leader: BrokerId, sent: Vec<Sending>) {
        let settings = &self.shared.settings;
        let mut topics: HashMap<&Arc<str>, Vec<PartitionProduceData>> = HashMap::new();
        for sending in &sent {
            let Contents::Built(bytes) = &sending.batch.contents else { unreachable!("built when drained") };
            topics.entry(&sending.partition.topic).or_default().push(PartitionProduceData {
                index: sending.partition.partition,
                records: Some(Payload::Bytes(bytes.clone())),
            });
        }
        let request = ProduceRequest {
            transactional_id: settings.transactional_id.clone(),
            acks: settings.acks,
            timeout_ms: i32::try_from(settings.cluster.connection.request_timeout.as_millis()).unwrap_or(i32::MAX),
            topic_data: topics
                .into_iter()
                .map(|(name, partition_data)| TopicProduceData { name: name.to_string(), partition_data })
                .collect(),
        };
        *self.in_flight.entry(leader).or_default() += 1;
        let protocol = self.shared.state().protocol;
        let submitted = async {
            let connection = self.shared.cluster.broker(leader).await?;
            // Version 3 is the first whose brokers take v2 batches as they are.
            let version = match request.transactional_id {
                Some(_) => connection.version_among::<ProduceRequest>(versions_of::<ProduceRequest>(protocol))?,
                None => connection.version_of::<ProduceRequest>(i16::MAX)?,
            };
            if settings.acks == 0 {
                connection.submit_unanswered(&request, version).await.map(|()| None)
            } else {
                connection.submit(&request, version).await.map(Some)
            }
        };
        match submitted.await {
            Ok(Some(in_flight)) => {
                self.answers.spawn(async move { (leader, sent, in_flight.response().await) });
            }
            Ok(None) => {
                self.landed(leader, &sent);
                let mut state = self.shared.state();
                for Sending { partition, batch } in sent {
                    self.shared.settle(&mut state, batch, Ok(Sent { partition: partition.partition, offset: -1 }));
                }
            }
            Err(error) => self.settle(leader, sent, Err(error)),
        }
    }

    /// The request is no longer in flight.
    fn landed(&mut self, leader: BrokerId, sent: &[Sending]) {
        if let Some(count) = self.in_flight.get_mut(&leader) {
            *count = count.saturating_sub(1);
        }
        let mut state = self.shared.state();
        for sending in sent {
            if let Some(queue) = state.queues.get_mut(&sending.partition) {
                queue.in_flight -= 1;
                if queue.in_flight == 0 {
                    queue.is_starting_over = false;
                }
            }
        }
    }

    fn settle(&mut self, leader: BrokerId, sent: Vec<Sending>, outcome: Result<ProduceResponse, ClientError>) {
        self.landed(leader, &sent);
        let mut results: HashMap<TopicPartition, Result<i64, ClientError>> = HashMap::new();
        if let Ok(answer) = &outcome {
            for topic in &answer.responses {
                let name: Arc<str> = topic.name.as_str().into();
                for partition in &topic.partition_responses {
                    let result = match ErrorCode::from_code(partition.error_code) {
                        // A duplicate is a success whose first answer was lost.
                        ErrorCode::None | ErrorCode::DuplicateSequenceNumber => Ok(partition.base_offset),
                        code => {
                            let doing = format!("produce to {}-{}", topic.name, partition.index);
                            Err(ClientError::refused(doing, code, partition.error_message.clone()))
                        }
                    };
                    results.insert(TopicPartition::new(name.clone(), partition.index), result);
                }
            }
        }
        for Sending { partition, batch } in sent {
            let result = match &outcome {
                Err(error) => Err(error.clone()),
                Ok(_) => results.remove(&partition).unwrap_or_else(|| {
                    let doing = format!("produce to {partition}: the answer does not mention it");
                    Err(ClientError::refused(doing, ErrorCode::UnknownServerError, None))
                }),
            };
            match result {
                Ok(base_offset) => {
                    let outcome = Ok(Sent { partition: partition.partition, offset: base_offset });
                    let mut state = self.shared.state();
                    self.shared.settle(&mut state, batch, outcome);
                }
                Err(error) => self.retry_or_give_up(partition, batch, error),
            }
        }
    }

    fn retry_or_give_up(&mut self, partition: TopicPartition, mut batch: Batch, error: ClientError) {
        let settings = &self.shared.settings;
        let code = error.code();
        if code.is_none_or(is_retriable_code) {
            self.stale_topics.insert(partition.topic.clone());
        }
        let mut guard = self.shared.state();
        let state = &mut *guard;
        let queue = state.queues.entry(partition.clone()).or_default();
        let mut is_retriable = error.is_retriable();
        let is_transactional = settings.transactional_id.is_some();
        let mut is_behind = false;
        if settings.is_idempotent {
            match code {
                // An earlier batch came back first; this one follows it again. If it is the first, the broker knows
                // other sequences than we do.
                Some(ErrorCode::OutOfOrderSequenceNumber) => {
                    let follows = queue.batches.front().is_some_and(|first| first.ordinal < batch.ordinal);
                    let is_first = !follows && queue.in_flight == 0;
                    is_behind = !is_first;
                    is_retriable = !is_transactional || is_behind;
                    self.needs_identity |= !is_transactional && is_first;
                }
                Some(ErrorCode::UnknownProducerId | ErrorCode::InvalidProducerEpoch) if !is_transactional => {
                    is_retriable = true;
                    self.needs_identity = true;
                }
                _ => {}
            }
        }
        // What came back for an earlier one is no attempt of its own: that one may come back, or be split, many times.
        batch.attempts += u32::from(!is_behind);
        let has_time = batch.created.elapsed() < settings.delivery_timeout;
        // What failed it has given up all that waited, and this is of it too.
        let failure = state.transaction.as_ref().and_then(|transaction| transaction.failure().cloned());
        if let Some(failure) = failure {
            self.shared.settle(state, batch, Err(failure));
        } else if code == Some(ErrorCode::MessageTooLarge) && batch.record_count > 1 {
            log::warn!(
                "Got error produce response on topic-partition {partition}, splitting and retrying. Error: {error}"
            );
            queue.is_starting_over = queue.in_flight > 0;
            state.outstanding += 1;
            halves(batch, self.shared.codec).into_iter().for_each(|half| queue.put_back(half));
        } else if is_retriable && settings.acks != 0 && has_time && batch.attempts <= settings.retries {
            log::warn!(
                "Got error produce response on topic-partition {partition}, retrying ({} attempts left). Error: {error}",
                settings.retries - batch.attempts
            );
            queue.is_starting_over = queue.in_flight > 0;
            // Doubles up to a second, as retry.backoff.max.ms has it by default.
            let backoff = settings.cluster.retry_backoff;
            let pause = backoff
                .saturating_mul(1 << batch.attempts.saturating_sub(1).min(10))
                .min(backoff.max(RETRY_BACKOFF_MAX));
            queue.not_before = Some(Instant::now() + pause);
            queue.put_back(batch);
        } else {
            self.needs_identity |= settings.is_idempotent && !is_transactional;
            self.shared.settle(state, batch, Err(error.clone()));
            self.shared.fail_transaction(state, &error);
        }
    }

    /// Gives up batches that have waited longer than `delivery.timeout.ms` without being in flight.
    fn give_up_expired(&mut self) {
        let allowed = self.shared.settings.delivery_timeout;
        let mut guard = self.shared.state();
        let state = &mut *guard;
        let mut expired = Vec::new();
        for (partition, queue) in &mut state.queues {
            while queue.batches.front().is_some_and(|batch| batch.created.elapsed() >= allowed) {
                let Some(batch) = queue.batches.pop_front() else { break };
                // Only a batch that has a sequence leaves a gap.
                self.needs_identity |= self.shared.settings.is_idempotent
                    && self.shared.settings.transactional_id.is_none()
                    && matches!(batch.contents, Contents::Built(_));
                let doing = format!("expire {} records for {partition}", batch.record_count);
                let last = Some(Box::new(ClientError::refused("send a batch", ErrorCode::RequestTimedOut, None)));
                expired.push((batch, ClientError::GaveUp { doing, after: allowed, last }));
            }
        }
        for (batch, error) in expired {
            self.shared.settle(state, batch, Err(error.clone()));
            self.shared.fail_transaction(state, &error);
        }
    }
}

/// Closes the batch, with the partition's next sequence if the producer is idempotent.
fn build(batch: &mut Batch, queue: &mut Queue, identity: Option<Identity>, is_transactional: bool) {
    let Contents::Open(builder) = &mut batch.contents else { return };
    let builder = std::mem::take(&mut **builder);
    let sequence = queue.next_sequence;
    let builder = match identity {
        None => builder,
        Some(Identity { producer_id, producer_epoch }) => {
            builder.producer(producer_id, producer_epoch, sequence).transactional(is_transactional)
        }
    };
    if identity.is_some() {
        queue.next_sequence = incremented_sequence(sequence, batch.record_count);
    }
    batch.contents = Contents::Built(builder.build());
}

/// Turns a built batch into an open one, so that it can be built under another producer id.
fn reopen(batch: &mut Batch, codec: Codec) {
    let Contents::Built(bytes) = &batch.contents else { return };
    let builder = rebuilt(BatchBuilder::new().compression(codec, None), records_of(bytes));
    batch.contents = Contents::Open(Box::new(builder));
}

/// What a broker found too large, in two batches. Its sequences go on to be those of its records: whatever was sent after it
/// follows the second half.
/// Source: kafka 3.9.1 clients/.../producer/internals/ProducerBatch.java, split, which makes batches of `batch.size` again.
fn halves(batch: Batch, codec: Codec) -> [Batch; 2] {
    let Contents::Built(bytes) = &batch.contents else { unreachable!("only a built batch is sent") };
    let header = *read::batches(bytes).flatten().next().expect("the batch was built here").header();
    let of_first = batch.record_count / 2;
    let count = usize::try_from(of_first).expect("a part of a count");
    let contents = |records: &mut dyn Iterator<Item = Record>, sequence| {
        let mut builder = BatchBuilder::new().compression(codec, None);
        if header.producer_id >= 0 {
            builder = builder
                .producer(header.producer_id, header.producer_epoch, sequence)
                .transactional(header.is_transactional);
        }
        Contents::Built(rebuilt(builder, records).build())
    };
    let mut records = records_of(bytes);
    let first = contents(&mut records.by_ref().take(count), header.base_sequence);
    let second = contents(&mut records, incremented_sequence(header.base_sequence, of_first));
    let mut deliveries = batch.deliveries;
    let of_second = deliveries.split_off(count.min(deliveries.len()));
    let room = batch.room / 2;
    let Batch { ordinal, record_count, created, .. } = batch;
    [
        Batch { ordinal, contents: first, record_count: of_first, room, created, attempts: 0, deliveries },
        Batch {
            ordinal: ordinal + u64::from(of_first.unsigned_abs()),
            contents: second,
            record_count: record_count - of_first,
            room: batch.room - room,
            created,
            attempts: 0,
            deliveries: of_second,
        },
    ]
}

fn records_of(built: &Bytes) -> impl Iterator<Item = Record> {
    read::records(built).map(|record| record.expect("the batch was built here"))
}

fn rebuilt(mut builder: BatchBuilder, records: impl Iterator<Item = Record>) -> BatchBuilder {
    for record in records {
        let headers: Vec<Header<'_>> =
            record.headers.iter().map(|(key, value)| (key.as_ref(), value.as_deref())).collect();
        builder.append(record.timestamp, record.key.as_deref(), record.value.as_deref(), &headers);
    }
    builder
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(ordinal: u64, values: &[&str]) -> Batch {
        let mut builder = BatchBuilder::new();
        for value in values {
            builder.append(1, None, Some(value.as_bytes()), &[]);
        }
        Batch {
            ordinal,
            contents: Contents::Open(Box::new(builder)),
            record_count: i32::try_from(values.len()).unwrap(),
            room: 0,
            created: Instant::now(),
            attempts: 0,
            deliveries: Vec::new(),
        }
    }

    pub(super) fn transactional_producer() -> Producer {
        let mut properties = crate::client::settings::ClientProperties::default();
        properties.set("bootstrap.servers", "127.0.0.1:1".to_owned());
        properties.set("transactional.id", "t".to_owned());
        let settings = ProducerSettings::take(&mut properties, "test").expect("good settings");
        Producer::new(settings).expect("a known codec")
    }

    fn sequence(batch: &Batch) -> (i64, i32, usize) {
        let Contents::Built(bytes) = &batch.contents else { panic!("not built") };
        let header = *read::batches(bytes).next().unwrap().unwrap().header();
        (header.producer_id, header.base_sequence, read::records(bytes).count())
    }

    #[tokio::test]
    async fn a_batch_keeps_its_sequence_until_a_new_producer_id_starts_over() {
        let mut queue = Queue::default();
        let mut first = batch(0, &["a", "b"]);
        let mut second = batch(1, &["c"]);
        let old = Some(Identity { producer_id: 7, producer_epoch: 0 });
        build(&mut first, &mut queue, old, false);
        build(&mut second, &mut queue, old, false);
        assert_eq!(sequence(&first), (7, 0, 2));
        assert_eq!(sequence(&second), (7, 2, 1));
        // Built once, a batch is sent again as it is.
        build(&mut first, &mut queue, old, false);
        assert_eq!(sequence(&first), (7, 0, 2));
        queue.next_sequence = 0;
        reopen(&mut second, Codec::None);
        build(&mut second, &mut queue, Some(Identity { producer_id: 8, producer_epoch: 0 }), false);
        assert_eq!(sequence(&second), (8, 0, 1));
    }

    #[tokio::test]
    async fn batches_that_come_back_stand_in_their_old_order() {
        let mut queue = Queue { batches: VecDeque::from([batch(3, &["d"])]), ..Default::default() };
        queue.put_back(batch(1, &["b"]));
        queue.put_back(batch(2, &["c"]));
        queue.put_back(batch(0, &["a"]));
        let order: Vec<u64> = queue.batches.iter().map(|batch| batch.ordinal).collect();
        assert_eq!(order, [0, 1, 2, 3]);
        queue.is_starting_over = true;
        assert!(!queue.is_ready(Instant::now(), Duration::ZERO, true));
    }

    /// Kafka's makes batches of batch.size again, so that they are refused for ever where the topic takes less.
    #[tokio::test]
    async fn a_batch_that_is_too_large_is_sent_in_halves_until_one_record_is() {
        let producer = transactional_producer();
        let mut sender = Sender::new(Arc::clone(&producer.shared));
        let partition = TopicPartition::new("a", 0);
        let too_large = ClientError::refused("produce", ErrorCode::MessageTooLarge, None);
        let mut whole = batch(10, &["a", "b", "c"]);
        let told: Arc<Mutex<Vec<(i64, bool)>>> = Arc::default();
        let heard = |record| {
            let told = Arc::clone(&told);
            Box::new(move |sent: Result<Sent, ClientError>| {
                told.lock().unwrap().push((record, sent.is_ok()));
            })
        };
        whole.deliveries = (0..3).map(|record| heard(record) as OnSettled).collect();
        whole.room = 7;
        {
            let mut state = producer.shared.state();
            state.outstanding = 1;
            state.transaction = Some(transactions::Transaction::default());
            let queue = state.queues.entry(partition.clone()).or_default();
            queue.next_sequence = i32::MAX;
            build(&mut whole, queue, Some(Identity { producer_id: 7, producer_epoch: 2 }), true);
            assert_eq!(queue.next_sequence, 2);
            queue.put_back(batch(13, &["d"]));
        }
        sender.retry_or_give_up(partition.clone(), whole, too_large.clone());
        let take = || {
            let mut state = producer.shared.state();
            let outstanding = state.outstanding;
            let queue = state.queues.get_mut(&partition).unwrap();
            (outstanding, queue.batches.drain(..).collect::<Vec<_>>())
        };
        let (outstanding, mut waiting) = take();
        assert_eq!(outstanding, 2);
        assert_eq!(
            waiting.iter().map(|batch| (batch.ordinal, batch.room)).collect::<Vec<_>>(),
            [(10, 3), (11, 4), (13, 0)]
        );
        assert_eq!(sequence(&waiting[0]), (7, i32::MAX, 1));
        assert_eq!(sequence(&waiting[1]), (7, 0, 2));
        sender.retry_or_give_up(partition.clone(), waiting.swap_remove(1), too_large.clone());
        let (outstanding, mut quarters) = take();
        assert_eq!(outstanding, 3);
        assert_eq!(quarters.iter().map(sequence).collect::<Vec<_>>(), [(7, 0, 1), (7, 1, 1)]);
        assert_eq!(quarters.iter().map(|batch| batch.ordinal).collect::<Vec<_>>(), [11, 12]);
        sender.retry_or_give_up(partition.clone(), quarters.remove(1), too_large);
        assert_eq!(
            (take().1.len(), &*told.lock().unwrap()),
            (0, &vec![(2, false)]),
            "one record is too large for good"
        );
    }

    /// It was in flight when another batch failed the transaction, or its partition could not be added.
    #[tokio::test]
    async fn a_batch_that_comes_back_to_a_failed_transaction_is_not_sent_again() {
        let producer = transactional_producer();
        let mut sender = Sender::new(Arc::clone(&producer.shared));
        let partition = TopicPartition::new("a", 0);
        let network = ClientError::refused("produce", ErrorCode::NotLeaderOrFollower, None);
        let fenced = ClientError::refused("produce", ErrorCode::InvalidProducerEpoch, None);
        let (told, mut hears) = oneshot::channel();
        let in_flight = Batch { deliveries: vec![Box::new(|outcome| drop(told.send(outcome)))], ..batch(0, &["a"]) };
        {
            let mut state = producer.shared.state();
            state.outstanding = 2;
            state.transaction = Some(transactions::Transaction::default());
        }
        sender.retry_or_give_up(partition.clone(), batch(1, &["b"]), network.clone());
        assert_eq!(producer.shared.state().outstanding, 2, "it is tried again");
        producer.shared.fail_transaction(&mut producer.shared.state(), &fenced);
        sender.retry_or_give_up(partition.clone(), in_flight, network);
        assert_eq!(producer.shared.state().outstanding, 0);
        assert!(producer.shared.state().queues[&partition].batches.is_empty());
        let told = hears.try_recv().expect("it is settled").expect_err("it was not written");
        assert_eq!(told.code(), Some(ErrorCode::InvalidProducerEpoch));
    }

    #[test]
    fn records_without_a_key_stay_until_a_batch_is_full() {
        let mut topic = Topic { leaders: vec![None, Some(BrokerId(1)), None], ..Default::default() };
        for _ in 0..100 {
            assert_eq!(topic.sticky(10, 100), 1, "only one partition has a leader");
        }
        topic.leaders = vec![Some(BrokerId(1)); 50];
        let partitions: Vec<usize> = (0..1000).map(|_| topic.sticky(10, 100)).collect();
        let changes = partitions.windows(2).filter(|pair| pair[0] != pair[1]).count();
        assert!((50..=100).contains(&changes), "{changes} changes among 100 batches");
    }
}
