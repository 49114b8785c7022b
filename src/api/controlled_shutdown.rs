//! ControlledShutdown.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleControlledShutdownRequest).

use crate::api::answer::AnswerTooLong;
use crate::api::{RequestContext, Server};
use crate::controller::active::{Answer, Request};
use crate::model::{BrokerEpoch, BrokerId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::controlled_shutdown::{
    ControlledShutdownRequest, ControlledShutdownResponse, RemainingPartition,
};

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: ControlledShutdownRequest,
) -> Result<ControlledShutdownResponse, AnswerTooLong> {
    let (broker, broker_epoch) = (BrokerId(request.broker_id), BrokerEpoch(request.broker_epoch));
    let refused = |code: ErrorCode| ControlledShutdownResponse { error_code: code.code(), ..Default::default() };
    let asked = Request::ControlledShutdown { broker, broker_epoch };
    let remaining = match server.controller.ask(asked).await {
        Some(Answer::ControlledShutdown(Ok(remaining))) => remaining,
        Some(Answer::ControlledShutdown(Err(refusal))) => return Ok(refused(refusal.into())),
        _ => return Ok(refused(ErrorCode::StaleControllerEpoch)),
    };
    let remaining = remaining
        .into_iter()
        .map(|left| RemainingPartition { topic_name: left.topic.to_string(), partition_index: left.partition });
    Ok(ControlledShutdownResponse { remaining_partitions: context.answer.collect(remaining)?, ..Default::default() })
}
