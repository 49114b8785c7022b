//! What there is once per cluster.
use crate::error::ZkError;
use crate::fenced::Fenced;
use crate::session::{CreateKind, Versioned, ZooKeeper};
use crate::znode::cluster_id;
use crate::znode::feature::{self, Feature};

impl ZooKeeper {
    pub async fn cluster_id(&self) -> Result<Option<String>, ZkError> {
        match self.get(cluster_id::PATH).await? {
            None => Ok(None),
            Some((data, _)) => Ok(Some(cluster_id::decode(&data)?)),
        }
    }

    /// The id of the cluster, which becomes `candidate` if it has none yet.
    pub async fn cluster_id_or_create(&self, candidate: &str) -> Result<String, ZkError> {
        loop {
            if let Some(id) = self.cluster_id().await? {
                return Ok(id);
            }
            let data = cluster_id::encode(candidate);
            match self.create_recursive(cluster_id::PATH, &data, CreateKind::Persistent).await {
                // After a lost reply the node is our own; it is read again either way.
                Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// `None` when the node is absent. One that cannot be read is an error the caller may overwrite.
    pub async fn feature(&self) -> Result<Option<Versioned<Feature>>, ZkError> {
        match self.get(feature::PATH).await? {
            None => Ok(None),
            Some((data, stat)) => Ok(Some(Versioned { value: Feature::decode(&data)?, version: stat.version })),
        }
    }
}

impl Fenced {
    /// Whatever it says now.
    pub async fn set_feature(&self, feature: &Feature) -> Result<(), ZkError> {
        let data = feature.encode();
        loop {
            match self.set(feature::PATH, &data, -1).await {
                Err(ZkError::NoNode { .. }) => {}
                outcome => return outcome.map(|_| ()),
            }
            match self.create(feature::PATH, &data).await {
                Err(ZkError::NodeExists { .. }) => {}
                outcome => return outcome,
            }
        }
    }
}
