//! The start of a broker, top to bottom: the order is Kafka's, so that whatever another broker or tool can see of it
//! appears in the order that they expect. Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaServer.scala.

use std::collections::HashMap;
use std::fmt;
use std::net::ToSocketAddrs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use log::{info, warn};
use odradek_zookeeper::session::ZooKeeper;
use rustix::process::{Resource, getrlimit};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::api::Server;
use crate::api::long_work::LongWork;
use crate::broker::Broker;
use crate::broker::controlled_shutdown::ControlledShutdown;
use crate::broker::counters::Counters;
use crate::broker::deletions::forget_missed;
use crate::broker::dynamic_config::DynamicConfig;
use crate::broker::features;
use crate::broker::housekeeping;
use crate::broker::isr_znodes;
use crate::broker::leaderships::forward_leaderships;
use crate::broker::load_progress::LoadReport;
use crate::broker::local_host::canonical_host_name;
use crate::broker::registration::{self, Identity, Registration};
use crate::broker::sections::{
    follow_advertised_listeners, follow_cleaner_settings, follow_connection_limits, follow_controller_settings,
    follow_io_threads, follow_producer_expiration, follow_replica_settings,
};
use crate::broker::zookeeper_settings::zookeeper_settings;
use crate::config::kafka_config::KafkaConfig;
use crate::config::listeners::EndPoint;
use crate::config::log::LogConfig;
use crate::config::sections::SocketConfig;
use crate::controller::task::Controller;
use crate::controller::task::topic_administration::Topics;
use crate::controller::task::topic_ids::KnownTopics;
use crate::coordinator::group::task::GroupCoordinator;
use crate::coordinator::replica_log::{ReplicaLog, partition_count};
use crate::coordinator::transaction::marker_sender::MarkerSender;
use crate::coordinator::transaction::task::TransactionCoordinator;
use crate::coordinator::transaction::verifier::Verifier;
use crate::log::dirs::LogDirs;
use crate::metadata::cache::MetadataCache;
use crate::metadata::features::FinalizedFeatures;
use crate::model::clock::wall_clock_ms;
use crate::model::internal_topics::{GROUP_METADATA_TOPIC, TRANSACTION_STATE_TOPIC};
use crate::model::lock::off_the_network;
use crate::model::{BrokerId, TopicId};
use crate::network::Shared;
use crate::network::connection::{ANSWERS_AFTER_CLOSE, ConnectionBounds};
use crate::network::limits::{ConnectionCounter, ConnectionLimits, ListenerLimits};
use crate::network::listener::{self, BoundListener, Listener, ListenerSettings};
use crate::network::memory::MemoryPool;
use crate::replica::alter_partition;
use crate::replica::decisions::TopicConfigs;
use crate::replica::dir_moves;
use crate::replica::fetcher::fetchers::Fetchers;
use crate::replica::io::IoThreads;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::to_controller::ToController;

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

fn connection_bounds(config: &SocketConfig) -> ConnectionBounds {
    ConnectionBounds {
        request_max_bytes: config.socket_request_max_bytes,
        max_idle: config.connections_max_idle_ms.map(Duration::from_millis),
        window_requests: config.queued_max_requests,
        window_bytes: config.queued_max_request_bytes.unwrap_or(config.socket_request_max_bytes),
        answers_after_close: ANSWERS_AFTER_CLOSE,
    }
}

/// What peers make the broker hold where `queued.max.request.bytes` sets no bound, which is Kafka's default: its heap is
/// the bound there, and nothing else.
const QUEUED_REQUEST_BYTES: usize = 256 << 20;

fn network_memory(config: &SocketConfig) -> Arc<MemoryPool> {
    let set = config.queued_max_request_bytes;
    let limit = set.unwrap_or(QUEUED_REQUEST_BYTES.max(config.socket_request_max_bytes));
    let pool = MemoryPool::new(limit, config.socket_request_max_bytes);
    info!(
        "requests that arrive or are handled and answers that are not taken use at most {limit} bytes over all \
         connections ({}), and the eldest request at most {} more (socket.request.max.bytes)",
        if set.is_some() { "queued.max.request.bytes" } else { "queued.max.request.bytes is not set" },
        config.socket_request_max_bytes
    );
    pool
}

pub(crate) fn connection_limits(config: &SocketConfig) -> Result<ConnectionLimits, StartError> {
    let mut overrides = HashMap::new();
    for (host, limit) in &config.max_connections_per_ip_overrides {
        let addresses = (host.as_str(), 0)
            .to_socket_addrs()
            .doing(format_args!("resolve {host} of max.connections.per.ip.overrides"))?;
        overrides.extend(addresses.map(|address| (address.ip().to_canonical(), *limit)));
    }
    let rate = |rate: usize| u32::try_from(rate).unwrap_or(u32::MAX);
    let listeners = config.listeners.iter().zip(&config.listener_limits).map(|(endpoint, limits)| {
        let is_inter_broker = endpoint.listener_name == config.inter_broker_listener_name;
        let limits = ListenerLimits {
            max_connections: limits.max_connections,
            max_connection_creation_rate: rate(limits.max_connection_creation_rate),
            is_protected: is_inter_broker && config.listeners.len() > 1,
        };
        (endpoint.listener_name.clone(), limits)
    });
    Ok(ConnectionLimits {
        max_connections: config.max_connections,
        max_connections_per_ip: config.max_connections_per_ip,
        max_connections_per_ip_overrides: overrides,
        max_connection_creation_rate: rate(config.max_connection_creation_rate),
        descriptors: descriptor_limit(),
        listeners: listeners.collect(),
    })
}

fn descriptor_limit() -> usize {
    let limit = getrlimit(Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Kafka's default and its stock `server.properties` ask for 100 KiB, less than the system gives by itself, and asking
/// ends the system's own tuning: a fetch of 1 MiB then costs nearly twice the CPU. Any other size is taken as it is.
fn unless_stock(buffer_bytes: Option<usize>) -> Option<usize> {
    buffer_bytes.filter(|&bytes| bytes != 100 << 10)
}

fn bind(config: &SocketConfig) -> Result<Vec<BoundListener>, StartError> {
    let mut bound = Vec::with_capacity(config.listeners.len());
    for endpoint in &config.listeners {
        let settings = ListenerSettings {
            name: endpoint.listener_name.clone(),
            host: endpoint.host.clone().unwrap_or_default(),
            port: endpoint.port,
            backlog: i32::try_from(config.socket_listen_backlog_size).unwrap_or(i32::MAX),
            send_buffer_bytes: unless_stock(config.socket_send_buffer_bytes),
            receive_buffer_bytes: unless_stock(config.socket_receive_buffer_bytes),
        };
        bound.push(BoundListener::bind(settings).map_err(|why| StartError(why.to_string()))?);
    }
    Ok(bound)
}

fn listen(bound: Vec<BoundListener>) -> Result<Vec<Listener>, StartError> {
    let mut listeners = Vec::with_capacity(bound.len());
    for bound in bound {
        let ListenerSettings { host, port, .. } = bound.settings.clone();
        listeners.push(bound.listen().map_err(|why| StartError(why.to_string()))?);
        let host = if host.is_empty() { "0.0.0.0" } else { &host };
        info!("Awaiting socket connections on {host}:{port}.");
    }
    Ok(listeners)
}

/// The broker id: configured, or stored in the log directories, or taken from ZooKeeper.
async fn broker_id(config: &KafkaConfig, log_dirs: &LogDirs, zookeeper: &ZooKeeper) -> Result<BrokerId, StartError> {
    if config.broker_id() >= 0 {
        return Ok(BrokerId(config.broker_id()));
    }
    if let Some(stored) = log_dirs.stored_broker_id().doing("read meta.properties")? {
        return Ok(stored);
    }
    let id = zookeeper.generate_broker_id(config.reserved_broker_max_id()).await;
    Ok(BrokerId(id.doing("generate a broker.id")?))
}

/// Where clients reach this broker: a host that is left out becomes this machine's name, port 0 the port that the
/// system chose.
pub(crate) async fn advertised(
    mut endpoints: Vec<EndPoint>,
    ports: &HashMap<String, u16>,
) -> Result<Vec<EndPoint>, StartError> {
    if let Some(nameless) = endpoints.iter().find(|endpoint| endpoint.host.is_none()) {
        let what = format!(
            "find the name of this machine to advertise for the listener {}; give it a host in advertised.listeners, \
             or give the machine's own name an address",
            nameless.listener_name
        );
        // May wait for a name server.
        let found = tokio::task::spawn_blocking(canonical_host_name).await.doing(&what)?;
        let name = found.doing(&what)?;
        endpoints.iter_mut().filter(|endpoint| endpoint.host.is_none()).for_each(|endpoint| {
            endpoint.host = Some(name.clone());
        });
    }
    for endpoint in endpoints.iter_mut().filter(|endpoint| endpoint.port == 0) {
        endpoint.port = ports.get(&endpoint.listener_name).copied().unwrap_or(0);
    }
    Ok(endpoints)
}

/// The port of each listener by its name.
fn ports(bound: &[BoundListener]) -> Result<HashMap<String, u16>, StartError> {
    let port = |listener: &BoundListener| {
        let address = listener.local_address().doing("read the port of a listener")?;
        Ok((listener.settings.name.clone(), address.port()))
    };
    bound.iter().map(port).collect()
}

/// The id of the cluster, made up if it has none. One that cannot be read is taken to be that of the log directories.
async fn cluster_id(zookeeper: &ZooKeeper, log_dirs: &LogDirs) -> Result<String, StartError> {
    let error = match zookeeper.cluster_id_or_create(&TopicId::random().to_string()).await {
        Ok(id) => return Ok(id),
        Err(error) => error,
    };
    let path = odradek_zookeeper::znode::cluster_id::PATH;
    match log_dirs.stored_cluster_id().doing("read meta.properties")? {
        Some(stored) if !error.is_of_the_session() => {
            zookeeper.complain(path, "the cluster is taken for the one of the log directories", &error);
            Ok(stored)
        }
        _ => Err(error).doing(format_args!("read {path}")),
    }
}

/// The features that the cluster has finalized; the start is refused where it could not take part in one.
async fn finalized_features(zookeeper: &ZooKeeper, config: &KafkaConfig) -> Result<FinalizedFeatures, StartError> {
    if !config.inter_broker_protocol_version().is_feature_versioning_supported() {
        return Ok(FinalizedFeatures::default());
    }
    let what = "read the finalized features";
    features::read(zookeeper).await.doing(what)?.doing(what)
}

/// How many partitions a coordinator's topic has, or will have, by the setting that says so.
async fn partitions_of(zookeeper: &ZooKeeper, topic: &str, configured: i32, setting: &str) -> Result<i32, StartError> {
    match partition_count(zookeeper, topic).await {
        Ok(count) => Ok(count.unwrap_or(configured)),
        Err(why) if why.is_of_the_session() => Err(why).doing(format_args!("read the partitions of {topic}")),
        Err(why) => {
            let path = odradek_zookeeper::znode::topic::path(topic);
            zookeeper.complain(&path, &format!("it is taken to have {setting}"), &why);
            Ok(configured)
        }
    }
}

/// What there is before the first log is opened.
struct Foundation {
    counters: Counters,
    zookeeper: ZooKeeper,
    cluster_id: String,
    id: BrokerId,
    log_dirs: Arc<LogDirs>,
    failed_dirs: mpsc::UnboundedReceiver<PathBuf>,
    dynamic: Arc<DynamicConfig>,
    bound: Vec<BoundListener>,
}

/// Starts everything; the broker serves when this returns.
pub async fn start(config: KafkaConfig) -> Result<Broker, StartError> {
    let started = Instant::now();
    info!("starting");
    let foundation = lay_foundation(config).await?;
    let (zookeeper, log_dirs) = (foundation.zookeeper.clone(), Arc::clone(&foundation.log_dirs));
    let assembled = assemble(foundation).await;
    match &assembled {
        Ok(broker) => {
            info!("Kafka version: {}", crate::broker::KAFKA_VERSION);
            info!("[KafkaServer id={}] started", broker.id);
            log::debug!("started within {} ms", started.elapsed().as_millis());
        }
        Err(_) => {
            // The logs were clean or have been recovered: a start that is refused must not cost the next one that work.
            let closed =
                tokio::task::spawn_blocking(move || off_the_network(|| log_dirs.shutdown(wall_clock_ms()))).await;
            if let Err(panicked) = closed {
                warn!("closing the logs failed: {panicked}");
            }
            zookeeper.close().await;
        }
    }
    assembled
}

async fn lay_foundation(config: KafkaConfig) -> Result<Foundation, StartError> {
    info!("Connecting to zookeeper on {}", config.zookeeper_config().connect);
    let counters = Counters::default();
    let mut settings = zookeeper_settings(&config.zookeeper_config()).doing("read the zookeeper settings")?;
    settings.counters = Arc::clone(&counters.zookeeper);
    let zookeeper = ZooKeeper::connect(settings).await.doing("connect to ZooKeeper")?;
    zookeeper.create_persistent_roots().await.doing("create the persistent znodes")?;

    let (failures, failed_dirs) = mpsc::unbounded_channel::<PathBuf>();
    let log_dirs = LogDirs::open(&config.log_dirs_config(), failures, Arc::clone(&counters.log))
        .doing("open the log directories")?;
    let cluster_id = cluster_id(&zookeeper, &log_dirs).await?;
    info!("Cluster ID = {cluster_id}");
    let id = broker_id(&config, &log_dirs, &zookeeper).await?;
    log_dirs.claim(&cluster_id, id).doing("claim the log directories")?;
    let log_dirs = Arc::new(log_dirs);

    // Whatever is stored for this broker lies over its file from here on.
    let dynamic = DynamicConfig::load(zookeeper.clone(), id, config).await?;
    let bound = bind(&dynamic.config().load().socket_config())?;
    Ok(Foundation { counters, zookeeper, cluster_id, id, log_dirs, failed_dirs, dynamic: Arc::new(dynamic), bound })
}

async fn assemble(foundation: Foundation) -> Result<Broker, StartError> {
    let Foundation { counters, zookeeper, cluster_id, id, log_dirs, failed_dirs, dynamic, bound } = foundation;
    let (shutdown, shutting_down) = watch::channel(false);
    let mut tasks = JoinSet::new();
    let current = dynamic.config();
    let config = current.load_full();
    let (socket, log_dirs_config) = (config.socket_config(), config.log_dirs_config());

    // A start that is refused for its addresses is refused before the logs are touched.
    let ports = ports(&bound)?;
    let (readdress, addresses) = watch::channel(advertised(config.advertised_listeners().to_vec(), &ports).await?);
    let identity = Identity {
        broker_id: id,
        advertised: addresses,
        rack: config.broker_rack().map(str::to_owned),
        protocol: config.inter_broker_protocol_version(),
    };
    let (publish_features, finalized) = watch::channel(finalized_features(&zookeeper, &config).await?);
    let (own_configs, defaults) = dynamic.topic_configs().await.doing("read the topics' settings")?;
    // The directories were opened before what is stored in ZooKeeper was read.
    log_dirs.set_recovery_threads(log_dirs_config.num_recovery_threads_per_data_dir);
    let has_topics = !own_configs.is_empty();
    load_logs(&log_dirs, own_configs, defaults).await?;

    let io = IoThreads::start(socket.num_io_threads, socket.queued_max_requests).doing("start the I/O threads")?;
    let io = Arc::new(io);
    let metadata = Arc::new(MetadataCache::after_start(has_topics));
    let group_config = config.group_config();
    let (replica_config, controller_config) = (config.replica_config(), config.controller_config());
    let moves_at_once = replica_config.num_replica_alter_log_dirs_threads.max(1);
    let (broker_epoch, registered) = watch::channel(None);
    let controlled_shutdown =
        ControlledShutdown { broker: id, metadata: Arc::clone(&metadata), registered: registered.clone() };
    let (replicas, leaderships, fetchers) = ReplicaManager::new(
        id,
        replica_config,
        Arc::clone(&metadata),
        Arc::clone(&log_dirs),
        Arc::clone(&dynamic) as Arc<dyn TopicConfigs>,
        Arc::clone(&io),
        registered,
        Arc::clone(&counters.replica),
    );
    tasks.spawn(features::follow(zookeeper.clone(), publish_features, shutting_down.clone()));
    let (of_replicas, zk) = (Arc::clone(&replicas), zookeeper.clone());
    tasks.spawn(forget_missed(of_replicas, zk, cluster_id.clone(), shutting_down.clone()));
    tasks.spawn(Fetchers::run(fetchers, shutting_down.clone()));
    for _ in 0..moves_at_once {
        tasks.spawn(dir_moves::run(Arc::clone(&replicas), shutting_down.clone()));
    }
    let of_replicas = dynamic.section(KafkaConfig::replica_config);
    tasks.spawn(follow_replica_settings(of_replicas, Arc::clone(&replicas), shutting_down.clone()));
    let partitions = group_config.offsets_topic_num_partitions;
    let partitions =
        partitions_of(&zookeeper, GROUP_METADATA_TOPIC, partitions, "offsets.topic.num.partitions").await?;
    let groups = GroupCoordinator::new(
        group_config,
        partitions,
        Arc::new(ReplicaLog::new(Arc::clone(&replicas), GROUP_METADATA_TOPIC)),
        Arc::clone(&counters.groups),
    );
    let transaction_config = config.transaction_config();
    let partitions = transaction_config.state_log_num_partitions;
    let partitions =
        partitions_of(&zookeeper, TRANSACTION_STATE_TOPIC, partitions, "transaction.state.log.num.partitions").await?;
    let log = ReplicaLog::new(Arc::clone(&replicas), TRANSACTION_STATE_TOPIC).counted_in(zookeeper.clone());
    let (transactions, markers_to_send) =
        TransactionCoordinator::new(transaction_config, partitions, Arc::new(log), Arc::clone(&counters.transactions));
    let markers_version = config.inter_broker_protocol_version().write_txn_markers_request_version();
    let (of_transactions, cluster) = (Arc::clone(&transactions), Arc::clone(&metadata));
    let marker_sender = MarkerSender::new(id, of_transactions, cluster, zookeeper.clone(), markers_version);
    tasks.spawn(marker_sender.run(markers_to_send, shutting_down.clone()));
    let (group_leaderships, group_leaderships_told) = mpsc::unbounded_channel();
    let (transaction_leaderships, transaction_leaderships_told) = mpsc::unbounded_channel();
    let (of_groups, zk) = (Arc::clone(&groups), zookeeper.clone());
    tasks.spawn(forward_leaderships(leaderships, group_leaderships, of_groups, transaction_leaderships, zk));
    tasks.spawn(Arc::clone(&groups).run(group_leaderships_told, shutting_down.clone()));
    tasks.spawn(Arc::clone(&transactions).run(transaction_leaderships_told, shutting_down.clone()));
    let expiration = dynamic.section(KafkaConfig::log_dirs_config);
    tasks.spawn(follow_producer_expiration(expiration, Arc::clone(&log_dirs), shutting_down.clone()));
    let cleaner = dynamic.section(KafkaConfig::cleaner_config);
    tasks.spawn(follow_cleaner_settings(cleaner, Arc::clone(&log_dirs), shutting_down.clone()));
    let sockets = dynamic.section(KafkaConfig::socket_config);
    let addresses = dynamic.section(|config| config.advertised_listeners().to_vec());
    tasks.spawn(follow_advertised_listeners(addresses, ports, readdress, shutting_down.clone()));
    tasks.spawn(follow_io_threads(dynamic.section(KafkaConfig::socket_config), Arc::clone(&io), shutting_down.clone()));
    let protocol = config.inter_broker_protocol_version();
    if protocol.is_alter_partition_supported() {
        let to_controller = ToController::new(id, Arc::clone(&metadata), &controller_config);
        tasks.spawn(alter_partition::run(Arc::clone(&replicas), to_controller, protocol, shutting_down.clone()));
    } else {
        tasks.spawn(isr_znodes::run(Arc::clone(&replicas), zookeeper.clone(), shutting_down.clone()));
    }
    let to_controller = ToController::new(id, Arc::clone(&metadata), &controller_config).into();
    let known = KnownTopics { metadata: Arc::clone(&metadata), log_dirs: Some(Arc::clone(&log_dirs)) };
    let (controller, controlling) = Controller::new(id, controller_config, known, Arc::clone(&counters.controller));
    let mut controller_task = JoinSet::new();
    controller_task.spawn(controlling);
    let decisive = dynamic.section(KafkaConfig::controller_config);
    tasks.spawn(follow_controller_settings(decisive, controller.clone(), shutting_down.clone()));
    tasks.spawn(dynamic.run(Arc::clone(&replicas), controller.clone(), shutting_down.clone()));
    let server = Arc::new(Server {
        broker_id: id,
        cluster_id,
        config: Arc::clone(&current),
        metadata: Arc::clone(&metadata),
        features: finalized,
        groups: Arc::clone(&groups),
        verifier: Verifier::new(id, Arc::clone(&transactions), Arc::clone(&metadata)),
        transactions: Arc::clone(&transactions),
        producer_ids: Default::default(),
        zookeeper: zookeeper.clone(),
        replicas: Arc::clone(&replicas),
        counters: Arc::clone(&counters.api),
        long_work: LongWork::new(socket.network_threads()),
        fetch_max_bytes: socket.fetch_max_bytes,
        socket_response_max_bytes: socket.socket_response_max_bytes,
        controller: controller.clone(),
        to_controller,
        topics: Topics::new(zookeeper.clone()),
    });

    registration::wait_for_predecessor(&zookeeper, id).await.doing(format_args!("register broker {id}"))?;
    // The first request may come as soon as the broker is registered, from its own controller.
    let shared = Arc::new(Shared {
        bounds: connection_bounds(&socket),
        connections: ConnectionCounter::new(connection_limits(&socket)?),
        memory: network_memory(&socket),
        counters: Arc::clone(&counters.network),
    });
    let connections = Arc::clone(&shared.connections);
    tasks.spawn(follow_connection_limits(sockets, connections, shutting_down.clone()));
    for listener in listen(bound)? {
        let (server, shared) = (Arc::clone(&server), Arc::clone(&shared));
        tasks.spawn(listener::accept(listener, server, shared, shutting_down.clone()));
    }
    let registration = Registration::start(zookeeper.clone(), identity, controller.clone(), broker_epoch, &mut tasks)
        .await
        .doing(format_args!("register broker {id}"))?;
    housekeeping::start(
        &mut tasks,
        &log_dirs_config,
        Arc::clone(&replicas),
        failed_dirs,
        zookeeper.clone(),
        shutting_down,
    );

    Ok(Broker {
        id,
        shutdown,
        zookeeper,
        registration,
        config: current,
        controlled_shutdown,
        controller,
        controller_task,
        replicas,
        log_dirs,
        io,
        tasks,
    })
}

/// Loads and, after a crash, recovers all logs, off the network threads.
async fn load_logs(
    log_dirs: &Arc<LogDirs>,
    own: HashMap<String, Arc<LogConfig>>,
    defaults: Arc<LogConfig>,
) -> Result<(), StartError> {
    let log_dirs = Arc::clone(log_dirs);
    let load = move || {
        let report = LoadReport::start();
        let config_of = |topic: &str| own.get(topic).cloned().unwrap_or_else(|| Arc::clone(&defaults));
        let loaded = log_dirs.load(&config_of, wall_clock_ms(), &|progress| report.progress(progress));
        report.finish();
        loaded
    };
    match tokio::task::spawn_blocking(move || off_the_network(load)).await {
        Ok(loaded) => loaded.doing("load the logs"),
        Err(panicked) => Err(StartError(format!("load the logs: {panicked}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_of_the_stock_size_are_left_to_the_system() {
        assert_eq!([None, Some(100 << 10), Some(1 << 20)].map(unless_stock), [None, None, Some(1 << 20)]);
    }
}
