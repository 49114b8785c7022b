//! A model of ZooKeeper: znodes with versions, ephemeral ones that go with their session, and watches that fire once.
//! Every request is served at one moment, in the order in which the script lets requests through; what may be lost is the
//! reply, after which the same request comes again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use odradek_zookeeper::error::ZkError;
use odradek_zookeeper::fenced::{Committed, Write};
use odradek_zookeeper::session::{Stat, Versioned};
use odradek_zookeeper::znode::partition_state::{self, PartitionState};
use odradek_zookeeper::znode::{broker, controller, controller_epoch, delete_topic, log_dir_event, topic};

use crate::controller::task::leaderships::StateZnodes;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct SessionId(pub u64);

/// What a watch is set on.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Watched {
    Data(String),
    Children(String),
}

#[derive(Debug)]
pub(super) struct Znode {
    pub data: Vec<u8>,
    pub version: i32,
    pub czxid: i64,
    pub mzxid: i64,
    /// `None` for a persistent one.
    pub owner: Option<SessionId>,
}

/// The path of a partition state, and what it holds in which version; `None` for one that is gone.
pub(super) type StateWritten = (String, Option<(Vec<u8>, i32)>);

#[derive(Debug, Default)]
pub(super) struct ZooKeeper {
    znodes: BTreeMap<String, Znode>,
    zxid: i64,
    sessions: BTreeSet<SessionId>,
    sessions_made: u64,
    notifications_made: u64,
    watches: BTreeSet<(SessionId, Watched)>,
    fired: BTreeSet<(SessionId, Watched)>,
    /// Since somebody looked.
    states_written: Vec<StateWritten>,
}

impl ZooKeeper {
    pub fn new() -> ZooKeeper {
        let mut zookeeper = ZooKeeper::default();
        for root in ["/brokers", broker::ROOT, topic::ROOT, "/admin", delete_topic::ROOT, log_dir_event::ROOT] {
            zookeeper.create(root, Vec::new(), None).expect("its parent is there");
        }
        let epoch = controller_epoch::encode(controller_epoch::INITIAL);
        zookeeper.create(controller_epoch::PATH, epoch, None).expect("its parent is there");
        zookeeper
    }

    // ---- sessions ----

    pub fn open_session(&mut self) -> SessionId {
        self.sessions_made += 1;
        let session = SessionId(self.sessions_made);
        self.sessions.insert(session);
        session
    }

    pub fn is_open(&self, session: SessionId) -> bool {
        self.sessions.contains(&session)
    }

    /// The servers have heard nothing of the client for too long, or it has closed the session.
    pub fn end_session(&mut self, session: SessionId) {
        self.sessions.remove(&session);
        self.watches.retain(|(of, _)| *of != session);
        self.fired.retain(|(of, _)| *of != session);
        let owned = self.znodes.iter().filter(|(_, znode)| znode.owner == Some(session));
        for path in owned.map(|(path, _)| path.clone()).collect::<Vec<_>>() {
            self.delete(&path, -1).expect("it has no children");
        }
    }

    // ---- watches ----

    pub fn watch(&mut self, session: SessionId, watched: Watched) {
        let watch = (session, watched);
        self.fired.remove(&watch);
        self.watches.insert(watch);
    }

    /// A watch of the session that has fired; it is set no more.
    pub fn take_fired(&mut self, session: SessionId) -> Option<Watched> {
        let fired = self.fired.iter().find(|(of, _)| *of == session)?.clone();
        self.fired.remove(&fired);
        Some(fired.1)
    }

    fn changed(&mut self, path: &str, is_there_another: bool) {
        let parent = &path[..path.rfind('/').unwrap_or(0)];
        if path.ends_with("/state") {
            let now = self.get(path).map(|znode| (znode.data.clone(), znode.version));
            self.states_written.push((path.to_owned(), now));
        }
        let fires = |(_, watched): &(SessionId, Watched)| match watched {
            Watched::Data(of) => of == path,
            Watched::Children(of) => is_there_another && of == parent,
        };
        self.fired.extend(self.watches.extract_if(.., fires));
    }

    // ---- requests ----

    /// Partition states in the order in which they were written since the last call.
    pub fn take_states_written(&mut self) -> Vec<StateWritten> {
        std::mem::take(&mut self.states_written)
    }

    pub fn get(&self, path: &str) -> Option<&Znode> {
        self.znodes.get(path)
    }

    pub fn children(&self, path: &str) -> Vec<String> {
        let below = format!("{path}/");
        let all = self.znodes.range(below.clone()..).take_while(|(path, _)| path.starts_with(&below));
        let names = all.map(|(path, _)| &path[below.len()..]).filter(|name| !name.contains('/'));
        names.map(str::to_owned).collect()
    }

    /// The first znode without children that is at the path or below it.
    pub fn leaf(&self, path: &str) -> Option<String> {
        let mut path = self.get(path).map(|_| path.to_owned())?;
        while let Some(child) = self.children(&path).into_iter().next() {
            path = format!("{path}/{child}");
        }
        Some(path)
    }

    pub fn create(&mut self, path: &str, data: Vec<u8>, owner: Option<SessionId>) -> Result<i32, ZkError> {
        let parent = &path[..path.rfind('/').unwrap_or(0)];
        if self.znodes.contains_key(path) {
            return Err(ZkError::NodeExists { path: path.to_owned() });
        }
        if !parent.is_empty() && !self.znodes.contains_key(parent) {
            return Err(ZkError::NoNode { path: path.to_owned() });
        }
        self.zxid += 1;
        self.znodes.insert(path.to_owned(), Znode { data, version: 0, czxid: self.zxid, mzxid: self.zxid, owner });
        self.changed(path, true);
        Ok(0)
    }

    /// Creates a znode with a name of its own.
    pub fn notify(&mut self, root: &str, prefix: &str, data: Vec<u8>) {
        self.notifications_made += 1;
        let path = format!("{root}/{prefix}{:010}", self.notifications_made);
        self.create(&path, data, None).expect("nobody else has the name");
    }

    pub fn set(&mut self, path: &str, data: Vec<u8>, expected_version: i32) -> Result<i32, ZkError> {
        let version = self.at_version(path, expected_version)?.version + 1;
        self.zxid += 1;
        let znode = self.znodes.get_mut(path).expect("it was just there");
        (znode.data, znode.version, znode.mzxid) = (data, version, self.zxid);
        self.changed(path, false);
        Ok(version)
    }

    pub fn delete(&mut self, path: &str, expected_version: i32) -> Result<i32, ZkError> {
        self.at_version(path, expected_version)?;
        if !self.children(path).is_empty() {
            return Err(ZkError::NotEmpty { path: path.to_owned() });
        }
        self.zxid += 1;
        self.znodes.remove(path);
        self.changed(path, true);
        Ok(0)
    }

    fn at_version(&self, path: &str, expected: i32) -> Result<&Znode, ZkError> {
        let znode = self.get(path).ok_or_else(|| ZkError::NoNode { path: path.to_owned() })?;
        match expected == -1 || expected == znode.version {
            true => Ok(znode),
            false => Err(ZkError::BadVersion { path: path.to_owned() }),
        }
    }

    /// Registers the broker as the controller and takes the next epoch. `None` if another is the controller.
    pub fn elect(&mut self, session: SessionId, broker: i32, floor: i32) -> Option<(i32, i32)> {
        if self.get(controller::PATH).is_some() {
            return None;
        }
        let current = self.get(controller_epoch::PATH).expect("it is always there");
        let epoch = controller_epoch::decode(&current.data).expect("we wrote it").max(floor) + 1;
        self.create(controller::PATH, controller::encode(broker, 0), Some(session)).expect("nobody has it");
        let version = self.set(controller_epoch::PATH, controller_epoch::encode(epoch), -1).expect("it is there");
        Some((epoch, version))
    }

    pub fn partition_state(&self, topic: &str, partition: i32) -> Option<Versioned<PartitionState>> {
        let (value, Stat { version, .. }) = self.partition_state_read(topic, partition)?;
        Some(Versioned { value, version })
    }

    pub fn partition_state_read(&self, topic: &str, partition: i32) -> Option<(PartitionState, Stat)> {
        let znode = self.get(&partition_state::path(topic, partition))?;
        let state = PartitionState::decode(topic, partition, &znode.data).expect("controllers write it well");
        let Znode { version, czxid, mzxid, .. } = *znode;
        Some((state, Stat { czxid, mzxid, version, ctime_ms: 0, ephemeral_owner: 0 }))
    }

    /// Whether an office may write, and has not been taken over.
    pub fn admits(&self, session: SessionId, epoch_zk_version: i32) -> Result<(), ZkError> {
        if !self.is_open(session) {
            return Err(ZkError::SessionExpired);
        }
        match self.at_version(controller_epoch::PATH, epoch_zk_version) {
            Ok(_) => Ok(()),
            Err(_) => Err(ZkError::ControllerMoved { epoch_zk_version }),
        }
    }

    /// All writes of a group, or none of them.
    fn commit(&mut self, group: &[Write]) -> Committed {
        let mut versions = Vec::new();
        for (index, write) in group.iter().enumerate() {
            let written = match write.clone() {
                Write::Create { path, data } => self.create(&path, data, None),
                Write::Set { path, data, expected_version } => self.set(&path, data, expected_version),
                Write::Delete { path, expected_version } => self.delete(&path, expected_version),
            };
            match written {
                Ok(version) => versions.push(version),
                Err(error) => {
                    for written in group[..index].iter().rev() {
                        let Write::Create { path, .. } = written else { panic!("only creations come in groups") };
                        self.znodes.remove(path);
                    }
                    return Committed::Refused { index, error };
                }
            }
        }
        Committed::Versions(versions)
    }
}

/// How a request of an office fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Passage {
    Answered,
    /// The connection is lost with the reply, and the client sends the request again.
    SentAgain,
}

/// ZooKeeper as one office sees it: through its session, and under its fence.
pub(super) struct OfficeZnodes<'a> {
    pub zookeeper: Mutex<&'a mut ZooKeeper>,
    pub session: SessionId,
    pub epoch_zk_version: i32,
    pub passage: Passage,
}

impl StateZnodes for OfficeZnodes<'_> {
    async fn write_many(&self, groups: &[Vec<Write>]) -> Result<Vec<Committed>, ZkError> {
        let mut zookeeper = self.zookeeper.lock().expect("nothing panics under it");
        zookeeper.admits(self.session, self.epoch_zk_version)?;
        if self.passage == Passage::SentAgain {
            groups.iter().for_each(|group| drop(zookeeper.commit(group)));
        }
        Ok(groups.iter().map(|group| zookeeper.commit(group)).collect())
    }

    async fn partition_states(
        &self,
        partitions: &[(&str, i32)],
    ) -> Vec<Result<Option<(PartitionState, Stat)>, ZkError>> {
        let zookeeper = self.zookeeper.lock().expect("nothing panics under it");
        let read = |(topic, partition): &(&str, i32)| match zookeeper.is_open(self.session) {
            true => Ok(zookeeper.partition_state_read(topic, *partition)),
            false => Err(ZkError::SessionExpired),
        };
        partitions.iter().map(read).collect()
    }

    fn complain(&self, path: &str, what_follows: &str, why: &ZkError) {
        panic!("nothing is wrong with {path}: {what_follows}: {why}");
    }

    fn mended(&self, _: &str) {}
}
