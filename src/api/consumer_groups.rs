//! Groups of the protocol of KIP-848: a 3.9 broker on ZooKeeper advertises their APIs and refuses what is asked, so that
//! clients fall back on the classic protocol or say why they cannot.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaApis.scala, handleConsumerGroupHeartbeat and
//! handleConsumerGroupDescribe without the protocol.

use crate::api::answer::AnswerTooLong;
use crate::api::refusals::Refusing;
use crate::api::{Handled, RequestContext, Server};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::consumer_group_describe::{
    ConsumerGroupDescribeRequest, ConsumerGroupDescribeResponse, DescribedGroup,
};
use crate::protocol::messages::consumer_group_heartbeat::ConsumerGroupHeartbeatRequest;
use crate::protocol::messages::consumer_group_heartbeat::response::ConsumerGroupHeartbeatResponse;

impl Refusing for ConsumerGroupHeartbeatResponse {
    type Request = ConsumerGroupHeartbeatRequest;

    fn refused(_request: ConsumerGroupHeartbeatRequest, _version: i16, code: ErrorCode, _text: &str) -> Handled<Self> {
        ConsumerGroupHeartbeatResponse { error_code: code.code(), ..Default::default() }.into()
    }
}

pub(crate) async fn heartbeat(
    _server: &Server,
    context: &RequestContext,
    request: ConsumerGroupHeartbeatRequest,
) -> Handled<ConsumerGroupHeartbeatResponse> {
    ConsumerGroupHeartbeatResponse::refused(request, context.api_version, ErrorCode::UnsupportedVersion, "")
}

pub(crate) async fn describe(
    _server: &Server,
    context: &RequestContext,
    request: ConsumerGroupDescribeRequest,
) -> Result<ConsumerGroupDescribeResponse, AnswerTooLong> {
    let error_code = ErrorCode::UnsupportedVersion.code();
    let mut groups = Vec::new();
    for group_id in request.group_ids {
        context.pause().await;
        context.answer.push(&mut groups, DescribedGroup { error_code, group_id, ..Default::default() })?;
    }
    Ok(ConsumerGroupDescribeResponse { groups, ..Default::default() })
}
