//! What can go wrong between the broker and ZooKeeper, as far as a caller tells the cases apart.
use std::fmt;

/// A znode whose payload is not what Kafka writes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZnodeError {
    pub path: String,
    pub reason: String,
}

impl fmt::Display for ZnodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "znode {} is malformed: {}", self.path, self.reason)
    }
}

impl std::error::Error for ZnodeError {}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ZkError {
    NoNode {
        path: String,
    },
    NodeExists {
        path: String,
    },
    /// The znode changed since the version that the write expected.
    BadVersion {
        path: String,
    },
    NotEmpty {
        path: String,
    },
    /// The ACL of the znode, or of its parent, does not let this client.
    NoAuth {
        path: String,
    },
    /// Not sent: a server drops the connection of whoever sends a request beyond its `jute.maxbuffer`.
    TooLarge {
        path: String,
        bytes: usize,
        limit: usize,
    },
    /// `/controller_epoch` has moved on: another broker is the controller, and the write was not applied.
    ControllerMoved {
        epoch_zk_version: i32,
    },
    /// Another process owns `/brokers/ids/<id>`.
    BrokerIdTaken {
        path: String,
        owner_session: i64,
        own_session: i64,
    },
    SessionExpired,
    AuthFailed,
    Closed,
    /// No connection within `zookeeper.connection.timeout.ms` at start.
    NotConnected {
        connect: String,
        timeout_ms: u128,
        last: String,
    },
    /// A setting that this client cannot honour, or that makes no sense.
    Settings(String),
    Malformed(ZnodeError),
    Other {
        path: String,
        reason: String,
    },
}

impl From<ZnodeError> for ZkError {
    fn from(error: ZnodeError) -> ZkError {
        ZkError::Malformed(error)
    }
}

/// Whether the connection broke before the answer came. zookeeper-client then hands the error of the socket, or its own
/// about a silent server, to every request under way: those are its only errors without a name. A session that moved
/// lives on at another server, where a new connection finds it: nothing was written, and the server that says so closes
/// the connection. Source: ZooKeeper 3.8.4 server/FinalRequestProcessor.java, processRequest.
pub(crate) fn is_connection_loss(error: &zookeeper_client::Error) -> bool {
    use zookeeper_client::Error;
    matches!(error, Error::ConnectionLoss | Error::SessionMoved | Error::Custom(_))
}

impl ZkError {
    /// Whether it says nothing about a znode: no other request of the session, or of the office, will fare better.
    pub fn is_of_the_session(&self) -> bool {
        matches!(
            self,
            ZkError::SessionExpired | ZkError::AuthFailed | ZkError::Closed | ZkError::ControllerMoved { .. }
        )
    }

    pub(crate) fn from_client(path: &str, error: zookeeper_client::Error) -> ZkError {
        use zookeeper_client::Error;
        let path = path.to_owned();
        match error {
            Error::NoNode => ZkError::NoNode { path },
            Error::NodeExists => ZkError::NodeExists { path },
            Error::BadVersion => ZkError::BadVersion { path },
            Error::NotEmpty => ZkError::NotEmpty { path },
            Error::NoAuth => ZkError::NoAuth { path },
            Error::SessionExpired => ZkError::SessionExpired,
            Error::AuthFailed => ZkError::AuthFailed,
            Error::ClientClosed => ZkError::Closed,
            other => ZkError::Other { path, reason: other.to_string() },
        }
    }
}

impl fmt::Display for ZkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ZkError::NoNode { path } => write!(f, "znode {path} does not exist"),
            ZkError::NodeExists { path } => write!(f, "znode {path} already exists"),
            ZkError::BadVersion { path } => write!(f, "znode {path} was changed by someone else"),
            ZkError::NotEmpty { path } => write!(f, "znode {path} still has children"),
            ZkError::NoAuth { path } => write!(f, "the ACL of znode {path} or of its parent does not allow it"),
            ZkError::TooLarge { path, bytes, limit } => write!(
                f,
                "znode {path} would hold {bytes} bytes, and ZooKeeper takes no more than {limit} at its jute.maxbuffer"
            ),
            ZkError::ControllerMoved { epoch_zk_version } => write!(
                f,
                "/controller_epoch is no longer at version {epoch_zk_version}; another broker has become the controller"
            ),
            ZkError::BrokerIdTaken { path, owner_session, own_session } => write!(
                f,
                "{path} already exists and its owner, session {owner_session:#x}, is not this broker's session \
                 {own_session:#x}; stop the broker that uses the same broker.id, or wait until its session expires"
            ),
            ZkError::SessionExpired => write!(f, "the ZooKeeper session expired"),
            ZkError::AuthFailed => write!(f, "ZooKeeper refused the authentication"),
            ZkError::Closed => write!(f, "the ZooKeeper client is closed"),
            ZkError::NotConnected { connect, timeout_ms, last } => {
                write!(f, "no ZooKeeper at {connect} answered within {timeout_ms} ms: {last}")
            }
            ZkError::Settings(reason) => write!(f, "{reason}"),
            ZkError::Malformed(error) => write!(f, "{error}"),
            ZkError::Other { path, reason } => write!(f, "request for {path} failed: {reason}"),
        }
    }
}

impl std::error::Error for ZkError {}

#[cfg(test)]
mod tests {
    use super::*;
    use zookeeper_client::Error;

    #[test]
    fn a_session_that_moved_has_lost_its_connection_and_not_expired() {
        assert!(is_connection_loss(&Error::SessionMoved));
        assert!(!is_connection_loss(&Error::SessionExpired));
        assert_eq!(ZkError::from_client("/a", Error::SessionExpired), ZkError::SessionExpired);
        assert_ne!(ZkError::from_client("/a", Error::SessionMoved), ZkError::SessionExpired);
    }
}
