//! UpdateMetadata. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleUpdateMetadataRequest).

use crate::api::errors::code;
use crate::api::{RequestContext, Server};
use crate::metadata::image::Update;
use crate::model::{BrokerEpoch, ControllerEpoch};
use crate::protocol::messages::update_metadata::{UpdateMetadataRequest, UpdateMetadataResponse};
use crate::replica::control::ControlEpochs;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: UpdateMetadataRequest,
) -> UpdateMetadataResponse {
    let epochs = ControlEpochs {
        controller_epoch: ControllerEpoch(request.controller_epoch),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        connection: context.peer.number,
    };
    let outcome = server.replicas.update_metadata(epochs, Update::of(request)).await;
    UpdateMetadataResponse { error_code: code(outcome).code() }
}
