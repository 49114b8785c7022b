//! Sessions with ZooKeeper: the one that is current is replaced by a new one when it expires, for as long as the
//! process lives.
//!
//! A session that has run out by this client's clock may live on at the servers, whose own clock stands while they do not
//! run: it is asked for once more before another is made. Nothing of this process outlives the moment all the same.
//!
//! A handle is either bound to one session and fails with `SessionExpired` from the moment that this session ends or runs
//! out, or it is unbound and waits for the next one. What one session was told must not be carried out under another is
//! done through a bound handle: registering, being the controller and all that a controller writes.
//!
//! Every request waits for one of `zookeeper.max.in.flight.requests` permits and is sent again only after a connection
//! loss. A request that was under way when its session expired fails with `SessionExpired`, through either handle.
use crate::connect_string::ConnectString;
use crate::counters::count;
use crate::error::ZkError;
use crate::faults::Faults;
use crate::relay::Relay;
use crate::settings::{SaslDigest, Settings};
use crate::znode::SENSITIVE_ROOTS;
use log::{debug, error, info, warn};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::{
    Acl, Acls, AuthId, Client, CreateMode, Error, MultiWriteError, Permission, SessionInfo, SessionState,
};

/// How long to wait between two attempts at a new session after the old one expired.
const RECONNECT_BACKOFF: Duration = Duration::from_secs(1);
/// What a request holds beside the paths and data of its znodes: its header, the chroot, and in a transaction the check
/// of the controller epoch.
const ENVELOPE_BYTES: usize = 4096;
/// How long a clean end of the session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// Every server has this znode, and no client may make it.
const SYSTEM_ROOT: &str = "/zookeeper";

/// The part of a znode's stat that Kafka looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created the node: the broker epoch of a registration.
    pub czxid: i64,
    /// The transaction that wrote it last. Later transactions have greater numbers, whatever they do to which znode.
    pub mzxid: i64,
    /// The data version: the partition epoch of a partition state.
    pub version: i32,
    pub ctime_ms: i64,
    /// Zero for a persistent node.
    pub ephemeral_owner: i64,
}

impl From<zookeeper_client::Stat> for Stat {
    fn from(stat: zookeeper_client::Stat) -> Stat {
        Stat {
            czxid: stat.czxid,
            mzxid: stat.mzxid,
            version: stat.version,
            ctime_ms: stat.ctime,
            ephemeral_owner: stat.ephemeral_owner,
        }
    }
}

/// A payload with the data version it was read at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Versioned<T> {
    pub value: T,
    pub version: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CreateKind {
    Persistent,
    Ephemeral,
    /// The server appends a 10-digit counter to the path.
    PersistentSequential,
}

impl CreateKind {
    pub(crate) fn mode(self) -> CreateMode {
        match self {
            CreateKind::Persistent => CreateMode::Persistent,
            CreateKind::Ephemeral => CreateMode::Ephemeral,
            CreateKind::PersistentSequential => CreateMode::PersistentSequential,
        }
    }
}

pub(crate) struct Connection {
    pub client: Client,
    pub session_id: i64,
    /// Counts the clients of this process, which may have had the same session one after the other.
    generation: u64,
    /// Every earlier session of this process: ephemeral nodes that they own are ours to remove (KAFKA-7165).
    pub former_sessions: Vec<i64>,
    /// Servers before 3.6 do not know how to read many znodes at once; known once one has said so.
    pub lacks_multi_read: AtomicBool,
    /// What the client speaks through; lives as long as it does.
    relay: Option<Arc<Relay>>,
}

#[derive(Clone)]
enum Status {
    Connected(Arc<Connection>),
    /// The last session expired and a new one is being made.
    Expired,
    Closed,
}

struct Shared {
    settings: Settings,
    servers: ConnectString,
    status: watch::Sender<Status>,
    in_flight: Semaphore,
    faults: Faults,
}

/// A handle on the cluster's part of ZooKeeper. Cloning is cheap.
#[derive(Clone)]
pub struct ZooKeeper {
    shared: Arc<Shared>,
    /// The one session that the handle is bound to.
    session: Option<Bound>,
}

#[derive(Clone, Copy)]
struct Bound {
    session_id: i64,
    generation: u64,
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "ZooKeeper({}, session {:x?})",
            self.shared.settings.connect,
            self.session.map(|bound| bound.session_id)
        )
    }
}

/// Sends a request until it gets an answer: the body may run again after a connection loss.
macro_rules! request {
    ($zk:expr, $path:expr, |$client:ident| $call:expr) => {{
        loop {
            let (_permit, connection) = $zk.admitted().await?;
            let $client = &connection.client;
            match $call.await {
                Err(error) if $crate::error::is_connection_loss(&error) => continue,
                outcome => break outcome.map_err(|error| $crate::error::ZkError::from_client($path, error)),
            }
        }
    }};
}
pub(crate) use request;

impl ZooKeeper {
    /// Opens the first session, creating the chroot if it is missing and `creates_chroot`, and keeps a session from then on.
    /// The handle is not bound. Fails when no session is established within the connection timeout, or when
    /// authentication is refused.
    pub async fn connect(settings: Settings) -> Result<ZooKeeper, ZkError> {
        if settings.max_in_flight_requests == 0 {
            return Err(ZkError::Settings("zookeeper.max.in.flight.requests must be at least 1".to_owned()));
        }
        let servers = ConnectString::parse(&settings.connect).map_err(|reason| {
            ZkError::Settings(format!(
                "zookeeper.connect={} is not a list of host:port, optionally with a path: {reason}",
                settings.connect
            ))
        })?;
        info!("[ZooKeeperClient Kafka server] Initializing a new session to {}.", settings.connect);
        let deadline = Instant::now() + settings.connection_timeout;
        let (root, relay) = first_session(&settings, &servers, deadline).await?;
        if let Some(chroot) = &servers.chroot {
            create_chroot(&root, chroot, &settings).await?;
        }
        let connection = Arc::new(Connection::new(root, relay, &servers, None)?);
        info!("[ZooKeeperClient Kafka server] Connected, session id {:#x}.", connection.session_id);
        count(&settings.counters.connects);
        let (status, _) = watch::channel(Status::Connected(connection.clone()));
        let in_flight = Semaphore::new(settings.max_in_flight_requests.min(Semaphore::MAX_PERMITS));
        let shared = Arc::new(Shared { settings, servers, status, in_flight, faults: Faults::default() });
        tokio::spawn(keep_session(shared.clone(), connection));
        Ok(ZooKeeper { shared, session: None })
    }

    /// A handle bound to the session that is current, or else to the next one.
    pub async fn current_session(&self) -> Result<ZooKeeper, ZkError> {
        let connection = self.connection().await?;
        let bound = Bound { session_id: connection.session_id, generation: connection.generation };
        Ok(ZooKeeper { shared: self.shared.clone(), session: Some(bound) })
    }

    /// Returns when the session that the handle is bound to has ended; for an unbound one, when there will be no other.
    pub async fn ended(&self) {
        let mut status = self.shared.status.subscribe();
        let has_ended = |status: &Status| match (status, self.session) {
            (Status::Connected(connection), Some(bound)) => connection.generation != bound.generation,
            (Status::Connected(_), None) => false,
            (Status::Expired, session) => session.is_some(),
            (Status::Closed, _) => true,
        };
        // The sender lives in `shared`.
        let _ = status.wait_for(has_ended).await;
    }

    pub fn is_bound(&self) -> bool {
        self.session.is_some()
    }

    /// Ends the session and waits for the server to confirm it, which removes its ephemeral nodes at once.
    pub async fn close(&self) {
        let former = self.shared.status.send_replace(Status::Closed);
        let ended = async {
            // The session ends when the last use of its client does; requests under way are allowed to finish.
            let permits = self.shared.settings.max_in_flight_requests.min(Semaphore::MAX_PERMITS);
            let _ = self.shared.in_flight.acquire_many(u32::try_from(permits).unwrap_or(u32::MAX)).await;
            let Status::Connected(connection) = former else { return };
            let mut states = connection.client.state_watcher();
            let _relay = connection.relay.clone();
            drop(connection);
            while !states.peek_state().is_terminated() {
                states.changed().await;
            }
        };
        if timeout(CLOSE_TIMEOUT, ended).await.is_err() {
            warn!("[ZooKeeperClient Kafka server] The session did not end in time; it will expire.");
        }
    }

    pub fn settings(&self) -> &Settings {
        &self.shared.settings
    }

    /// The id of the handle's session, for an unbound one of the current session if there is one.
    pub fn session_id(&self) -> Option<i64> {
        match (self.session, &*self.shared.status.borrow()) {
            (Some(bound), _) => Some(bound.session_id),
            (None, Status::Connected(connection)) => Some(connection.session_id),
            (None, _) => None,
        }
    }

    /// How long the servers keep a session that they do not hear of, as they have said: `zookeeper.session.timeout.ms` within
    /// their bounds.
    pub fn session_timeout(&self) -> Duration {
        match &*self.shared.status.borrow() {
            Status::Connected(connection) => connection.client.session_timeout(),
            Status::Expired | Status::Closed => self.shared.settings.session_timeout,
        }
    }

    /// Whether what this session owns is this process's own: that of the handle, or an earlier one. The servers may have one
    /// still that was given up here.
    pub async fn is_own_session(&self, session: i64) -> Result<bool, ZkError> {
        let connection = self.connection().await?;
        Ok(connection.session_id == session || connection.former_sessions.contains(&session))
    }

    pub(crate) fn faults(&self) -> &Faults {
        &self.shared.faults
    }

    /// Waits for a permit and, unless the handle is bound, for a session.
    pub(crate) async fn admitted(&self) -> Result<(SemaphorePermit<'_>, Arc<Connection>), ZkError> {
        // Whoever waits for a session holds no permit, which those who have one may need.
        self.connection().await?;
        let permit = self.shared.in_flight.acquire().await.map_err(|_| ZkError::Closed)?;
        Ok((permit, self.connection().await?))
    }

    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, ZkError> {
        let mut status = self.shared.status.subscribe();
        let is_decided = |status: &Status| self.session.is_some() || !matches!(status, Status::Expired);
        let status = status.wait_for(is_decided).await.map_err(|_| ZkError::Closed)?;
        match (&*status, self.session) {
            (Status::Connected(connection), Some(bound)) if connection.generation != bound.generation => {
                Err(ZkError::SessionExpired)
            }
            (Status::Connected(connection), _) => Ok(connection.clone()),
            (Status::Expired, _) => Err(ZkError::SessionExpired),
            (Status::Closed, _) => Err(ZkError::Closed),
        }
    }

    /// How many bytes of path and data a request may hold.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        self.shared.settings.request_bytes_max.saturating_sub(ENVELOPE_BYTES)
    }

    /// Refuses what no server would take.
    pub(crate) fn fits(&self, path: &str, bytes: usize) -> Result<(), ZkError> {
        let limit = self.payload_bytes_max().saturating_sub(path.len());
        if bytes > limit {
            return Err(ZkError::TooLarge { path: path.to_owned(), bytes, limit });
        }
        Ok(())
    }

    pub(crate) fn acls_for(&self, path: &str) -> Acls<'static> {
        acls(self.shared.settings.set_acl, path)
    }
}

impl Connection {
    fn new(
        root: Client,
        relay: Option<Relay>,
        servers: &ConnectString,
        former: Option<&Connection>,
    ) -> Result<Connection, ZkError> {
        let session_id = root.session_id().0;
        let mut former_sessions = former.map(|former| former.former_sessions.clone()).unwrap_or_default();
        former_sessions.extend(former.map(|former| former.session_id).filter(|former| *former != session_id));
        let generation = former.map_or(0, |former| former.generation + 1);
        let client = match &servers.chroot {
            None => root,
            Some(chroot) => root.chroot(chroot.as_str()).map_err(|_| {
                ZkError::Settings(format!("the path {chroot} in zookeeper.connect is not usable for a chroot"))
            })?,
        };
        let lacks_multi_read = AtomicBool::new(relay.is_some());
        let relay = relay.map(Arc::new);
        Ok(Connection { client, session_id, generation, former_sessions, lacks_multi_read, relay })
    }
}

/// `host:port` of each, as zookeeper-client reads them.
fn addresses(servers: &ConnectString) -> String {
    let address = |(host, port): &(String, u16)| match host.contains(':') {
        true => format!("[{host}]:{port}"),
        false => format!("{host}:{port}"),
    };
    servers.servers.iter().map(address).collect::<Vec<_>>().join(",")
}

/// A new session, whose paths begin at the root of the servers, and what it runs through.
async fn open(settings: &Settings, servers: &ConnectString) -> Result<(Client, Option<Relay>), ZkError> {
    let client = connected(settings, &addresses(servers), None).await?;
    // TLS came with 3.5.
    if settings.tls.is_some() || takes_create2(&client).await? {
        return Ok((client, None));
    }
    info!("[ZooKeeperClient Kafka server] The server is older than 3.5: transactions are rewritten for it.");
    drop(client);
    let relay = relay(servers).await?;
    Ok((connected(settings, &relay.address, None).await?, Some(relay)))
}

/// The session of before, if the servers still have it.
async fn resumed(
    settings: &Settings,
    servers: &ConnectString,
    former: &Connection,
) -> Result<(Client, Option<Relay>), ZkError> {
    let session = Some(former.client.session().clone());
    if former.relay.is_none() {
        return Ok((connected(settings, &addresses(servers), session).await?, None));
    }
    let relay = relay(servers).await?;
    Ok((connected(settings, &relay.address, session).await?, Some(relay)))
}

async fn relay(servers: &ConnectString) -> Result<Relay, ZkError> {
    Relay::start(&servers.servers).await.map_err(|error| ZkError::Other {
        path: "/".to_owned(),
        reason: format!("listen on the loopback interface for the rewriting of transactions: {error}"),
    })
}

async fn connected(settings: &Settings, addresses: &str, session: Option<SessionInfo>) -> Result<Client, ZkError> {
    // A server of 3.4 is spoken to in words that all later ones understand too.
    let mut connector = Client::connector().with_session_timeout(settings.session_timeout).with_server_version(3, 4, 0);
    if let Some(session) = session {
        connector = connector.with_session(session);
    }
    for (scheme, credentials) in &settings.auth {
        connector = connector.with_auth(scheme, credentials);
    }
    if let Some(SaslDigest { username, password }) = &settings.sasl {
        let options = zookeeper_client::SaslOptions::digest_md5(username.clone(), password.clone());
        connector = connector.with_sasl(options);
    }
    let opened = match &settings.tls {
        None => connector.connect(addresses).await,
        Some(tls) => connector.with_tls(tls.options()?).secure_connect(addresses).await,
    };
    opened.map_err(|error| match error {
        Error::AuthFailed => ZkError::AuthFailed,
        Error::BadArguments(reason) => ZkError::Settings(format!(
            "zookeeper.connect={} is not a list of host:port, optionally with a path: {reason}",
            settings.connect
        )),
        other => ZkError::from_client("/", other),
    })
}

/// Whether the server knows what zookeeper-client puts into transactions. The one that asks changes nothing: its znode
/// is there already.
async fn takes_create2(client: &Client) -> Result<bool, ZkError> {
    let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
    loop {
        let committed = async {
            let mut writer = client.new_multi_writer();
            writer.add_create(SYSTEM_ROOT, b"", &options)?;
            writer.commit().await
        };
        return match committed.await {
            Ok(_) | Err(MultiWriteError::OperationFailed { .. }) => Ok(true),
            Err(MultiWriteError::RequestFailed { source: Error::Unimplemented | Error::MarshallingError }) => Ok(false),
            Err(MultiWriteError::RequestFailed { source }) if crate::error::is_connection_loss(&source) => continue,
            Err(MultiWriteError::RequestFailed { source }) => Err(ZkError::from_client(SYSTEM_ROOT, source)),
        };
    }
}

/// Each attempt of the client's lasts up to a session timeout; the connection timeout may be longer or shorter.
async fn first_session(
    settings: &Settings,
    servers: &ConnectString,
    deadline: Instant,
) -> Result<(Client, Option<Relay>), ZkError> {
    let mut last = "no answer".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, open(settings, servers)).await {
            Ok(Ok(opened)) => return Ok(opened),
            Ok(Err(error @ (ZkError::AuthFailed | ZkError::Settings(_)))) => return Err(error),
            // Why a handshake failed is only known to the client's own log.
            Ok(Err(error)) if settings.tls.is_some() => {
                last = format!("{error}; RUST_LOG=info,zookeeper_client=debug shows what was wrong with TLS");
            }
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => {
                return Err(ZkError::NotConnected {
                    connect: settings.connect.clone(),
                    timeout_ms: settings.connection_timeout.as_millis(),
                    last,
                });
            }
        }
        sleep(Duration::from_millis(100).min(left)).await;
    }
}

async fn create_chroot(client: &Client, chroot: &str, settings: &Settings) -> Result<(), ZkError> {
    let unusable = |error: Error| match error {
        Error::BadArguments(reason) => {
            ZkError::Settings(format!("the path {chroot} in zookeeper.connect is not usable: {reason}"))
        }
        other => ZkError::from_client(chroot, other),
    };
    if client.check_stat(chroot).await.map_err(unusable)?.is_some() {
        return Ok(());
    }
    if !settings.creates_chroot {
        return Err(ZkError::NoNode { path: chroot.to_owned() });
    }
    info!("Creating ZooKeeper chroot path {chroot}");
    client.mkdir(chroot, &CreateMode::Persistent.with_acls(acls(settings.set_acl, chroot))).await.map_err(unusable)
}

/// Waits for the end of each session and makes the next one.
async fn keep_session(shared: Arc<Shared>, mut connection: Arc<Connection>) {
    let mut status = shared.status.subscribe();
    let counters = &shared.settings.counters;
    loop {
        let mut states = connection.client.state_watcher();
        let ended = async {
            loop {
                let state = states.peek_state();
                if state.is_terminated() {
                    return state;
                }
                match states.changed().await {
                    SessionState::Disconnected => {
                        count(&counters.disconnects);
                        warn!("[ZooKeeperClient Kafka server] Disconnected.");
                    }
                    state => {
                        if state == SessionState::SyncConnected {
                            count(&counters.connects);
                        }
                        info!("[ZooKeeperClient Kafka server] {state}.");
                    }
                }
            }
        };
        let ended = tokio::select! {
            state = ended => state,
            _ = status.wait_for(|status| matches!(status, Status::Closed)) => return,
        };
        // Kafka treats a lost authentication like an expiry: it tries again for as long as it runs. An expiry needs nobody.
        let id = connection.session_id;
        match ended {
            SessionState::AuthFailed => {
                error!("[ZooKeeperClient Kafka server] Auth failed, session {id:#x}.");
                count(&counters.auth_failures);
            }
            _ => {
                warn!("[ZooKeeperClient Kafka server] Session {id:#x} expired.");
            }
        }
        if !replaced(&shared.status, Status::Expired) {
            return;
        }
        let has_run_out = matches!(ended, SessionState::Expired);
        let mut may_resume = has_run_out;
        connection = loop {
            let opened = async {
                let (root, relay) = match may_resume {
                    true => resumed(&shared.settings, &shared.servers, &connection).await?,
                    false => open(&shared.settings, &shared.servers).await?,
                };
                Connection::new(root, relay, &shared.servers, Some(&connection))
            };
            let failed = tokio::select! {
                opened = opened => match opened {
                    Ok(connection) => break Arc::new(connection),
                    Err(error) => error,
                },
                _ = status.wait_for(|status| matches!(status, Status::Closed)) => return,
            };
            if may_resume && failed == ZkError::SessionExpired {
                may_resume = false;
                continue;
            }
            warn!("[ZooKeeperClient Kafka server] Error when recreating the session, trying again: {failed}");
            tokio::select! {
                () = sleep(RECONNECT_BACKOFF) => {}
                _ = status.wait_for(|status| matches!(status, Status::Closed)) => return,
            }
        };
        let is_new = connection.session_id != id;
        if has_run_out && is_new {
            count(&counters.expiries);
        }
        let which = if is_new { "a new session" } else { "the session of before" };
        info!("[ZooKeeperClient Kafka server] Connected with {which}, id {:#x}.", connection.session_id);
        count(&counters.connects);
        if !replaced(&shared.status, Status::Connected(connection.clone())) {
            debug!("closed while a new session was made");
            return;
        }
    }
}

/// Once closed, always closed.
fn replaced(status: &watch::Sender<Status>, next: Status) -> bool {
    status.send_if_modified(|status| {
        let open = !matches!(status, Status::Closed);
        if open {
            *status = next;
        }
        open
    })
}

/// Source: kafka 3.9.0 core/src/main/scala/kafka/zk/ZkData.scala, defaultAcls.
fn acls(set_acl: bool, path: &str) -> Acls<'static> {
    static CREATOR_ALL_WORLD_READ: [Acl; 2] =
        [Acl::new_const(Permission::ALL, "auth", ""), Acl::new_const(Permission::READ, "world", "anyone")];
    debug_assert_eq!(AuthId::authed().scheme(), "auth");
    if !set_acl || path == "/consumers" {
        Acls::anyone_all()
    } else if SENSITIVE_ROOTS.iter().any(|root| path.starts_with(root)) {
        Acls::creator_all()
    } else {
        Acls::new(&CREATOR_ALL_WORLD_READ)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_world_readable_and_consumers_stay_open() {
        let world_may = |path: &str| {
            let acls = acls(true, path);
            acls.iter().find(|acl| acl.scheme() == "world").map_or(Permission::NONE, |acl| acl.permission())
        };
        assert_eq!(world_may("/brokers/topics/t"), Permission::READ);
        assert_eq!(world_may("/consumers"), Permission::ALL);
        assert_eq!(world_may("/consumers/g"), Permission::READ);
        assert_eq!(world_may("/config/users/u"), Permission::NONE);
        assert_eq!(world_may("/config/brokers"), Permission::NONE);
        assert!(acls(false, "/config/users").iter().all(|acl| acl.permission() == Permission::ALL));
    }
}
