//! Three brokers and three servers of ZooKeeper with a network between them, and clients that work all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use odradek::model::transaction_version::TRANSACTION_VERSION;
use odradek::protocol::messages::api_versions::ApiVersionsRequest;
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataResponse, MetadataResponsePartition};
use odradek::record::read::batches;
use rustix::process::Signal;
use serde_json::json;

use crate::history::{Cast, History, JAVA, LIBRDKAFKA, Sent};
use crate::network::Network;
use crate::support::client::Client;
use crate::support::{
    Broker, Kind, PATIENCE, Process, Scratch, ZooKeeper, deps, eventually, free_port, repository, tied,
};

pub const BROKERS: usize = 3;
pub const ZOOKEEPERS: usize = 3;
/// On all brokers, two of which must be in sync.
pub const ORDERS: &str = "orders";
/// On two of the brokers, which change, and one in sync is enough. It grows.
pub const MOVED: &str = "moved";
/// On all brokers, two of which must be in sync: what librdkafka's transactional clients make of the others, and Java's.
pub const TRANSFORMED: &str = "transformed";
pub const JAVA_TRANSFORMED: &str = "java-transformed";
/// Compacted, on all brokers, two of which must be in sync. Only Java's clients have it.
pub const CHANGELOG: &str = "changelog";

/// Followers that lag are seen in seconds, segments are short, nothing is removed.
const SETTINGS: &str = "\
offsets.topic.replication.factor=3
transaction.state.log.replication.factor=3
transaction.state.log.min.isr=2
transaction.state.log.num.partitions=3
min.insync.replicas=2
auto.create.topics.enable=false
replica.lag.time.max.ms=3000
replica.fetch.backoff.ms=200
leader.imbalance.check.interval.seconds=10
log.segment.bytes=50000
log.index.interval.bytes=512
log.segment.delete.delay.ms=500
log.cleaner.enable=false
";

pub type Partition = (Arc<str>, i32);

/// Who works with the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clients {
    /// clients.py.
    Librdkafka,
    /// Clients.java.
    Java,
}

/// What has a coordinator: a group, or the producers that have a transactional id one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coordinated {
    Group,
    Transactions,
}

/// How far a partition is told to reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    HighWatermark,
    /// Where the first transaction that is open begins, or the same.
    LastStable,
}

/// The log directories of a broker.
fn dirs(broker: &Broker, scratch: &Scratch) -> [PathBuf; 2] {
    [broker.data.clone(), scratch.path(&format!("data-{}-other", broker.id))]
}

/// The fields end in this order.
pub struct Cluster {
    working: Option<Process>,
    pub brokers: Vec<Broker>,
    pub kinds: [Kind; BROKERS],
    clients: Clients,
    /// What each JVM has said of decisions that it could not carry out, as far as it has been looked at.
    decisions_failed: [usize; BROKERS],
    /// How often clients were started.
    histories: usize,
    /// Those that are there all the time.
    topics: &'static [&'static str],
    /// Which versions of the transaction protocol have been finalized while clients were there, or none, which is 0.
    pub transaction_versions: BTreeSet<i16>,
    /// Topics that have gone to other brokers.
    pub reassigned: BTreeSet<&'static str>,
    /// Whether it was a JVM that coordinated a transaction, and one that led where that wrote.
    pub markers_went: BTreeSet<(bool, bool)>,
    pub zookeepers: Vec<ZooKeeper>,
    pub network: Network,
    pub scratch: Scratch,
}

impl Cluster {
    /// Brokers of these kinds, and the topics of these clients, which are not started yet. Later settings hold.
    pub fn start(kinds: [Kind; BROKERS], clients: Clients, settings: &str) -> Cluster {
        let scratch = Scratch::new("faults");
        let network = Network::new();
        let zookeepers = ZooKeeper::start_ensemble(ZOOKEEPERS, &scratch);
        let configure = |id| {
            let broker =
                Broker::configure_as(id as i32, &scratch, zookeepers[0].port, &format!("{SETTINGS}{settings}"));
            let (port, internal) = (broker.port, free_port());
            let proxy = network.before_broker(id, internal);
            let servers: Vec<String> = zookeepers
                .iter()
                .map(|server| format!("127.0.0.1:{}", network.before_zookeeper(id, server.port)))
                .collect();
            // Later lines hold. Clients see the broker itself: a proxy cannot refuse a connection for it when it is dead.
            let [data, other] = dirs(&broker, &scratch);
            let addresses = format!(
                "log.dirs={},{}\n\
                 listeners=PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{internal}\n\
                 advertised.listeners=PLAINTEXT://127.0.0.1:{port},INTERNAL://127.0.0.1:{proxy}\n\
                 listener.security.protocol.map=PLAINTEXT:PLAINTEXT,INTERNAL:PLAINTEXT\n\
                 inter.broker.listener.name=INTERNAL\nzookeeper.connect={}\n",
                data.display(),
                other.display(),
                servers.join(",")
            );
            let mut file = OpenOptions::new().append(true).open(&broker.config).expect("the settings are there");
            file.write_all(addresses.as_bytes()).expect("they can be written");
            broker
        };
        let brokers = (0..BROKERS).map(configure).collect();
        let mut cluster = Cluster {
            working: None,
            brokers,
            kinds,
            clients,
            decisions_failed: [0; BROKERS],
            histories: 0,
            topics: &[],
            transaction_versions: BTreeSet::new(),
            reassigned: BTreeSet::new(),
            markers_went: BTreeSet::new(),
            zookeepers,
            network,
            scratch,
        };
        cluster.start_brokers();
        cluster.until_whole();
        cluster.create_topics();
        cluster
    }

    fn create_topics(&mut self) {
        let all = [
            (ORDERS, 4, 3, vec![]),
            (MOVED, 2, 2, vec![("min.insync.replicas", "1")]),
            (TRANSFORMED, 3, 3, vec![]),
            (JAVA_TRANSFORMED, 3, 3, vec![]),
            (CHANGELOG, 1, 3, vec![("cleanup.policy", "compact"), ("min.cleanable.dirty.ratio", "0.1")]),
        ];
        self.topics = match self.clients {
            Clients::Librdkafka => &[ORDERS, MOVED, TRANSFORMED, JAVA_TRANSFORMED],
            Clients::Java => &[ORDERS, MOVED, CHANGELOG],
        };
        for (name, partitions, replicas, settings) in all.into_iter().filter(|(name, ..)| self.topics.contains(name)) {
            let mut client = self.brokers[self.controller()].client();
            eventually(PATIENCE, &format!("{name} is created"), || {
                let created = client.try_create_replicated_topic(name, partitions, replicas, &settings);
                match created.map_err(|error| error.to_string())? {
                    0 => Ok(()),
                    // An earlier one may not be deleted as a whole yet.
                    code => Err(format!("error {code}")),
                }
            });
            client.until_led(name, partitions);
        }
    }

    /// Makes the topics of the clients anew, once they have been stopped.
    pub fn renew_topics(&mut self) {
        let topic_names = self.topics.iter().map(|topic| (*topic).to_owned()).collect();
        let request = DeleteTopicsRequest { topic_names, timeout_ms: 30_000, ..Default::default() };
        let deleted = self.brokers[self.controller()].client().call(&request, 3).expect("DeleteTopics is answered");
        assert!(deleted.responses.iter().all(|topic| topic.error_code == 0), "{deleted:?}");
        for broker in 0..BROKERS {
            eventually(PATIENCE, &format!("broker {broker} has forgotten the topics"), || {
                let all = partitions(self.metadata(broker).map_err(|error| error.to_string())?);
                let left = all.into_keys().find(|(topic, _)| self.topics.contains(&&**topic));
                left.map_or(Ok(()), |left| Err(format!("{left:?}")))
            });
        }
        self.create_topics();
        self.until_whole();
    }

    pub fn cast(&self) -> &'static Cast {
        match self.clients {
            Clients::Librdkafka => &LIBRDKAFKA,
            Clients::Java => &JAVA,
        }
    }

    pub fn start_clients(&mut self, seed: u64) -> History {
        self.histories += 1;
        let history = self.scratch.path(&format!("history-{}.jsonl", self.histories));
        let addresses = self.brokers.iter().map(Broker::address).collect::<Vec<_>>().join(",");
        let mut command = match self.clients {
            Clients::Librdkafka => {
                let jars = deps("clients-4.1.0");
                let classes = self.compiled("Transform.java", &jars);
                let java = java("Transform", &[&classes, &jars.join("*")]);
                let words: Vec<&str> =
                    [java.get_program()].into_iter().chain(java.get_args()).filter_map(OsStr::to_str).collect();
                let mut command = tied(deps("python").join("bin/python"));
                command.arg(repository("tests/faults/clients.py")).arg(addresses).arg(&history).arg(seed.to_string());
                command.arg(TRANSFORMED).arg(json!(words).to_string()).arg(JAVA_TRANSFORMED);
                command
            }
            Clients::Java => {
                let (newest, old) = (deps("clients-3.9.1"), deps("clients-0.10.2.2"));
                let classes = self.compiled("Clients.java", &newest);
                let mut command = java("Clients", &[&classes]);
                command.arg(addresses).arg(&history).args([&classes, &newest, &old]).arg(CHANGELOG);
                command
            }
        };
        command.args([ORDERS, MOVED]);
        self.working = Some(Process::start("the clients", &mut command, self.scratch.path("clients.log")));
        eventually(PATIENCE, "the clients start", || {
            self.assert_all_run();
            History::open(&history).map_err(|error| error.to_string())
        })
    }

    fn compiled(&self, source: &str, jars: &Path) -> PathBuf {
        let classes = self.scratch.path("classes");
        let mut compiler = tied("javac");
        compiler.arg("-nowarn").arg("-d").arg(&classes).arg("-cp").arg(jars.join("*"));
        let compiled = compiler.arg(repository("tests/faults").join(source)).output().expect("there is javac");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        classes
    }

    /// Stops the clients once they have settled and read everything.
    pub fn stop_clients(&mut self) -> ExitStatus {
        self.working.take().expect("they were started").terminate()
    }

    /// Stops a broker in order.
    pub fn stop(&mut self, broker: usize) {
        let status = self.brokers[broker].stop();
        // A JVM ends with what the signal makes of it.
        let in_order = if self.is_jvm(broker) { status.code() == Some(143) } else { status.success() };
        assert!(in_order, "broker {broker} ended with {status} after TERM");
    }

    pub fn is_jvm(&self, broker: usize) -> bool {
        matches!(self.kinds[broker], Kind::Jvm(_))
    }

    /// Starts the brokers that do not run.
    pub fn start_brokers(&mut self) {
        let down: Vec<usize> = (0..BROKERS).filter(|id| self.brokers[*id].process.is_none()).collect();
        for &id in &down {
            let process = self.brokers[id].spawn(self.kinds[id], &self.scratch);
            self.network.is_broker(process.id(), id);
            self.brokers[id].process = Some(process);
        }
        // Each may need another of them to lead what it leads (min.insync.replicas), which may have to be started twice.
        let began = Instant::now();
        eventually(PATIENCE, "the brokers that were started answer for the cluster", || {
            for &id in &down {
                self.brokers[id].start_again_if_refused(self.kinds[id], &self.scratch, began);
                self.network.is_broker(self.brokers[id].process().id(), id);
            }
            down.iter().try_for_each(|id| self.brokers[*id].serves().map_err(|error| format!("broker {id}: {error}")))
        });
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        self.network.mend();
        for process in self.zookeepers.iter_mut().map(|zookeeper| &mut zookeeper.process) {
            if process.has_ended().is_none() {
                process.signal(Signal::CONT);
            }
        }
        for broker in &self.brokers {
            broker.process.iter().for_each(|process| process.signal(Signal::CONT));
        }
        for zookeeper in &mut self.zookeepers {
            if zookeeper.process.has_ended().is_some() {
                zookeeper.start_again(&self.scratch);
            }
        }
        self.start_brokers();
    }

    /// A JVM whose session ends while it makes the log of a partition keeps the half of it, and refuses the next decisions
    /// about all partitions if they name that one: it follows nobody in those any more, whoever is the controller. As far as
    /// 3.9 that is mended by a restart alone.
    fn restart_jvms_that_are_stuck(&mut self) {
        const FAILED: &str = "Unexpected error handling request RequestHeader(apiKey=LEADER_AND_ISR";
        for broker in (0..BROKERS).filter(|broker| self.is_jvm(*broker)).collect::<Vec<_>>() {
            let failed = self.brokers[broker].process().said().matches(FAILED).count();
            if failed > self.decisions_failed[broker] {
                println!("broker {broker}, a JVM, has failed to carry out a decision and is restarted");
                self.decisions_failed[broker] = failed;
                self.stop(broker);
                self.start_brokers();
            }
        }
    }

    /// Waits until the brokers agree on a cluster in which all is led and all replicas are in sync.
    pub fn until_whole(&mut self) {
        self.assert_all_run();
        for zookeeper in &self.zookeepers {
            eventually(PATIENCE, "all servers of ZooKeeper serve", || {
                let said = zookeeper.status().map_err(|error| error.to_string())?;
                if said.contains("Mode: ") { Ok(()) } else { Err(said) }
            });
        }
        eventually(2 * PATIENCE, "all is led and in sync, and all brokers say so", || {
            let whole = self.agreed();
            if whole.is_err() {
                self.restart_jvms_that_are_stuck();
            }
            whole
        });
    }

    fn agreed(&self) -> Result<(), String> {
        let all: Vec<_> = (0..BROKERS).map(|id| self.partitions_if_whole(id)).collect::<Result<_, _>>()?;
        match all.iter().find(|partitions| **partitions != all[0]) {
            Some(other) => Err(format!("brokers disagree: {:?}, {other:?}", all[0])),
            None => Ok(()),
        }
    }

    pub fn assert_all_run(&mut self) {
        let brokers = self.brokers.iter_mut().map(Broker::process);
        for process in self.working.iter_mut().chain(brokers) {
            let status = process.has_ended();
            assert!(status.is_none(), "{} ended, {status:?}: {}", process.name, process.last_words());
        }
    }

    fn partitions_if_whole(&self, broker: usize) -> Result<BTreeMap<Partition, MetadataResponsePartition>, String> {
        let metadata = self.metadata(broker).map_err(|error| error.to_string())?;
        let knows_brokers = metadata.brokers.len() == BROKERS && metadata.controller_id >= 0;
        let partitions = partitions(metadata);
        // A new controller tells of them last.
        let knows_topics = self.topics.iter().all(|topic| partitions.contains_key(&((*topic).into(), 0)));
        let part = partitions.iter().find(|(_, found)| {
            found.error_code != 0 || found.leader_id < 0 || found.isr_nodes.len() != found.replica_nodes.len()
        });
        match part {
            None if knows_brokers && knows_topics => Ok(partitions),
            None => Err(format!("broker {broker} does not know all brokers, the controller and all topics")),
            Some(part) => Err(format!("broker {broker}: {part:?}")),
        }
    }

    pub fn metadata(&self, broker: usize) -> std::io::Result<MetadataResponse> {
        let all = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        Client::connect(self.brokers[broker].port)?.call(&all, 9)
    }

    /// As any broker tells of it that answers.
    pub fn partitions(&self) -> BTreeMap<Partition, MetadataResponsePartition> {
        eventually(PATIENCE, "a broker answers", || {
            let answer = (0..BROKERS).find_map(|broker| self.metadata(broker).ok());
            answer.map(partitions).ok_or_else(|| "none does".to_owned())
        })
    }

    /// Those that the clients work with.
    pub fn client_partitions(&self) -> Vec<Partition> {
        let all = self.partitions().into_keys();
        all.filter(|(topic, _)| [ORDERS, MOVED].contains(&&**topic)).collect()
    }

    /// No JVM broker is among them.
    pub fn is_ours_alone(&self) -> bool {
        (0..BROKERS).all(|id| !self.is_jvm(id))
    }

    pub fn is_mixed(&self) -> bool {
        !self.is_ours_alone() && !(0..BROKERS).all(|id| self.is_jvm(id))
    }

    /// In a cluster that is whole: from whom to whom the markers go that end what is transformed now.
    pub fn note_markers(&mut self) {
        let partitions = self.partitions();
        for those in self.cast().transforming {
            for id in those.transactional_ids {
                let coordinator = self.is_jvm(self.coordinator(Coordinated::Transactions, id));
                let written = partitions.iter().filter(|((topic, _), _)| **topic == *those.output);
                let leaders = written.map(|(_, found)| self.is_jvm(found.leader_id as usize));
                let went: Vec<_> = leaders.map(|leader| (coordinator, leader)).collect();
                self.markers_went.extend(went);
            }
        }
    }

    /// Which version of the transaction protocol a broker tells its clients to follow.
    pub fn transaction_version(&self, broker: usize) -> std::io::Result<i16> {
        let request = ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
        let told = Client::connect(self.brokers[broker].port)?.call(&request, 3)?;
        let found = told.finalized_features.iter().find(|feature| feature.name == TRANSACTION_VERSION);
        Ok(found.map_or(0, |feature| feature.max_version_level))
    }

    pub fn controller(&self) -> usize {
        eventually(PATIENCE, "there is a controller", || {
            let found = (0..BROKERS).find_map(|broker| usize::try_from(self.metadata(broker).ok()?.controller_id).ok());
            found.ok_or_else(|| "nobody knows one".to_owned())
        })
    }

    pub fn coordinator(&self, of: Coordinated, key: &str) -> usize {
        let key_type = match of {
            Coordinated::Group => 0,
            Coordinated::Transactions => 1,
        };
        let request = FindCoordinatorRequest { key: key.to_owned(), key_type, ..Default::default() };
        eventually(PATIENCE, &format!("{key} has a coordinator"), || {
            let answer = self.brokers[0].client().call(&request, 2).map_err(|error| error.to_string())?;
            if answer.error_code == 0 { Ok(answer.node_id as usize) } else { Err(format!("{answer:?}")) }
        })
    }

    /// Of a partition, from its leader. Whoever asks for it looks for the leader again if it fails: leaders go where they
    /// are preferred at any time.
    pub fn high_watermark(&self, partition: &Partition, leader: i32) -> Result<i64, String> {
        self.end(End::HighWatermark, partition, leader)
    }

    pub fn end(&self, end: End, (topic, partition): &Partition, leader: i32) -> Result<i64, String> {
        let asked = ListOffsetsPartition { partition_index: *partition, timestamp: -1, ..Default::default() };
        let topics = vec![ListOffsetsTopic { name: topic.to_string(), partitions: vec![asked] }];
        let isolation_level = i8::from(end == End::LastStable);
        let request = ListOffsetsRequest { replica_id: -1, isolation_level, topics };
        let leader = usize::try_from(leader).map_err(|_| "nobody leads it".to_owned())?;
        let mut leader = Client::connect(self.brokers[leader].port).map_err(|error| error.to_string())?;
        let answer = leader.call(&request, 4).map_err(|error| error.to_string())?;
        let found = &answer.topics[0].partitions[0];
        if found.error_code == 0 { Ok(found.offset) } else { Err(format!("{found:?}")) }
    }

    /// Waits until the replicas of each partition have the same bytes up to the high watermark, and no broker has a
    /// directory of what is not its own. Gives how many bytes all partitions have.
    pub fn until_same_bytes(&self) -> usize {
        let partitions = self.partitions();
        let same = |partition: &Partition| {
            let found = &self.partitions()[partition];
            let high_watermark = self.high_watermark(partition, found.leader_id)?;
            let of = |id: i32| self.log(id as usize, partition);
            let leaders = bytes_below(of(found.leader_id), high_watermark)?;
            for &id in &found.replica_nodes {
                let bytes = bytes_below(of(id), high_watermark)?;
                if bytes != leaders {
                    let first = bytes.iter().zip(&leaders).take_while(|(one, other)| one == other).count();
                    return Err(format!(
                        "below the high watermark {high_watermark}, broker {id} has {} bytes and the leader {} has {}; \
                         the first {first} are the same",
                        bytes.len(),
                        found.leader_id,
                        leaders.len()
                    ));
                }
            }
            Ok(leaders.len())
        };
        let total = partitions
            .keys()
            // Each replica compacts for itself.
            .filter(|(topic, _)| **topic != *CHANGELOG)
            .map(|partition| {
                let what = format!("all replicas of {partition:?} have the same bytes");
                eventually(PATIENCE, &what, || same(partition))
            })
            .sum();
        for broker in &self.brokers {
            let mut its_own: Vec<String> = partitions
                .iter()
                .filter(|(_, found)| found.replica_nodes.contains(&broker.id))
                .map(|((topic, partition), _)| format!("{topic}-{partition}"))
                .collect();
            its_own.sort_unstable();
            eventually(PATIENCE, &format!("broker {} has its own partitions, once, and no others", broker.id), || {
                let mut found = Vec::new();
                for dir in dirs(broker, &self.scratch) {
                    let entries = fs::read_dir(&dir).map_err(|error| error.to_string())?.flatten();
                    let logs = entries.filter(|entry| entry.path().is_dir());
                    found.extend(logs.map(|entry| entry.file_name().to_string_lossy().into_owned()));
                }
                found.sort_unstable();
                if found == its_own { Ok(()) } else { Err(format!("it has {found:?}, its own are {its_own:?}")) }
            });
        }
        total
    }

    /// Where the log of a partition is at a broker, in which of its directories ever.
    pub fn log(&self, broker: usize, (topic, partition): &Partition) -> PathBuf {
        let name = format!("{topic}-{partition}");
        let [data, other] = dirs(&self.brokers[broker], &self.scratch).map(|dir| dir.join(&name));
        if other.is_dir() { other } else { data }
    }

    pub fn dirs(&self, broker: usize) -> [PathBuf; 2] {
        dirs(&self.brokers[broker], &self.scratch)
    }

    /// The bytes of a partition below its high watermark, as its leader has them.
    pub fn bytes(&self, partition: &Partition) -> (Bytes, i64) {
        eventually(PATIENCE, "its leader tells the high watermark", || {
            let leader = self.partitions()[partition].leader_id;
            let end = self.high_watermark(partition, leader)?;
            Ok((Bytes::from(bytes_below(self.log(leader as usize, partition), end)?), end))
        })
    }

    /// What each partition of the clients' topics has, in the order of its offsets: who sent it, in which epoch.
    pub fn records(&self) -> BTreeMap<Partition, Vec<(Sent, i16)>> {
        let of = |partition: Partition| {
            let (bytes, end) = self.bytes(&partition);
            let mut records = Vec::new();
            for batch in batches(&bytes) {
                let batch = batch.expect("the batch is sound");
                let producer_epoch = batch.header().producer_epoch;
                for record in batch.records().expect("the batch is sound") {
                    let record = record.expect("the record is sound");
                    assert_eq!(record.offset, records.len() as i64, "{partition:?}: the offsets have no gaps");
                    let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                    records.push((Sent::parse(&value).expect("the clients sent it"), producer_epoch));
                }
            }
            assert_eq!(records.len() as i64, end, "{partition:?}: all records below the high watermark are there");
            (partition, records)
        };
        self.client_partitions().into_iter().map(of).collect()
    }

    /// What each group has committed.
    pub fn committed(
        &self,
        partitions: impl Iterator<Item = Partition> + Clone,
    ) -> BTreeMap<(Arc<str>, Partition), i64> {
        let of = |group: &'static str| {
            partitions.clone().map(move |partition| {
                let offset = eventually(PATIENCE, &format!("the coordinator of {group} tells its offset"), || {
                    let mut coordinator = self.brokers[self.coordinator(Coordinated::Group, group)].client();
                    coordinator.try_committed(group, &partition.0, partition.1)
                });
                ((group.into(), partition), offset)
            })
        };
        self.cast().groups.iter().copied().flat_map(of).collect()
    }
}

/// A small JVM that starts quickly, without the arguments of its main class.
fn java(class: &str, classpath: &[&Path]) -> Command {
    let classpath: Vec<String> = classpath.iter().map(|path| path.display().to_string()).collect();
    let mut command = tied("java");
    command.args(["-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]);
    command.arg("-Dorg.slf4j.simpleLogger.showDateTime=true").arg("-cp").arg(classpath.join(":")).arg(class);
    command
}

/// The brokers that `ODRADEK_TEST_BROKER` says: of one kind, or each of its own, with commas between them.
pub fn kinds() -> [Kind; BROKERS] {
    let named = std::env::var("ODRADEK_TEST_BROKER").unwrap_or_default();
    let kinds: Vec<Kind> = named.split(',').map(Kind::named).collect();
    match kinds[..] {
        [all] => [all; BROKERS],
        _ => kinds.try_into().unwrap_or_else(|_| panic!("ODRADEK_TEST_BROKER={named} does not name {BROKERS} brokers")),
    }
}

fn partitions(metadata: MetadataResponse) -> BTreeMap<Partition, MetadataResponsePartition> {
    let topics = metadata.topics.into_iter();
    topics
        .flat_map(|topic| {
            let name: Arc<str> = topic.name.unwrap_or_default().into();
            topic.partitions.into_iter().map(move |mut partition| {
                // Who joined first is no matter.
                partition.isr_nodes.sort_unstable();
                ((name.clone(), partition.partition_index), partition)
            })
        })
        .collect()
}

/// The batches of a log that begin below an offset, of all its segments. Followers may roll where their leader does not.
pub fn bytes_below(log: PathBuf, offset: i64) -> Result<Vec<u8>, String> {
    let files = fs::read_dir(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let mut segments: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    let mut all = Vec::new();
    for segment in segments {
        all.extend(fs::read(&segment).map_err(|error| format!("{}: {error}", segment.display()))?);
    }
    // A batch begins with its base offset (8 bytes) and the length of what follows (4 bytes).
    let mut end = 0;
    while let Some(head) = all.get(end..end + 12) {
        let (base_offset, length) = head.split_at(8);
        if i64::from_be_bytes(base_offset.try_into().expect("eight bytes")) >= offset {
            break;
        }
        end += 12 + u32::from_be_bytes(length.try_into().expect("four bytes")) as usize;
    }
    if end > all.len() {
        return Err(format!("{}: the last batch is cut off", log.display()));
    }
    all.truncate(end);
    Ok(all)
}
