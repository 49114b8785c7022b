//! InitProducerId for idempotent producers. There are no transactions: a transactional id is refused.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/TransactionCoordinator.scala.

use std::time::Duration;

use log::{error, warn};
use odradek_zookeeper::znode::producer_id_block::ProducerIdBlock;
use tokio::time::timeout;

use crate::api::{RequestContext, Server};
use crate::model::shown::quoted;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

/// How long a producer waits for the controller; it asks again afterwards, and so do those behind it.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(1);

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
    match server.producer_ids.next(|| take_block(server)).await {
        Ok(producer_id) => InitProducerIdResponse { producer_id, producer_epoch: 0, ..Default::default() },
        Err(why) => {
            error!("taking a block of producer ids failed: {why}");
            // What Kafka answers while it waits for a block; producers ask again.
            refusal(ErrorCode::CoordinatorLoadInProgress)
        }
    }
}

/// Ids that nobody else has: from the controller, or, in older protocols, from ZooKeeper.
async fn take_block(server: &Server) -> Result<ProducerIdBlock, String> {
    let broker = server.broker_id.0;
    if !server.config.load().inter_broker_protocol_version().is_allocate_producer_ids_supported() {
        return server.zookeeper.allocate_producer_id_block(broker).await.map_err(|why| why.to_string());
    }
    let asked = async {
        let mut registered = server.replicas.broker_epoch();
        let epoch = registered.wait_for(Option::is_some).await.ok().and_then(|epoch| *epoch);
        let broker_epoch = epoch.map_or(-1, |epoch| epoch.0);
        let request = |_| AllocateProducerIdsRequest { broker_id: broker, broker_epoch };
        server.to_controller.lock().await.ask(|| 0, request).await.response
    };
    let answer = timeout(CONTROLLER_PATIENCE, asked).await.map_err(|_| "the controller does not answer".to_owned())?;
    let code = ErrorCode::from_code(answer.error_code);
    if code.is_error() {
        return Err(format!("the controller answers {code}"));
    }
    let (first, count) = (answer.producer_id_start, i64::from(answer.producer_id_len));
    let last = first.checked_add(count - 1).filter(|last| (0..=*last).contains(&first));
    let last = last.ok_or_else(|| format!("{count} ids from {first} on are none"))?;
    Ok(ProducerIdBlock { broker, block_start: first, block_end: last })
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
