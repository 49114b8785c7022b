//! How a change of settings reaches a room while the broker runs: the room's section of the configuration, watched.

use std::collections::HashMap;
use std::sync::Arc;

use log::{error, info};
use tokio::sync::watch;

use crate::broker::startup::{advertised, connection_limits};
use crate::config::kafka_config::KafkaConfig;
use crate::config::listeners::EndPoint;
use crate::config::sections::{CleanerConfig, ControllerConfig, LogDirsConfig, ReplicaConfig, SocketConfig};
use crate::controller::task::Controller;
use crate::log::cleaner::threads::CleanerThreads;
use crate::log::dirs::LogDirs;
use crate::model::lock::off_the_network;
use crate::network::limits::ConnectionCounter;
use crate::replica::io::IoThreads;
use crate::replica::replica_manager::ReplicaManager;

/// One part of the configuration in force. Anything that has one learns of every change of that part, and of no other.
#[derive(Debug)]
pub(crate) struct Section<T> {
    all: watch::Receiver<Arc<KafkaConfig>>,
    part: fn(&KafkaConfig) -> T,
    current: T,
}

impl<T: PartialEq> Section<T> {
    pub(crate) fn new(mut all: watch::Receiver<Arc<KafkaConfig>>, part: fn(&KafkaConfig) -> T) -> Section<T> {
        let current = part(&all.borrow_and_update());
        Section { all, part, current }
    }

    pub(crate) fn current(&self) -> &T {
        &self.current
    }

    /// The part after its next change; `None` when there will be no more. Dropped half way it misses nothing.
    pub(crate) async fn changed(&mut self) -> Option<&T> {
        loop {
            self.all.changed().await.ok()?;
            let next = (self.part)(&self.all.borrow_and_update());
            if next != self.current {
                self.current = next;
                return Some(&self.current);
            }
        }
    }
}

/// `max.connections` and its kin, until told to stop. Connections that are open stay.
pub(crate) async fn follow_connection_limits(
    mut sockets: Section<SocketConfig>,
    counter: Arc<ConnectionCounter>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let sockets = tokio::select! {
            changed = sockets.changed() => match changed {
                Some(sockets) => sockets.clone(),
                None => return,
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        // Names in max.connections.per.ip.overrides are looked up.
        let limits = tokio::task::spawn_blocking(move || connection_limits(&sockets).map_err(|why| why.to_string()));
        match limits.await.unwrap_or_else(|ended| Err(ended.to_string())) {
            Ok(limits) => {
                info!("Updated the limits of connections to {limits:?}");
                counter.set_limits(limits);
            }
            Err(why) => error!("the limits of connections stay as they are: {why}"),
        }
    }
}

/// `producer.id.expiration.ms` and `log.segment.delete.delay.ms`, until told to stop.
pub(crate) async fn follow_log_dirs_settings(
    mut log_dirs: Section<LogDirsConfig>,
    dirs: Arc<LogDirs>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        // The directories were opened before what is stored in ZooKeeper was read.
        dirs.set_producer_id_expiration(log_dirs.current().producer_id_expiration_ms);
        dirs.set_file_delete_delay(log_dirs.current().topic_defaults.file_delete_delay_ms);
        tokio::select! {
            changed = log_dirs.changed() => if changed.is_none() {
                return;
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
    }
}

/// The settings of the log cleaner, until told to stop; then it stops too.
pub(crate) async fn follow_cleaner_settings(
    mut settings: Section<CleanerConfig>,
    dirs: Arc<LogDirs>,
    mut shutdown: watch::Receiver<bool>,
) {
    let cleaner = Arc::new(CleanerThreads::start(dirs, settings.current()));
    // Whoever waits here waits for a pass to be given up.
    let at_once = |work: Box<dyn FnOnce(&CleanerThreads) + Send>| {
        let cleaner = Arc::clone(&cleaner);
        tokio::task::spawn_blocking(move || off_the_network(|| work(&cleaner)))
    };
    loop {
        let config = tokio::select! {
            changed = settings.changed() => changed.cloned(),
            _ = shutdown.wait_for(|stops| *stops) => None,
        };
        let Some(config) = config else { break };
        info!("The log cleaner runs by {config:?} from now on");
        if let Err(ended) = at_once(Box::new(move |cleaner| cleaner.reconfigure(&config))).await {
            error!("the log cleaner does not follow its settings: {ended}");
        }
    }
    if let Err(ended) = at_once(Box::new(CleanerThreads::stop)).await {
        error!("the log cleaner does not stop: {ended}");
    }
}

/// `advertised.listeners`, until told to stop; `ports` are those of the listeners.
pub(crate) async fn follow_advertised_listeners(
    mut endpoints: Section<Vec<EndPoint>>,
    ports: HashMap<String, u16>,
    readdress: watch::Sender<Vec<EndPoint>>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let endpoints = tokio::select! {
            changed = endpoints.changed() => match changed {
                Some(endpoints) => endpoints.clone(),
                None => return,
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        match advertised(endpoints, &ports).await {
            Ok(endpoints) => drop(readdress.send_replace(endpoints)),
            Err(why) => error!("the advertised addresses stay as they are: {why}"),
        }
    }
}

/// `num.io.threads`, until told to stop.
pub(crate) async fn follow_io_threads(
    mut sockets: Section<SocketConfig>,
    threads: Arc<IoThreads>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let before = sockets.current().num_io_threads;
        let wanted = tokio::select! {
            changed = sockets.changed() => match changed {
                Some(sockets) => sockets.num_io_threads,
                None => return,
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        if wanted == before {
            continue;
        }
        match threads.resize(wanted) {
            Ok(()) => info!("{wanted} I/O threads run in place of {before}"),
            Err(why) => error!("some of {wanted} I/O threads do not start: {why}"),
        }
    }
}

/// `num.replica.fetchers` and the replication quotas, until told to stop.
pub(crate) async fn follow_replica_settings(
    mut settings: Section<ReplicaConfig>,
    replicas: Arc<ReplicaManager>,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let before = settings.current().num_replica_fetchers;
        tokio::select! {
            changed = settings.changed() => if changed.is_none() {
                return;
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        }
        let settings = settings.current();
        replicas.set_throttled_rates(settings);
        let wanted = settings.num_replica_fetchers;
        if wanted != before {
            replicas.fetchers().resize(wanted);
            info!("{wanted} fetchers for each broker that is followed run in place of {before}");
        }
    }
}

/// `unclean.leader.election.enable`, until told to stop.
pub(crate) async fn follow_controller_settings(
    mut decisive: Section<ControllerConfig>,
    controller: Controller,
    mut shutdown: watch::Receiver<bool>,
) {
    loop {
        let config = tokio::select! {
            changed = decisive.changed() => match changed {
                Some(config) => config.clone(),
                None => return,
            },
            _ = shutdown.wait_for(|stops| *stops) => return,
        };
        controller.configure(config).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::properties::Properties;

    fn config(pairs: &[(&str, &str)]) -> Arc<KafkaConfig> {
        let pairs = [&[("zookeeper.connect", "localhost:2181")], pairs].concat();
        let properties: Properties = pairs.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Arc::new(KafkaConfig::from_properties(&properties).expect("valid"))
    }

    #[tokio::test]
    async fn a_section_hears_of_its_own_changes_alone() {
        let (all, watched) = watch::channel(config(&[]));
        let mut sockets = Section::new(watched, KafkaConfig::socket_config);
        let limit = |sockets: Option<&SocketConfig>| sockets.map(|sockets| sockets.max_connections);
        all.send_replace(config(&[("max.connections", "7")]));
        assert_eq!(limit(sockets.changed().await), Some(7));
        all.send_replace(config(&[("max.connections", "7"), ("log.retention.ms", "5")]));
        let next = tokio::task::spawn(async move { limit(sockets.changed().await) });
        tokio::task::yield_now().await;
        assert!(!next.is_finished(), "nothing of it has changed");
        all.send_replace(config(&[("max.connections", "8")]));
        assert_eq!(next.await.expect("no panic"), Some(8));
    }
}
