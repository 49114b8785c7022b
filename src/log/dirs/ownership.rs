//! Takes the directories: creates and locks them, and checks by `meta.properties` that they are this broker's.
//! Source: kafka 3.9 metadata/.../properties/MetaPropertiesEnsemble.java.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Arc, Mutex, RwLock};

use tokio::sync::mpsc::UnboundedSender;

use super::{Dir, LogDirs};
use crate::config::sections::LogDirsConfig;
use crate::log::broker_metadata::MetaProperties;
use crate::log::counters::LogCounters;
use crate::log::error::{IoContext, LogError};
use crate::log::file_names;
use crate::log::files::{self, File};
use crate::log::log_dir::LogDir;
use crate::log::producer_state::ProducerLimits;
use crate::model::BrokerId;

impl LogDirs {
    /// Creates and locks the directories and reads whom they belong to. A directory that cannot be used is offline from
    /// the start, and `failures` hears of it; without any that can, there is nothing to run on.
    pub fn open(
        config: &LogDirsConfig,
        failures: UnboundedSender<PathBuf>,
        counters: Arc<LogCounters>,
    ) -> Result<LogDirs, LogError> {
        let producer_limits = ProducerLimits::new(config.producer_ids_max, config.producer_ids_total_max);
        let mut dirs = Vec::with_capacity(config.dirs.len());
        for path in &config.dirs {
            let path = std::path::absolute(path).doing("resolve", path)?;
            let shared = Arc::new(LogDir::new(
                path,
                failures.clone(),
                config.producer_id_expiration_ms,
                Arc::clone(&producer_limits),
                Arc::clone(&counters),
                config.reserved_bytes,
            ));
            let (lock, metadata) = match prepare_dir(shared.path()) {
                Ok((lock, metadata)) => (Some(lock), metadata),
                Err(refused @ LogError::StartRefused { .. }) => return Err(refused),
                Err(error) => {
                    shared.fail(&error);
                    (None, None)
                }
            };
            dirs.push(Dir {
                shared,
                lock: Mutex::new(lock),
                metadata: Mutex::new(metadata),
                had_clean_shutdown: AtomicBool::new(false),
                is_loaded: AtomicBool::new(false),
                unloadable: Mutex::default(),
            });
        }
        if dirs.iter().all(|dir| dir.shared.is_offline()) {
            let listed: Vec<String> = config.dirs.iter().map(|dir| dir.display().to_string()).collect();
            let context = format!(
                "Shutdown broker because none of the specified log dirs from {} can be created or validated",
                listed.join(", ")
            );
            return Err(LogError::StartRefused { context });
        }
        Ok(LogDirs {
            dirs,
            recovery_threads_per_dir: AtomicUsize::new(config.num_recovery_threads_per_data_dir),
            logs: RwLock::default(),
            future_logs: RwLock::default(),
            topic_defaults: Arc::new(config.topic_defaults.clone()),
            pauses: Mutex::default(),
            preferred: Mutex::default(),
            placements: std::array::from_fn(|_| Mutex::default()),
            passes_end: AtomicBool::new(false),
        })
    }

    /// The broker id that the directories have stored, if any; they must agree.
    pub fn stored_broker_id(&self) -> Result<Option<BrokerId>, LogError> {
        self.stored("broker.id", MetaProperties::broker_id)
    }

    /// The cluster id that the directories have stored, if any; they must agree.
    pub fn stored_cluster_id(&self) -> Result<Option<String>, LogError> {
        self.stored("cluster.id", |metadata| metadata.cluster_id().map(str::to_string))
    }

    fn stored<T: PartialEq + std::fmt::Display>(
        &self,
        key: &str,
        value: impl Fn(&MetaProperties) -> Option<T>,
    ) -> Result<Option<T>, LogError> {
        let mut agreed: Option<T> = None;
        for dir in self.live() {
            let metadata = dir.metadata.lock().expect("nothing panics under this lock");
            let Some(stored) = metadata.as_ref().and_then(&value) else { continue };
            match &agreed {
                Some(other) if *other != stored => {
                    let context = format!(
                        "Stored {key} {stored} in {} doesn't match {other} in another log directory. If you moved your \
                         data, make sure your configured {key} matches",
                        dir.shared.path().join(file_names::META_PROPERTIES).display()
                    );
                    return Err(LogError::StartRefused { context });
                }
                _ => agreed = Some(stored),
            }
        }
        Ok(agreed)
    }

    /// Marks the directories as this broker's, after checking that they are no other's.
    pub fn claim(&self, cluster_id: &str, broker_id: BrokerId) -> Result<(), LogError> {
        if let Some(stored) = self.stored_cluster_id()?
            && stored != cluster_id
        {
            let context = format!(
                "Invalid cluster.id in meta.properties. Expected {cluster_id}, but read {stored}: the broker is trying \
                 to join the wrong cluster. Configured zookeeper.connect may be wrong"
            );
            return Err(LogError::StartRefused { context });
        }
        if let Some(stored) = self.stored_broker_id()?
            && stored != broker_id
        {
            let context = format!(
                "Configured broker.id {broker_id} doesn't match stored broker.id {stored} in meta.properties. If you \
                 moved your data, make sure your configured broker.id matches. If you intend to create a new broker, \
                 you should remove all data in your data directories (log.dirs)"
            );
            return Err(LogError::StartRefused { context });
        }
        for dir in self.live() {
            let mut metadata = dir.metadata.lock().expect("nothing panics under this lock");
            let mut claimed = metadata.clone().unwrap_or_default();
            claimed.claim(cluster_id, broker_id);
            if metadata.as_ref() != Some(&claimed) {
                let path = dir.shared.path().join(file_names::META_PROPERTIES);
                if dir.shared.observe(claimed.write(&path)).is_err() {
                    continue;
                }
                *metadata = Some(claimed);
            }
        }
        Ok(())
    }
}

fn prepare_dir(path: &Path) -> Result<(File, Option<MetaProperties>), LogError> {
    if !files::exists(path).doing("look for", path)? {
        log::info!("Log directory {} not found, creating it.", path.display());
        files::create_dir_all(path).doing("create", path)?;
    }
    files::list(path).doing("list", path)?;
    let lock_path = path.join(file_names::LOCK);
    let lock = files::open_or_create(&lock_path).doing("open", &lock_path)?;
    if !files::lock(&lock).doing("lock", &lock_path)? {
        let context = format!(
            "Failed to acquire lock on file .lock in {}. A Kafka instance in another process or thread is using this \
             directory.",
            path.display()
        );
        return Err(LogError::StartRefused { context });
    }
    let metadata = MetaProperties::read(&path.join(file_names::META_PROPERTIES))?;
    Ok((lock, metadata))
}
