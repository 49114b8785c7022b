//! DescribeAcls, CreateAcls and DeleteAcls on a broker without an authorizer, which is the only kind there is so far.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/AclApis.scala;
//! clients/src/main/java/org/apache/kafka/common/requests/{Describe,Create,Delete}AclsRequest.java.

use crate::api::{Handled, Outcome, RequestContext, Server};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::create_acls::{AclCreationResult, CreateAclsRequest, CreateAclsResponse};
use crate::protocol::messages::delete_acls::{DeleteAclsFilterResult, DeleteAclsRequest, DeleteAclsResponse};
use crate::protocol::messages::describe_acls::{DescribeAclsRequest, DescribeAclsResponse};

/// The number of UNKNOWN among the types of resources, patterns, operations and permissions: no client sends it, and
/// Kafka does not read a request that has one.
const UNKNOWN: i8 = 0;

pub(crate) async fn describe(
    _server: &Server,
    _context: &RequestContext,
    request: DescribeAclsRequest,
) -> Handled<DescribeAclsResponse> {
    let types = [request.resource_type_filter, request.pattern_type_filter, request.operation, request.permission_type];
    if types.contains(&UNKNOWN) {
        return Handled::Close;
    }
    Handled::Reply(DescribeAclsResponse {
        error_code: ErrorCode::SecurityDisabled.code(),
        error_message: Some("No Authorizer is configured on the broker".to_owned()),
        ..Default::default()
    })
}

/// What each access right of a request to change them is answered.
fn refusal() -> (i16, Option<String>) {
    (ErrorCode::SecurityDisabled.code(), Some("No Authorizer is configured.".to_owned()))
}

pub(crate) async fn create(
    _server: &Server,
    context: &RequestContext,
    request: CreateAclsRequest,
) -> Handled<CreateAclsResponse> {
    let is_unknown = request.creations.iter().any(|asked| {
        [asked.resource_type, asked.resource_pattern_type, asked.operation, asked.permission_type].contains(&UNKNOWN)
    });
    if is_unknown {
        return Handled::Close;
    }
    let results = request.creations.iter().map(|_| {
        let (error_code, error_message) = refusal();
        AclCreationResult { error_code, error_message }
    });
    context.answer.collect(results).map(|results| CreateAclsResponse { results, ..Default::default() }).handled()
}

pub(crate) async fn delete(
    _server: &Server,
    context: &RequestContext,
    request: DeleteAclsRequest,
) -> Handled<DeleteAclsResponse> {
    let is_unknown = request.filters.iter().any(|asked| {
        [asked.resource_type_filter, asked.pattern_type_filter, asked.operation, asked.permission_type]
            .contains(&UNKNOWN)
    });
    if is_unknown {
        return Handled::Close;
    }
    let filter_results = request.filters.iter().map(|_| {
        let (error_code, error_message) = refusal();
        DeleteAclsFilterResult { error_code, error_message, matching_acls: Vec::new() }
    });
    context
        .answer
        .collect(filter_results)
        .map(|filter_results| DeleteAclsResponse { filter_results, ..Default::default() })
        .handled()
}
