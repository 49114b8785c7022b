//! Topics, their partitions, and the wish to delete them.
use crate::error::ZkError;
use crate::session::{CreateKind, Stat, Versioned, ZooKeeper};
use crate::znode::config::{self, ConfigEntity};
use crate::znode::partition_state::{self, PartitionState};
use crate::znode::{delete_topic, topic};
use std::collections::BTreeMap;

impl ZooKeeper {
    /// Names of all topics, in order.
    pub async fn topics(&self) -> Result<Vec<String>, ZkError> {
        let mut topics = self.children(topic::ROOT).await?;
        topics.sort_unstable();
        Ok(topics)
    }

    pub async fn topic_exists(&self, name: &str) -> Result<bool, ZkError> {
        Ok(self.exists(&topic::path(name)).await?.is_some())
    }

    pub async fn topic(&self, name: &str) -> Result<Option<Versioned<topic::Topic>>, ZkError> {
        match self.get(&topic::path(name)).await? {
            None => Ok(None),
            Some((data, stat)) => {
                Ok(Some(Versioned { value: topic::Topic::decode(name, &data)?, version: stat.version }))
            }
        }
    }

    /// Those of the given topics that exist.
    pub async fn topics_of(&self, names: &[String]) -> Result<BTreeMap<String, topic::Topic>, ZkError> {
        let read = self.pipelined(names, |name| Box::pin(async move { (name, self.topic(name).await) })).await;
        let mut found = BTreeMap::new();
        for (name, outcome) in read {
            if let Some(topic) = outcome? {
                found.insert(name.clone(), topic.value);
            }
        }
        Ok(found)
    }

    /// Writes the configuration, then the topic: whoever sees the topic finds its configuration.
    /// Fails with `NodeExists` when there is such a topic.
    pub async fn create_topic(
        &self,
        name: &str,
        topic: &topic::Topic,
        config: &BTreeMap<String, String>,
    ) -> Result<(), ZkError> {
        let entity = ConfigEntity::Topic(name.to_owned());
        self.set_or_create(&entity.path(), &config::encode(config)).await?;
        self.create_recursive(&topic::path(name), &topic.encode(), CreateKind::Persistent).await.map(|_| ())
    }

    /// Replaces the assignment of an existing topic; the caller passes all partitions and the id it had.
    pub async fn set_topic(&self, name: &str, topic: &topic::Topic) -> Result<Stat, ZkError> {
        self.set(&topic::path(name), &topic.encode(), -1).await
    }

    /// Asks the controller to delete the topic. Asking twice is no error.
    pub async fn mark_topic_for_deletion(&self, name: &str) -> Result<(), ZkError> {
        match self.create_recursive(&delete_topic::path(name), b"", CreateKind::Persistent).await {
            Ok(_) | Err(ZkError::NodeExists { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    pub async fn is_marked_for_deletion(&self, name: &str) -> Result<bool, ZkError> {
        Ok(self.exists(&delete_topic::path(name)).await?.is_some())
    }

    pub async fn partition_state(
        &self,
        topic: &str,
        partition: i32,
    ) -> Result<Option<Versioned<PartitionState>>, ZkError> {
        match self.get(&partition_state::path(topic, partition)).await? {
            None => Ok(None),
            Some((data, stat)) => {
                let value = PartitionState::decode(topic, partition, &data)?;
                Ok(Some(Versioned { value, version: stat.version }))
            }
        }
    }

    /// One outcome per partition, in their order; partitions that never had a leader have no state.
    pub async fn partition_states<'a>(
        &self,
        partitions: impl IntoIterator<Item = (&'a str, i32)>,
    ) -> Vec<Result<Option<Versioned<PartitionState>>, ZkError>> {
        self.pipelined(partitions, |(topic, partition)| Box::pin(self.partition_state(topic, partition))).await
    }
}
