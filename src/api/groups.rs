//! Membership of consumer groups, and what operators ask about groups.
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, GroupCoordinatorAdapter.scala.

use std::collections::HashSet;
use std::sync::Arc;

use bytes::Bytes;

use crate::api::answer::AnswerTooLong;
use crate::api::{RequestContext, Server};
use crate::coordinator::group::error::GroupError;
use crate::coordinator::group::requests::{Caller, Join, JoinAnswer, Leaving, Protocol, Sync};
use crate::coordinator::group::state::{GroupDescription, GroupState};
use crate::model::GenerationId;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::delete_groups::{DeletableGroupResult, DeleteGroupsRequest, DeleteGroupsResponse};
use crate::protocol::messages::describe_groups::{
    DescribeGroupsRequest, DescribeGroupsResponse, DescribedGroup, DescribedGroupMember,
};
use crate::protocol::messages::heartbeat::{HeartbeatRequest, HeartbeatResponse};
use crate::protocol::messages::join_group::{JoinGroupRequest, JoinGroupResponse, JoinGroupResponseMember};
use crate::protocol::messages::leave_group::{LeaveGroupRequest, LeaveGroupResponse, MemberResponse};
use crate::protocol::messages::list_groups::{ListGroupsRequest, ListGroupsResponse, ListedGroup};
use crate::protocol::messages::sync_group::{SyncGroupRequest, SyncGroupResponse};

/// All that may be done to a group (read, delete, describe), as bits of `AclOperation` codes: what everybody may do
/// while nothing is authorized. Source: kafka 3.9 AclEntry.java (supportedOperations).
const ALL_GROUP_OPERATIONS: i32 = 1 << 3 | 1 << 6 | 1 << 8;
const OPERATIONS_OMITTED: i32 = i32::MIN;

pub(crate) fn code_of<T>(result: &Result<T, GroupError>) -> i16 {
    result.as_ref().err().map_or(0, |error| ErrorCode::from(*error).code())
}

/// An older broker of the cluster would load a static member as a dynamic one, so they wait for all to be upgraded.
pub(super) fn is_static_member_refused(server: &Server, group_instance_id: Option<&str>) -> bool {
    let protocol_version = server.groups.settings().inter_broker_protocol_version;
    group_instance_id.is_some() && !protocol_version.is_static_membership_supported()
}

fn shared(text: Option<String>) -> Option<Arc<str>> {
    text.map(Arc::from)
}

fn owned(text: &Option<Arc<str>>) -> Option<String> {
    text.as_deref().map(str::to_owned)
}

pub(crate) async fn join(server: &Server, context: &RequestContext, request: JoinGroupRequest) -> JoinGroupResponse {
    let version = context.api_version;
    if is_static_member_refused(server, request.group_instance_id.as_deref()) {
        return join_response(
            version,
            JoinAnswer::refused(Arc::from(""), GroupError::UnknownServerError),
            |response| {
                response.error_code = ErrorCode::UnsupportedVersion.code();
            },
        );
    }
    // Kafka names a member after its instance or its client, so that people can tell members apart.
    let named_after = request.group_instance_id.as_deref().unwrap_or(&context.client_id);
    let new_member_id = if request.member_id.is_empty() {
        Arc::from(format!("{named_after}-{}", random_uuid()))
    } else {
        Arc::from("")
    };
    // The request's buffer is larger than what is kept of it, and a member may live for months.
    let protocols = request.protocols.into_iter().map(|protocol| Protocol {
        name: Arc::from(protocol.name),
        metadata: Bytes::copy_from_slice(&protocol.metadata),
    });
    let join = Join {
        require_known_member_id: version >= 4 && request.group_instance_id.is_none(),
        can_skip_assignment: version >= 9,
        rebalance_timeout_ms: if version == 0 { request.session_timeout_ms } else { request.rebalance_timeout_ms },
        protocols: protocols.collect(),
        member_id: Arc::from(request.member_id),
        new_member_id,
        group_instance_id: shared(request.group_instance_id),
        client_host: Arc::from(context.client_host()),
        client_id: Arc::from(&*context.client_id),
        session_timeout_ms: request.session_timeout_ms,
        protocol_type: Arc::from(request.protocol_type),
        reason: shared(request.reason.filter(|reason| !reason.is_empty())),
    };
    join_response(version, server.groups.join(&request.group_id, join).await, |_| {})
}

fn join_response(version: i16, answer: JoinAnswer, adjust: impl FnOnce(&mut JoinGroupResponse)) -> JoinGroupResponse {
    let members = answer.members.iter().map(|member| JoinGroupResponseMember {
        member_id: member.member_id.to_string(),
        group_instance_id: owned(&member.group_instance_id),
        metadata: member.metadata.clone(),
    });
    let mut response = JoinGroupResponse {
        error_code: answer.error.map_or(0, |error| ErrorCode::from(error).code()),
        generation_id: answer.generation_id.0,
        protocol_type: owned(&answer.protocol_type),
        // Without a name: null where the version knows null, else empty.
        protocol_name: owned(&answer.protocol_name).or_else(|| (version < 7).then(String::new)),
        leader: owned(&answer.leader).unwrap_or_default(),
        skip_assignment: answer.skip_assignment,
        member_id: answer.member_id.to_string(),
        members: members.collect(),
        ..Default::default()
    };
    adjust(&mut response);
    response
}

/// A random UUID of version 4, in its usual text form.
fn random_uuid() -> String {
    let mut bits = u128::from_be_bytes(rand::random());
    bits = bits & !(0xf << 76) | 0x4 << 76;
    bits = bits & !(0x3 << 62) | 0x2 << 62;
    let hex = format!("{bits:032x}");
    format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
}

pub(crate) async fn sync(server: &Server, context: &RequestContext, request: SyncGroupRequest) -> SyncGroupResponse {
    let refused = |error: ErrorCode| SyncGroupResponse { error_code: error.code(), ..Default::default() };
    if is_static_member_refused(server, request.group_instance_id.as_deref()) {
        return refused(ErrorCode::UnsupportedVersion);
    }
    if context.api_version >= 5 && (request.protocol_type.is_none() || request.protocol_name.is_none()) {
        return refused(ErrorCode::InconsistentGroupProtocol);
    }
    let sync = Sync {
        caller: Caller {
            member_id: Arc::from(request.member_id),
            group_instance_id: shared(request.group_instance_id),
            generation_id: GenerationId(request.generation_id),
        },
        protocol_type: shared(request.protocol_type),
        protocol_name: shared(request.protocol_name),
        assignments: request
            .assignments
            .into_iter()
            .map(|assigned| (Arc::from(assigned.member_id), Bytes::copy_from_slice(&assigned.assignment)))
            .collect(),
    };
    match server.groups.sync(&request.group_id, sync).await {
        Ok(synced) => SyncGroupResponse {
            protocol_type: owned(&synced.protocol_type),
            protocol_name: owned(&synced.protocol_name),
            assignment: synced.assignment,
            ..Default::default()
        },
        Err(error) => refused(ErrorCode::from(error)),
    }
}

pub(crate) async fn heartbeat(server: &Server, _: &RequestContext, request: HeartbeatRequest) -> HeartbeatResponse {
    let error_code = if is_static_member_refused(server, request.group_instance_id.as_deref()) {
        ErrorCode::UnsupportedVersion.code()
    } else {
        let caller = Caller {
            member_id: Arc::from(request.member_id),
            group_instance_id: shared(request.group_instance_id),
            generation_id: GenerationId(request.generation_id),
        };
        code_of(&server.groups.heartbeat(&request.group_id, &caller))
    };
    HeartbeatResponse { error_code, ..Default::default() }
}

pub(crate) async fn leave(server: &Server, context: &RequestContext, request: LeaveGroupRequest) -> LeaveGroupResponse {
    let leaving: Vec<Leaving> = if context.api_version < 3 {
        vec![Leaving { member_id: Arc::from(request.member_id), group_instance_id: None, reason: None }]
    } else {
        let members = request.members.into_iter().map(|member| Leaving {
            member_id: Arc::from(member.member_id),
            group_instance_id: shared(member.group_instance_id),
            reason: shared(member.reason),
        });
        members.collect()
    };
    match server.groups.leave(&request.group_id, &leaving) {
        Err(error) => LeaveGroupResponse { error_code: ErrorCode::from(error).code(), ..Default::default() },
        // Before version 3 one member leaves, and its error is that of the request.
        Ok(answers) if context.api_version < 3 => {
            LeaveGroupResponse { error_code: answers.first().map_or(0, code_of), ..Default::default() }
        }
        Ok(answers) => LeaveGroupResponse {
            members: leaving
                .iter()
                .zip(&answers)
                .map(|(member, answer)| MemberResponse {
                    member_id: member.member_id.to_string(),
                    group_instance_id: owned(&member.group_instance_id),
                    error_code: code_of(answer),
                })
                .collect(),
            ..Default::default()
        },
    }
}

pub(crate) async fn describe(
    server: &Server,
    context: &RequestContext,
    request: DescribeGroupsRequest,
) -> Result<DescribeGroupsResponse, AnswerTooLong> {
    let with_operations = context.api_version >= 3 && request.include_authorized_operations;
    let mut groups = Vec::new();
    let mut seen = HashSet::new();
    for group_id in request.groups {
        context.pause().await;
        if !seen.insert(group_id.clone()) {
            continue;
        }
        let authorized_operations = if with_operations { ALL_GROUP_OPERATIONS } else { OPERATIONS_OMITTED };
        let group = match server.groups.describe(&group_id) {
            Ok(Some(description)) => DescribedGroup { authorized_operations, ..described(group_id, description) },
            Ok(None) => DescribedGroup {
                group_id,
                group_state: GroupState::Dead.name().to_owned(),
                authorized_operations,
                ..Default::default()
            },
            Err(error) => DescribedGroup { group_id, error_code: ErrorCode::from(error).code(), ..Default::default() },
        };
        context.answer.push(&mut groups, group)?;
    }
    Ok(DescribeGroupsResponse { groups, ..Default::default() })
}

fn described(group_id: String, description: GroupDescription) -> DescribedGroup {
    let members = description.members.into_iter().map(|member| DescribedGroupMember {
        member_id: member.member_id.to_string(),
        group_instance_id: owned(&member.group_instance_id),
        client_id: member.client_id.to_string(),
        client_host: member.client_host.to_string(),
        member_metadata: member.metadata,
        member_assignment: member.assignment,
    });
    DescribedGroup {
        group_id,
        group_state: description.state.name().to_owned(),
        protocol_type: description.protocol_type.to_string(),
        protocol_data: description.protocol_name.to_string(),
        members: members.collect(),
        ..Default::default()
    }
}

pub(crate) async fn list(
    server: &Server,
    context: &RequestContext,
    request: ListGroupsRequest,
) -> Result<ListGroupsResponse, AnswerTooLong> {
    /// The type of every group here, as KIP-848 calls it.
    const CLASSIC: &str = "classic";
    let lowercase = |filter: Vec<String>| filter.iter().map(|name| name.to_lowercase()).collect::<HashSet<_>>();
    let (states, types) = (lowercase(request.states_filter), lowercase(request.types_filter));
    let accepts = |filter: &HashSet<String>, value: &str| filter.is_empty() || filter.contains(&value.to_lowercase());
    let mut groups = Vec::new();
    // Strangers make as many groups as there is memory for, and a small request asks for all of them.
    let listed = server.long_work.run_now(true, || {
        server.groups.list(|group| {
            if !accepts(&states, group.state.name()) || !accepts(&types, CLASSIC) {
                return Ok(());
            }
            let listed = ListedGroup {
                group_id: group.group_id.to_owned(),
                protocol_type: group.protocol_type.to_owned(),
                group_state: group.state.name().to_owned(),
                group_type: CLASSIC.to_owned(),
            };
            context.answer.push(&mut groups, listed)
        })
    });
    let error_code = match listed {
        Ok(is_loading) if is_loading? => ErrorCode::CoordinatorLoadInProgress.code(),
        Ok(_) => 0,
        Err(error) => ErrorCode::from(error).code(),
    };
    Ok(ListGroupsResponse { error_code, groups, ..Default::default() })
}

pub(crate) async fn delete(
    server: &Server,
    context: &RequestContext,
    request: DeleteGroupsRequest,
) -> DeleteGroupsResponse {
    let mut seen = HashSet::new();
    let mut results = Vec::new();
    for group_id in request.groups_names {
        context.pause().await;
        if seen.insert(group_id.clone()) {
            let error_code = code_of(&server.groups.delete(&group_id));
            results.push(DeletableGroupResult { group_id, error_code });
        }
    }
    DeleteGroupsResponse { results, ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_ids_end_in_a_uuid_of_version_4() {
        let uuid = random_uuid();
        assert_eq!(uuid.len(), 36);
        assert_eq!(&uuid[14..15], "4");
        assert!(matches!(&uuid[19..20], "8" | "9" | "a" | "b"), "{uuid}");
        assert_ne!(random_uuid(), uuid);
    }
}
