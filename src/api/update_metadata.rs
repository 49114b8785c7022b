//! UpdateMetadata. Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaApis.scala (handleUpdateMetadataRequest).

use crate::api::errors::refused;
use crate::api::{Handled, RequestContext, Server};
use crate::metadata::image::Update;
use crate::model::{BrokerEpoch, ControllerEpoch};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::update_metadata::{UpdateMetadataRequest, UpdateMetadataResponse};
use crate::replica::control::ControlEpochs;

pub(crate) async fn handle(
    server: &Server,
    context: &RequestContext,
    request: UpdateMetadataRequest,
) -> Handled<UpdateMetadataResponse> {
    let epochs = ControlEpochs {
        controller_epoch: ControllerEpoch(request.controller_epoch),
        broker_epoch: BrokerEpoch(request.broker_epoch),
        connection: context.peer.number,
    };
    let error = match server.replicas.update_metadata(epochs, Update::of(request)).await {
        Ok(()) => ErrorCode::None,
        Err(refusal) => {
            let Some(error) = refused(refusal) else { return Handled::Close };
            error
        }
    };
    Handled::Reply(UpdateMetadataResponse { error_code: error.code() })
}
