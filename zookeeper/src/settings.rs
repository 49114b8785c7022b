//! What a session is opened with.
use crate::counters::ZooKeeperCounters;
use crate::error::ZkError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use zookeeper_client::Error;

/// The longest request that a server takes unless its `jute.maxbuffer` says otherwise; it closes the connection of
/// whoever sends a longer one, which looks like any other connection loss.
/// Source: ZooKeeper 3.8.4 server/NIOServerCnxn.java, readLength; jute/BinaryInputArchive.java, maxBuffer.
const REQUEST_BYTES_MAX: usize = 0xf_ffff;

/// User name and password of a DIGEST-MD5 login (the `Client` section of a JAAS file).
#[derive(Clone, PartialEq, Eq)]
pub struct SaslDigest {
    pub username: String,
    pub password: String,
}

impl fmt::Debug for SaslDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SaslDigest {{ username: {:?}, password: [hidden] }}", self.username)
    }
}

/// TLS towards ZooKeeper, from PEM text.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Certificates that sign the servers'.
    pub truststore_pem: String,
    /// Certificate chain and private key of this client.
    pub keystore_pem: Option<(String, String)>,
    /// `zookeeper.ssl.endpoint.identification.algorithm` is not blank.
    pub verify_hostname: bool,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let client_auth = self.keystore_pem.is_some();
        write!(f, "Tls {{ client_auth: {client_auth}, verify_hostname: {} }}", self.verify_hostname)
    }
}

/// The `zookeeper.*` settings.
#[derive(Clone, Debug)]
pub struct Settings {
    /// `host:port,host:port/chroot`
    pub connect: String,
    pub session_timeout: Duration,
    /// How long the start waits for a first session.
    pub connection_timeout: Duration,
    pub max_in_flight_requests: usize,
    pub set_acl: bool,
    /// A chroot that is missing is made, as Kafka does; otherwise it is an error.
    pub creates_chroot: bool,
    pub sasl: Option<SaslDigest>,
    /// Scheme and credentials as `addauth` takes them, for example `digest` and `user:password`.
    pub auth: Vec<(String, Vec<u8>)>,
    pub tls: Option<Tls>,
    /// `jute.maxbuffer` of the servers.
    pub request_bytes_max: usize,
    pub counters: Arc<ZooKeeperCounters>,
}

impl Settings {
    /// Kafka's defaults for everything but the address.
    pub fn new(connect: impl Into<String>) -> Settings {
        Settings {
            connect: connect.into(),
            session_timeout: Duration::from_millis(18_000),
            connection_timeout: Duration::from_millis(18_000),
            max_in_flight_requests: 10,
            set_acl: false,
            creates_chroot: true,
            sasl: None,
            auth: Vec::new(),
            tls: None,
            request_bytes_max: REQUEST_BYTES_MAX,
            counters: Arc::default(),
        }
    }
}

impl Tls {
    pub(crate) fn options(&self) -> Result<zookeeper_client::TlsOptions, ZkError> {
        if !self.verify_hostname {
            return Err(ZkError::Settings(
                "a blank zookeeper.ssl.endpoint.identification.algorithm is not supported: host names of ZooKeeper \
                 servers are always verified; use certificates that carry their names"
                    .to_owned(),
            ));
        }
        let refused = |what: &str, error: Error| ZkError::Settings(format!("{what} cannot be used: {error}"));
        let mut options = zookeeper_client::TlsOptions::new()
            .with_pem_ca(&self.truststore_pem)
            .map_err(|error| refused("the ZooKeeper truststore", error))?;
        if let Some((certificates, key)) = &self.keystore_pem {
            options = options
                .with_pem_identity(certificates, key)
                .map_err(|error| refused("the ZooKeeper keystore", error))?;
        }
        Ok(options)
    }
}
