//! InitProducerId for idempotent producers. There are no transactions: a transactional id is refused.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/TransactionCoordinator.scala.

use log::{error, warn};

use crate::api::{RequestContext, Server};
use crate::model::shown::quoted;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    if let Err(code) = check(&request) {
        if code == ErrorCode::UnsupportedVersion {
            warn!(
                "client {} at {} asks for transactions (transactional.id {}), which are not supported yet",
                quoted(&context.client_id),
                context.client_host(),
                quoted(request.transactional_id.as_deref().unwrap_or_default())
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
