//! A tool's session with ZooKeeper.

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::settings::Settings;

use crate::cli::options::Stop;

impl From<ZkError> for Stop {
    fn from(error: ZkError) -> Stop {
        Stop::Failed(error.to_string())
    }
}

/// A session of a tool, under the chroot of the connection string.
pub(crate) async fn connect(hosts: &str) -> Result<ZooKeeper, Stop> {
    let mut settings = Settings::new(hosts);
    // What 2.8's tools allow.
    settings.session_timeout = std::time::Duration::from_secs(30);
    settings.connection_timeout = std::time::Duration::from_secs(30);
    Ok(ZooKeeper::connect(settings).await?)
}

/// Where the registered brokers listen without encryption.
pub(crate) async fn broker_addresses(hosts: &str) -> Result<Vec<String>, Stop> {
    let zookeeper = connect(hosts).await?;
    let brokers = zookeeper.brokers().await;
    zookeeper.close().await;
    let addresses: Vec<String> = brokers?
        .iter()
        .flat_map(|registered| registered.broker.endpoints.iter().find(|e| e.security_protocol == "PLAINTEXT"))
        .map(|endpoint| format!("{}:{}", endpoint.host, endpoint.port))
        .collect();
    if addresses.is_empty() {
        return Err(Stop::Failed(format!("no broker with a plaintext listener is registered in ZooKeeper at {hosts}")));
    }
    Ok(addresses)
}
