//! Becoming the controller, and ceasing to be it.
//! Source: kafka 3.9.0 core/src/main/scala/kafka/zk/KafkaZkClient.scala, registerControllerAndIncrementControllerEpoch.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, Versioned, ZooKeeper};
use crate::znode::{controller, controller_epoch};
use zookeeper_client::{Error, MultiWriteError, MultiWriteResult};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// `epoch_zk_version` is what every write as controller is checked against.
    Won {
        epoch: i32,
        epoch_zk_version: i32,
    },
    Lost,
}

impl ZooKeeper {
    /// The current controller as it registered itself, whether a broker or a migrating KRaft controller.
    pub async fn controller(&self) -> Result<Option<Versioned<controller::Controller>>, ZkError> {
        match self.get(controller::PATH).await? {
            None => Ok(None),
            Some((data, stat)) => Ok(Some(Versioned { value: controller::decode(&data)?, version: stat.version })),
        }
    }

    pub async fn controller_epoch(&self) -> Result<Option<Versioned<i32>>, ZkError> {
        match self.get(controller_epoch::PATH).await? {
            None => Ok(None),
            Some((data, stat)) => {
                Ok(Some(Versioned { value: controller_epoch::decode(&data)?, version: stat.version }))
            }
        }
    }

    /// Registers this broker as controller and takes the next epoch, both or neither. It is later than `epoch_floor`
    /// too, the latest that the caller knows of: brokers obey no earlier one, whatever somebody has made of the znode.
    pub async fn elect_controller(
        &self,
        broker_id: i32,
        timestamp_ms: i64,
        epoch_floor: i32,
    ) -> Result<Election, ZkError> {
        loop {
            let current = match self.controller_epoch().await? {
                Some(current) => current,
                None => self.create_controller_epoch().await?,
            };
            let epoch = current.value.max(epoch_floor).checked_add(1).ok_or_else(|| ZkError::Other {
                path: controller_epoch::PATH.to_owned(),
                reason: "the controller epoch is used up".to_owned(),
            })?;
            let registration = controller::encode(broker_id, timestamp_ms);
            if let Some(election) = self.elect_at(&registration, epoch, current.version).await? {
                return Ok(election);
            }
        }
    }

    /// One try at the epoch that follows what was read; `None` when somebody has written `/controller_epoch` since and
    /// nobody is the controller.
    async fn elect_at(&self, registration: &[u8], epoch: i32, version_read: i32) -> Result<Option<Election>, ZkError> {
        loop {
            let (permit, connection) = self.admitted().await?;
            let committed = async {
                let mut writer = connection.client.new_multi_writer();
                let options = CreateKind::Ephemeral.mode().with_acls(self.acls_for(controller::PATH));
                writer.add_create(controller::PATH, registration, &options)?;
                writer.add_set_data(controller_epoch::PATH, &controller_epoch::encode(epoch), Some(version_read))?;
                writer.commit().await
            };
            return match committed.await {
                Ok(results) => match results.last() {
                    Some(MultiWriteResult::SetData { stat }) => {
                        Ok(Some(Election::Won { epoch, epoch_zk_version: stat.version }))
                    }
                    other => Err(ZkError::Other {
                        path: controller::PATH.to_owned(),
                        reason: format!("the server answered a multi with {other:?}"),
                    }),
                },
                Err(MultiWriteError::RequestFailed { source } | MultiWriteError::OperationFailed { source, .. })
                    if is_connection_loss(&source) =>
                {
                    continue;
                }
                // The epoch may also have been removed since.
                Err(MultiWriteError::OperationFailed {
                    source: Error::NodeExists | Error::BadVersion | Error::NoNode,
                    ..
                }) => {
                    let session = connection.session_id;
                    drop(permit);
                    self.won_unnoticed(epoch, session).await
                }
                Err(error) => Err(ZkError::from_client(controller::PATH, error.into())),
            };
        }
    }

    /// The multi may have been applied although its reply was lost; then it fails when it is sent again. `None` when
    /// nobody is the controller.
    async fn won_unnoticed(&self, epoch: i32, session: i64) -> Result<Option<Election>, ZkError> {
        let Some(controller) = self.exists(controller::PATH).await? else { return Ok(None) };
        match self.controller_epoch().await? {
            Some(current) if controller.ephemeral_owner == session && current.value == epoch => {
                Ok(Some(Election::Won { epoch, epoch_zk_version: current.version }))
            }
            _ => Ok(Some(Election::Lost)),
        }
    }

    async fn create_controller_epoch(&self) -> Result<Versioned<i32>, ZkError> {
        let data = controller_epoch::encode(controller_epoch::INITIAL);
        match self.create(controller_epoch::PATH, &data, CreateKind::Persistent).await {
            Ok(_) => Ok(Versioned { value: controller_epoch::INITIAL, version: 0 }),
            Err(ZkError::NodeExists { path }) => match self.controller_epoch().await? {
                Some(current) => Ok(current),
                None => Err(ZkError::NoNode { path }),
            },
            Err(error) => Err(error),
        }
    }

    /// Gives the office up, so that another broker is elected; does nothing to a successor's registration.
    pub async fn resign_controller(&self, epoch_zk_version: i32) -> Result<(), ZkError> {
        match self.fenced(epoch_zk_version).delete(controller::PATH, -1).await {
            Ok(_) => Ok(()),
            // Either there is a successor, or something else has written the epoch: then nobody can be elected as long
            // as this session's registration stands.
            Err(ZkError::ControllerMoved { .. }) => match self.exists(controller::PATH).await? {
                Some(stat) if Some(stat.ephemeral_owner) == self.session_id() => {
                    self.delete(controller::PATH, stat.version).await.map(|_| ())
                }
                _ => Ok(()),
            },
            Err(error) => Err(error),
        }
    }
}
