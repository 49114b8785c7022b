//! InitProducerId, for idempotent producers and, under a transactional id, for those of transactions.
//! Source: kafka 3.9 core/src/main/scala/kafka/coordinator/transaction/TransactionCoordinator.scala.

use std::time::Duration;

use log::error;
use odradek_zookeeper::znode::producer_id_block::ProducerIdBlock;
use tokio::time::timeout;

use crate::api::transactions::{code_of, producer};
use crate::api::{RequestContext, Server};
use crate::model::ProducerId;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::allocate_producer_ids::AllocateProducerIdsRequest;
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};

/// How long a producer waits for the controller; it asks again afterwards, and so do those behind it.
const CONTROLLER_PATIENCE: Duration = Duration::from_secs(1);

/// Clients before it know a fenced producer by an older code.
const FIRST_WITH_PRODUCER_FENCED: i16 = 4;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: InitProducerIdRequest,
) -> InitProducerIdResponse {
    let expected = match (request.producer_id, request.producer_epoch) {
        (-1, -1) => None,
        (-1, _) | (_, -1) => return refusal(ErrorCode::InvalidRequest),
        (id, epoch) => Some(producer(id, epoch)),
    };
    let Some(transactional_id) = request.transactional_id.as_deref() else {
        return match next_id(server).await {
            Some(id) => InitProducerIdResponse { producer_id: id.0, producer_epoch: 0, ..Default::default() },
            None => refusal(ErrorCode::CoordinatorLoadInProgress),
        };
    };
    let timeout_ms = request.transaction_timeout_ms;
    let transactions = &server.transactions;
    match transactions.init_producer_id(transactional_id, timeout_ms, expected, || next_id(server)).await {
        Ok(producer) => InitProducerIdResponse {
            producer_id: producer.id.0,
            producer_epoch: producer.epoch.0,
            ..Default::default()
        },
        Err(error) => refusal(code_of(Err(error), context.api_version >= FIRST_WITH_PRODUCER_FENCED)),
    }
}

/// `None` while there is none to be had; Kafka answers so while it waits for a block, and producers ask again.
pub(super) async fn next_id(server: &Server) -> Option<ProducerId> {
    let taken = server.producer_ids.next(|| take_block(server)).await;
    taken.inspect_err(|why| error!("taking a block of producer ids failed: {why}")).ok().map(ProducerId)
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
        server.to_controller.lock().await.ask(|| 0, request, |response| response.error_code).await.response
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

fn refusal(code: ErrorCode) -> InitProducerIdResponse {
    InitProducerIdResponse { error_code: code.code(), producer_id: -1, producer_epoch: -1, ..Default::default() }
}
