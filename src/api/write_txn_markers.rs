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
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::{Offset, ProducerId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::write_txn_markers::{
    WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult, WriteTxnMarkersRequest,
    WriteTxnMarkersResponse,
};
use crate::record::append_rules::{AcceptedSets, AppendOrigin};
use crate::record::build::{TransactionOutcome, end_transaction_marker};
use crate::replica::error::ReplicaError;
use crate::replica::partition::{AppendTerms, Appended, RequiredAcks};
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

/// All markers are appended before the first wait for replicas; none after the sender has hung up, who comes again.
pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: WriteTxnMarkersRequest,
) -> WriteTxnMarkersResponse {
    let timeout_ms = u64::try_from(server.config.load().controller_config().request_timeout_ms).unwrap_or(0);
    let deadline = Instant::now() + Duration::from_millis(timeout_ms);
    let mut codes = Codes::new();
    let mut waiting = Vec::new();
    'markers: for marker in &request.markers {
        let outcome = match marker.transaction_result {
            true => TransactionOutcome::Commit,
            false => TransactionOutcome::Abort,
        };
        let producer_id = marker.producer_id;
        let (epoch, coordinator_epoch) = (marker.producer_epoch, marker.coordinator_epoch);
        let batch = end_transaction_marker(producer_id, epoch, outcome, coordinator_epoch, context.now_ms);
        let of_producer = codes.entry(producer_id).or_default();
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
                match appended.unwrap_or_else(|why| Err(ErrorCode::from(&ReplicaError::from(why)))) {
                    Ok(Appended { info, commit, .. }) => {
                        let (topic, marker) = (Arc::clone(&name), info.first_offset);
                        waiting.push(Waiting { producer_id, topic, partition, outcome, marker, commit });
                    }
                    Err(code) => {
                        of_producer.entry(Arc::clone(&name)).or_default().insert(partition, code);
                    }
                }
            }
        }
    }
    for Waiting { producer_id, topic, partition, outcome, marker, commit } in waiting {
        let mut code = match commit {
            None => ErrorCode::None,
            Some(commit) => match commit.wait(deadline).await {
                Ok(()) => ErrorCode::None,
                Err(why) => ErrorCode::from(&ReplicaError::from(why)),
            },
        };
        if *topic == *GROUP_METADATA_TOPIC
            && code == ErrorCode::None
            && !server.groups.transaction_ended(partition, ProducerId(producer_id), outcome, marker)
        {
            // Whether whoever loads reads as far as this marker is not known: the sender comes again.
            code = ErrorCode::NotLeaderOrFollower;
        }
        codes.entry(producer_id).or_default().entry(topic).or_default().insert(partition, code);
    }
    response(codes)
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
    let log = hosted.log().ok_or(ErrorCode::NotLeaderOrFollower)?;
    if log.config().message_format_version.highest_supported_magic() < 2 {
        return Err(ErrorCode::UnsupportedForMessageFormat);
    }
    if topic == GROUP_METADATA_TOPIC && groups.is_loading(partition) {
        // It may have read to the end already, and would never hear of this marker: the sender comes again.
        return Err(ErrorCode::NotLeaderOrFollower);
    }
    let terms = AppendTerms {
        accepted_sets: AcceptedSets::Any,
        origin: AppendOrigin::Coordinator,
        required_acks: RequiredAcks::AllInSync,
        expected_leader_epoch: None,
    };
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
