//! The log directories of brokers, asked of each broker for itself.

use std::collections::BTreeMap;

use crate::client::cluster::Cluster;
use crate::client::error::{ClientError, checked};
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::alter_replica_log_dirs::{
    AlterReplicaLogDir, AlterReplicaLogDirTopic, AlterReplicaLogDirsRequest,
};
use crate::protocol::messages::describe_log_dirs::{DescribableLogDirTopic, DescribeLogDirsRequest};

/// A log directory as its broker describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DescribedLogDir {
    pub error: ErrorCode,
    pub replicas: BTreeMap<TopicPartition, DescribedReplica>,
}

/// One log in a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescribedReplica {
    pub size_bytes: i64,
    /// Behind the high watermark, or a future log behind the log that it will replace; -1 if the broker does not know.
    pub offset_lag: i64,
    /// It is being copied, to replace the log in another directory.
    pub is_future: bool,
}

/// The directories of a broker by their paths.
pub type DescribedLogDirs = BTreeMap<String, DescribedLogDir>;

impl Cluster {
    /// Has a broker move replicas to the directories that stand beside them, and gives what it said of each.
    pub async fn alter_replica_log_dirs(
        &self,
        broker: BrokerId,
        targets: &BTreeMap<TopicPartition, String>,
    ) -> Result<BTreeMap<TopicPartition, ErrorCode>, ClientError> {
        let mut dirs: BTreeMap<&str, BTreeMap<&str, Vec<i32>>> = BTreeMap::new();
        for (name, path) in targets {
            dirs.entry(path).or_default().entry(&name.topic).or_default().push(name.partition);
        }
        let dirs = dirs.into_iter().map(|(path, topics)| AlterReplicaLogDir {
            path: path.to_owned(),
            topics: topics
                .into_iter()
                .map(|(name, partitions)| AlterReplicaLogDirTopic { name: name.to_owned(), partitions })
                .collect(),
        });
        let request = &AlterReplicaLogDirsRequest { dirs: dirs.collect() };
        let doing = format!("move replicas of broker {broker} to other log directories");
        let answer = self.retried(&doing, || async { self.broker(broker).await?.send(request).await }).await?;
        let mut told = BTreeMap::new();
        for topic in answer.results {
            let name: std::sync::Arc<str> = topic.topic_name.into();
            for one in topic.partitions {
                let key = TopicPartition::new(name.clone(), one.partition_index);
                told.insert(key, ErrorCode::from_code(one.error_code));
            }
        }
        Ok(told)
    }

    /// The directories of a broker and the logs in them: all, or those of these partitions.
    pub async fn describe_log_dirs(
        &self,
        broker: BrokerId,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<DescribedLogDirs, ClientError> {
        let mut topics: Option<BTreeMap<&str, Vec<i32>>> = partitions.map(|_| BTreeMap::new());
        if let Some(topics) = &mut topics {
            for name in partitions.unwrap_or_default() {
                topics.entry(&name.topic).or_default().push(name.partition);
            }
        }
        let topics = topics.map(|topics| {
            let named =
                |(topic, partitions): (&str, Vec<i32>)| DescribableLogDirTopic { topic: topic.into(), partitions };
            topics.into_iter().map(named).collect()
        });
        let request = &DescribeLogDirsRequest { topics };
        let doing = format!("describe log directories of broker {broker}");
        let answer = self.retried(&doing, || async { self.broker(broker).await?.send(request).await }).await?;
        checked(doing, answer.error_code, None)?;
        let mut dirs = DescribedLogDirs::new();
        for result in answer.results {
            let mut replicas = BTreeMap::new();
            for topic in result.topics {
                let name: std::sync::Arc<str> = topic.name.into();
                for partition in topic.partitions {
                    let replica = DescribedReplica {
                        size_bytes: partition.partition_size,
                        offset_lag: partition.offset_lag,
                        is_future: partition.is_future_key,
                    };
                    replicas.insert(TopicPartition::new(name.clone(), partition.partition_index), replica);
                }
            }
            let error = ErrorCode::from_code(result.error_code);
            dirs.insert(result.log_dir, DescribedLogDir { error, replicas });
        }
        Ok(dirs)
    }
}
