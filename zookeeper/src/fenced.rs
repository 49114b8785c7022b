//! Writes that only the current controller may make: each is a multi that first checks the version of
//! `/controller_epoch`, so a deposed controller changes nothing, however late its write arrives.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, Stat, ZooKeeper};
use crate::znode::controller_epoch;
use zookeeper_client::{CheckWriteError, CheckWriter, Error, MultiWriteResult};

/// The right to write as controller, as long as `/controller_epoch` stays at the version it was won with.
#[derive(Clone, Debug)]
pub struct Fenced {
    zk: ZooKeeper,
    epoch_zk_version: i32,
}

impl ZooKeeper {
    pub fn fenced(&self, epoch_zk_version: i32) -> Fenced {
        Fenced { zk: self.clone(), epoch_zk_version }
    }
}

impl Fenced {
    pub fn zk(&self) -> &ZooKeeper {
        &self.zk
    }

    pub fn epoch_zk_version(&self) -> i32 {
        self.epoch_zk_version
    }

    pub async fn create(&self, path: &str, data: &[u8], kind: CreateKind) -> Result<Stat, ZkError> {
        self.zk.fits(path, data.len())?;
        let options = kind.mode().with_acls(self.zk.acls_for(path));
        match self.commit(path, |writer| writer.add_create(path, data, &options)).await? {
            Some(MultiWriteResult::Create { stat, .. }) => Ok(stat.into()),
            other => Err(unexpected(path, other)),
        }
    }

    /// The node must exist. `expected_version` -1 matches any.
    pub async fn set(&self, path: &str, data: &[u8], expected_version: i32) -> Result<Stat, ZkError> {
        self.zk.fits(path, data.len())?;
        match self.commit(path, |writer| writer.add_set_data(path, data, Some(expected_version))).await? {
            Some(MultiWriteResult::SetData { stat }) => Ok(stat.into()),
            other => Err(unexpected(path, other)),
        }
    }

    /// Whether there was a node to delete.
    pub async fn delete(&self, path: &str, expected_version: i32) -> Result<bool, ZkError> {
        match self.commit(path, |writer| writer.add_delete(path, Some(expected_version))).await {
            Ok(_) => Ok(true),
            Err(ZkError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Deletes the node with everything below it, level by level from the leaves.
    pub async fn delete_recursive(&self, path: &str) -> Result<(), ZkError> {
        loop {
            let mut levels = vec![vec![path.to_owned()]];
            while let Some(level) = levels.last() {
                let zk = &self.zk;
                let listed =
                    zk.pipelined(level, |parent| Box::pin(async move { (parent, zk.children(parent).await) })).await;
                let mut below = Vec::new();
                for (parent, children) in listed {
                    below.extend(children?.iter().map(|child| format!("{parent}/{child}")));
                }
                if below.is_empty() {
                    break;
                }
                levels.push(below);
            }
            let mut grown = false;
            for level in levels.iter().rev() {
                for outcome in self.zk.pipelined(level, |node| Box::pin(self.delete(node, -1))).await {
                    match outcome {
                        Ok(_) => {}
                        Err(ZkError::NotEmpty { .. }) => grown = true,
                        Err(error) => return Err(error),
                    }
                }
            }
            if !grown {
                return Ok(());
            }
        }
    }

    async fn commit(
        &self,
        path: &str,
        add: impl Fn(&mut CheckWriter<'_>) -> Result<(), Error>,
    ) -> Result<Option<MultiWriteResult>, ZkError> {
        loop {
            let (_permit, connection) = self.zk.admitted().await?;
            let committed = async {
                let mut writer =
                    connection.client.new_check_writer(controller_epoch::PATH, Some(self.epoch_zk_version))?;
                add(&mut writer)?;
                writer.commit().await
            };
            match committed.await {
                Ok(mut results) => return Ok(results.pop()),
                Err(
                    CheckWriteError::RequestFailed { source }
                    | CheckWriteError::CheckFailed { source }
                    | CheckWriteError::OperationFailed { source, .. },
                ) if is_connection_loss(&source) => continue,
                Err(CheckWriteError::CheckFailed { source: Error::BadVersion | Error::NoNode }) => {
                    return Err(ZkError::ControllerMoved { epoch_zk_version: self.epoch_zk_version });
                }
                Err(CheckWriteError::CheckFailed { source }) => {
                    return Err(ZkError::from_client(controller_epoch::PATH, source));
                }
                Err(CheckWriteError::RequestFailed { source } | CheckWriteError::OperationFailed { source, .. }) => {
                    return Err(ZkError::from_client(path, source));
                }
            }
        }
    }
}

fn unexpected(path: &str, result: Option<MultiWriteResult>) -> ZkError {
    ZkError::Other { path: path.to_owned(), reason: format!("the server answered a multi with {result:?}") }
}
