//! Writes that only the current controller may make: each is a transaction that first checks the version of
//! `/controller_epoch`, so a deposed controller changes nothing, however late its write arrives. Many writes share a
//! transaction; one that fails takes no other with it.
use crate::error::{ZkError, is_connection_loss};
use crate::session::{CreateKind, ZooKeeper};
use crate::znode::controller_epoch;
use std::future::Future;
use std::pin::Pin;
use zookeeper_client::{CheckWriteError, CheckWriter, Error, MultiWriteResult};

/// Operations in one transaction.
const OPERATIONS_MAX: usize = 500;
/// What a transaction holds of a request's size: servers pass it on among themselves, with more around it, in packets
/// of the same limit.
const PAYLOAD_SHARE: usize = 4;

/// The right to write as controller, as long as `/controller_epoch` stays at the version it was won with.
#[derive(Clone, Debug)]
pub struct Fenced {
    zk: ZooKeeper,
    epoch_zk_version: i32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Persistent.
    Create {
        path: String,
        data: Vec<u8>,
    },
    /// The node must exist. `expected_version` -1 matches any.
    Set {
        path: String,
        data: Vec<u8>,
        expected_version: i32,
    },
    Delete {
        path: String,
        expected_version: i32,
    },
}

impl Write {
    pub fn path(&self) -> &str {
        match self {
            Write::Create { path, .. } | Write::Set { path, .. } | Write::Delete { path, .. } => path,
        }
    }

    fn bytes(&self) -> usize {
        // The ACL, the version or flags, and what stands before each operation.
        const AROUND: usize = 100;
        AROUND
            + match self {
                Write::Create { path, data } | Write::Set { path, data, .. } => path.len() + data.len(),
                Write::Delete { path, .. } => path.len(),
            }
    }
}

/// What became of writes that are applied all or not at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Committed {
    /// The data version of each znode now; of one that was deleted, 0.
    Versions(Vec<i32>),
    /// Nothing was applied. The first that could not be is at `index`.
    Refused { index: usize, error: ZkError },
}

impl ZooKeeper {
    /// The handle should be bound to the session that the epoch was won under.
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

    pub async fn create(&self, path: &str, data: &[u8]) -> Result<(), ZkError> {
        self.write(Write::Create { path: path.to_owned(), data: data.to_vec() }).await.map(|_| ())
    }

    /// The data version afterwards. The node must exist. `expected_version` -1 matches any.
    pub async fn set(&self, path: &str, data: &[u8], expected_version: i32) -> Result<i32, ZkError> {
        self.write(Write::Set { path: path.to_owned(), data: data.to_vec(), expected_version }).await
    }

    /// Whether there was a node to delete.
    pub async fn delete(&self, path: &str, expected_version: i32) -> Result<bool, ZkError> {
        match self.write(Write::Delete { path: path.to_owned(), expected_version }).await {
            Ok(_) => Ok(true),
            Err(ZkError::NoNode { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn write(&self, write: Write) -> Result<i32, ZkError> {
        match self.transaction(&[&[write]]).await? {
            Committed::Versions(versions) => Ok(versions.first().copied().unwrap_or(0)),
            Committed::Refused { error, .. } => Err(error),
        }
    }

    /// Applies many groups of writes, each whole or not at all, and says what became of each, in their order. The
    /// groups must not depend on each other. Fails, and sends nothing more, when the session or the office is lost;
    /// what was sent before may have been applied.
    pub async fn write_many(&self, groups: &[Vec<Write>]) -> Result<Vec<Committed>, ZkError> {
        let bytes_max = self.zk.payload_bytes_max() / PAYLOAD_SHARE;
        let mut batches = Vec::new();
        let (mut from, mut operations, mut bytes) = (0, 0, 0);
        for (at, group) in groups.iter().enumerate() {
            let group_bytes: usize = group.iter().map(Write::bytes).sum();
            if at > from && (operations + group.len() > OPERATIONS_MAX || bytes + group_bytes > bytes_max) {
                batches.push(&groups[from..at]);
                (from, operations, bytes) = (at, 0, 0);
            }
            operations += group.len();
            bytes += group_bytes;
        }
        batches.push(&groups[from..]);
        let committed = self.zk.pipelined_until_one_fails(batches, |batch| self.write_batch(batch)).await?;
        Ok(committed.into_iter().flatten().collect())
    }

    /// Halves a batch that is refused until whoever is to blame stands alone.
    fn write_batch<'a>(
        &'a self,
        groups: &'a [Vec<Write>],
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Committed>, ZkError>> + Send + 'a>> {
        Box::pin(async move {
            let (first, rest) = match groups {
                [] => return Ok(Vec::new()),
                [one] => return Ok(vec![self.transaction(&[one]).await?]),
                many => many.split_at(many.len() / 2),
            };
            let all: Vec<&[Write]> = groups.iter().map(Vec::as_slice).collect();
            match self.transaction(&all).await? {
                Committed::Versions(versions) => {
                    let mut versions = versions.into_iter();
                    Ok(groups
                        .iter()
                        .map(|group| Committed::Versions(versions.by_ref().take(group.len()).collect()))
                        .collect())
                }
                Committed::Refused { .. } => {
                    let mut committed = self.write_batch(first).await?;
                    committed.extend(self.write_batch(rest).await?);
                    Ok(committed)
                }
            }
        })
    }

    /// Deletes the node with everything below it, from the leaves upwards.
    pub async fn delete_recursive(&self, path: &str) -> Result<(), ZkError> {
        loop {
            let mut levels = vec![vec![path.to_owned()]];
            while let Some(level) = levels.last() {
                let mut below = Vec::new();
                for (parent, children) in level.iter().zip(self.zk.children_of_many(level).await) {
                    below.extend(children?.iter().map(|child| format!("{parent}/{child}")));
                }
                if below.is_empty() {
                    break;
                }
                levels.push(below);
            }
            let mut grown = false;
            for level in levels.into_iter().rev() {
                let deletions: Vec<Vec<Write>> =
                    level.into_iter().map(|path| vec![Write::Delete { path, expected_version: -1 }]).collect();
                for committed in self.write_many(&deletions).await? {
                    match committed {
                        Committed::Versions(_) | Committed::Refused { error: ZkError::NoNode { .. }, .. } => {}
                        Committed::Refused { error: ZkError::NotEmpty { .. }, .. } => grown = true,
                        Committed::Refused { error, .. } => return Err(error),
                    }
                }
            }
            if !grown {
                return Ok(());
            }
        }
    }

    /// All groups in one transaction, sent again after a connection loss.
    async fn transaction(&self, groups: &[&[Write]]) -> Result<Committed, ZkError> {
        let writes: Vec<&Write> = groups.iter().copied().flatten().collect();
        let path_of = |index: usize| writes.get(index).map_or(controller_epoch::PATH, |write| write.path());
        for (index, write) in writes.iter().enumerate() {
            if let Write::Create { path, data } | Write::Set { path, data, .. } = write
                && let Err(error) = self.zk.fits(path, data.len())
            {
                return Ok(Committed::Refused { index, error });
            }
        }
        loop {
            let (_permit, connection) = self.zk.admitted().await?;
            let mut writer = connection
                .client
                .new_check_writer(controller_epoch::PATH, Some(self.epoch_zk_version))
                .map_err(|error| ZkError::from_client(controller_epoch::PATH, error))?;
            for (index, write) in writes.iter().enumerate() {
                if let Err(error) = self.add(&mut writer, write) {
                    return Ok(Committed::Refused { index, error: ZkError::from_client(write.path(), error) });
                }
            }
            let (index, error) = match writer.commit().await {
                Ok(results) => return Ok(Committed::Versions(results.iter().map(version).collect())),
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
                Err(CheckWriteError::RequestFailed { source }) => (0, ZkError::from_client(path_of(0), source)),
                Err(CheckWriteError::OperationFailed { index, source }) => {
                    (index, ZkError::from_client(path_of(index), source))
                }
            };
            return match error.is_of_the_session() {
                true => Err(error),
                false => Ok(Committed::Refused { index, error }),
            };
        }
    }

    fn add(&self, writer: &mut CheckWriter<'_>, write: &Write) -> Result<(), Error> {
        match write {
            Write::Create { path, data } => {
                let options = CreateKind::Persistent.mode().with_acls(self.zk.acls_for(path));
                writer.add_create(path, data, &options)
            }
            Write::Set { path, data, expected_version } => writer.add_set_data(path, data, Some(*expected_version)),
            Write::Delete { path, expected_version } => writer.add_delete(path, Some(*expected_version)),
        }
    }
}

fn version(result: &MultiWriteResult) -> i32 {
    match result {
        MultiWriteResult::SetData { stat } => stat.version,
        // A znode begins at 0.
        _ => 0,
    }
}
