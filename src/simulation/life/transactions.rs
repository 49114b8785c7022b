//! A broker's part in transactions: what producers and other brokers ask of it, and the markers that it sends.

use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek_zookeeper::znode::topic::Topic;
use odradek_zookeeper::znode::{delete_topic, topic};
use tokio::sync::{mpsc, oneshot};

use crate::api::write_txn_markers::{Markers as WrittenMarkers, outcome_and_batch, terms};
use crate::coordinator::group::records::CommittedOffset;
use crate::coordinator::group::requests::{Caller, Commit, CommitAnswer, OffsetToCommit};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::markers::{MarkerQueues, Told, request};
use crate::coordinator::transaction::requests::Markers;
use crate::coordinator::transaction::state::Producer;
use crate::coordinator::transaction::task::{MarkersToSend, TransactionCoordinator};
use crate::metadata::cache::MetadataCache;
use crate::metadata::image::Image;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC, is_internal_topic};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{BrokerId, GenerationId, LeaderEpoch, Offset, ProducerId, TopicId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::build::TransactionOutcome;
use crate::replica::error::ReplicaError;
use crate::replica::memory_log::{MemoryLog, Prefix};
use crate::replica::partition::{AppendTerms, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::simulation::Planted;
use crate::simulation::clock::NOW_MS;
use crate::simulation::life::{Life, Replica};
use crate::simulation::network::{CallId, Network, Packet, Reply, Request};
use crate::simulation::zookeeper::ZooKeeper;

/// See `coordinator/transaction/marker_sender.rs`.
const RETRY_BACKOFF: Duration = Duration::from_millis(100);

type Serving = Pin<Box<dyn Future<Output = ()>>>;
/// What a request comes to; nothing, if the broker does not live to say it.
pub(in crate::simulation) type Answering = oneshot::Receiver<Result<Answer, ErrorCode>>;

#[derive(Debug)]
pub(in crate::simulation) enum Answer {
    Inited(Producer),
    /// Who the producer is from then on.
    Ended(Producer),
    Written(Written),
    Done,
}

/// Records that are committed.
#[derive(Debug)]
pub(in crate::simulation) struct Written {
    pub topic_id: Option<TopicId>,
    pub epoch: LeaderEpoch,
    /// Up to their end.
    pub prefix: Option<Prefix>,
}

/// A request that is asked of another broker in the middle of answering one.
struct Question {
    to: BrokerId,
    request: Request,
    reply: oneshot::Sender<Reply>,
}

#[derive(Clone, Default)]
struct Questions(Arc<Mutex<Vec<Question>>>);

impl Questions {
    async fn ask(&self, to: BrokerId, request: Request) -> Option<Reply> {
        let (reply, answered) = oneshot::channel();
        self.0.lock().expect("nothing panics under it").push(Question { to, request, reply });
        answered.await.ok()
    }

    fn take(&self) -> Vec<Question> {
        std::mem::take(&mut self.0.lock().expect("nothing panics under it"))
    }
}

/// The requests that are being answered here.
#[derive(Default)]
pub(super) struct Requests {
    serving: Vec<Serving>,
    questions: Questions,
    asked: BTreeMap<CallId, oneshot::Sender<Reply>>,
    /// What other brokers have asked, and the reply once there is one.
    answering: Vec<(Packet, oneshot::Receiver<Reply>)>,
}

/// The task that sends markers.
pub(super) struct MarkerTask {
    queues: MarkerQueues,
    to_send: mpsc::UnboundedReceiver<MarkersToSend>,
    asked: BTreeMap<BrokerId, (CallId, Vec<Markers>)>,
    retry_at: Option<Instant>,
    is_unknown_looked_for: bool,
}

impl MarkerTask {
    pub fn new(to_send: mpsc::UnboundedReceiver<MarkersToSend>) -> MarkerTask {
        let queues = MarkerQueues::default();
        MarkerTask { queues, to_send, asked: BTreeMap::new(), retry_at: None, is_unknown_looked_for: false }
    }
}

/// Who asks coordinators whether partitions are in a transaction, see `coordinator/transaction/verifier.rs`.
struct Verifier {
    local: BrokerId,
    metadata: Arc<MetadataCache>,
    coordinator: Arc<TransactionCoordinator>,
    questions: Questions,
    transactional_id: &'static str,
    producer: Producer,
    version: TransactionVersion,
}

impl Verifier {
    /// The log has the transaction open, or may open it with a batch of that sequence.
    async fn confirm(&self, log: &MemoryLog, base_sequence: i32, partition: TopicPartition) -> Result<(), ErrorCode> {
        let Producer { id, epoch } = self.producer;
        let Some(guard) = log.begin_verification(id, epoch, base_sequence, self.version, NOW_MS) else { return Ok(()) };
        let verdict = self.ask(partition).await;
        match verdict {
            Ok(()) => log.transaction_verified(guard, self.version),
            Err(ErrorCode::ProducerFenced | ErrorCode::InvalidProducerEpoch | ErrorCode::InvalidProducerIdMapping) => {
                log.transaction_refused(guard)
            }
            Err(_) => {}
        }
        // Others come before what has been confirmed.
        pause().await;
        verdict
    }

    async fn ask(&self, partition: TopicPartition) -> Result<(), ErrorCode> {
        let Verifier { transactional_id, producer, version, .. } = *self;
        let image = self.metadata.image();
        let leader = image.partition(TRANSACTION_STATE_TOPIC, 0).map(|known| known.leader);
        let leader = leader.filter(|leader| image.is_alive(*leader)).ok_or(ErrorCode::CoordinatorNotAvailable)?;
        if leader == self.local {
            return confirmed(&self.coordinator, &image, transactional_id, producer, version, partition).await;
        }
        match self.questions.ask(leader, Request::Verify { transactional_id, producer, version, partition }).await {
            Some(Reply::Verified(verdict)) => verdict,
            _ => Err(ErrorCode::NetworkException),
        }
    }
}

/// Whether the partition is in the transaction; by version 2 it is from now on.
async fn confirmed(
    coordinator: &TransactionCoordinator,
    image: &Image,
    transactional_id: &str,
    producer: Producer,
    version: TransactionVersion,
    partition: TopicPartition,
) -> Result<(), ErrorCode> {
    if version.bumps_epoch() {
        return added(coordinator, image, transactional_id, producer, version, vec![partition]).await;
    }
    match coordinator.verify(transactional_id, producer, &[partition])? == [true] {
        true => Ok(()),
        false => Err(TransactionError::TransactionAbortable.into()),
    }
}

async fn added(
    coordinator: &TransactionCoordinator,
    image: &Image,
    transactional_id: &str,
    producer: Producer,
    version: TransactionVersion,
    partitions: Vec<TopicPartition>,
) -> Result<(), ErrorCode> {
    let is_known = |p: &TopicPartition| is_internal_topic(&p.topic) || image.partition(&p.topic, p.partition).is_some();
    if !partitions.iter().all(is_known) {
        return Err(ErrorCode::UnknownTopicOrPartition);
    }
    Ok(coordinator.add_partitions(transactional_id, producer, partitions, version).await?)
}

/// Lets others go on.
async fn pause() {
    let mut has_paused = false;
    poll_fn(|_| if std::mem::replace(&mut has_paused, true) { Poll::Ready(()) } else { Poll::Pending }).await;
}

fn code(error: ReplicaError) -> ErrorCode {
    ErrorCode::from(&error)
}

impl Life {
    // ---- what producers ask ----

    /// Begins to answer a request. It is answered whether or not who has asked still waits.
    fn serve<T: 'static>(&mut self, request: impl Future<Output = T> + 'static) -> oneshot::Receiver<T> {
        let (answer, answered) = oneshot::channel();
        let mut serving: Serving = Box::pin(async move {
            let _ = answer.send(request.await);
        });
        if serving.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending() {
            self.requests.serving.push(serving);
        }
        answered
    }

    pub fn init_producer_id(
        &mut self,
        transactional_id: &'static str,
        timeout_ms: i32,
        expected: Option<Producer>,
        new_id: ProducerId,
    ) -> Answering {
        let coordinator = Arc::clone(&self.transactions);
        self.serve(async move {
            let next_id = || std::future::ready(Some(new_id));
            let inited = coordinator.init_producer_id(transactional_id, timeout_ms, expected, next_id).await;
            Ok(Answer::Inited(inited?))
        })
    }

    /// AddPartitionsToTxn, or AddOffsetsToTxn.
    pub fn add_partitions(
        &mut self,
        transactional_id: &'static str,
        producer: Producer,
        partitions: Vec<TopicPartition>,
    ) -> Answering {
        let (coordinator, image) = (Arc::clone(&self.transactions), self.around.metadata.image());
        let version = TransactionVersion::V0;
        self.serve(async move {
            added(&coordinator, &image, transactional_id, producer, version, partitions).await?;
            Ok(Answer::Done)
        })
    }

    pub fn end_transaction(
        &mut self,
        transactional_id: &'static str,
        producer: Producer,
        outcome: TransactionOutcome,
        version: TransactionVersion,
    ) -> Answering {
        let coordinator = Arc::clone(&self.transactions);
        let version = if self.planted == Planted::EpochsNotRaised { TransactionVersion::V0 } else { version };
        self.serve(async move {
            let no_id = || std::future::ready(None);
            Ok(Answer::Ended(coordinator.end(transactional_id, producer, outcome, version, no_id).await?))
        })
    }

    fn verifier(
        &self,
        transactional_id: &'static str,
        producer: Producer,
        version: TransactionVersion,
    ) -> Option<Verifier> {
        // What nobody adds to a transaction of version 2 nobody ends.
        let is_left_out = self.planted == Planted::NothingVerified && !version.bumps_epoch();
        (!is_left_out).then(|| Verifier {
            local: self.id,
            metadata: Arc::clone(&self.around.metadata),
            coordinator: Arc::clone(&self.transactions),
            questions: self.requests.questions.clone(),
            transactional_id,
            producer,
            version,
        })
    }

    /// A batch of a transaction, see `api/produce.rs`.
    pub fn produce(
        &mut self,
        name: &TopicPartition,
        transactional_id: &'static str,
        producer: Producer,
        version: TransactionVersion,
        base_sequence: i32,
        batch: Bytes,
    ) -> Answering {
        let verifier = self.verifier(transactional_id, producer, version);
        let partition = self.replica(name);
        self.serve(async move {
            let partition = partition.ok_or(ErrorCode::NotLeaderOrFollower)?;
            let log = partition.leader_log(None).map_err(code)?;
            if let Some(verifier) = &verifier {
                verifier.confirm(&log, base_sequence, partition.name().clone()).await?;
            }
            let terms = AppendTerms {
                accepted_sets: AcceptedSets::OneV2Batch,
                origin: if verifier.is_some() { AppendOrigin::VerifiedClient } else { AppendOrigin::Client },
                required_acks: RequiredAcks::AllInSync,
                expected_leader_epoch: None,
            };
            let appended = partition.append(batch, terms, NOW_MS).map_err(code)?;
            let prefix = log.prefix(Offset(appended.info.last_offset.0 + 1));
            if let Some(commit) = appended.commit {
                commit.reached().await.map_err(|why| code(why.into()))?;
            }
            Ok(Answer::Written(Written { topic_id: log.topic_id(), epoch: appended.leader_epoch, prefix }))
        })
    }

    /// TxnOffsetCommit, see `api/txn_offset_commit.rs`.
    pub fn commit_in_transaction(
        &mut self,
        group: &'static str,
        transactional_id: &'static str,
        producer: Producer,
        version: TransactionVersion,
        (topic, partition): (&'static str, i32),
        offset: i64,
    ) -> Answering {
        let verifier = self.verifier(transactional_id, producer, version);
        let groups = Arc::clone(&self.groups);
        let hosted = self.hosted.get(GROUP_METADATA_TOPIC, 0);
        let planted = self.planted;
        self.serve(async move {
            if groups.is_loading(0) {
                return Err(ErrorCode::CoordinatorLoadInProgress);
            }
            let log = hosted.and_then(|hosted| hosted.leader_log(None).ok()).ok_or(ErrorCode::NotCoordinator)?;
            if let Some(verifier) = &verifier {
                verifier.confirm(&log, -1, TopicPartition::new(GROUP_METADATA_TOPIC, 0)).await?;
            }
            let committed = CommittedOffset {
                offset: Offset(offset),
                leader_epoch: LeaderEpoch(-1),
                metadata: "".into(),
                commit_timestamp_ms: NOW_MS,
                expire_timestamp_ms: None,
            };
            let caller = Caller { member_id: "".into(), group_instance_id: None, generation_id: GenerationId(-1) };
            let is_in_transaction = planted != Planted::PendingOffsetsSeen;
            let commit = Commit {
                caller,
                offsets: vec![OffsetToCommit { topic: topic.into(), partition, committed }],
                transaction: Some(producer).filter(|_| is_in_transaction),
                must_be_verified: is_in_transaction && verifier.is_some(),
            };
            match groups.commit_offsets(group, commit).await {
                CommitAnswer::Stored(Ok(())) => Ok(Answer::Done),
                CommitAnswer::Refused(error) | CommitAnswer::Stored(Err(error)) => Err(error.into()),
            }
        })
    }

    // ---- what other brokers ask ----

    pub fn verify(
        &mut self,
        transactional_id: &'static str,
        producer: Producer,
        version: TransactionVersion,
        partition: TopicPartition,
        packet: Packet,
    ) {
        let (coordinator, image) = (Arc::clone(&self.transactions), self.around.metadata.image());
        let answer = self.serve(async move {
            Reply::Verified(confirmed(&coordinator, &image, transactional_id, producer, version, partition).await)
        });
        self.requests.answering.push((packet, answer));
    }

    /// A coordinator ends transactions here. It is answered once the replicas have all markers.
    pub fn write_markers(&mut self, request: &WriteTxnMarkersRequest, packet: Packet) {
        let mut written = WrittenMarkers::default();
        for marker in &request.markers {
            for topic in &marker.topics {
                let name: Arc<str> = topic.name.as_str().into();
                for &partition in &topic.partition_indexes {
                    let hosted = self.hosted.get(&name, partition);
                    let (outcome, batch) = outcome_and_batch(marker, NOW_MS);
                    let appended = hosted.ok_or(ErrorCode::NotLeaderOrFollower).and_then(|hosted| {
                        let mut terms = terms(&hosted, &self.groups)?;
                        if self.planted == Planted::StaleMarkersObeyed && is_stale(marker, &hosted) {
                            terms.origin = AppendOrigin::Replication;
                        }
                        hosted.append(batch, terms, NOW_MS).map_err(code)
                    });
                    written.note(marker.producer_id, outcome, &name, partition, appended);
                }
            }
        }
        let groups = Arc::clone(&self.groups);
        // Nothing moves its clock: who has asked gives up first.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(1);
        let answer = self.serve(async move { Reply::WriteTxnMarkers(written.answer(&groups, deadline).await) });
        self.requests.answering.push((packet, answer));
    }

    /// What other brokers have asked and is answered no more.
    pub fn give_up_answers(&mut self) -> impl Iterator<Item = Packet> + use<> {
        std::mem::take(&mut self.requests.answering).into_iter().map(|(packet, _)| packet)
    }

    // ---- steps ----

    /// Requests go on that have waited for something; what they ask of others is asked.
    pub fn step_requests(&mut self, network: &mut Network) -> bool {
        let Requests { serving, questions, asked, answering } = &mut self.requests;
        let waiting = serving.len() + answering.len();
        if waiting == 0 {
            return false;
        }
        let mut context = Context::from_waker(Waker::noop());
        serving.retain_mut(|serving| serving.as_mut().poll(&mut context).is_pending());
        let mut has_asked = false;
        for Question { to, request, reply } in questions.take() {
            asked.insert(network.call(self.id, to, request), reply);
            has_asked = true;
        }
        answering.retain_mut(|(packet, answer)| match answer.try_recv() {
            Ok(reply) => {
                network.packets.push(packet.answered(reply));
                false
            }
            Err(_) => true,
        });
        has_asked || serving.len() + answering.len() < waiting
    }

    /// What another broker has answered to a question, or `None` if it was not reached. False if nobody waits for it.
    pub fn question_answered(&mut self, call: CallId, reply: Option<&Reply>) -> bool {
        let Some(asked) = self.requests.asked.remove(&call) else { return false };
        if let Some(reply) = reply {
            let _ = asked.send(reply.clone());
        }
        true
    }

    /// The next step of `coordinator/transaction/marker_sender.rs`.
    pub fn step_markers(&mut self, network: &mut Network) -> bool {
        let (now, metadata) = (self.now(), Arc::clone(&self.around.metadata));
        let MarkerTask { queues, to_send, asked, retry_at, is_unknown_looked_for } = &mut self.markers;
        let mut is_done = false;
        while let Ok(next) = to_send.try_recv() {
            is_done = true;
            match next {
                MarkersToSend::Send(markers) => queues.send(markers, &metadata.image()),
                MarkersToSend::Stop(transactional_id) => queues.stop(&transactional_id),
            }
        }
        match queues.has_parked() {
            true if retry_at.is_some_and(|at| at <= now) => {
                *retry_at = None;
                queues.route_parked(&metadata.image());
                if std::mem::replace(is_unknown_looked_for, true) {
                    queues.route_denied(&metadata.image());
                }
                is_done = true;
            }
            true => {
                retry_at.get_or_insert(now + RETRY_BACKOFF);
            }
            false => *retry_at = None,
        }
        for (broker, markers) in queues.due() {
            let call = network.call(self.id, broker, Request::WriteTxnMarkers(request(&markers)));
            asked.insert(broker, (call, markers));
            is_done = true;
        }
        is_done
    }

    /// It looks in ZooKeeper whether partitions are gone that the metadata, or their leaders, do not know.
    pub fn step_unknown(&mut self, zookeeper: &ZooKeeper) -> bool {
        let MarkerTask { queues, is_unknown_looked_for, .. } = &mut self.markers;
        if !std::mem::take(is_unknown_looked_for) {
            return false;
        }
        let topics = queues.unknown_topics();
        let is_gone = |partition: &TopicPartition| {
            let name = &partition.topic;
            let is_marked = zookeeper.get(&delete_topic::path(name)).is_some();
            let found = zookeeper.get(&topic::path(name)).filter(|_| !is_marked);
            let found = found.map(|znode| Topic::decode(name, &znode.data).expect("it was written well"));
            found.is_none_or(|found| !found.partitions.contains_key(&partition.partition))
        };
        let told = queues.gone(is_gone);
        queues.route_denied(&self.around.metadata.image());
        self.tell(told);
        !topics.is_empty()
    }

    /// What a leader has answered, or `None` if it was not reached. False if nobody waits for it.
    pub fn markers_answered(&mut self, call: CallId, response: Option<&WriteTxnMarkersResponse>) -> bool {
        let MarkerTask { queues, asked, .. } = &mut self.markers;
        let Some((broker, _)) = asked.iter().find(|(_, (asked, _))| *asked == call) else { return false };
        let broker = *broker;
        let (_, markers) = asked.remove(&broker).expect("it is there");
        let taken_for_written = (self.planted == Planted::LostMarkersTakenForWritten).then(|| all_written(&markers));
        let told = queues.answered(broker, markers, response.or(taken_for_written.as_ref()));
        self.tell(told);
        true
    }

    fn tell(&self, told: Vec<Told>) {
        for Told { markers, fate } in told {
            let partitions: Vec<TopicPartition> = markers.partitions.into_iter().collect();
            let Markers { transactional_id, producer, coordinator_epoch, .. } = markers;
            self.transactions.markers_answered(&transactional_id, producer, coordinator_epoch, &partitions, fate);
        }
    }

    /// How many requests wait for something, and how many transactions for markers.
    pub fn unended_transactions(&self) -> (usize, usize) {
        (self.requests.serving.len(), self.markers.queues.len())
    }
}

/// Of an earlier coordinator than has been heard of.
fn is_stale(marker: &WritableTxnMarker, hosted: &Replica) -> bool {
    let known = hosted.log().and_then(|log| log.coordinator_epoch_of(ProducerId(marker.producer_id)));
    known.is_some_and(|known| marker.coordinator_epoch < known)
}

/// Planted.
fn all_written(markers: &[Markers]) -> WriteTxnMarkersResponse {
    let result = |markers: &Markers| WritableTxnMarkerResult {
        producer_id: markers.producer.id.0,
        topics: markers
            .partitions
            .iter()
            .map(|partition| WritableTxnMarkerTopicResult {
                name: partition.topic.to_string(),
                partitions: vec![WritableTxnMarkerPartitionResult {
                    partition_index: partition.partition,
                    error_code: 0,
                }],
            })
            .collect(),
    };
    WriteTxnMarkersResponse { markers: markers.iter().map(result).collect() }
}
