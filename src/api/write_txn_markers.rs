//! WriteTxnMarkers: a coordinator ends transactions in the logs that this broker leads.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala (handleWriteTxnMarkersRequest).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::api::topic_numbers::NamedOnce;
use crate::api::{RequestContext, Server};
use crate::coordinator::group::task::GroupCoordinator;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::model::{Offset, ProducerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::build::{TransactionOutcome, end_transaction_marker};
use crate::replica::error::ReplicaError;
use crate::replica::partition::{AppendTerms, Appended, Partition, RequiredAcks};
use crate::replica::partition_log::PartitionLog;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::waiters::Commit;

/// By producer, topic and partition; what is named twice is answered once.
type Codes = BTreeMap<i64, BTreeMap<Arc<str>, BTreeMap<i32, ErrorCode>>>;

struct Waiting {
    producer_id: i64,
    topic: Arc<str>,
    partition: i32,
    outcome: TransactionOutcome,
    marker: Offset,
    commit: Option<Commit>,
}

/// The markers of one request as far as they are in logs, and what is to be said of the others.
#[derive(Default)]
pub(crate) struct Markers {
    codes: Codes,
    waiting: Vec<Waiting>,
}

impl Markers {
    /// One is in the log, or not.
    pub(crate) fn note(
        &mut self,
        producer_id: i64,
        outcome: TransactionOutcome,
        topic: &Arc<str>,
        partition: i32,
        appended: Result<Appended, ErrorCode>,
    ) {
        let topic = Arc::clone(topic);
        match appended {
            Ok(Appended { info, commit, .. }) => {
                let marker = info.first_offset;
                self.waiting.push(Waiting { producer_id, topic, partition, outcome, marker, commit });
            }
            Err(code) => self.say(producer_id, topic, partition, code),
        }
    }

    fn say(&mut self, producer_id: i64, topic: Arc<str>, partition: i32, code: ErrorCode) {
        self.codes.entry(producer_id).or_default().entry(topic).or_default().insert(partition, code);
    }

    /// Waits for the replicas of all of them.
    pub(crate) async fn answer(mut self, groups: &GroupCoordinator, deadline: Instant) -> WriteTxnMarkersResponse {
        for Waiting { producer_id, topic, partition, outcome, marker, commit } in std::mem::take(&mut self.waiting) {
            // There may be very many, none of which has to wait. All are told of, whether or not the sender hears of it.
            tokio::task::coop::consume_budget().await;
            let mut code = match commit {
                None => ErrorCode::None,
                Some(commit) => match commit.wait(deadline).await {
                    Ok(()) => ErrorCode::None,
                    Err(why) => ErrorCode::from(&ReplicaError::from(why)),
                },
            };
            if *topic == *GROUP_METADATA_TOPIC
                && code == ErrorCode::None
                && !groups.transaction_ended(partition, ProducerId(producer_id), outcome, marker)
            {
                // Whether whoever loads reads as far as this marker is not known: the sender comes again.
                code = ErrorCode::NotLeaderOrFollower;
            }
            self.say(producer_id, topic, partition, code);
        }
        response(self.codes)
    }
}

/// How the transactions end, and the batch that says so.
pub(crate) fn outcome_and_batch(marker: &WritableTxnMarker, now_ms: i64) -> (TransactionOutcome, Bytes) {
    let outcome = match marker.transaction_result {
        true => TransactionOutcome::Commit,
        false => TransactionOutcome::Abort,
    };
    let &WritableTxnMarker { producer_id, producer_epoch, coordinator_epoch, .. } = marker;
    (outcome, end_transaction_marker(producer_id, producer_epoch, outcome, coordinator_epoch, now_ms))
}

/// How a marker is appended there, if it may be.
pub(crate) fn terms<L: PartitionLog>(
    hosted: &Partition<L>,
    groups: &GroupCoordinator,
) -> Result<AppendTerms, ErrorCode> {
    let log = hosted.log().ok_or(ErrorCode::NotLeaderOrFollower)?;
    if log.config().message_format_version.highest_supported_magic() < 2 {
        return Err(ErrorCode::UnsupportedForMessageFormat);
    }
    let TopicPartition { topic, partition } = hosted.name();
    if **topic == *TRANSACTION_STATE_TOPIC {
        // A coordinator of a JVM broker that reads it reads no further. This is the answer after which nobody comes again.
        return Err(ErrorCode::UnsupportedForMessageFormat);
    }
    if **topic == *GROUP_METADATA_TOPIC && groups.is_loading(*partition) {
        // It may have read to the end already, and would never hear of this marker: the sender comes again.
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    Ok(AppendTerms {
        accepted_sets: AcceptedSets::Any,
        origin: AppendOrigin::Coordinator,
        required_acks: RequiredAcks::AllInSync,
        expected_leader_epoch: None,
    })
}

/// All markers are appended before the first wait for replicas; none after the sender has hung up, who comes again.
pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let timeout_ms = u64::try_from(server.config.load().controller_config().request_timeout_ms).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut markers = Markers::default();
    'markers: for marker in &request.markers {
        let (outcome, batch) = outcome_and_batch(marker, context.now_ms);
        // It is answered even if it names no partition.
        markers.codes.entry(marker.producer_id).or_default();
        let mut seen = NamedOnce::default();
        for topic in &marker.topics {
            let number = seen.number_of(&topic.name);
            let name: Arc<str> = Arc::from(topic.name.as_str());
            for &partition in &topic.partition_indexes {
                if context.pause().await {
                    break 'markers;
                }
                if !seen.is_new(number, partition) {
                    continue;
                }
                let (groups, topic, batch, now_ms) =
                    (Arc::clone(&server.groups), Arc::clone(&name), batch.clone(), context.now_ms);
                let append =
                    move |replicas: &Arc<ReplicaManager>| append(replicas, &groups, &topic, partition, batch, now_ms);
                let appended = server.replicas.at(&name, partition, append).await;
                let appended = appended.unwrap_or_else(|why| Err(ErrorCode::from(&ReplicaError::from(why))));
                markers.note(marker.producer_id, outcome, &name, partition, appended);
            }
        }
    }
    markers.answer(&server.groups, deadline).await
}

fn append(
    replicas: &Arc<ReplicaManager>,
    groups: &GroupCoordinator,
    topic: &str,
    partition: i32,
    batch: Bytes,
    now_ms: i64,
) -> Result<Appended, ErrorCode> {
    let hosted = replicas.partition(topic, partition).map_err(|why| ErrorCode::from(&why))?;
    let terms = terms(&hosted, groups)?;
    replicas.append(topic, partition, batch, terms, now_ms).map_err(|why| ErrorCode::from(&why))
}

fn response(codes: Codes) -> WriteTxnMarkersResponse {
    let partition = |(partition_index, code): (i32, ErrorCode)| WritableTxnMarkerPartitionResult {
        partition_index,
        error_code: code.code(),
    };
    let topic = |(name, partitions): (Arc<str>, BTreeMap<i32, ErrorCode>)| WritableTxnMarkerTopicResult {
        name: name.to_string(),
        partitions: partitions.into_iter().map(partition).collect(),
    };
    let producer = |(producer_id, topics): (i64, BTreeMap<Arc<str>, BTreeMap<i32, ErrorCode>>)| {
        WritableTxnMarkerResult { producer_id, topics: topics.into_iter().map(topic).collect() }
    };
    WriteTxnMarkersResponse { markers: codes.into_iter().map(producer).collect() }
}
