//! Settings that the cluster remembers, and how brokers hear that they changed.
use crate::error::{ZkError, ZnodeError, is_connection_loss};
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::config::{self, ConfigEntity};
use crate::znode::config_change;
use std::collections::BTreeMap;
use zookeeper_client::{Error, MultiWriteError};

/// A stored configuration, if it can be understood, and the version of its znode; `None` when there is none.
#[derive(Debug)]
pub struct StoredConfig {
    pub config: Result<BTreeMap<String, String>, ZnodeError>,
    pub version: Option<i32>,
}

impl ZooKeeper {
    /// What is stored for the entity; empty when there is nothing.
    pub async fn config(&self, entity: &ConfigEntity) -> Result<BTreeMap<String, String>, ZkError> {
        let path = entity.path();
        match self.get(&path).await? {
            None => Ok(BTreeMap::new()),
            Some((data, _)) => Ok(config::decode(&path, &data)?),
        }
    }

    /// The stored configuration of many entities, in their order: one that cannot be read takes no other with it.
    pub async fn configs(&self, entities: &[ConfigEntity]) -> Vec<Result<BTreeMap<String, String>, ZkError>> {
        let paths: Vec<String> = entities.iter().map(ConfigEntity::path).collect();
        let read = self.get_many(&paths).await;
        let decoded = read.into_iter().zip(&paths).map(|(read, path)| match read? {
            None => Ok(BTreeMap::new()),
            Some((data, _)) => Ok(config::decode(path, &data)?),
        });
        decoded.collect()
    }

    /// What is stored for an entity that is to be changed.
    pub async fn stored_config(&self, entity: &ConfigEntity) -> Result<StoredConfig, ZkError> {
        let path = entity.path();
        Ok(match self.get(&path).await? {
            None => StoredConfig { config: Ok(BTreeMap::new()), version: None },
            Some((data, stat)) => StoredConfig { config: config::decode(&path, &data), version: Some(stat.version) },
        })
    }

    /// Replaces the whole configuration of the entity, if it is still what was stored in that version, and tells all brokers.
    /// Else it fails with `BadVersion`, `NodeExists` or `NoNode`.
    pub async fn replace_config(
        &self,
        entity: &ConfigEntity,
        config: &BTreeMap<String, String>,
        version: Option<i32>,
    ) -> Result<(), ZkError> {
        let (path, data) = (entity.path(), config::encode(config));
        match self.write_and_notify(entity, &data, version).await {
            // The reply to our own request may have been lost.
            Err(ZkError::BadVersion { .. } | ZkError::NodeExists { .. })
                if self.get(&path).await?.is_some_and(|(found, _)| found == data) =>
            {
                self.notify_config_change(entity).await
            }
            written => written,
        }
    }

    /// Replaces the whole configuration of the entity and tells all brokers. Two writers at once: the last one wins.
    pub async fn set_config(&self, entity: &ConfigEntity, config: &BTreeMap<String, String>) -> Result<(), ZkError> {
        let data = config::encode(config);
        loop {
            match self.write_and_notify(entity, &data, Some(-1)).await {
                Err(ZkError::NoNode { .. }) => {}
                written => return written,
            }
            match self.write_and_notify(entity, &data, None).await {
                Err(ZkError::NodeExists { .. }) => {}
                written => return written,
            }
        }
    }

    /// Sets the znode of the entity, or creates it if there is no version, and tells brokers, or does neither: of what is stored
    /// and not told of nobody hears before the next change.
    async fn write_and_notify(&self, entity: &ConfigEntity, data: &[u8], version: Option<i32>) -> Result<(), ZkError> {
        const CONFIG: usize = 0;
        let path = entity.path();
        let (change_path, change) = config_change(entity);
        self.fits(&path, data.len() + change_path.len() + change.len())?;
        loop {
            let (permit, connection) = self.admitted().await?;
            let committed = async {
                let mut writer = connection.client.new_multi_writer();
                match version {
                    Some(version) => writer.add_set_data(&path, data, Some(version))?,
                    None => {
                        writer.add_create(
                            &path,
                            data,
                            &CreateKind::Persistent.mode().with_acls(self.acls_for(&path)),
                        )?;
                    }
                }
                let sequential = CreateKind::PersistentSequential.mode().with_acls(self.acls_for(&change_path));
                writer.add_create(&change_path, &change, &sequential)?;
                writer.commit().await
            }
            .await;
            drop(permit);
            let (at, source) = match committed {
                Ok(_) => return Ok(()),
                Err(MultiWriteError::RequestFailed { source }) => (CONFIG, source),
                Err(MultiWriteError::OperationFailed { index, source }) => (index, source),
            };
            match source {
                source if is_connection_loss(&source) => {}
                // There is nothing to set.
                Error::NoNode if at == CONFIG && version.is_some() => return Err(ZkError::from_client(&path, source)),
                Error::NoNode => {
                    let missing = match path.rsplit_once('/') {
                        Some((parent, _)) if at == CONFIG => parent,
                        _ => config_change::ROOT,
                    };
                    match self.create_recursive(missing, b"", CreateKind::Persistent).await {
                        Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                source => return Err(ZkError::from_client(if at == CONFIG { &path } else { &change_path }, source)),
            }
        }
    }

    pub async fn notify_config_change(&self, entity: &ConfigEntity) -> Result<(), ZkError> {
        let (path, data) = config_change(entity);
        self.create_recursive(&path, &data, CreateKind::PersistentSequential).await.map(|_| ())
    }

    /// Entities of one type that have a node: `topics`, `brokers`, `clients`, `users` or `ips`.
    pub async fn configured_entities(&self, entity_type: &str) -> Result<Vec<ConfigEntity>, ZkError> {
        let names = self.children(&format!("/config/{entity_type}")).await?;
        Ok(names.iter().filter_map(|name| ConfigEntity::from_entity_path(&format!("{entity_type}/{name}"))).collect())
    }
}

/// What tells brokers of a change: the beginning of its path, and its data.
fn config_change(entity: &ConfigEntity) -> (String, Vec<u8>) {
    let path = format!("{}/{}", config_change::ROOT, config_change::PREFIX);
    (path, config_change::encode(&entity.entity_path()))
}
