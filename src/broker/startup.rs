//! The start of a broker, top to bottom: the order is Kafka's, so that whatever another broker or tool can see of it
//! appears in the order that they expect. Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaServer.scala.

use std::collections::HashMap;
use std::fmt;
use std::net::ToSocketAddrs;
use std::sync::Arc;
use std::time::Duration;

use log::info;
use odradek_zookeeper::session::{Settings, ZooKeeper};

use crate::config::kafka_config::KafkaConfig;
use crate::config::sections::{SocketConfig, ZooKeeperConfig};
use crate::network::connection::ConnectionBounds;
use crate::network::limits::ConnectionLimits;
use crate::network::listener::{BoundListener, ListenerSettings};

/// Why a broker does not start: what was being done, and what went wrong.
#[derive(Debug)]
pub struct StartError(pub String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

pub(crate) trait Doing<T> {
    /// Says what was being done when it went wrong.
    fn doing(self, what: impl fmt::Display) -> Result<T, StartError>;
}

impl<T, E: fmt::Display> Doing<T> for Result<T, E> {
    fn doing(self, what: impl fmt::Display) -> Result<T, StartError> {
        self.map_err(|why| StartError(format!("{what}: {why}")))
    }
}

fn zookeeper_settings(config: &ZooKeeperConfig) -> Result<Settings, StartError> {
    let mut settings = Settings::new(&config.connect);
    settings.session_timeout = Duration::from_millis(u64::from(config.session_timeout_ms));
    settings.connection_timeout = Duration::from_millis(u64::from(config.connection_timeout_ms));
    settings.max_in_flight_requests = config.max_in_flight_requests;
    settings.set_acl = config.set_acl;
    Ok(settings)
}

fn connection_bounds(config: &SocketConfig) -> ConnectionBounds {
    ConnectionBounds {
        request_max_bytes: config.socket_request_max_bytes,
        max_idle: config.connections_max_idle_ms.map(Duration::from_millis),
        window_requests: config.queued_max_requests,
        window_bytes: config.queued_max_request_bytes.unwrap_or(config.socket_request_max_bytes),
    }
}

fn connection_limits(config: &SocketConfig) -> Result<ConnectionLimits, StartError> {
    let mut overrides = HashMap::new();
    for (host, limit) in &config.max_connections_per_ip_overrides {
        let addresses = (host.as_str(), 0)
            .to_socket_addrs()
            .doing(format_args!("resolve {host} of max.connections.per.ip.overrides"))?;
        overrides.extend(addresses.map(|address| (address.ip().to_canonical(), *limit)));
    }
    Ok(ConnectionLimits {
        max_connections: config.max_connections,
        max_connections_per_ip: config.max_connections_per_ip,
        max_connections_per_ip_overrides: overrides,
        max_connection_creation_rate: u32::try_from(config.max_connection_creation_rate).unwrap_or(u32::MAX),
    })
}

fn bind(config: &SocketConfig) -> Result<Vec<BoundListener>, StartError> {
    let mut bound = Vec::with_capacity(config.listeners.len());
    for endpoint in &config.listeners {
        let settings = ListenerSettings {
            name: endpoint.listener_name.clone(),
            host: endpoint.host.clone().unwrap_or_default(),
            port: endpoint.port,
            backlog: i32::try_from(config.socket_listen_backlog_size).unwrap_or(i32::MAX),
            send_buffer_bytes: config.socket_send_buffer_bytes,
            receive_buffer_bytes: config.socket_receive_buffer_bytes,
        };
        let listener = BoundListener::bind(settings).map_err(|why| StartError(why.to_string()))?;
        info!("Awaiting socket connections on {}:{}.", endpoint.host.as_deref().unwrap_or("0.0.0.0"), endpoint.port);
        bound.push(listener);
    }
    Ok(bound)
}
