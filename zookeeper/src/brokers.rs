//! Registrations of brokers.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::broker::{self, Broker, BrokerJson};
use crate::znode::broker_sequence_id;
use log::{info, warn};
use zookeeper_client::{Error, MultiWriteError, MultiWriteResult};

/// A live broker and the epoch of its registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegisteredBroker {
    pub broker: Broker,
    /// The czxid of the node.
    pub epoch: i64,
}

impl ZooKeeper {
    /// Registers the broker under the handle's session, if it is bound, and returns its epoch. A node left behind by an
    /// earlier session of this process is replaced (KAFKA-7165); one that another process owns is an error, and nothing is changed.
    pub async fn register_broker(&self, broker: &Broker, version: BrokerJson) -> Result<i64, ZkError> {
        let path = broker::path(broker.id);
        let data = broker.encode(version);
        self.fits(&path, data.len())?;
        loop {
            let (permit, connection) = self.admitted().await?;
            let committed = async {
                let mut writer = connection.client.new_multi_writer();
                let options = CreateKind::Ephemeral.mode().with_acls(self.acls_for(&path));
                writer.add_create(&path, b"", &options)?;
                writer.add_set_data(&path, &data, Some(0))?;
                writer.commit().await
            }
            .await;
            drop(permit);
            match committed {
                Ok(results) => {
                    return match results.last() {
                        Some(MultiWriteResult::SetData { stat }) => {
                            info!(
                                "Registered broker {} at path {path} with czxid (broker epoch): {}",
                                broker.id, stat.czxid
                            );
                            Ok(stat.czxid)
                        }
                        other => {
                            Err(ZkError::Other { path, reason: format!("the server answered a multi with {other:?}") })
                        }
                    };
                }
                Err(MultiWriteError::RequestFailed { source } | MultiWriteError::OperationFailed { source, .. })
                    if is_connection_loss(&source) =>
                {
                    continue;
                }
                Err(MultiWriteError::OperationFailed { source: Error::NodeExists, .. }) => {}
                // Somebody has removed the parent.
                Err(MultiWriteError::OperationFailed { source: Error::NoNode, .. }) => {
                    match self.create_recursive(broker::ROOT, b"", CreateKind::Persistent).await {
                        Ok(_) | Err(ZkError::NodeExists { .. }) => continue,
                        Err(error) => return Err(error),
                    }
                }
                Err(error) => return Err(ZkError::from_client(&path, error.into())),
            }
            let Some(stat) = self.exists(&path).await? else { continue };
            if stat.ephemeral_owner == connection.session_id {
                // The reply to our own registration was lost, or it stands from before.
                return Ok(stat.czxid);
            }
            if connection.former_sessions.contains(&stat.ephemeral_owner) {
                warn!(
                    "{path} was left behind by this broker's earlier session {:#x}; replacing it",
                    stat.ephemeral_owner
                );
                match self.delete(&path, stat.version).await {
                    Ok(_) | Err(ZkError::BadVersion { .. }) => continue,
                    Err(error) => return Err(error),
                }
            }
            return Err(ZkError::BrokerIdTaken {
                path,
                owner_session: stat.ephemeral_owner,
                own_session: connection.session_id,
            });
        }
    }

    /// Ids of the live brokers, in ascending order.
    pub async fn broker_ids(&self) -> Result<Vec<i32>, ZkError> {
        Ok(ids(&self.children(broker::ROOT).await?))
    }

    pub async fn broker(&self, id: i32) -> Result<Option<RegisteredBroker>, ZkError> {
        match self.get(&broker::path(id)).await? {
            None => Ok(None),
            Some((data, stat)) => Ok(Some(RegisteredBroker { broker: Broker::decode(id, &data)?, epoch: stat.czxid })),
        }
    }

    /// The live brokers that can be understood, in ascending order of their ids; the others are complained of.
    pub async fn brokers(&self) -> Result<Vec<RegisteredBroker>, ZkError> {
        let ids = self.broker_ids().await?;
        let paths: Vec<String> = ids.iter().map(|id| broker::path(*id)).collect();
        let mut brokers = Vec::new();
        for ((id, path), read) in ids.into_iter().zip(&paths).zip(self.get_many(&paths).await) {
            let decoded = read.and_then(|read| match read {
                None => Ok(None),
                Some((data, stat)) => {
                    Ok(Some(RegisteredBroker { broker: Broker::decode(id, &data)?, epoch: stat.czxid }))
                }
            });
            match decoded {
                Ok(broker) => {
                    self.mended(path);
                    brokers.extend(broker);
                }
                Err(error) if error.is_of_the_session() => return Err(error),
                Err(error) => self.complain(path, &format!("broker {id} is left out"), &error),
            }
        }
        Ok(brokers)
    }

    /// An id for a broker that has none: the first is `reserved_broker_max_id` + 1.
    pub async fn generate_broker_id(&self, reserved_broker_max_id: i32) -> Result<i32, ZkError> {
        let path = broker_sequence_id::PATH;
        let stat = match self.set(path, b"", -1).await {
            Err(ZkError::NoNode { .. }) => {
                match self.create_recursive(path, b"", CreateKind::Persistent).await {
                    Ok(_) | Err(ZkError::NodeExists { .. }) => {}
                    Err(error) => return Err(error),
                }
                self.set(path, b"", -1).await?
            }
            outcome => outcome?,
        };
        stat.version
            .checked_add(reserved_broker_max_id)
            .ok_or_else(|| ZkError::Other { path: path.to_owned(), reason: "no broker id is left".to_owned() })
    }
}

/// Children of `/brokers/ids` as ids, in ascending order; anything else found there is not a broker.
pub fn ids(children: &[String]) -> Vec<i32> {
    let mut ids: Vec<i32> = children
        .iter()
        .filter_map(|child| child.parse().ok().filter(|id: &i32| id.to_string() == *child && *id >= 0))
        .collect();
    ids.sort_unstable();
    ids
}
