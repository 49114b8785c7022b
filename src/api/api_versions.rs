//! ApiVersions.
//! Source: kafka 3.9.1 clients/src/main/java/org/apache/kafka/common/requests/ApiVersions{Request,Response}.java.

use crate::api::session::ClientSoftware;
use crate::api::table::SUPPORTED;
use crate::api::{RequestContext, Server};
use crate::metadata::features::supported;
use crate::protocol::api_keys::ApiKey;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::api_versions::{
    ApiVersion, ApiVersionsRequest, ApiVersionsResponse, FinalizedFeatureKey, SupportedFeatureKey,
};

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: ApiVersionsRequest,
) -> ApiVersionsResponse {
    if context.api_version >= 3 {
        let software = ClientSoftware { name: request.client_software_name, version: request.client_software_version };
        if !(is_software_id(&software.name) && is_software_id(&software.version)) {
            return ApiVersionsResponse { error_code: ErrorCode::InvalidRequest.code(), ..Default::default() };
        }
        context.peer.session.set_software(software);
    }
    let supported_features = supported().into_iter().map(|(name, (min_version, max_version))| SupportedFeatureKey {
        name,
        min_version,
        max_version,
    });
    let finalized = server.features.borrow().clone();
    let finalized_features = finalized.levels.into_iter().map(|(name, level)| FinalizedFeatureKey {
        name,
        max_version_level: level,
        min_version_level: level,
    });
    ApiVersionsResponse {
        api_keys: SUPPORTED.iter().map(|key| advertised(*key)).collect(),
        supported_features: supported_features.collect(),
        finalized_features_epoch: finalized.epoch,
        finalized_features: finalized_features.collect(),
        ..Default::default()
    }
}

/// The answer to a version that is not spoken, in the layout of version 0: the versions of this one API.
pub(crate) fn unsupported_version() -> ApiVersionsResponse {
    ApiVersionsResponse {
        error_code: ErrorCode::UnsupportedVersion.code(),
        api_keys: vec![advertised(ApiKey::ApiVersions)],
        ..Default::default()
    }
}

fn advertised(key: ApiKey) -> ApiVersion {
    let versions = key.versions();
    ApiVersion { api_key: key.code(), min_version: *versions.start(), max_version: *versions.end() }
}

/// Letters, digits, `-` and `.`, with a letter or digit at both ends.
fn is_software_id(text: &str) -> bool {
    let is_end = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    is_end(bytes.first())
        && is_end(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.'))
}
