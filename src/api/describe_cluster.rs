//! DescribeCluster. Source: kafka 3.9 core/src/main/scala/kafka/server/AuthHelper.scala, computeDescribeClusterResponse.

use crate::api::{RequestContext, Server};
use crate::metadata::image::Image;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_cluster::{
    DescribeClusterBroker, DescribeClusterRequest, DescribeClusterResponse,
};

const BROKERS: i8 = 1;
const CONTROLLERS: i8 = 2;

/// What a client may do with the cluster where nothing is forbidden: the bits of create, alter, describe, cluster
/// action, describe configs, alter configs and idempotent write.
const ALL_CLUSTER_OPERATIONS: i32 = 1 << 5 | 1 << 7 | 1 << 8 | 1 << 9 | 1 << 10 | 1 << 11 | 1 << 12;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: DescribeClusterRequest,
) -> DescribeClusterResponse {
    if request.endpoint_type != BROKERS {
        return refusal(request.endpoint_type, context.api_version > 0);
    }
    let operations = if request.include_cluster_authorized_operations { ALL_CLUSTER_OPERATIONS } else { i32::MIN };
    describe(&server.metadata.image(), context.listener(), &server.cluster_id, operations)
}

/// `has_own_codes`: the version is new enough for the codes that tell the two cases apart.
fn refusal(endpoint_type: i8, has_own_codes: bool) -> DescribeClusterResponse {
    let (code, message) = match endpoint_type {
        CONTROLLERS => (
            ErrorCode::MismatchedEndpointType,
            "The request was sent to an endpoint of type BROKER, but we wanted an endpoint of type CONTROLLER"
                .to_string(),
        ),
        unknown => (ErrorCode::UnsupportedEndpointType, format!("Unsupported endpoint type {unknown}")),
    };
    let code = if has_own_codes { code } else { ErrorCode::InvalidRequest };
    DescribeClusterResponse { error_code: code.code(), error_message: Some(message), ..Default::default() }
}

fn describe(image: &Image, listener: &str, cluster_id: &str, operations: i32) -> DescribeClusterResponse {
    let brokers: Vec<DescribeClusterBroker> = image
        .brokers
        .values()
        .filter_map(|broker| {
            let endpoint = broker.endpoint(listener)?;
            Some(DescribeClusterBroker {
                broker_id: broker.id.0,
                host: endpoint.host.clone(),
                port: endpoint.port,
                rack: broker.rack.clone(),
            })
        })
        .collect();
    let controller_id = image.controller.map_or(-1, |controller| controller.0);
    let is_listed = brokers.iter().any(|broker| broker.broker_id == controller_id);
    DescribeClusterResponse {
        cluster_id: cluster_id.to_string(),
        // A controller that is not among the brokers would only confuse the client.
        controller_id: if is_listed { controller_id } else { -1 },
        brokers,
        cluster_authorized_operations: operations,
        endpoint_type: BROKERS,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::Update;
    use crate::metadata::image::tests::update;
    use crate::model::BrokerId;

    #[test]
    fn brokers_are_told_with_the_endpoint_of_the_clients_listener() {
        let (image, _) = Image::default().with(update(Vec::new()));
        let response = describe(&image, "INTERNAL", "abc", 7);
        let ports: Vec<(i32, i32)> = response.brokers.iter().map(|broker| (broker.broker_id, broker.port)).collect();
        assert_eq!(ports, [(1, 9093), (2, 9093)]);
        assert_eq!((response.controller_id, response.cluster_authorized_operations), (1, 7));
        assert_eq!(response.cluster_id, "abc");
        assert_eq!(describe(&image, "ELSEWHERE", "abc", 7).controller_id, -1);
    }

    #[test]
    fn a_controller_that_is_no_live_broker_is_none() {
        let gone = Update { controller: BrokerId(9), ..update(Vec::new()) };
        let (image, _) = Image::default().with(gone);
        assert_eq!(describe(&image, "INTERNAL", "abc", 7).controller_id, -1);
    }

    #[test]
    fn controllers_cannot_be_described_here() {
        assert_eq!(refusal(2, true).error_code, ErrorCode::MismatchedEndpointType.code());
        assert_eq!(refusal(3, true).error_message.as_deref(), Some("Unsupported endpoint type 3"));
        assert_eq!(refusal(3, false).error_code, ErrorCode::InvalidRequest.code());
    }
}
