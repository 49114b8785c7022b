//! A session with ZooKeeper that is replaced by a new one when it expires, for as long as the process lives.
//!
//! Every request waits for one of `zookeeper.max.in.flight.requests` permits, then for a session, and is sent again
//! only after a connection loss. A request that was under way when its session expired fails with `SessionExpired`;
//! it is never carried over to the next session, since what it was meant to protect may be gone.
use crate::error::ZkError;
use crate::znode::{PERSISTENT_ROOTS, SENSITIVE_ROOTS};
use log::{debug, error, info, warn};
use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;
use tokio::sync::{Semaphore, SemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout};
use zookeeper_client::{Acl, Acls, AuthId, Client, CreateMode, Error, Permission, SessionState};

/// How long to wait between two attempts at a new session after the old one expired.
const RECONNECT_BACKOFF: Duration = Duration::from_secs(1);
/// The longest request that a server takes unless its `jute.maxbuffer` says otherwise; it closes the connection of
/// whoever sends a longer one, which looks like any other connection loss.
/// Source: ZooKeeper 3.8.4 server/NIOServerCnxn.java, readLength; jute/BinaryInputArchive.java, maxBuffer.
const REQUEST_BYTES_MAX: usize = 0xf_ffff;
/// What a request holds beside the path and data of a znode: its header, the ACL, the chroot, and in a multi the check
/// of the controller epoch.
const ENVELOPE_BYTES: usize = 4096;
/// How long a clean end of the session may take.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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
    pub sasl: Option<SaslDigest>,
    /// Scheme and credentials as `addauth` takes them, for example `digest` and `user:password`.
    pub auth: Vec<(String, Vec<u8>)>,
    pub tls: Option<Tls>,
    /// `jute.maxbuffer` of the servers.
    pub request_bytes_max: usize,
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
            sasl: None,
            auth: Vec::new(),
            tls: None,
            request_bytes_max: REQUEST_BYTES_MAX,
        }
    }

    fn hosts(&self) -> &str {
        self.connect.split_once('/').map_or(self.connect.as_str(), |(hosts, _)| hosts)
    }

    /// The path under which everything lives, without a trailing slash; `None` at the root.
    fn chroot(&self) -> Option<String> {
        let (_, chroot) = self.connect.split_once('/')?;
        let chroot = chroot.trim_matches('/');
        (!chroot.is_empty()).then(|| format!("/{chroot}"))
    }

    async fn open(&self, chroot: Option<&str>) -> Result<Client, ZkError> {
        let mut connector = Client::connector().with_session_timeout(self.session_timeout);
        for (scheme, credentials) in &self.auth {
            connector = connector.with_auth(scheme, credentials);
        }
        if let Some(SaslDigest { username, password }) = &self.sasl {
            let options = zookeeper_client::SaslOptions::digest_md5(username.clone(), password.clone());
            connector = connector.with_sasl(options);
        }
        let address = format!("{}{}", self.hosts(), chroot.unwrap_or(""));
        let opened = match &self.tls {
            None => connector.connect(&address).await,
            Some(tls) => connector.with_tls(tls.options()?).secure_connect(&address).await,
        };
        opened.map_err(|error| match error {
            Error::AuthFailed => ZkError::AuthFailed,
            Error::BadArguments(reason) => ZkError::Settings(format!(
                "zookeeper.connect={} is not a list of host:port, optionally with a path: {reason}",
                self.connect
            )),
            other => ZkError::from_client("/", other),
        })
    }
}

impl Tls {
    fn options(&self) -> Result<zookeeper_client::TlsOptions, ZkError> {
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

/// The part of a znode's stat that Kafka looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The transaction that created the node: the broker epoch of a registration.
    pub czxid: i64,
    /// The data version: the partition epoch of a partition state.
    pub version: i32,
    pub ctime_ms: i64,
    /// Zero for a persistent node.
    pub ephemeral_owner: i64,
}

impl From<zookeeper_client::Stat> for Stat {
    fn from(stat: zookeeper_client::Stat) -> Stat {
        Stat { czxid: stat.czxid, version: stat.version, ctime_ms: stat.ctime, ephemeral_owner: stat.ephemeral_owner }
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

/// What happened to the session, in order and without gaps: an expiry, then the session after it, and so on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionEvent {
    Expired { session_id: i64 },
    Established { session_id: i64 },
}

/// One request among those that [`ZooKeeper::pipelined`] keeps under way.
pub type Request<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

pub(crate) struct Connection {
    pub client: Client,
    pub session_id: i64,
    /// Every earlier session of this process: ephemeral nodes that they own are ours to remove (KAFKA-7165).
    pub former_sessions: Vec<i64>,
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
    status: watch::Sender<Status>,
    in_flight: Semaphore,
}

/// A handle on the cluster's part of ZooKeeper. Cloning is cheap; all clones share the session.
#[derive(Clone)]
pub struct ZooKeeper {
    shared: Arc<Shared>,
}

impl fmt::Debug for ZooKeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ZooKeeper({})", self.shared.settings.connect)
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
    /// Opens the first session, creating the chroot if it is missing as Kafka does, and keeps a session from then on.
    /// Fails when none is established within the connection timeout, or when authentication is refused.
    pub async fn connect(settings: Settings) -> Result<ZooKeeper, ZkError> {
        if settings.max_in_flight_requests == 0 {
            return Err(ZkError::Settings("zookeeper.max.in.flight.requests must be at least 1".to_owned()));
        }
        info!("[ZooKeeperClient Kafka server] Initializing a new session to {}.", settings.connect);
        let deadline = Instant::now() + settings.connection_timeout;
        let chroot = settings.chroot();
        if let Some(chroot) = &chroot {
            let client = first_session(&settings, None, deadline).await?;
            create_chroot(&client, chroot, settings.set_acl).await?;
        }
        let client = first_session(&settings, chroot.as_deref(), deadline).await?;
        let session_id = client.session_id().0;
        info!("[ZooKeeperClient Kafka server] Connected, session id {session_id:#x}.");
        let connection = Arc::new(Connection { client, session_id, former_sessions: Vec::new() });
        let (status, _) = watch::channel(Status::Connected(connection.clone()));
        let in_flight = Semaphore::new(settings.max_in_flight_requests.min(Semaphore::MAX_PERMITS));
        let zk = ZooKeeper { shared: Arc::new(Shared { settings, status, in_flight }) };
        tokio::spawn(keep_session(zk.clone(), connection));
        Ok(zk)
    }

    /// Ends the session and waits for the server to confirm it, which removes its ephemeral nodes at once.
    pub async fn close(&self) {
        let former = self.shared.status.send_replace(Status::Closed);
        let ended = async {
            // The session ends when the last use of its client does; requests under way are allowed to finish.
            let permits = u32::try_from(self.shared.settings.max_in_flight_requests).unwrap_or(u32::MAX);
            let _ = self.shared.in_flight.acquire_many(permits).await;
            let Status::Connected(connection) = former else { return };
            let mut states = connection.client.state_watcher();
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

    /// The id of the current session, if there is one.
    pub fn session_id(&self) -> Option<i64> {
        match &*self.shared.status.borrow() {
            Status::Connected(connection) => Some(connection.session_id),
            _ => None,
        }
    }

    /// Starts with the session that is current now; the next event is its expiry.
    pub fn session_events(&self) -> SessionEvents {
        let mut status = self.shared.status.subscribe();
        let current = match &*status.borrow_and_update() {
            Status::Connected(connection) => Some(connection.session_id),
            _ => None,
        };
        SessionEvents { status, current, last: current.unwrap_or(0) }
    }

    /// Waits for a permit, then for a session.
    pub(crate) async fn admitted(&self) -> Result<(SemaphorePermit<'_>, Arc<Connection>), ZkError> {
        let permit = self.shared.in_flight.acquire().await.map_err(|_| ZkError::Closed)?;
        Ok((permit, self.connection().await?))
    }

    pub(crate) async fn connection(&self) -> Result<Arc<Connection>, ZkError> {
        let mut status = self.shared.status.subscribe();
        let status = status.wait_for(|status| !matches!(status, Status::Expired)).await.map_err(|_| ZkError::Closed)?;
        match &*status {
            Status::Connected(connection) => Ok(connection.clone()),
            Status::Closed | Status::Expired => Err(ZkError::Closed),
        }
    }

    /// Refuses what no server would take.
    pub(crate) fn fits(&self, path: &str, bytes: usize) -> Result<(), ZkError> {
        let limit = self.shared.settings.request_bytes_max.saturating_sub(ENVELOPE_BYTES + path.len());
        if bytes > limit {
            return Err(ZkError::TooLarge { path: path.to_owned(), bytes, limit });
        }
        Ok(())
    }

    pub(crate) fn acls_for(&self, path: &str) -> Acls<'static> {
        acls(self.shared.settings.set_acl, path)
    }

    /// Runs `send` for every item with at most `zookeeper.max.in.flight.requests` under way; outcomes in item order.
    pub async fn pipelined<'a, I, T>(
        &self,
        items: impl IntoIterator<Item = I>,
        mut send: impl FnMut(I) -> Request<'a, T>,
    ) -> Vec<T> {
        let mut items = items.into_iter().enumerate().fuse();
        let mut under_way: VecDeque<(usize, Request<'a, T>)> = VecDeque::new();
        let mut outcomes: Vec<Option<T>> = Vec::new();
        std::future::poll_fn(move |context| {
            loop {
                while under_way.len() < self.shared.settings.max_in_flight_requests
                    && let Some((index, item)) = items.next()
                {
                    outcomes.push(None);
                    under_way.push_back((index, send(item)));
                }
                if under_way.is_empty() {
                    return Poll::Ready(std::mem::take(&mut outcomes).into_iter().flatten().collect());
                }
                let before = under_way.len();
                under_way.retain_mut(|(index, request)| match request.as_mut().poll(context) {
                    Poll::Ready(outcome) => {
                        outcomes[*index] = Some(outcome);
                        false
                    }
                    Poll::Pending => true,
                });
                // A slot that became free may be refilled at once; otherwise a wake-up will come.
                if under_way.len() == before {
                    return Poll::Pending;
                }
            }
        })
        .await
    }

    pub async fn get(&self, path: &str) -> Result<Option<(Vec<u8>, Stat)>, ZkError> {
        let outcome = request!(self, path, |client| client.get_data(path));
        match outcome {
            Ok((data, stat)) => Ok(Some((data, stat.into()))),
            Err(ZkError::NoNode { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn exists(&self, path: &str) -> Result<Option<Stat>, ZkError> {
        Ok(request!(self, path, |client| client.check_stat(path))?.map(Stat::from))
    }

    /// Names of the children in no particular order; none when the node does not exist.
    pub async fn children(&self, path: &str) -> Result<Vec<String>, ZkError> {
        let outcome = request!(self, path, |client| client.list_children(path));
        match outcome {
            Err(ZkError::NoNode { .. }) => Ok(Vec::new()),
            outcome => outcome,
        }
    }

    /// The node must exist. `expected_version` -1 matches any.
    pub async fn set(&self, path: &str, data: &[u8], expected_version: i32) -> Result<Stat, ZkError> {
        self.fits(path, data.len())?;
        Ok(request!(self, path, |client| client.set_data(path, data, Some(expected_version)))?.into())
    }

    /// The parent must exist. Returns the path, which differs from the given one for a sequential node.
    pub async fn create(&self, path: &str, data: &[u8], kind: CreateKind) -> Result<(String, Stat), ZkError> {
        self.fits(path, data.len())?;
        let options = kind.mode().with_acls(self.acls_for(path));
        let (stat, sequence) = request!(self, path, |client| client.create(path, data, &options))?;
        let created = match kind {
            CreateKind::PersistentSequential => format!("{path}{sequence}"),
            _ => path.to_owned(),
        };
        Ok((created, stat.into()))
    }

    /// Creates the node and whichever of its parents is missing, the parents without data.
    pub async fn create_recursive(&self, path: &str, data: &[u8], kind: CreateKind) -> Result<(String, Stat), ZkError> {
        match self.create(path, data, kind).await {
            Err(ZkError::NoNode { .. }) => {}
            outcome => return outcome,
        }
        // Upwards to the deepest parent that exists: creating one further up may not be allowed, even if it is there.
        let mut missing = Vec::new();
        for (end, _) in path.match_indices('/').skip(1).collect::<Vec<_>>().into_iter().rev() {
            match self.create(&path[..end], b"", CreateKind::Persistent).await {
                Ok(_) | Err(ZkError::NodeExists { .. }) => break,
                Err(ZkError::NoNode { .. }) => missing.push(end),
                Err(error) => return Err(error),
            }
        }
        for end in missing.into_iter().rev() {
            match self.create(&path[..end], b"", CreateKind::Persistent).await {
                Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        self.create(path, data, kind).await
    }

    /// Whether there was a node to delete.
    pub async fn delete(&self, path: &str, expected_version: i32) -> Result<bool, ZkError> {
        let outcome = request!(self, path, |client| client.delete(path, Some(expected_version)));
        match outcome {
            Ok(()) => Ok(true),
            Err(ZkError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the node with everything below it; children that appear meanwhile are deleted too.
    pub async fn delete_recursive(&self, path: &str) -> Result<(), ZkError> {
        loop {
            for child in self.children(path).await? {
                Box::pin(self.delete_recursive(&format!("{path}/{child}"))).await?;
            }
            match self.delete(path, -1).await {
                Ok(_) => return Ok(()),
                Err(ZkError::NotEmpty { .. }) => continue,
                Err(error) => return Err(error),
            }
        }
    }

    /// The persistent znodes of a cluster, as every broker makes sure of at startup.
    pub async fn create_persistent_roots(&self) -> Result<(), ZkError> {
        let created = self
            .pipelined(PERSISTENT_ROOTS.iter().copied(), |path| {
                Box::pin(async move {
                    match self.create_recursive(path, b"", CreateKind::Persistent).await {
                        Ok(_) | Err(ZkError::NodeExists { .. }) => Ok(()),
                        Err(error) => Err(error),
                    }
                })
            })
            .await;
        created.into_iter().collect()
    }
}

/// See [`ZooKeeper::session_events`].
pub struct SessionEvents {
    status: watch::Receiver<Status>,
    /// The session that was last reported as established and not yet as expired.
    current: Option<i64>,
    last: i64,
}

impl SessionEvents {
    /// The session that this listener was last told of.
    pub fn current(&self) -> Option<i64> {
        self.current
    }

    /// Ends with an error only when there will be no further session. Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<SessionEvent, ZkError> {
        let known = self.current;
        let status = self
            .status
            .wait_for(|status| match status {
                Status::Connected(connection) => known != Some(connection.session_id),
                Status::Expired => known.is_some(),
                Status::Closed => true,
            })
            .await
            .map_err(|_| ZkError::Closed)?;
        match (&*status, known) {
            (Status::Closed, _) => Err(ZkError::Closed),
            (Status::Connected(connection), None) => {
                let session_id = connection.session_id;
                self.current = Some(session_id);
                self.last = session_id;
                Ok(SessionEvent::Established { session_id })
            }
            // A listener that slept through an expiry still hears of it before it hears of the next session.
            (Status::Expired | Status::Connected(_), _) => {
                self.current = None;
                Ok(SessionEvent::Expired { session_id: known.unwrap_or(self.last) })
            }
        }
    }
}

/// Each attempt of the client's lasts up to a session timeout; the connection timeout may be longer or shorter.
async fn first_session(settings: &Settings, chroot: Option<&str>, deadline: Instant) -> Result<Client, ZkError> {
    let mut last = "no answer".to_owned();
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        match timeout(left, settings.open(chroot)).await {
            Ok(Ok(client)) => return Ok(client),
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

async fn create_chroot(client: &Client, chroot: &str, set_acl: bool) -> Result<(), ZkError> {
    let unusable = |error: Error| match error {
        Error::BadArguments(reason) => {
            ZkError::Settings(format!("the path {chroot} in zookeeper.connect is not usable: {reason}"))
        }
        other => ZkError::from_client(chroot, other),
    };
    if client.check_stat(chroot).await.map_err(unusable)?.is_some() {
        return Ok(());
    }
    info!("Creating ZooKeeper chroot path {chroot}");
    client.mkdir(chroot, &CreateMode::Persistent.with_acls(acls(set_acl, chroot))).await.map_err(unusable)
}

/// Waits for the end of each session and makes the next one.
async fn keep_session(zk: ZooKeeper, mut connection: Arc<Connection>) {
    let shared = zk.shared;
    let mut status = shared.status.subscribe();
    loop {
        let mut states = connection.client.state_watcher();
        let ended = async {
            loop {
                let state = states.peek_state();
                if state.is_terminated() {
                    return state;
                }
                match states.changed().await {
                    SessionState::Disconnected => warn!("[ZooKeeperClient Kafka server] Disconnected."),
                    state => info!("[ZooKeeperClient Kafka server] {state}."),
                }
            }
        };
        let ended = tokio::select! {
            state = ended => state,
            _ = status.wait_for(|status| matches!(status, Status::Closed)) => return,
        };
        // Kafka treats a lost authentication like an expiry: it tries again for as long as it runs.
        error!("[ZooKeeperClient Kafka server] Session {:#x} ended: {ended}.", connection.session_id);
        if !replaced(&shared.status, Status::Expired) {
            return;
        }
        let chroot = shared.settings.chroot();
        let client = loop {
            match shared.settings.open(chroot.as_deref()).await {
                Ok(client) => break client,
                Err(error) => {
                    warn!("[ZooKeeperClient Kafka server] Error when recreating the session, trying again: {error}");
                }
            }
            tokio::select! {
                () = sleep(RECONNECT_BACKOFF) => {}
                _ = status.wait_for(|status| matches!(status, Status::Closed)) => return,
            }
        };
        let session_id = client.session_id().0;
        info!("[ZooKeeperClient Kafka server] Connected with a new session, id {session_id:#x}.");
        let mut former_sessions = connection.former_sessions.clone();
        former_sessions.push(connection.session_id);
        connection = Arc::new(Connection { client, session_id, former_sessions });
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
    fn the_chroot_is_what_follows_the_first_slash() {
        let settings = Settings::new("h1:2181,h2:2181/a/b/");
        assert_eq!((settings.hosts(), settings.chroot().as_deref()), ("h1:2181,h2:2181", Some("/a/b")));
        assert_eq!(Settings::new("h1").chroot(), None);
        assert_eq!(Settings::new("h1/").chroot(), None);
    }

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
