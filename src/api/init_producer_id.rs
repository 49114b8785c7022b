//! InitProducerId for idempotent producers. There are no transactions: a transactional id is refused.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/ProducerIdManager.scala.

use std::future::Future;

use log::{error, info, warn};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::znode::producer_id_block::ProducerIdBlock;
use tokio::sync::Mutex;

use crate::api::{RequestContext, Server};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

/// The ids that this broker may still hand out, from the block it last took.
#[derive(Debug, Default)]
pub struct ProducerIds {
    /// The next id and the last one of the block, both inclusive.
    block: Mutex<Option<(i64, i64)>>,
}

impl ProducerIds {
    /// An id that nobody else gets. Takes a block when none is left; others wait meanwhile, since they need it too.
    async fn next<F>(&self, take_block: impl FnOnce() -> F) -> Result<i64, ZkError>
    where
        F: Future<Output = Result<ProducerIdBlock, ZkError>>,
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

pub(crate) async fn handle(
    server: &Server,
    context: RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    if let Err(code) = check(&request) {
        if code == ErrorCode::UnsupportedVersion {
            warn!(
                "client {:?} at {} asks for transactions (transactional.id {:?}), which are not supported yet",
                context.client_id,
                context.client_host(),
                request.transactional_id.as_deref().unwrap_or_default()
            );
        }
        return refusal(code);
    }
    let take_block = || server.zookeeper.allocate_producer_id_block(server.broker_id.0);
    match server.producer_ids.next(take_block).await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(why) => {
            error!("taking a block of producer ids from ZooKeeper failed: {why}");
            // What Kafka answers while it waits for a block; producers ask again.
            refusal(ErrorCode::CoordinatorLoadInProgress)
        }
    }
}

/// Kafka's checks, and ours: no transactions.
fn check(request: &InitProducerIdRequest) -> Result<(), ErrorCode> {
    if (request.producer_id == -1) != (request.producer_epoch == -1) {
        return Err(ErrorCode::InvalidRequest);
    }
    match request.transactional_id.as_deref() {
        None => Ok(()),
        Some("") => Err(ErrorCode::InvalidRequest),
        // Fatal to every producer and not to be retried; clients tell the user that the broker cannot do it.
        Some(_) => Err(ErrorCode::UnsupportedVersion),
    }
}

fn refusal(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code: code.code(), producer_id: -1, producer_epoch: -1, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(block_start: i64, block_end: i64) -> Result<ProducerIdBlock, ZkError> {
        Ok(ProducerIdBlock { broker: 1, block_start, block_end })
    }

    #[tokio::test]
    async fn ids_come_from_one_block_until_it_is_used_up() {
        let ids = ProducerIds::default();
        let never = || async { panic!("the block is not used up") };
        assert_eq!(ids.next(|| async { block(1000, 1001) }).await, Ok(1000));
        assert_eq!(ids.next(never).await, Ok(1001));
        assert_eq!(ids.next(|| async { Err(ZkError::SessionExpired) }).await, Err(ZkError::SessionExpired));
        assert_eq!(ids.next(|| async { block(5000, 5999) }).await, Ok(5000));
        assert_eq!(ids.next(never).await, Ok(5001));
    }

    #[test]
    fn only_idempotence_is_offered() {
        let request = |transactional_id: Option<&str>, producer_id, producer_epoch| InitProducerIdRequest {
            transactional_id: transactional_id.map(String::from),
            transaction_timeout_ms: 60_000,
            producer_id,
            producer_epoch,
        };
        assert_eq!(check(&request(None, -1, -1)), Ok(()));
        assert_eq!(check(&request(None, 5, 0)), Ok(()));
        assert_eq!(check(&request(None, 5, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(check(&request(Some(""), -1, -1)), Err(ErrorCode::InvalidRequest));
        assert_eq!(check(&request(Some("t"), -1, -1)), Err(ErrorCode::UnsupportedVersion));
    }
}
