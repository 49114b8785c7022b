//! This broker's registration in ZooKeeper: made at start, and made again under a new broker epoch whenever the session
//! had to be replaced. There is never a second one of the same id: a node that another process owns is left alone.
//! Source: kafka 3.9.0-rc3 core/src/main/scala/kafka/server/KafkaServer.scala, createBrokerInfo;
//! core/src/main/scala/kafka/controller/KafkaController.scala, processRegisterBrokerAndReelect.
use std::fmt;
use std::time::Duration;

use log::{error, info, warn};
use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::znode::broker::{Broker, BrokerJson, Endpoint};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::Instant;

use crate::config::listeners::EndPoint;
use crate::config::metadata_version::MetadataVersion;
use crate::controller::task::Controller;
use crate::metadata::features;
use crate::model::clock::wall_clock_ms;
use crate::model::{BrokerEpoch, BrokerId};

/// Between two attempts to register.
const RETRY_BACKOFF: Duration = Duration::from_secs(1);
/// On top of the session timeout, at the least, for the servers to notice that a predecessor's session has ended.
const EXPIRY_GRACE: Duration = Duration::from_secs(3);

/// How long a predecessor's session may last. Servers look for those that have ended once in each of their ticks, and a session
/// lasts two of them at the least.
fn expiry_patience(zk: &ZooKeeper) -> Duration {
    let timeout = zk.session_timeout();
    timeout + EXPIRY_GRACE.max(timeout / 2)
}

#[derive(Clone, Debug)]
pub enum RegistrationError {
    ZooKeeper(ZkError),
    /// Another live broker advertises an address of ours.
    EndpointTaken {
        endpoint: String,
        broker: i32,
    },
}

impl fmt::Display for RegistrationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegistrationError::ZooKeeper(error) => write!(f, "registering the broker in ZooKeeper: {error}"),
            RegistrationError::EndpointTaken { endpoint, broker } => {
                write!(
                    f,
                    "Configured end points {endpoint} in advertised listeners are already registered by broker {broker}"
                )
            }
        }
    }
}

impl std::error::Error for RegistrationError {}

impl From<ZkError> for RegistrationError {
    fn from(error: ZkError) -> RegistrationError {
        RegistrationError::ZooKeeper(error)
    }
}

/// What the broker tells about itself.
#[derive(Clone, Debug)]
pub struct Identity {
    pub broker_id: BrokerId,
    /// `advertised.listeners`, with their hosts and ports as clients reach them; they may change.
    pub advertised: watch::Receiver<Vec<EndPoint>>,
    pub rack: Option<String>,
    pub protocol: MetadataVersion,
}

impl Identity {
    fn znode(&self) -> Broker {
        let endpoint = |endpoint: &EndPoint| Endpoint {
            listener: endpoint.listener_name.clone(),
            security_protocol: endpoint.security_protocol.name().to_owned(),
            host: endpoint.host.clone().unwrap_or_default(),
            port: i32::from(endpoint.port),
        };
        Broker {
            id: self.broker_id.0,
            endpoints: self.advertised.borrow().iter().map(endpoint).collect(),
            rack: self.rack.clone(),
            jmx_port: -1,
            timestamp_ms: wall_clock_ms(),
            features: features::supported(),
        }
    }

    fn json(&self) -> BrokerJson {
        match self.protocol.broker_registration_version() {
            5 => BrokerJson::V5,
            4 => BrokerJson::V4,
            _ => BrokerJson::V2,
        }
    }
}

/// The registration, kept for as long as this value lives.
#[derive(Debug)]
pub struct Registration {
    task: AbortHandle,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Registration {
    /// Registers, then lets the controller stand for election, now and after every new session. The epoch of the
    /// registration is published before anybody else can act on it, and withdrawn when its session has ended.
    pub async fn start(
        zk: ZooKeeper,
        identity: Identity,
        controller: Controller,
        published: watch::Sender<Option<BrokerEpoch>>,
        tasks: &mut JoinSet<()>,
    ) -> Result<Registration, RegistrationError> {
        refuse_taken_endpoints(&zk, &identity).await?;
        let deadline = Instant::now() + expiry_patience(&zk);
        let (session, broker, epoch) = loop {
            let session = zk.current_session().await?;
            let broker = identity.znode();
            match session.register_broker(&broker, identity.json()).await {
                Ok(epoch) => break (session, broker, BrokerEpoch(epoch)),
                Err(ZkError::SessionExpired) if Instant::now() < deadline => {}
                Err(error) => return Err(error.into()),
            }
        };
        published.send_replace(Some(epoch));
        controller.registered(session.clone()).await;
        let keeper = Keeper { zk, identity, controller, published };
        let task = tasks.spawn(keeper.run(session, broker));
        Ok(Registration { task })
    }
}

/// Waits for the node that a process killed a moment ago left behind under this id: for one session timeout, after which
/// registering fails, since then another process keeps it alive. To be called before anybody is let in, for a broker
/// that no controller knows has nothing true to tell.
pub async fn wait_for_predecessor(zk: &ZooKeeper, id: BrokerId) -> Result<(), RegistrationError> {
    let path = odradek_zookeeper::znode::broker::path(id.0);
    let patience = expiry_patience(zk);
    let mut watch = zk.watch_data(path.as_str());
    let gone = async {
        let mut waiting = false;
        while watch.next().await?.is_some() {
            if !waiting {
                warn!(
                    "{path} still exists; waiting up to {} ms for the session of an earlier broker to expire",
                    patience.as_millis()
                );
                waiting = true;
            }
        }
        Ok(())
    };
    // If it stays, registering says so.
    tokio::time::timeout(patience, gone).await.unwrap_or(Ok(()))
}

/// Keeps the broker registered: anew under each session, and under the same one when somebody has removed the node.
struct Keeper {
    zk: ZooKeeper,
    identity: Identity,
    controller: Controller,
    published: watch::Sender<Option<BrokerEpoch>>,
}

impl Keeper {
    async fn run(self, mut session: ZooKeeper, mut broker: Broker) {
        loop {
            self.keep(&session, &mut broker).await;
            self.published.send_replace(None);
            info!("session {:#x} ended; this broker is no longer registered", session.session_id().unwrap_or(0));
            // The office of the old session has been given up before the broker shows itself under a new one.
            self.controller.resigned().await;
            loop {
                session = match self.zk.current_session().await {
                    Ok(session) => session,
                    Err(_) => return,
                };
                if let Some(registered) = self.register(&session).await {
                    broker = registered;
                    break;
                }
            }
        }
    }

    /// Returns when the session has ended.
    async fn keep(&self, session: &ZooKeeper, broker: &mut Broker) {
        let path = odradek_zookeeper::znode::broker::path(broker.id);
        let mut watch = session.watch_data(path.as_str());
        let mut advertised = self.identity.advertised.clone();
        loop {
            let found = tokio::select! {
                found = watch.next() => found,
                Ok(()) = advertised.changed() => {
                    self.readdress(session, broker).await;
                    session.get(&path).await
                }
            };
            let found = match found {
                Ok(found) => found,
                Err(error) if error.is_of_the_session() => return,
                // The watch tells when it is as it should be.
                Err(_) => continue,
            };
            let Some((data, stat)) = found else {
                self.published.send_replace(None);
                warn!("{path} has been removed; registering again");
                match self.register(session).await {
                    Some(registered) => *broker = registered,
                    None => return,
                }
                continue;
            };
            if Some(stat.ephemeral_owner) != session.session_id() {
                // What a controller decided for the registration that is gone is not for this broker any more.
                self.published.send_replace(None);
                let taken = ZkError::BrokerIdTaken {
                    path: path.clone(),
                    owner_session: stat.ephemeral_owner,
                    own_session: session.session_id().unwrap_or(0),
                };
                session.complain(&path, "this broker is not registered", &taken);
                continue;
            }
            let own = broker.encode(self.identity.json());
            if data != own {
                info!("{path} is not what this broker tells about itself; writing it again");
                match session.set(&path, &own, stat.version).await {
                    // Whatever it is now, the watch tells of it.
                    Ok(_) | Err(ZkError::BadVersion { .. } | ZkError::NoNode { .. }) => {}
                    Err(ZkError::SessionExpired | ZkError::Closed) => return,
                    Err(error) => session.complain(&path, "this broker's registration stays as it is", &error),
                }
            }
        }
    }

    /// Takes over other addresses, unless another broker has one of them.
    async fn readdress(&self, session: &ZooKeeper, broker: &mut Broker) {
        match refuse_taken_endpoints(session, &self.identity).await {
            Ok(()) => *broker = self.identity.znode(),
            Err(why) => error!("the advertised addresses stay as they are: {why}"),
        }
    }

    /// `None` when the session has ended.
    async fn register(&self, session: &ZooKeeper) -> Option<Broker> {
        let broker = self.identity.znode();
        let path = odradek_zookeeper::znode::broker::path(broker.id);
        loop {
            match session.register_broker(&broker, self.identity.json()).await {
                Ok(epoch) => {
                    session.mended(&path);
                    self.published.send_replace(Some(BrokerEpoch(epoch)));
                    self.controller.registered(session.clone()).await;
                    return Some(broker);
                }
                Err(ZkError::SessionExpired | ZkError::Closed) => return None,
                Err(error) => {
                    session.complain(&path, "the broker cannot be registered again, trying on", &error);
                    tokio::time::sleep(RETRY_BACKOFF).await;
                }
            }
        }
    }
}

async fn refuse_taken_endpoints(zk: &ZooKeeper, identity: &Identity) -> Result<(), RegistrationError> {
    let advertised = identity.advertised.borrow().clone();
    for other in zk.brokers().await? {
        if other.broker.id == identity.broker_id.0 {
            continue;
        }
        let taken = advertised.iter().find(|ours| {
            other.broker.endpoints.iter().any(|theirs| {
                theirs.host == ours.host.as_deref().unwrap_or_default() && theirs.port == i32::from(ours.port)
            })
        });
        if let Some(ours) = taken {
            let endpoint = format!("{}:{}", ours.host.as_deref().unwrap_or_default(), ours.port);
            return Err(RegistrationError::EndpointTaken { endpoint, broker: other.broker.id });
        }
    }
    Ok(())
}
