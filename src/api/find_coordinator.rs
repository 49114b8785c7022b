//! FindCoordinator: which broker looks after a group.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala (getCoordinator).

use std::collections::HashSet;

use log::warn;

use crate::api::answer::AnswerTooLong;
use crate::api::create_topics::auto_create;
use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::model::internal_topics::GROUP_METADATA_TOPIC;
use crate::model::shown::quoted;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::find_coordinator::{Coordinator, FindCoordinatorRequest, FindCoordinatorResponse};

const GROUP: i8 = 0;
const TRANSACTION: i8 = 1;
const SHARE: i8 = 2;

struct Node {
    id: i32,
    host: String,
    port: i32,
}

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: FindCoordinatorRequest,
) -> Result<FindCoordinatorResponse, AnswerTooLong> {
    if request.key_type == TRANSACTION {
        // librdkafka asks again until its own timeout, and says no more than that: the log tells why.
        warn!(
            "client {} at {} asks for transactions (transactional.id {}), which are not supported yet",
            quoted(&context.client_id),
            context.client_host(),
            quoted(request.coordinator_keys.first().unwrap_or(&request.key))
        );
    }
    if context.api_version >= 4 {
        let mut coordinators = Vec::new();
        let mut has_created = false;
        let mut seen = HashSet::new();
        for key in &request.coordinator_keys {
            context.pause().await;
            if !seen.insert(key) {
                continue;
            }
            let found = find(server, context, request.key_type, key, &mut has_created).await;
            let (node, error, message) = parts(found);
            let coordinator = Coordinator {
                key: key.clone(),
                node_id: node.id,
                host: node.host,
                port: node.port,
                error_code: error.code(),
                error_message: Some(message.unwrap_or_default()),
            };
            context.answer.push(&mut coordinators, coordinator)?;
        }
        return Ok(FindCoordinatorResponse { coordinators, ..Default::default() });
    }
    let (node, error, message) = parts(find(server, context, request.key_type, &request.key, &mut false).await);
    Ok(FindCoordinatorResponse {
        error_code: error.code(),
        error_message: Some(message.unwrap_or_else(|| error.name().to_owned())),
        node_id: node.id,
        host: node.host,
        port: node.port,
        ..Default::default()
    })
}

fn parts(found: Result<Node, Refusal>) -> (Node, ErrorCode, Option<String>) {
    match found {
        Ok(node) => (node, ErrorCode::None, None),
        Err(refusal) => (Node { id: -1, host: String::new(), port: -1 }, refusal.code, refusal.message),
    }
}

/// The topic of the offsets is created if it is missing, unless this request has done so already.
async fn find(
    server: &Server,
    context: &RequestContext,
    key_type: i8,
    key: &str,
    has_created: &mut bool,
) -> Result<Node, Refusal> {
    match key_type {
        GROUP => {}
        // An error that clients do not retry: their users learn at once, and in words, instead of by a timeout.
        TRANSACTION => {
            let message = "This broker does not support transactions yet.";
            return Err(Refusal::new(ErrorCode::UnsupportedVersion, message));
        }
        SHARE if context.api_version >= 6 => return Err(ErrorCode::CoordinatorNotAvailable.into()),
        _ => return Err(ErrorCode::InvalidRequest.into()),
    }
    let image = server.metadata.image();
    let Some(topic) = image.topic(GROUP_METADATA_TOPIC) else {
        // The client asks again, and finds the topic once it is there.
        if !std::mem::replace(has_created, true) {
            auto_create(server, GROUP_METADATA_TOPIC).await;
        }
        return Err(ErrorCode::CoordinatorNotAvailable.into());
    };
    let leader = topic.partition(server.groups.partition_for(key)).map(|partition| partition.leader);
    let endpoint = leader.and_then(|leader| Some((leader, image.endpoint(leader, context.listener())?)));
    match endpoint {
        Some((leader, endpoint)) => Ok(Node { id: leader.0, host: endpoint.host.clone(), port: endpoint.port }),
        None => Err(ErrorCode::CoordinatorNotAvailable.into()),
    }
}
