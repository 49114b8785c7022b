//! Offsets that consumers of 0.8 and OffsetCommit version 0 keep in ZooKeeper.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::consumer_offset;

impl ZooKeeper {
    pub async fn consumer_offset(&self, group: &str, topic: &str, partition: i32) -> Result<Option<i64>, ZkError> {
        let path = consumer_offset::path(group, topic, partition);
        match self.get(&path).await? {
            None => Ok(None),
            Some((data, _)) => Ok(consumer_offset::decode(&path, &data)?),
        }
    }

    pub async fn set_consumer_offset(
        &self,
        group: &str,
        topic: &str,
        partition: i32,
        offset: i64,
    ) -> Result<(), ZkError> {
        let path = consumer_offset::path(group, topic, partition);
        let data = consumer_offset::encode(offset);
        self.set_or_create(&path, &data).await
    }

    /// Unconditional; the last writer wins.
    pub(crate) async fn set_or_create(&self, path: &str, data: &[u8]) -> Result<(), ZkError> {
        match self.set(path, data, -1).await {
            Err(ZkError::NoNode { .. }) => {}
            outcome => return outcome.map(|_| ()),
        }
        match self.create_recursive(path, data, CreateKind::Persistent).await {
            Err(ZkError::NodeExists { .. }) => self.set(path, data, -1).await.map(|_| ()),
            outcome => outcome.map(|_| ()),
        }
    }
}
