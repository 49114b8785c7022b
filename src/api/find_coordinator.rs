//! FindCoordinator: which broker looks after a group, or a transactional id.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala (getCoordinator).

use std::collections::HashSet;

use crate::api::answer::AnswerTooLong;
use crate::api::create_topics::auto_create;
use crate::api::errors::Refusal;
use crate::api::{RequestContext, Server};
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
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
    let standard = if error.is_error() { error.message() } else { error.name() };
    Ok(FindCoordinatorResponse {
        error_code: error.code(),
        error_message: Some(message.unwrap_or_else(|| standard.to_owned())),
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

/// The topic behind it is created if it is missing, unless this request has done so already.
async fn find(
    server: &Server,
    context: &RequestContext,
    key_type: i8,
    key: &str,
    has_created: &mut bool,
) -> Result<Node, Refusal> {
    let (name, partition) = match key_type {
        GROUP => (GROUP_METADATA_TOPIC, server.groups.partition_for(key)),
        TRANSACTION => (TRANSACTION_STATE_TOPIC, server.transactions.partition_for(key)),
        SHARE if context.api_version >= 6 => return Err(ErrorCode::CoordinatorNotAvailable.into()),
        _ => return Err(ErrorCode::InvalidRequest.into()),
    };
    let image = server.metadata.image();
    let Some(topic) = image.topic(name) else {
        // The client asks again, and finds the topic once it is there.
        if !std::mem::replace(has_created, true) {
            auto_create(server, name).await;
        }
        return Err(ErrorCode::CoordinatorNotAvailable.into());
    };
    let leader = topic.partition(partition).map(|partition| partition.leader);
    let endpoint = leader.and_then(|leader| Some((leader, image.endpoint(leader, context.listener())?)));
    match endpoint {
        Some((leader, endpoint)) => Ok(Node { id: leader.0, host: endpoint.host.clone(), port: endpoint.port }),
        None => Err(ErrorCode::CoordinatorNotAvailable.into()),
    }
}
