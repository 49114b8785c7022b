//! Before a broker stops it asks the controller to give what it leads to others: over a connection of its own to the
//! controller's inter-broker listener, some times, and then it stops whatever the answer was.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaServer.scala, controlledShutdown.

use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{debug, info, warn};
use tokio::sync::watch;

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::config::sections::ControllerConfig;
use crate::metadata::cache::MetadataCache;
use crate::model::endpoint::Endpoint;
use crate::model::{BrokerEpoch, BrokerId};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::controlled_shutdown::{ControlledShutdownRequest, ControlledShutdownResponse};

/// What a broker that stops needs to know to ask.
pub(super) struct ControlledShutdown {
    pub(super) broker: BrokerId,
    pub(super) metadata: Arc<MetadataCache>,
    pub(super) registered: watch::Receiver<Option<BrokerEpoch>>,
}

impl ControlledShutdown {
    /// Returns when the broker may stop: it leads nothing that another could lead, or has asked often enough.
    pub(super) async fn run(&self, config: &ControllerConfig) {
        let id = self.broker;
        if !config.controlled_shutdown_enable {
            return;
        }
        if self.metadata.image().brokers.keys().all(|live| *live == id) {
            debug!("[KafkaServer id={id}] there is no other broker to take over what this one leads");
            return;
        }
        info!("[KafkaServer id={id}] Starting controlled shutdown");
        let mut retries = config.controlled_shutdown_max_retries;
        while retries > 0 {
            retries -= 1;
            if self.ask(config).await {
                return;
            }
            if retries > 0 {
                // A setting of the operator: nothing tells when a controller can move what is left.
                tokio::time::sleep(Duration::from_millis(config.controlled_shutdown_retry_backoff_ms)).await;
                info!("[KafkaServer id={id}] Retrying controlled shutdown ({retries} retries remaining)");
            }
        }
        warn!(
            "[KafkaServer id={id}] Proceeding to do an unclean shutdown as all the controlled shutdown attempts failed"
        );
    }

    /// Whether the broker leads nothing any more that others could lead.
    async fn ask(&self, config: &ControllerConfig) -> bool {
        let id = self.broker;
        let Some(endpoint) = self.controller(config) else { return false };
        let asked = Instant::now();
        let answer = self.answer(&endpoint, config).await;
        let after = asked.elapsed().as_millis();
        match answer {
            Err(error) => warn!(
                "[KafkaServer id={id}] Error during controlled shutdown, possibly because leader movement took longer \
                 than the configured controller.socket.timeout.ms and/or request.timeout.ms: {error}"
            ),
            Ok(answer) => {
                let code = ErrorCode::from_code(answer.error_code);
                let remaining = answer.remaining_partitions;
                if code.is_error() {
                    info!(
                        "[KafkaServer id={id}] Controlled shutdown request returned after {after}ms with error {code}"
                    );
                } else if remaining.is_empty() {
                    info!("[KafkaServer id={id}] Controlled shutdown request returned successfully after {after}ms");
                    return true;
                } else {
                    info!(
                        "[KafkaServer id={id}] Controlled shutdown request returned after {after}ms with {} partitions \
                         remaining to move",
                        remaining.len()
                    );
                    let names = remaining.iter().map(|left| format!("{}-{}", left.topic_name, left.partition_index));
                    debug!("Remaining partitions to move during controlled shutdown: {:?}", names.collect::<Vec<_>>());
                }
            }
        }
        false
    }

    /// Where the controller that was last heard of listens for brokers.
    fn controller(&self, config: &ControllerConfig) -> Option<Endpoint> {
        let image = self.metadata.image();
        let Some(controller) = image.controller else {
            info!("[KafkaServer id={}] No zk controller present in the metadata cache", self.broker);
            return None;
        };
        let endpoint = image.endpoint(controller, &config.inter_broker_listener_name);
        if endpoint.is_none() {
            info!(
                "[KafkaServer id={}] Broker registration for controller {controller} is not available in the metadata cache",
                self.broker
            );
        }
        endpoint.cloned()
    }

    async fn answer(
        &self,
        endpoint: &Endpoint,
        config: &ControllerConfig,
    ) -> Result<ControlledShutdownResponse, ClientError> {
        let settings = ConnectionSettings {
            client_id: self.broker.to_string(),
            connect_timeout: Duration::from_millis(config.controller_socket_timeout_ms),
            request_timeout: Duration::from_millis(u64::try_from(config.request_timeout_ms).unwrap_or(30_000)),
            resets: true,
            ..ConnectionSettings::default()
        };
        let connection = Connection::connect(&endpoint.address(), &settings).await?;
        let request = ControlledShutdownRequest {
            broker_id: self.broker.0,
            broker_epoch: self.registered.borrow().map_or(-1, |epoch| epoch.0),
        };
        let version = config.inter_broker_protocol_version.controlled_shutdown_request_version();
        connection.send_at(&request, version).await
    }
}
