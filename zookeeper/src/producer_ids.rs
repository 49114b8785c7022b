//! Producer ids, taken from the cluster in blocks.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::producer_id_block::{self, ProducerIdBlock};

impl ZooKeeper {
    /// Takes the next block for this broker. A block whose reply was lost may be skipped, never handed out twice.
    pub async fn allocate_producer_id_block(&self, broker_id: i32) -> Result<ProducerIdBlock, ZkError> {
        let path = producer_id_block::PATH;
        loop {
            let current = self.get(path).await?;
            let (latest, version) = match &current {
                None => (None, None),
                Some((data, stat)) => (ProducerIdBlock::decode(data)?, Some(stat.version)),
            };
            let block = ProducerIdBlock::after(latest, broker_id).ok_or_else(|| ZkError::Other {
                path: path.to_owned(),
                reason: "all producer ids have been handed out".to_owned(),
            })?;
            let written = match version {
                None => self.create(path, &block.encode(), CreateKind::Persistent).await.map(|_| ()),
                Some(version) => self.set(path, &block.encode(), version).await.map(|_| ()),
            };
            match written {
                Ok(()) => return Ok(block),
                Err(ZkError::BadVersion { .. } | ZkError::NodeExists { .. } | ZkError::NoNode { .. }) => continue,
                Err(error) => return Err(error),
            }
        }
    }
}
