//! Producer ids: each is handed out once in the cluster, because each broker takes them by the block.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/ProducerIdManager.scala.

use std::future::Future;

use log::info;
use odradek_zookeeper::znode::producer_id_block::ProducerIdBlock;
use tokio::sync::Mutex;

/// The ids that this broker may still hand out, from the block it last took.
#[derive(Debug, Default)]
pub struct ProducerIds {
    /// The next id and the last one of the block, both inclusive.
    block: Mutex<Option<(i64, i64)>>,
}

impl ProducerIds {
    /// An id that nobody else gets. Takes a block when none is left; others wait meanwhile, since they need it too.
    pub(crate) async fn next<F, E>(&self, take_block: impl FnOnce() -> F) -> Result<i64, E>
    where
        F: Future<Output = Result<ProducerIdBlock, E>>,
    {
        let mut block = self.block.lock().await;
        let (next, last) = match *block {
            Some((next, last)) if next <= last => (next, last),
            _ => {
                let taken = take_block().await?;
                info!("took producer ids {} to {}", taken.block_start, taken.block_end);
                (taken.block_start, taken.block_end)
            }
        };
        *block = Some((next + 1, last));
        Ok(next)
    }
}

#[cfg(test)]
mod tests {
    use odradek_zookeeper::error::ZkError;

    use super::*;

    fn block(block_start: i64, block_end: i64) -> Result<ProducerIdBlock, ZkError> {
        Ok(ProducerIdBlock { broker: 1, block_start, block_end })
    }

    #[tokio::test]
    async fn ids_come_from_one_block_until_it_is_used_up() {
        let ids = ProducerIds::default();
        let never = || async { panic!("the block is not used up") };
        assert_eq!(ids.next(|| async { block(1000, 1001) }).await, Ok(1000));
        assert_eq!(ids.next(never).await, Ok::<_, ZkError>(1001));
        assert_eq!(ids.next(|| async { Err(ZkError::SessionExpired) }).await, Err(ZkError::SessionExpired));
        assert_eq!(ids.next(|| async { block(5000, 5999) }).await, Ok(5000));
        assert_eq!(ids.next(never).await, Ok::<_, ZkError>(5001));
    }
}
