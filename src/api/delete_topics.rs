//! DeleteTopics.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/{KafkaApis,ZkAdminManager}.scala.
use std::collections::HashSet;
use std::time::Duration;

use log::info;
use tokio::time::Instant;

use crate::api::{RequestContext, Server};
use crate::model::TopicId;
use crate::model::shown::shown;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_topics::{DeletableTopicResult, DeleteTopicsRequest, DeleteTopicsResponse};

/// What a request names: from version 6 on a topic by name or id.
struct Named {
    name: Option<String>,
    id: TopicId,
}

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DeleteTopicsRequest,
) -> DeleteTopicsResponse {
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(request.timeout_ms).unwrap_or(0));
    let by_name = request.topic_names.into_iter().map(|name| Named { name: Some(name), id: TopicId::ZERO });
    let by_either = request.topics.into_iter().map(|topic| Named { name: topic.name, id: topic.topic_id });
    // A topic that is named twice is answered once.
    let mut seen = HashSet::new();
    let is_new = |named: &Named| seen.insert((named.name.clone(), named.id));
    let topics: Vec<Named> = by_name.chain(by_either).filter(is_new).collect();
    let for_all = if !server.controller.is_active() {
        Some(ErrorCode::NotController)
    } else if !server.config.load().controller_config().delete_topic_enable {
        // Clients before version 3 do not know the code.
        Some(if context.api_version < 3 { ErrorCode::InvalidRequest } else { ErrorCode::TopicDeletionDisabled })
    } else if topics.iter().any(|topic| topic.name.is_some() && !topic.id.is_zero()) {
        Some(ErrorCode::InvalidRequest)
    } else {
        None
    };
    let mut responses = Vec::with_capacity(topics.len());
    for Named { name, id } in topics {
        if context.pause().await {
            break;
        }
        let (name, code) = match for_all {
            Some(code) => (name, code),
            None => {
                let image = server.metadata.image();
                let name = if id.is_zero() { name } else { image.topic_name(id).map(|name| name.to_string()) };
                let code = match &name {
                    None => ErrorCode::UnknownTopicId,
                    Some(name) if image.topic(name).is_none() => ErrorCode::UnknownTopicOrPartition,
                    Some(name) => match server.topics.delete(name).await {
                        Ok(()) => ErrorCode::None,
                        Err(error) => {
                            info!("Error processing delete topic request for topic {}: {error}", shown(name));
                            ErrorCode::from(&error)
                        }
                    },
                };
                (name, code)
            }
        };
        responses.push(DeletableTopicResult { name, topic_id: id, error_code: code.code(), error_message: None });
    }
    for response in responses.iter_mut().filter(|response| response.error_code == ErrorCode::None.code()) {
        let name = response.name.clone().unwrap_or_default();
        let gone =
            async { server.metadata.wait_for(deadline, |image| image.topic(&name).is_none().then_some(())).await };
        if request.timeout_ms <= 0 || context.while_connected(gone).await.is_none() {
            response.error_code = ErrorCode::RequestTimedOut.code();
        }
    }
    DeleteTopicsResponse { responses, ..Default::default() }
}
