//! Settings that the cluster remembers, and how brokers hear that they changed.
use crate::error::{ZkError, ZnodeError};
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::config::{self, ConfigEntity};
use crate::znode::config_change;
use std::collections::BTreeMap;

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
        let written = match version {
            Some(version) => self.set(&path, &data, version).await.map(|_| ()),
            None => self.create_recursive(&path, &data, CreateKind::Persistent).await.map(|_| ()),
        };
        match written {
            // The reply to our own request may have been lost.
            Err(ZkError::BadVersion { .. } | ZkError::NodeExists { .. })
                if self.get(&path).await?.is_some_and(|(found, _)| found == data) => {}
            written => written?,
        }
        self.notify_config_change(entity).await
    }

    /// Replaces the whole configuration of the entity and tells all brokers. Two writers at once: the last one wins.
    pub async fn set_config(&self, entity: &ConfigEntity, config: &BTreeMap<String, String>) -> Result<(), ZkError> {
        self.set_or_create(&entity.path(), &config::encode(config)).await?;
        self.notify_config_change(entity).await
    }

    pub async fn notify_config_change(&self, entity: &ConfigEntity) -> Result<(), ZkError> {
        let path = format!("{}/{}", config_change::ROOT, config_change::PREFIX);
        let data = config_change::encode(&entity.entity_path());
        self.create_recursive(&path, &data, CreateKind::PersistentSequential).await.map(|_| ())
    }

    /// Entities of one type that have a node: `topics`, `brokers`, `clients`, `users` or `ips`.
    pub async fn configured_entities(&self, entity_type: &str) -> Result<Vec<ConfigEntity>, ZkError> {
        let names = self.children(&format!("/config/{entity_type}")).await?;
        Ok(names.iter().filter_map(|name| ConfigEntity::from_entity_path(&format!("{entity_type}/{name}"))).collect())
    }
}
