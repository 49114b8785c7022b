//! AllocateProducerIds. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/controller/KafkaController.scala
//! (processAllocateProducerIds).

use crate::api::{RequestContext, Server};
use crate::controller::active::{AllocationRefusal, Answer, Request};
use crate::model::{BrokerEpoch, BrokerId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::allocate_producer_ids::{AllocateProducerIdsRequest, AllocateProducerIdsResponse};

pub(crate) async fn handle(
    server: &Server,
    _context: &RequestContext,
    request: AllocateProducerIdsRequest,
) -> AllocateProducerIdsResponse {
    let refused = |code: ErrorCode| AllocateProducerIdsResponse { error_code: code.code(), ..Default::default() };
    let (broker, broker_epoch) = (BrokerId(request.broker_id), BrokerEpoch(request.broker_epoch));
    match server.controller.ask(Request::AllocateProducerIds { broker, broker_epoch }).await {
        Some(Answer::ProducerIds(Ok((first, count)))) => {
            AllocateProducerIdsResponse { producer_id_start: first, producer_id_len: count, ..Default::default() }
        }
        Some(Answer::ProducerIds(Err(why))) => refused(match why {
            AllocationRefusal::NotRegistered => ErrorCode::BrokerIdNotRegistered,
            AllocationRefusal::StaleBrokerEpoch => ErrorCode::StaleBrokerEpoch,
            AllocationRefusal::NotWritten => ErrorCode::UnknownServerError,
        }),
        _ => refused(ErrorCode::NotController),
    }
}
