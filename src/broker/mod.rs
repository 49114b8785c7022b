//! The assembly: what a broker process consists of, and the order in which it starts and stops.

use std::sync::Arc;

use arc_swap::ArcSwap;
use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::broker::controlled_shutdown::ControlledShutdown;
use crate::broker::registration::Registration;
use crate::config::kafka_config::KafkaConfig;
use crate::controller::task::Controller;
use crate::log::dirs::LogDirs;
use crate::model::BrokerId;
use crate::replica::io::IoThreads;
use crate::replica::replica_manager::ReplicaManager;

pub mod command;
mod controlled_shutdown;
mod counters;
mod deletions;
mod dynamic_config;
mod features;
mod housekeeping;
mod isr_znodes;
mod jvm_environment;
mod leaderships;
mod load_progress;
mod local_host;
mod log_bounds;
mod logging;
pub mod preflight;
mod registration;
mod sections;
mod settings_to_logs;
mod shutdown;
mod startup;
mod zookeeper_settings;

/// The release of Kafka whose behaviour on ZooKeeper this broker has.
pub const KAFKA_VERSION: &str = "3.9.1";

/// A broker that serves.
pub struct Broker {
    id: BrokerId,
    /// True once the broker stops: every task ends then.
    shutdown: watch::Sender<bool>,
    zookeeper: ZooKeeper,
    registration: Registration,
    config: Arc<ArcSwap<KafkaConfig>>,
    controlled_shutdown: ControlledShutdown,
    controller: Controller,
    /// The controller's one task, which outlives the others.
    controller_task: JoinSet<()>,
    replicas: Arc<ReplicaManager>,
    log_dirs: Arc<LogDirs>,
    io: Arc<IoThreads>,
    /// Everything that runs as long as the broker does; one that panics stops it.
    tasks: JoinSet<()>,
}
