//! Settings that the cluster remembers, and how brokers hear that they changed.
use crate::error::ZkError;
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::config::{self, ConfigEntity};
use crate::znode::config_change;
use std::collections::BTreeMap;

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
