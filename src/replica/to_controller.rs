//! The way of a broker to the active controller: whoever the metadata says it is, asked one thing at a time.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/NodeToControllerChannelManager.scala.

use std::sync::Arc;
use std::time::Duration;

use log::{debug, info, warn};

use crate::client::connection::{Connection, ConnectionSettings};
use crate::client::error::ClientError;
use crate::config::sections::ControllerConfig;
use crate::metadata::cache::MetadataCache;
use crate::model::BrokerId;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::message::{Request, Wire};

/// Before the controller is asked again, or looked for again.
const RETRY_BACKOFF: Duration = Duration::from_millis(50);

/// What was answered, and in which version.
#[derive(Debug)]
pub struct Answered<R> {
    pub response: R,
    pub version: i16,
}

pub struct ToController {
    metadata: Arc<MetadataCache>,
    listener: String,
    settings: ConnectionSettings,
    connection: Option<(BrokerId, Connection)>,
    /// What was last complained of, so that it is said once.
    complaint: Option<String>,
}

impl ToController {
    pub fn new(broker: BrokerId, metadata: Arc<MetadataCache>, config: &ControllerConfig) -> ToController {
        let control_plane = config.control_plane_listener_name.clone();
        let settings = ConnectionSettings {
            client_id: broker.to_string(),
            request_timeout: Duration::from_millis(config.controller_socket_timeout_ms),
            ..ConnectionSettings::default()
        };
        ToController {
            metadata,
            listener: control_plane.unwrap_or_else(|| config.inter_broker_listener_name.clone()),
            settings,
            connection: None,
            complaint: None,
        }
    }

    /// Asks until a controller answers; `build` makes the request in a version that is at most `at_most`. What a controller
    /// has been sent that is the controller no longer may have been done all the same.
    pub async fn ask<R: Request>(
        &mut self,
        at_most: impl Fn() -> i16,
        build: impl Fn(i16) -> R,
    ) -> Answered<R::Response> {
        loop {
            let Some((controller, address)) = self.controller() else {
                self.connection = None;
                self.wait_for_another(None).await;
                continue;
            };
            let metadata = Arc::clone(&self.metadata);
            // A controller that has been replaced may be silent for long.
            let replaced = is_replaced(&metadata, controller);
            let outcome = tokio::select! {
                outcome = self.attempt(controller, &address, at_most(), &build) => outcome,
                () = replaced => {
                    debug!("broker {controller} is the controller no longer");
                    self.connection = None;
                    continue;
                }
            };
            match outcome {
                Ok(answered) if !denies(&answered.response) => {
                    self.complaint = None;
                    return answered;
                }
                Ok(_) => {
                    debug!("broker {controller} says that it is not the controller");
                    self.connection = None;
                }
                Err(error) => {
                    self.connection = None;
                    self.complain(controller, &error);
                }
            }
            self.wait_for_another(Some(controller)).await;
        }
    }

    /// The controller and where it listens, as far as the metadata knows it.
    fn controller(&self) -> Option<(BrokerId, String)> {
        let image = self.metadata.image();
        let controller = image.controller?;
        let endpoint = image.endpoint(controller, &self.listener)?;
        Some((controller, endpoint.address()))
    }

    async fn attempt<R: Request>(
        &mut self,
        controller: BrokerId,
        address: &str,
        at_most: i16,
        build: &impl Fn(i16) -> R,
    ) -> Result<Answered<R::Response>, ClientError> {
        let connection = match self.connection.take() {
            Some((known, open)) if known == controller && open.address() == address && !open.is_closed() => open,
            _ => {
                let opened = Connection::negotiate(address, &self.settings).await?;
                info!("from now on broker {controller} at {address} is asked as the controller");
                opened
            }
        };
        let version = connection.version_of::<R>(at_most)?;
        let response = connection.send_at(&build(version), version).await?;
        self.connection = Some((controller, connection));
        Ok(Answered { response, version })
    }

    fn complain(&mut self, controller: BrokerId, error: &ClientError) {
        let complaint = error.to_string();
        if self.complaint.as_ref() != Some(&complaint) {
            warn!("broker {controller} cannot be asked as the controller, trying again: {complaint}");
            self.complaint = Some(complaint);
        }
    }

    /// A moment, or less if there is another controller before it is over.
    async fn wait_for_another(&self, than: Option<BrokerId>) {
        let metadata = Arc::clone(&self.metadata);
        let another = async {
            match than {
                Some(than) => is_replaced(&metadata, than).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = another => {}
            () = tokio::time::sleep(RETRY_BACKOFF) => {}
        }
    }
}

/// Returns when the metadata names another controller.
async fn is_replaced(metadata: &MetadataCache, controller: BrokerId) {
    let mut changes = metadata.changes();
    loop {
        changes.mark_unchanged();
        if metadata.image().controller.is_some_and(|now| now != controller) {
            return;
        }
        if changes.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

/// Whether the answer says anywhere that it does not come from the controller.
fn denies(response: &impl Wire) -> bool {
    let mut denies = false;
    response.errors(&mut |code| denies |= ErrorCode::from_code(code) == ErrorCode::NotController);
    denies
}
