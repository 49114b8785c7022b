//! The cluster, and what must be in it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::protocol::messages::create_topics::{
    CreatableReplicaAssignment, CreatableTopic, CreatableTopicConfig, CreateTopicsRequest,
};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataResponse, MetadataResponsePartition};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use rustix::process::Signal;

use crate::logs::{Event, Span};
use crate::support::client::{Client, TIMESTAMP, values};
use crate::support::{Brokers, Kind, PATIENCE, eventually};

pub type Partition = (String, i32);

pub const SETTINGS: &str = "auto.leader.rebalance.enable=false\nreplica.fetch.backoff.ms=200\n\
    replica.lag.time.max.ms=10000\nzookeeper.session.timeout.ms=6000\nlog.cleaner.dedupe.buffer.size=4000000\n\
    default.replication.factor=3\nnum.partitions=3\ncontrolled.shutdown.retry.backoff.ms=500\n";

pub struct World {
    pub cluster: Brokers,
    pub kinds: Vec<Kind>,
    /// `inter.broker.protocol.version`.
    protocol: String,
    /// Every value that was acknowledged, in the order of its partition.
    pub expected: BTreeMap<Partition, Vec<String>>,
    pub zk: ZooKeeper,
    began: Instant,
    /// The parts of the brokers' logs that are over, by what happened meanwhile.
    pub spans: Vec<Span>,
    /// Since all was calm.
    happened: BTreeSet<Event>,
    /// At the beginning of the part that is not over.
    span_kinds: Vec<Kind>,
}

impl World {
    pub fn start(name: &str, kinds: &[Kind], protocol: &str) -> World {
        let began = Instant::now();
        let settings = format!("{SETTINGS}inter.broker.protocol.version={protocol}\n");
        let cluster = Brokers::start_as(&format!("mixed-{name}"), kinds, &settings);
        let zk = ZooKeeper::connect(cluster.zookeeper.port);
        let protocol = protocol.to_owned();
        let (spans, happened) = (Vec::new(), BTreeSet::from([Event::Starts]));
        let mut world = World {
            cluster,
            kinds: kinds.to_vec(),
            protocol,
            expected: BTreeMap::new(),
            zk,
            began,
            spans,
            happened,
            span_kinds: kinds.to_vec(),
        };
        world.says("all brokers run");
        world
    }

    /// A line with the time, for who reads how far a test came.
    pub fn says(&mut self, what: &str) {
        println!("{:>6.1} s: {what}", self.began.elapsed().as_secs_f64());
    }

    /// Of what brokers may complain from now on, until all is calm.
    pub fn happens(&mut self, event: Event) {
        self.span_ends();
        self.happened.insert(event);
    }

    /// The clients have got on with a whole cluster since anything happened.
    pub fn is_calm(&mut self) {
        self.span_ends();
        self.happened.clear();
    }

    fn span_ends(&mut self) {
        let length = |id| fs::metadata(self.log(id)).expect("every broker has a log").len();
        let ends = self.ids().map(length).collect();
        let kinds = std::mem::replace(&mut self.span_kinds, self.kinds.clone());
        self.spans.push(Span { ends, happened: self.happened.clone(), kinds });
    }

    pub fn ids(&self) -> impl Iterator<Item = i32> + use<> {
        (0..).take(self.kinds.len())
    }

    /// Brokers of 3.0 and later write records in the newest format alone, and so they do in its protocol.
    pub fn has_old_formats(&self) -> bool {
        self.protocol.starts_with("2.")
    }

    /// Has a broker that is down speak another protocol when it starts.
    pub fn speaks(&mut self, id: i32, protocol: &str) {
        let config = &self.cluster.brokers[id as usize].config;
        let mut file = fs::OpenOptions::new().append(true).open(config).expect("the settings are there");
        // The last line holds.
        writeln!(file, "inter.broker.protocol.version={protocol}").expect("they can be written");
        self.protocol = protocol.to_owned();
    }

    pub fn topic_id(&self, topic: &str) -> Option<String> {
        let json = self.zk.get(&format!("/brokers/topics/{topic}"))?;
        let json: serde_json::Value = serde_json::from_str(&json).expect("a topic is JSON");
        json["topic_id"].as_str().map(str::to_owned)
    }

    pub fn metadata(&self, broker: i32) -> Result<MetadataResponse, String> {
        let all = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        let port = self.cluster.brokers[broker as usize].port;
        let answer = Client::connect(port).and_then(|mut client| client.call(&all, 9));
        answer.map_err(|error| format!("broker {broker}: {error}"))
    }

    fn running(&self) -> Vec<i32> {
        self.ids().filter(|id| self.cluster.brokers[*id as usize].process.is_some()).collect()
    }

    pub fn controller(&self) -> i32 {
        let asked = self.running()[0];
        eventually(PATIENCE, "there is a controller", || match self.metadata(asked)?.controller_id {
            id if id >= 0 => Ok(id),
            _ => Err("there is none".to_owned()),
        })
    }

    /// Waits until all brokers run and agree on a cluster in which every partition is led and in sync.
    pub fn until_whole(&mut self) -> BTreeMap<Partition, MetadataResponsePartition> {
        for broker in &mut self.cluster.brokers {
            let process = broker.process();
            let status = process.has_ended();
            assert!(status.is_none(), "{} ended, {status:?}: {}", process.name, process.last_words());
        }
        eventually(PATIENCE, "all is led and in sync, and all brokers say so", || {
            let all: Vec<_> = self.ids().map(|id| self.partitions_if_whole(id)).collect::<Result<_, _>>()?;
            match all.iter().find(|partitions| **partitions != all[0]) {
                Some(other) => Err(format!("brokers disagree: {:?}, {other:?}", all[0])),
                None => Ok(all[0].clone()),
            }
        })
    }

    fn partitions_if_whole(&self, broker: i32) -> Result<BTreeMap<Partition, MetadataResponsePartition>, String> {
        let metadata = self.metadata(broker)?;
        if metadata.brokers.len() != self.kinds.len() || metadata.controller_id < 0 {
            return Err(format!("broker {broker} does not know all brokers and the controller"));
        }
        let partitions = partitions(metadata);
        let part = partitions.iter().find(|(_, found)| {
            found.error_code != 0 || found.leader_id < 0 || found.isr_nodes.len() != found.replica_nodes.len()
        });
        part.map_or_else(|| Ok(partitions.clone()), |part| Err(format!("broker {broker}: {part:?}")))
    }

    pub fn leader(&self, topic: &str, partition: i32) -> i32 {
        self.cluster.until_partition(topic, partition, "it is led", |_| true).leader_id
    }

    /// Has the first replica of each partition lead it.
    pub fn elects_preferred(&mut self) {
        self.happens(Event::LeadersMove);
        self.until_whole();
        self.script("kafka-leader-election.sh", &["--election-type", "preferred", "--all-topic-partitions"]);
        for ((topic, partition), found) in self.until_whole() {
            self.until_leader(&topic, partition, found.replica_nodes[0]);
        }
    }

    pub fn until_leader(&mut self, topic: &str, partition: i32, leader: i32) {
        let what = format!("broker {leader} leads");
        self.cluster.until_partition(topic, partition, &what, |found| found.leader_id == leader);
    }

    /// Takes the office of the controller from whoever has it, and gives it to this broker: the only one that is awake
    /// when it is free.
    pub fn office_moves_to(&mut self, id: i32) {
        if self.controller() == id {
            return;
        }
        let others: Vec<i32> = self.running().into_iter().filter(|other| *other != id).collect();
        self.happens(Event::OfficeMoves);
        let began = Instant::now();
        let signal = |world: &mut World, signal| {
            others.iter().for_each(|id| world.cluster.brokers[*id as usize].process().signal(signal));
        };
        signal(self, Signal::STOP);
        self.zk.delete("/controller");
        let is_it = format!("\"brokerid\":{id},");
        eventually(PATIENCE, &format!("broker {id} is the controller"), || {
            let json = self.zk.get("/controller").ok_or("the office is free")?;
            if json.contains(&is_it) { Ok(()) } else { Err(json) }
        });
        // A session lasts for six seconds since the last sign of life, which is two seconds old at the most.
        if began.elapsed() > Duration::from_secs(4) {
            self.happened.extend([Event::SessionExpires, Event::Dies]);
        }
        signal(self, Signal::CONT);
        for asked in self.running() {
            eventually(PATIENCE, &format!("broker {asked} knows that {id} is the controller"), || {
                match self.metadata(asked)?.controller_id {
                    known if known == id => Ok(()),
                    known => Err(format!("it is {known}")),
                }
            });
        }
        self.says(&format!("broker {id} ({}) is the controller", name(self.kinds[id as usize])));
    }

    /// Creates a topic of partitions on these brokers, of which the first leads.
    pub fn creates(&mut self, topic: &str, replicas: &[&[i32]], configs: &[(&str, &str)]) {
        self.happens(Event::TopicsChange);
        let assignments = (0..).zip(replicas).map(|(partition_index, broker_ids)| CreatableReplicaAssignment {
            partition_index,
            broker_ids: broker_ids.to_vec(),
        });
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) });
        let asked = CreatableTopic {
            name: topic.to_owned(),
            num_partitions: -1,
            replication_factor: -1,
            assignments: assignments.collect(),
            configs: configs.collect(),
        };
        let request = CreateTopicsRequest { topics: vec![asked], timeout_ms: 30_000, ..Default::default() };
        let created = self.cluster.client(self.controller()).call(&request, 5).expect("the controller answers");
        assert_eq!(created.topics[0].error_code, 0, "{created:?}");
        self.until_whole();
        for (partition, replicas) in (0..).zip(replicas) {
            self.until_leader(topic, partition, replicas[0]);
            self.expected.insert((topic.to_owned(), partition), Vec::new());
        }
    }

    /// One of our scripts, asking whichever broker answers first.
    pub fn script(&self, script: &str, arguments: &[&str]) -> String {
        let servers: Vec<String> =
            self.running().iter().map(|id| self.cluster.brokers[*id as usize].address()).collect();
        let servers = servers.join(",");
        let all = [&["--bootstrap-server", &servers][..], arguments].concat();
        self.cluster.script(script, &all, "").unwrap_or_else(|said| panic!("{said}"))
    }

    /// Produces to the leader, to be acknowledged by all in sync.
    pub fn produces(&mut self, topic: &str, partition: i32, codec: Codec, values: &[String]) {
        let records = records(codec, values);
        self.produces_batch(topic, partition, records, values);
    }

    pub fn produces_batch(&mut self, topic: &str, partition: i32, records: Bytes, values: &[String]) {
        let base = self.expected[&(topic.to_owned(), partition)].len() as i64;
        let offset = eventually(PATIENCE, "a produce is acknowledged", || {
            let mut leader = self.cluster.client(self.leader(topic, partition));
            let sent = leader.produce(topic, partition, records.clone()).map_err(|error| error.to_string())?;
            sent.map_err(|code| format!("error {code}"))
        });
        assert_eq!(offset, base, "{topic}-{partition}");
        self.expected.get_mut(&(topic.to_owned(), partition)).expect("it is known").extend_from_slice(values);
    }

    /// All that was acknowledged is read from the leader, in order, and nothing else.
    pub fn reads_all(&mut self) {
        for ((topic, partition), expected) in &self.expected {
            let leader = self.leader(topic, *partition);
            let what = format!("broker {leader} gives all of {topic}-{partition}");
            // What is acknowledged to a client may be committed to others a moment later.
            eventually(PATIENCE, &what, || {
                let read = self.cluster.client(leader).read_all(topic, *partition, 0);
                let read = values(&read.map_err(|error| error.to_string())?);
                assert!(read.len() <= expected.len(), "{topic}-{partition} has more than was sent: {read:?}");
                if read == *expected { Ok(()) } else { Err(differ(&read, expected)) }
            });
        }
    }

    pub fn log(&self, id: i32) -> PathBuf {
        self.cluster.scratch.path(&if id == 0 { "broker.log".to_owned() } else { format!("broker-{id}.log") })
    }

    pub fn directory(&self, broker: i32, topic: &str, partition: i32) -> PathBuf {
        self.cluster.brokers[broker as usize].data.join(format!("{topic}-{partition}"))
    }

    /// Waits until all replicas of every partition have the same bytes, in their segments together: followers may roll
    /// where their leader does not.
    pub fn until_same_bytes(&mut self) {
        for ((topic, partition), found) in self.until_whole() {
            eventually(PATIENCE, &format!("all replicas of {topic}-{partition} have the same bytes"), || {
                let of = |id: i32| log_bytes(&self.directory(id, &topic, partition));
                let leaders = of(found.leader_id)?;
                for &id in &found.replica_nodes {
                    let bytes = of(id)?;
                    if bytes != leaders {
                        let first = bytes.iter().zip(&leaders).take_while(|(one, other)| one == other).count();
                        return Err(format!(
                            "broker {id} has {} bytes, the leader {} has {}; the first {first} are the same",
                            bytes.len(),
                            found.leader_id,
                            leaders.len()
                        ));
                    }
                }
                Ok(())
            });
        }
    }

    /// Waits until all replicas of every partition that is written to all the time have the same small files beside their
    /// segments: the topic's id, and the leader epochs.
    pub fn until_same_files(&mut self) {
        for ((topic, partition), found) in self.until_whole() {
            if topic != crate::clients::KEPT {
                continue;
            }
            let id = self.topic_id(&topic).map(|id| format!("version: 0\ntopic_id: {id}"));
            eventually(PATIENCE, &format!("all replicas of {topic}-{partition} have the same small files"), || {
                let read = |id: i32, name: &str| fs::read_to_string(self.directory(id, &topic, partition).join(name));
                // A leader writes down its own before it has a record of it; who leads may have changed since the last one.
                let end = self.expected.get(&(topic.clone(), partition)).map_or(0, Vec::len).to_string();
                let epochs = |id: i32| -> Result<Vec<String>, String> {
                    let text = read(id, "leader-epoch-checkpoint").map_err(|error| error.to_string())?;
                    let entries = text.lines().skip(2).filter(|entry| entry.split(' ').nth(1) != Some(&end));
                    Ok(entries.map(str::to_owned).collect())
                };
                for &replica in &found.replica_nodes {
                    let metadata = read(replica, "partition.metadata").ok().map(|text| text.trim().to_owned());
                    // Brokers of 2.8 look for a log to write it to before they make one, and write it with the next decision.
                    let is_late = metadata.is_none() && self.kinds[replica as usize] == Kind::Jvm("2.8.2");
                    if metadata != id && !is_late {
                        return Err(format!("broker {replica} has the topic id {metadata:?}, ZooKeeper {id:?}"));
                    }
                    let (its, leaders) = (epochs(replica)?, epochs(found.leader_id)?);
                    if its != leaders {
                        return Err(format!("broker {replica} has the epochs {its:?}, the leader {leaders:?}"));
                    }
                }
                Ok(())
            });
        }
    }

    pub fn coordinator(&self, group: &str) -> i32 {
        let request = FindCoordinatorRequest { key: group.to_owned(), ..Default::default() };
        let asked = self.running()[0];
        eventually(PATIENCE, &format!("{group} has a coordinator"), || {
            let answer = self.cluster.client(asked).call(&request, 2).map_err(|error| error.to_string())?;
            if answer.error_code == 0 { Ok(answer.node_id) } else { Err(format!("{answer:?}")) }
        })
    }

    pub fn stops(&mut self, id: i32) {
        self.happens(Event::Stops);
        let status = self.cluster.brokers[id as usize].stop();
        // A JVM that ends by a signal says so.
        assert!(matches!(status.code(), Some(0 | 143)), "broker {id} ended with {status} after TERM");
        self.says(&format!("broker {id} ({}) has stopped", name(self.kinds[id as usize])));
        self.has_checkpoints(id);
    }

    /// What a broker that stopped in order says of all its partitions, for one of either kind.
    fn has_checkpoints(&self, id: i32) {
        let checkpoint = |name: &str| -> BTreeMap<Partition, i64> {
            let path = self.cluster.brokers[id as usize].data.join(name);
            let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            // A version and a count come first.
            let entries = text.lines().skip(2).map(|line| line.split(' ').collect::<Vec<_>>());
            let number = |word: &str| word.parse().unwrap_or_else(|_| panic!("{}: {text}", path.display()));
            entries.map(|words| ((words[0].to_owned(), number(words[1]) as i32), number(words[2]))).collect()
        };
        let recovery_points = checkpoint("recovery-point-offset-checkpoint");
        let high_watermarks = checkpoint("replication-offset-checkpoint");
        for (partition, values) in &self.expected {
            if self.directory(id, &partition.0, partition.1).exists() {
                let end = values.len() as i64;
                assert_eq!(
                    recovery_points.get(partition),
                    Some(&end),
                    "broker {id}: the recovery point of {partition:?}"
                );
                let high_watermark = high_watermarks.get(partition).copied();
                assert!(
                    high_watermark.is_some_and(|it| it <= end),
                    "broker {id}: {partition:?} {high_watermark:?} of {end}"
                );
            }
        }
    }

    /// Dies, and so does its session with ZooKeeper, for which the others would have to wait.
    pub fn is_killed(&mut self, id: i32) {
        self.happens(Event::Dies);
        let session = self.zk.owner(&format!("/brokers/ids/{id}")).expect("it is registered");
        self.cluster.brokers[id as usize].kill();
        close_session(session, self.cluster.zookeeper.port).expect("ZooKeeper answers");
        self.says(&format!("broker {id} ({}) was killed", name(self.kinds[id as usize])));
    }

    pub fn starts(&mut self, id: i32) {
        self.happens(Event::Starts);
        let kind = self.kinds[id as usize];
        self.cluster.start_broker(id as usize, kind);
        self.says(&format!("broker {id} ({}) runs again", name(kind)));
    }

    /// Its session ends while it is connected. It hears of that, and comes back by itself.
    pub fn session_expires(&mut self, id: i32) {
        self.happens(Event::SessionExpires);
        let path = format!("/brokers/ids/{id}");
        let before = self.zk.owner(&path).expect("it is registered");
        let is_controller = self.controller() == id;
        let epochs = self.until_whole();
        eventually(PATIENCE, &format!("broker {id} registers again"), || match self.zk.owner(&path) {
            Some(owner) if owner == before => {
                // The broker may be quick enough to take it back.
                let closed = close_session(before, self.cluster.zookeeper.port);
                Err(format!("its session lasts: {closed:?}"))
            }
            Some(_) => Ok(()),
            None => Err("it is not registered".to_owned()),
        });
        // The next controller may have read its new registration only, and have nothing to decide.
        for ((topic, partition), found) in epochs.iter().filter(|(_, found)| found.replica_nodes.contains(&id)) {
            if !is_controller {
                self.cluster.until_partition(topic, *partition, "the controller has noticed", |now| {
                    now.leader_epoch > found.leader_epoch
                });
            }
        }
        self.says(&format!("the session of broker {id} ({}) expired", name(self.kinds[id as usize])));
    }
}

pub fn name(kind: Kind) -> String {
    match kind {
        Kind::Odradek => "odradek".to_owned(),
        Kind::Jvm(version) => format!("jvm {version}"),
    }
}

fn differ(read: &[String], expected: &[String]) -> String {
    let first = read.iter().zip(expected).take_while(|(one, other)| one == other).count();
    format!(
        "{} of {} are read, the first {first} are the same; then {:?} for {:?}",
        read.len(),
        expected.len(),
        read.get(first),
        expected.get(first)
    )
}

pub fn records(codec: Codec, values: &[String]) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None);
    for value in values {
        // No headers: old formats have no place for them.
        builder.append(TIMESTAMP, Some(b"key"), Some(value.as_bytes()), &[]);
    }
    builder.build()
}

pub fn partitions(metadata: MetadataResponse) -> BTreeMap<Partition, MetadataResponsePartition> {
    let topics = metadata.topics.into_iter();
    topics
        .flat_map(|topic| {
            let name = topic.name.unwrap_or_default();
            topic.partitions.into_iter().map(move |mut partition| {
                // Who joined first is no matter.
                partition.isr_nodes.sort_unstable();
                ((name.clone(), partition.partition_index), partition)
            })
        })
        .collect()
}

pub fn log_bytes(directory: &std::path::Path) -> Result<Vec<u8>, String> {
    let files = fs::read_dir(directory).map_err(|error| format!("{}: {error}", directory.display()))?;
    let mut segments: Vec<PathBuf> = files.flatten().map(|file| file.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    let read = |path: PathBuf| fs::read(&path).map_err(|error| format!("{}: {error}", path.display()));
    segments.into_iter().map(read).collect::<Result<Vec<_>, _>>().map(|all| all.concat())
}

/// A client of ZooKeeper for a test, one call at a time.
pub struct ZooKeeper {
    runtime: tokio::runtime::Runtime,
    client: zookeeper_client::Client,
}

impl ZooKeeper {
    fn connect(port: u16) -> ZooKeeper {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let connected = runtime.block_on(zookeeper_client::Client::connect(&format!("127.0.0.1:{port}")));
        ZooKeeper { client: connected.expect("ZooKeeper answers"), runtime }
    }

    pub fn get(&self, path: &str) -> Option<String> {
        let found = self.runtime.block_on(self.client.get_data(path));
        found.ok().map(|(data, _)| String::from_utf8_lossy(&data).into_owned())
    }

    pub fn delete(&self, path: &str) {
        self.runtime.block_on(self.client.delete(path, None)).unwrap_or_else(|error| panic!("delete {path}: {error}"));
    }

    /// The session that an ephemeral znode belongs to.
    pub fn owner(&self, path: &str) -> Option<i64> {
        let found = self.runtime.block_on(self.client.check_stat(path));
        found.ok().flatten().map(|stat| stat.ephemeral_owner)
    }
}

/// Joins a session and closes it. Its password follows from its id.
/// Source: zookeeper 3.8 zookeeper-jute/src/main/resources/zookeeper.jute, ConnectRequest and RequestHeader (the code of
/// closeSession is -11); ZooKeeperServer.java, generatePasswd, which draws from java.util.Random.
fn close_session(id: i64, port: u16) -> std::io::Result<()> {
    let mut seed = (id as u64 ^ 0xB341_5C00 ^ 0x5_DEEC_E66D) & ((1 << 48) - 1);
    let mut password = Vec::new();
    for _ in 0..4 {
        seed = seed.wrapping_mul(0x5_DEEC_E66D).wrapping_add(0xB) & ((1 << 48) - 1);
        password.extend(((seed >> 16) as u32).to_le_bytes());
    }
    let mut connect = Vec::new();
    connect.extend(0_i32.to_be_bytes()); // protocol version
    connect.extend(0_i64.to_be_bytes()); // last zxid seen
    connect.extend(6000_i32.to_be_bytes()); // timeout in milliseconds
    connect.extend(id.to_be_bytes());
    connect.extend((password.len() as i32).to_be_bytes());
    connect.extend(password);
    connect.push(0); // not read-only
    let mut server = std::net::TcpStream::connect(("127.0.0.1", port))?;
    server.set_read_timeout(Some(Duration::from_secs(10)))?;
    let frame = |request: &[u8]| [&(request.len() as i32).to_be_bytes()[..], request].concat();
    // In one write, since the session's owner wants it back at once.
    let close = [1_i32.to_be_bytes(), (-11_i32).to_be_bytes()].concat();
    server.write_all(&[frame(&connect), frame(&close)].concat())?;
    // The server answers and hangs up.
    server.read_to_end(&mut Vec::new())?;
    Ok(())
}
