//! Topics, their partitions, and the wish to delete them.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, Stat, Versioned, ZooKeeper};
use crate::znode::config::{self, ConfigEntity};
use crate::znode::partition_state::{self, PartitionState};
use crate::znode::{delete_topic, topic};
use std::collections::BTreeMap;
use zookeeper_client::{Error, MultiWriteError};

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

    /// Writes the topic with its configuration: whoever sees the topic finds both. Fails with `NodeExists` when there is
    /// such a topic, and leaves its configuration as it is. What an earlier topic of that name left behind is replaced.
    pub async fn create_topic(
        &self,
        name: &str,
        topic: &topic::Topic,
        config: &BTreeMap<String, String>,
    ) -> Result<(), ZkError> {
        const TOPIC: usize = 0;
        let (path, data) = (topic::path(name), topic.encode());
        let (config_path, config) = (ConfigEntity::Topic(name.to_owned()).path(), config::encode(config));
        self.fits(&config_path, config.len())?;
        self.fits(&path, data.len() + config.len())?;
        let mut has_config = false;
        loop {
            let (permit, connection) = self.admitted().await?;
            let committed = async {
                let mut writer = connection.client.new_multi_writer();
                let options = CreateKind::Persistent.mode().with_acls(self.acls_for(&path));
                writer.add_create(&path, &data, &options)?;
                match has_config {
                    true => writer.add_set_data(&config_path, &config, None)?,
                    false => writer.add_create(&config_path, &config, &options)?,
                }
                writer.commit().await
            }
            .await;
            drop(permit);
            match committed {
                Ok(_) => return Ok(()),
                Err(MultiWriteError::RequestFailed { source } | MultiWriteError::OperationFailed { source, .. })
                    if is_connection_loss(&source) => {}
                Err(MultiWriteError::OperationFailed { index, source: Error::NodeExists }) if index != TOPIC => {
                    has_config = true;
                }
                Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => {
                    has_config = false;
                    for root in [topic::ROOT, config::TOPICS] {
                        match self.create_recursive(root, b"", CreateKind::Persistent).await {
                            Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                            Err(error) => return Err(error),
                        }
                    }
                }
                Err(error) => return Err(ZkError::from_client(&path, error.into())),
            }
        }
    }

    /// Replaces the assignment of an existing topic that nobody has changed since it was read at `expected_version`;
    /// the caller passes all partitions and the id it had.
    pub async fn set_topic(&self, name: &str, topic: &topic::Topic, expected_version: i32) -> Result<Stat, ZkError> {
        self.set(&topic::path(name), &topic.encode(), expected_version).await
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

    /// One outcome per partition, in their order; partitions that never had a leader have no state.
    pub async fn partition_states(
        &self,
        partitions: &[(&str, i32)],
    ) -> Vec<Result<Option<(PartitionState, Stat)>, ZkError>> {
        let paths: Vec<String> =
            partitions.iter().map(|(topic, partition)| partition_state::path(topic, *partition)).collect();
        let read = self.get_many(&paths).await;
        let decoded = read.into_iter().zip(partitions).map(|(read, (topic, partition))| match read? {
            None => Ok(None),
            Some((data, stat)) => Ok(Some((PartitionState::decode(topic, *partition, &data)?, stat))),
        });
        decoded.collect()
    }
}
