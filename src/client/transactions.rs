//! What an administrator asks about transactions and producers (KIP-664).

use std::collections::BTreeMap;

use crate::client::admin::by_topic;
use crate::client::cluster::{Cluster, Coordinated, Node};
use crate::client::error::{ClientError, checked};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_producers::{DescribeProducersRequest, ProducerState, TopicRequest};
use crate::protocol::messages::describe_transactions::{DescribeTransactionsRequest, TransactionState};
use crate::protocol::messages::list_transactions::{ListTransactionsRequest, TransactionState as Listed};
use crate::protocol::messages::write_txn_markers::{WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest};

impl Cluster {
    /// The transactional ids that each broker coordinates.
    pub async fn list_transactions(
        &self,
        request: &ListTransactionsRequest,
    ) -> Result<BTreeMap<BrokerId, Vec<Listed>>, ClientError> {
        let doing = "list transactions";
        self.retried(doing, || self.metadata(Some(&[]), false)).await?;
        let mut listed = BTreeMap::new();
        for Node { id, .. } in self.nodes() {
            let answer = self.retried(doing, || async {
                let answer = self.broker(id).await?.send(request).await?;
                checked(doing, answer.error_code, None)?;
                Ok(answer)
            });
            listed.insert(id, answer.await?.transaction_states);
        }
        Ok(listed)
    }

    /// What its coordinator knows of a transactional id.
    pub async fn describe_transaction(&self, id: &str) -> Result<(BrokerId, TransactionState), ClientError> {
        let doing = format!("describe the transactional id {id}");
        self.retried(&doing, || async {
            let coordinator = self.find_coordinator(Coordinated::Transactions(id)).await?.id;
            let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
            let answer = self.broker(coordinator).await?.send(&request).await?;
            let state = answer.transaction_states.into_iter().next().unwrap_or_default();
            checked(&doing, state.error_code, None)?;
            Ok((coordinator, state))
        })
        .await
    }

    /// The producers of partitions as a broker knows them, or the leader of each.
    pub async fn describe_producers(
        &self,
        partitions: &[TopicPartition],
        broker: Option<BrokerId>,
    ) -> Result<BTreeMap<TopicPartition, Vec<ProducerState>>, ClientError> {
        let doing = "describe producers";
        self.retried(doing, || async {
            let mut asked: BTreeMap<BrokerId, Vec<TopicPartition>> = BTreeMap::new();
            match broker {
                Some(broker) => drop(asked.insert(broker, partitions.to_vec())),
                None => {
                    let topics: std::collections::BTreeSet<String> =
                        partitions.iter().map(|partition| partition.topic.to_string()).collect();
                    let leaders = self.leaders(&topics.into_iter().collect::<Vec<_>>()).await?;
                    for partition in partitions {
                        let missing = || ClientError::refused(doing, ErrorCode::LeaderNotAvailable, None);
                        let leader = leaders.get(partition).copied().ok_or_else(missing)?;
                        asked.entry(leader).or_default().push(partition.clone());
                    }
                }
            }
            let mut found = BTreeMap::new();
            for (broker, partitions) in asked {
                let topics = by_topic(partitions.iter().map(|partition| (partition, ())));
                let topic = |(name, partitions): (&str, Vec<(i32, ())>)| TopicRequest {
                    name: name.to_owned(),
                    partition_indexes: partitions.into_iter().map(|(partition, ())| partition).collect(),
                };
                let request = DescribeProducersRequest { topics: topics.into_iter().map(topic).collect() };
                for topic in self.broker(broker).await?.send(&request).await?.topics {
                    for partition in topic.partitions {
                        checked(doing, partition.error_code, partition.error_message)?;
                        let name = TopicPartition::new(topic.name.as_str(), partition.partition_index);
                        found.insert(name, partition.active_producers);
                    }
                }
            }
            Ok(found)
        })
        .await
    }

    /// Has the leader of a partition abort a producer's transaction there, whatever its coordinator thinks of it.
    pub async fn abort_transaction(
        &self,
        partition: &TopicPartition,
        producer_id: i64,
        producer_epoch: i16,
        coordinator_epoch: i32,
    ) -> Result<(), ClientError> {
        let doing = format!("abort the transaction of producer {producer_id} in {partition}");
        let topic =
            WritableTxnMarkerTopic { name: partition.topic.to_string(), partition_indexes: vec![partition.partition] };
        let marker = WritableTxnMarker {
            producer_id,
            producer_epoch,
            transaction_result: false,
            topics: vec![topic],
            coordinator_epoch,
        };
        let request = &WriteTxnMarkersRequest { markers: vec![marker] };
        self.retried(&doing, || async {
            let leaders = self.leaders(&[partition.topic.to_string()]).await?;
            let missing = || ClientError::refused(&doing, ErrorCode::LeaderNotAvailable, None);
            let leader = leaders.get(partition).copied().ok_or_else(missing)?;
            let answer = self.broker(leader).await?.send(request).await?;
            let mut told = answer.markers.iter().flat_map(|marker| &marker.topics).flat_map(|topic| &topic.partitions);
            told.try_for_each(|partition| checked(&doing, partition.error_code, None))
        })
        .await
    }
}
