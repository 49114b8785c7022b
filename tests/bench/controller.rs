//! What the controller costs where there are 100,000 partitions: metadata alone. ZooKeeper is a real one, and so is the
//! broker that is the controller, which hosts nothing; the brokers that host everything are simulated: they register, take
//! what the controller tells them, answer it as a broker does, and note when it came.
//!
//! `cargo bench --bench controller` measures ours and a JVM controller; `cargo test` runs it with tiny inputs and without a
//! JVM. Settings by environment: `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY`
//! (another build of the broker), `BENCH_ONLY=odradek|jvm`, `BENCH_TOPICS` and `BENCH_PARTITIONS` (of each topic).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use load::{Client, Killed, cpu, frame, free_port, jvm_broker, our_broker, resident_kib, start_zookeeper_with};
use odradek::codec::reader::Reader;
use odradek::codec::writer::Writer;
use odradek::metadata::cache::MetadataCache;
use odradek::metadata::image::Update;
use odradek::model::TopicId;
use odradek::protocol::api_keys::ApiKey;
use odradek::protocol::header::{RequestHeader, write_response_header};
use odradek::protocol::message::{Message, Request};
use odradek::protocol::messages::alter_partition::{AlterPartitionRequest, BrokerState, PartitionData, TopicData};
use odradek::protocol::messages::api_versions::{ApiVersion, ApiVersionsRequest, ApiVersionsResponse};
use odradek::protocol::messages::leader_and_isr::{
    LeaderAndIsrPartitionError, LeaderAndIsrRequest, LeaderAndIsrResponse, LeaderAndIsrTopicError,
};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use odradek::protocol::messages::stop_replica::{StopReplicaRequest, StopReplicaResponse};
use odradek::protocol::messages::update_metadata::{
    UpdateMetadataBroker, UpdateMetadataEndpoint, UpdateMetadataPartitionState, UpdateMetadataRequest,
    UpdateMetadataResponse, UpdateMetadataTopicState,
};
use odradek_zookeeper::session::ZooKeeper;
use odradek_zookeeper::settings::Settings;
use odradek_zookeeper::znode;
use odradek_zookeeper::znode::broker::{Broker as Registration, BrokerJson, Endpoint};
use odradek_zookeeper::znode::partition_state::{self, PartitionState};
use odradek_zookeeper::znode::topic::{PartitionAssignment, Topic};
use tokio::runtime::Runtime;
use zookeeper_client::{Acls, Client as ZooKeeperClient, CreateMode};

mod load;

/// Simulated, and replicas of each partition: the one that dies is a replica of all.
const BROKERS: usize = 3;
/// The brokers under test have ids from here on.
const FIRST_ID: usize = 100;
const TOPIC_PREFIX: &str = "topic-";
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Odradek,
    Jvm,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Odradek => "odradek",
            Kind::Jvm => "jvm",
        }
    }
}

#[derive(Clone, Copy)]
struct Scale {
    topics: usize,
    /// Of each topic.
    partitions: usize,
    /// How often what can be repeated is.
    rounds: usize,
}

impl Scale {
    fn all(self) -> usize {
        self.topics * self.partitions
    }
}

/// A broker under test.
struct Broker {
    id: usize,
    port: u16,
    process: Killed,
}

impl Broker {
    fn start(kind: Kind, id: usize, dir: &Path, zookeeper: u16) -> Broker {
        let port = free_port();
        let name = format!("{}-{id}", kind.name());
        let config = dir.join(format!("{name}.properties"));
        let text = format!(
            "broker.id={id}\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}\nzookeeper.session.timeout.ms=6000\n\
             auto.leader.rebalance.enable=false\n",
            dir.join(&name).display()
        );
        fs::write(&config, text).expect("the configuration is written");
        let mut command = match kind {
            Kind::Odradek => our_broker("0,1", &config),
            Kind::Jvm => jvm_broker("0,1", &config),
        };
        let log = File::create(dir.join(format!("{name}.log"))).expect("the log is written");
        let process = Killed(command.stdout(log).spawn().expect("the broker starts"));
        Broker { id, port, process }
    }
}

enum Said {
    LeaderAndIsr(LeaderAndIsrRequest),
    UpdateMetadata(UpdateMetadataRequest),
}

/// What a simulated broker was told, and has answered.
struct Heard {
    broker: usize,
    at: Instant,
    said: Said,
}

/// A broker that hosts nothing and says yes to everything.
struct Simulated {
    id: usize,
    port: u16,
    /// A session of its own, which ends with it, and the epoch that it is registered with.
    registered: Option<(ZooKeeper, i64)>,
}

impl Simulated {
    fn start(id: usize, heard: Sender<Heard>) -> Simulated {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let heard = heard.clone();
                // Ends with the connection.
                std::thread::spawn(move || serve(id, stream, &heard));
            }
        });
        Simulated { id, port, registered: None }
    }

    fn register(&mut self, runtime: &Runtime, zookeeper: u16) {
        let endpoint = Endpoint {
            listener: "PLAINTEXT".into(),
            security_protocol: "PLAINTEXT".into(),
            host: "127.0.0.1".into(),
            port: i32::from(self.port),
        };
        let registration = Registration {
            id: self.id as i32,
            endpoints: vec![endpoint],
            rack: None,
            jmx_port: -1,
            timestamp_ms: 1_700_000_000_000,
            features: BTreeMap::new(),
        };
        self.registered = Some(runtime.block_on(async {
            let session = connect(zookeeper).await;
            let epoch = session.register_broker(&registration, BrokerJson::V5).await.expect("ZooKeeper serves");
            (session, epoch)
        }));
    }

    /// Gives the time at which its session began to end.
    fn die(&mut self, runtime: &Runtime) -> Instant {
        let (session, _) = self.registered.take().expect("it lives");
        let began = Instant::now();
        runtime.block_on(session.close());
        began
    }

    fn epoch(&self) -> i64 {
        self.registered.as_ref().expect("it lives").1
    }
}

async fn connect(zookeeper: u16) -> ZooKeeper {
    ZooKeeper::connect(Settings::new(format!("127.0.0.1:{zookeeper}"))).await.expect("ZooKeeper serves")
}

/// Answers one connection of the controller's to its end.
fn serve(id: usize, mut stream: TcpStream, heard: &Sender<Heard>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    loop {
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut body = vec![0; u32::from_be_bytes(length) as usize];
        stream.read_exact(&mut body)?;
        let mut reader = Reader::new(Bytes::from(body));
        let header = RequestHeader::read(&mut reader).expect("a header");
        match ApiKey::from_code(header.api_key).expect("an API of Kafka's") {
            ApiKey::ApiVersions => {
                let range = |(api_key, versions): (i16, std::ops::RangeInclusive<i16>)| ApiVersion {
                    api_key,
                    min_version: *versions.start(),
                    max_version: *versions.end(),
                };
                let apis = [
                    (LeaderAndIsrRequest::KEY, LeaderAndIsrRequest::VERSIONS),
                    (UpdateMetadataRequest::KEY, UpdateMetadataRequest::VERSIONS),
                    (StopReplicaRequest::KEY, StopReplicaRequest::VERSIONS),
                    (ApiVersionsRequest::KEY, ApiVersionsRequest::VERSIONS),
                ];
                let answer =
                    ApiVersionsResponse { api_keys: apis.into_iter().map(range).collect(), ..Default::default() };
                respond::<ApiVersionsRequest>(&mut stream, &header, &answer)?;
            }
            ApiKey::LeaderAndIsr => {
                let request = LeaderAndIsrRequest::decode(&mut reader, header.api_version).expect("it parses");
                let topics = request.topic_states.iter().map(|topic| LeaderAndIsrTopicError {
                    topic_id: topic.topic_id,
                    partition_errors: topic
                        .partition_states
                        .iter()
                        .map(|state| LeaderAndIsrPartitionError {
                            partition_index: state.partition_index,
                            ..Default::default()
                        })
                        .collect(),
                });
                let answer = LeaderAndIsrResponse { topics: topics.collect(), ..Default::default() };
                respond::<LeaderAndIsrRequest>(&mut stream, &header, &answer)?;
                let _ = heard.send(Heard { broker: id, at: Instant::now(), said: Said::LeaderAndIsr(request) });
            }
            ApiKey::UpdateMetadata => {
                let request = UpdateMetadataRequest::decode(&mut reader, header.api_version).expect("it parses");
                respond::<UpdateMetadataRequest>(&mut stream, &header, &UpdateMetadataResponse::default())?;
                let _ = heard.send(Heard { broker: id, at: Instant::now(), said: Said::UpdateMetadata(request) });
            }
            ApiKey::StopReplica => {
                respond::<StopReplicaRequest>(&mut stream, &header, &StopReplicaResponse::default())?;
            }
            other => panic!("no controller asks a broker for {other:?}"),
        }
    }
}

fn respond<R: Request>(stream: &mut TcpStream, header: &RequestHeader, answer: &R::Response) -> io::Result<()> {
    let mut writer = Writer::new();
    let key = ApiKey::from_code(R::KEY).expect("the key is declared");
    write_response_header(&mut writer, key, header.api_version, header.correlation_id);
    answer.encode(&mut writer, header.api_version).expect("the version has a place for all");
    let body = writer.into_bytes().expect("no file is in an answer");
    let mut frame = (body.len() as u32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    stream.write_all(&frame)
}

/// What a simulated broker knows of a partition.
#[derive(Clone, Copy, Default)]
struct Known {
    leader: i32,
    leader_epoch: i32,
    partition_epoch: i32,
}

/// What is known of partitions, by topic and number.
#[derive(Default)]
struct Table {
    known: Vec<Option<Known>>,
    count: usize,
}

impl Table {
    fn at(scale: Scale, topic: usize, partition: i32) -> usize {
        topic * scale.partitions + partition as usize
    }

    fn get(&self, scale: Scale, topic: usize, partition: i32) -> Option<Known> {
        *self.known.get(Table::at(scale, topic, partition))?
    }

    fn insert(&mut self, scale: Scale, topic: &str, partition: i32, known: Known) {
        let topic: usize = topic.strip_prefix(TOPIC_PREFIX).and_then(|rest| rest.parse().ok()).expect("one of ours");
        let at = Table::at(scale, topic, partition);
        if self.known.len() <= at {
            self.known.resize((at + 1).max(scale.all()), None);
        }
        self.count += usize::from(self.known[at].replace(known).is_none());
    }

    /// Whether the partitions that one broker is preferred to lead are known, and led by others.
    fn is_led_without(&self, scale: Scale, dead: usize) -> bool {
        let known = |at: usize| self.known.get(at).copied().flatten();
        (0..scale.all())
            .filter(|at| replicas(at % scale.partitions)[0] == dead as i32)
            .all(|at| known(at).is_some_and(|known| known.leader >= 0 && known.leader != dead as i32))
    }
}

/// What one simulated broker was told since it was last asked to forget.
#[derive(Default)]
struct Told {
    /// By LeaderAndIsr.
    to_host: Table,
    /// By UpdateMetadata.
    metadata: Table,
    live: Vec<i32>,
}

/// What all of them were told.
struct Ledger {
    scale: Scale,
    heard: Receiver<Heard>,
    /// When the last of it was answered.
    last: Instant,
    told: Vec<Told>,
    controller_epoch: i32,
}

impl Ledger {
    fn forget(&mut self) {
        self.told.iter_mut().for_each(|told| *told = Told::default());
    }

    /// Waits until all have been told enough, and gives the time of the last answer that it took.
    fn until(&mut self, what: &str, is_enough: impl Fn(&[Told]) -> bool) -> Instant {
        let deadline = Instant::now() + PATIENCE;
        while !is_enough(&self.told) {
            match self.heard.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(heard) => self.take(heard),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    let counts: Vec<(usize, usize)> =
                        self.told.iter().map(|told| (told.to_host.count, told.metadata.count)).collect();
                    panic!("waited in vain: {what}; told by LeaderAndIsr and UpdateMetadata: {counts:?}")
                }
            }
        }
        self.last
    }

    fn take(&mut self, heard: Heard) {
        self.last = heard.at;
        let told = &mut self.told[heard.broker];
        match heard.said {
            Said::LeaderAndIsr(request) => {
                self.controller_epoch = request.controller_epoch;
                for topic in request.topic_states {
                    for state in topic.partition_states {
                        let known = Known {
                            leader: state.leader,
                            leader_epoch: state.leader_epoch,
                            partition_epoch: state.partition_epoch,
                        };
                        told.to_host.insert(self.scale, &topic.topic_name, state.partition_index, known);
                    }
                }
            }
            Said::UpdateMetadata(request) => {
                self.controller_epoch = request.controller_epoch;
                told.live = request.live_brokers.iter().map(|broker| broker.id).collect();
                for topic in request.topic_states {
                    for state in topic.partition_states {
                        let known = Known {
                            leader: state.leader,
                            leader_epoch: state.leader_epoch,
                            partition_epoch: state.zk_version,
                        };
                        told.metadata.insert(self.scale, &topic.topic_name, state.partition_index, known);
                    }
                }
            }
        }
    }
}

fn topic_name(topic: usize) -> String {
    format!("{TOPIC_PREFIX}{topic:06}")
}

fn topic_id(topic: usize) -> TopicId {
    let mut id = [9; 16];
    id[..8].copy_from_slice(&(topic as u64 + 1).to_be_bytes());
    TopicId(id)
}

/// All brokers, each in turn the first.
fn replicas(partition: usize) -> Vec<i32> {
    (0..BROKERS).map(|at| ((partition + at) % BROKERS) as i32).collect()
}

fn topic_znode(topic: usize, partitions: usize) -> Topic {
    let assignment = |partition| PartitionAssignment { replicas: replicas(partition), ..Default::default() };
    Topic {
        topic_id: Some(topic_id(topic).to_string()),
        partitions: (0..partitions).map(|partition| (partition as i32, assignment(partition))).collect(),
    }
}

/// The znodes that a controller has written of topics that are led by the first of their replicas, all in sync.
fn populate(runtime: &Runtime, zookeeper: u16, scale: Scale) {
    const AT_ONCE: usize = 16;
    runtime.block_on(async {
        let session = connect(zookeeper).await;
        session.create_persistent_roots().await.expect("ZooKeeper serves");
        let client = ZooKeeperClient::connect(&format!("127.0.0.1:{zookeeper}")).await.expect("ZooKeeper serves");
        let mut tasks = tokio::task::JoinSet::new();
        for topic in 0..scale.topics {
            if tasks.len() == AT_ONCE {
                tasks.join_next().await.expect("there are some").expect("it ends");
            }
            let client = client.clone();
            tasks.spawn(async move {
                let name = topic_name(topic);
                let options = CreateMode::Persistent.with_acls(Acls::anyone_all());
                let mut writer = client.new_multi_writer();
                let mut create = |path: &str, data: &[u8]| {
                    writer.add_create(path, data, &options).expect("a path");
                };
                create(&znode::topic::path(&name), &topic_znode(topic, scale.partitions).encode());
                create(&partition_state::partitions_path(&name), b"");
                for partition in 0..scale.partitions {
                    let isr = replicas(partition);
                    let state = PartitionState {
                        controller_epoch: 1,
                        leader: isr[0],
                        leader_epoch: 0,
                        isr,
                        leader_recovery_state: 0,
                    };
                    create(&partition_state::partition_path(&name, partition as i32), b"");
                    create(&partition_state::path(&name, partition as i32), &state.encode());
                }
                writer.commit().await.expect("ZooKeeper serves");
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("it ends");
        }
        session.close().await;
    });
}

/// Notes when `/controller` appears, and when it goes.
fn watch_controller(runtime: &Runtime, zookeeper: u16) -> Receiver<(Instant, Option<usize>)> {
    let (sender, changes) = channel();
    runtime.spawn(async move {
        let session = connect(zookeeper).await;
        let mut watch = session.watch_data(znode::controller::PATH);
        while let Ok(found) = watch.next().await {
            let controller = found.and_then(|(data, _)| znode::controller::decode(&data).ok());
            let id = controller.and_then(|controller| usize::try_from(controller.broker_id).ok());
            if sender.send((Instant::now(), id)).is_err() {
                return;
            }
        }
    });
    changes
}

struct Line {
    what: &'static str,
    value: f64,
    unit: &'static str,
    target: Option<f64>,
}

struct Lines(Vec<Line>);

impl Lines {
    /// Of several tries the best: the cores are shared.
    fn push(&mut self, what: &'static str, tries: &[f64], unit: &'static str, target: Option<f64>) {
        let value = tries.iter().copied().fold(f64::INFINITY, f64::min);
        eprintln!("measured: {what} {tries:.3?} {unit}");
        self.0.push(Line { what, value, unit, target });
    }
}

fn measure(kind: Kind, dir: &Path, scale: Scale) -> Vec<Line> {
    eprintln!("measuring {}", kind.name());
    let dir: PathBuf = dir.join(kind.name());
    fs::create_dir(&dir).expect("a temporary directory");
    let (_zookeeper, zookeeper) = start_zookeeper_with(&dir, "0,1", "-Xmx1G");
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    let runtime = runtime.expect("a runtime");
    populate(&runtime, zookeeper, scale);
    let mut lines = Lines(Vec::new());

    let (sender, heard) = channel();
    let mut brokers: Vec<Simulated> = (0..BROKERS).map(|id| Simulated::start(id, sender.clone())).collect();
    brokers.iter_mut().for_each(|broker| broker.register(&runtime, zookeeper));
    let told = (0..BROKERS).map(|_| Told::default()).collect();
    let mut ledger = Ledger { scale, heard, last: Instant::now(), told, controller_epoch: 0 };
    let changes = watch_controller(&runtime, zookeeper);
    let until_change = |is_it: &dyn Fn(Option<usize>) -> bool| loop {
        let (at, controller) = changes.recv_timeout(PATIENCE).expect("a controller is elected");
        if is_it(controller) {
            return at;
        }
    };
    let told_all = |told: &Told| told.to_host.count >= scale.all() && told.metadata.count >= scale.all();

    let mut active = Broker::start(kind, FIRST_ID, &dir, zookeeper);
    let began = until_change(&|controller| controller == Some(active.id));
    let ended = ledger.until("all are told everything", |told| told.iter().all(told_all));
    lines.push("first election to all told everything", &[(ended - began).as_secs_f64()], "s", Some(10.0));

    let last = topic_name(scale.topics - 1);
    let mut failovers = Vec::new();
    for round in 1..=scale.rounds {
        let standby = Broker::start(kind, FIRST_ID + round, &dir, zookeeper);
        ledger.until("the next controller is live", |told| {
            told.iter().all(|told| told.live.contains(&(standby.id as i32)))
        });
        let topic = MetadataRequestTopic { name: Some(last.clone()), ..Default::default() };
        let wanted = MetadataRequest { topics: Some(vec![topic]), ..Default::default() };
        while Client::connect(standby.port).call(&wanted, 9).topics[0].error_code != 0 {
            // What a broker knows has no event for who asks it.
            std::thread::sleep(Duration::from_millis(20));
        }
        ledger.forget();
        // Killed.
        drop(std::mem::replace(&mut active, standby));
        let began = until_change(&|controller| controller.is_none());
        let ended = ledger.until("all are told everything again", |told| told.iter().all(told_all));
        failovers.push((ended - began).as_secs_f64());
    }
    lines.push("failover: session end to all told everything", &failovers, "s", Some(10.0));
    lines.push("resident, the controller", &[resident_kib(&active.process) as f64 / 1024.0], "MiB", None);

    let dead = BROKERS - 1;
    ledger.forget();
    let began = brokers[dead].die(&runtime);
    let is_led = |told: &Told| told.to_host.is_led_without(scale, dead) && told.metadata.is_led_without(scale, dead);
    let led = ledger.until("the others lead all", |told| told[..dead].iter().all(is_led));
    lines.push("a broker that led a third dies: to all led", &[(led - began).as_secs_f64()], "s", Some(10.0));
    let ended = ledger.until("all ISRs are without it", |told| told[..dead].iter().all(told_all));
    lines.push("the same: to all ISRs without it", &[(ended - began).as_secs_f64()], "s", None);

    ledger.forget();
    brokers[dead].register(&runtime, zookeeper);
    let began = Instant::now();
    let ended = ledger.until("it is told everything", |told| told_all(&told[dead]));
    lines.push("it comes back: to told everything", &[(ended - began).as_secs_f64()], "s", None);
    let known = std::mem::take(&mut ledger.told[dead].to_host);

    // The leaders that are left take it back into the ISR.
    let leader = 0;
    let alter = |topics: BTreeMap<usize, Vec<i32>>, isr: &[usize], partition_epochs: i32| AlterPartitionRequest {
        broker_id: leader as i32,
        broker_epoch: brokers[leader].epoch(),
        topics: topics
            .into_iter()
            .map(|(topic, partitions)| TopicData {
                topic_id: topic_id(topic),
                partitions: partitions
                    .into_iter()
                    .map(|partition| {
                        let known = known.get(scale, topic, partition).expect("it was told everything");
                        let member =
                            |id: &usize| BrokerState { broker_id: *id as i32, broker_epoch: brokers[*id].epoch() };
                        PartitionData {
                            partition_index: partition,
                            leader_epoch: known.leader_epoch,
                            new_isr_with_epochs: isr.iter().map(member).collect(),
                            partition_epoch: known.partition_epoch + partition_epochs,
                            ..Default::default()
                        }
                    })
                    .collect(),
                ..Default::default()
            })
            .collect(),
    };
    let mut client = Client::connect(active.port);
    let altered = |client: &mut Client, request: &AlterPartitionRequest| {
        let answer = client.call(request, 3);
        assert_eq!(answer.error_code, 0, "{answer:?}");
        let partitions = answer.topics.iter().flat_map(|topic| &topic.partitions);
        let refused: Vec<_> = partitions.filter(|partition| partition.error_code != 0).take(3).collect();
        assert!(refused.is_empty(), "{refused:?}");
    };
    let one = BTreeMap::from([(scale.topics - 1, vec![0])]);
    let (began, before, count) = (Instant::now(), cpu(&active.process), 10 * scale.rounds as i32);
    for i in 0..count {
        let isr: &[usize] = if i % 2 == 0 { &[0] } else { &[0, 1] };
        altered(&mut client, &alter(one.clone(), isr, i));
    }
    let taken = began.elapsed().as_secs_f64() / f64::from(count);
    lines.push("AlterPartition of one, to answered", &[taken * 1e3], "ms", None);
    let spent = (cpu(&active.process) - before).as_secs_f64() / f64::from(count);
    lines.push("the same", &[spent * 1e3], "ms CPU", None);
    let mut many: BTreeMap<usize, Vec<i32>> = BTreeMap::new();
    for topic in 0..scale.topics - 1 {
        let led =
            |partition: &i32| known.get(scale, topic, *partition).is_some_and(|known| known.leader == leader as i32);
        many.insert(topic, (0..scale.partitions as i32).filter(led).collect());
    }
    let request = alter(many, &[0, 1, 2], 0);
    let began = Instant::now();
    altered(&mut client, &request);
    lines.push("AlterPartition of all that one leads", &[began.elapsed().as_secs_f64()], "s", None);

    let (mut created, before) = (Vec::new(), cpu(&active.process));
    for round in 0..10 * scale.rounds {
        let topic = scale.topics + round;
        let name = topic_name(topic);
        let began = Instant::now();
        runtime.block_on(async {
            let (session, _) = brokers[0].registered.as_ref().expect("it lives");
            session.create_topic(&name, &topic_znode(topic, 1), &BTreeMap::new()).await.expect("ZooKeeper serves");
        });
        let ended = ledger.until("a new topic is told to all", |told| {
            let is_known = |table: &Table| table.get(scale, topic, 0).is_some();
            told.iter().all(|told| is_known(&told.to_host) && is_known(&told.metadata))
        });
        created.push((ended - began).as_secs_f64() * 1e3);
    }
    let spent = (cpu(&active.process) - before).as_secs_f64() / created.len() as f64;
    created.sort_by(f64::total_cmp);
    lines.push("a topic of one partition, created to told", &[created[created.len() / 2]], "ms, p50", None);
    lines.push("the same", &[spent * 1e3], "ms CPU", None);

    let (_, epoch) = runtime.block_on(async {
        let (session, _) = brokers[0].registered.as_ref().expect("it lives");
        let registered = session.broker(active.id as i32).await.expect("ZooKeeper serves").expect("it lives");
        (registered.broker, registered.epoch)
    });
    let identity = (active.id as i32, ledger.controller_epoch, epoch);
    for (what, topics, partitions) in [
        ("UpdateMetadata of all to a broker, to answered", scale.topics, scale.partitions),
        ("UpdateMetadata of one partition, to answered", 1, 1),
    ] {
        let request = update_metadata(identity, topics, partitions);
        let frame = frame(&request, 8, 1);
        let tries: Vec<f64> = (0..10 * scale.rounds)
            .map(|_| {
                let began = Instant::now();
                let (_, answer) = client.pump(&frame, 1, 1);
                assert_eq!(answer, [0, 0, 0, 1, 0, 0, 0, 0], "no error");
                began.elapsed().as_secs_f64() * 1e3
            })
            .collect();
        lines.push(what, &tries, "ms", Some(20.0));
    }
    lines.push("resident, the controller, in the end", &[resident_kib(&active.process) as f64 / 1024.0], "MiB", None);
    if kind == Kind::Odradek {
        measure_cache(scale, &mut lines);
    }
    lines.0
}

/// As a controller tells it: `(its id, its epoch, the epoch of the broker that is told)`.
fn update_metadata(identity: (i32, i32, i64), topics: usize, partitions: usize) -> UpdateMetadataRequest {
    let (controller_id, controller_epoch, broker_epoch) = identity;
    let endpoint = |port| UpdateMetadataEndpoint {
        port,
        host: "127.0.0.1".into(),
        listener: "PLAINTEXT".into(),
        security_protocol: 0,
    };
    let broker = |id: i32| UpdateMetadataBroker { id, endpoints: vec![endpoint(9092)], ..Default::default() };
    let state = |partition: usize| UpdateMetadataPartitionState {
        partition_index: partition as i32,
        controller_epoch,
        leader: replicas(partition)[0],
        leader_epoch: 3,
        isr: replicas(partition),
        zk_version: 5,
        replicas: replicas(partition),
        ..Default::default()
    };
    let topic = |topic: usize| UpdateMetadataTopicState {
        topic_name: topic_name(topic),
        topic_id: topic_id(topic),
        partition_states: (0..partitions).map(state).collect(),
    };
    UpdateMetadataRequest {
        controller_id,
        controller_epoch,
        broker_epoch,
        topic_states: (0..topics).map(topic).collect(),
        live_brokers: (0..BROKERS as i32).chain([controller_id]).map(broker).collect(),
        ..Default::default()
    }
}

/// What a broker does with an UpdateMetadata, without the network; with as many topics as partitions too, where an image
/// holds most.
fn measure_cache(scale: Scale, lines: &mut Lines) {
    let encoded = |topics, partitions| {
        let mut writer = Writer::new();
        update_metadata((0, 1, 1), topics, partitions).encode(&mut writer, 8).expect("the version has a place for all");
        writer.into_bytes().expect("no file is in a request")
    };
    let mut time = |what, body: &Bytes, cache: &MetadataCache| {
        let (mut decoded, mut applied) = (Vec::new(), Vec::new());
        for _ in 0..10 * scale.rounds {
            let began = Instant::now();
            let request = UpdateMetadataRequest::decode(&mut Reader::new(body.clone()), 8).expect("it parses");
            decoded.push(began.elapsed().as_secs_f64() * 1e3);
            let began = Instant::now();
            cache.apply(Update::of(request));
            applied.push(began.elapsed().as_secs_f64() * 1e3);
        }
        let [decoded_as, applied_as] = what;
        lines.push(decoded_as, &decoded, "ms", None);
        lines.push(applied_as, &applied, "ms", Some(20.0));
    };
    let cache = MetadataCache::new();
    let all = encoded(scale.topics, scale.partitions);
    time(["all: decoded", "all: applied to the cache"], &all, &cache);
    time(["one partition: decoded", "one partition: applied"], &encoded(1, 1), &cache);
    let cache = MetadataCache::new();
    time(["all, a topic each: decoded", "all, a topic each: applied"], &encoded(scale.all(), 1), &cache);
    time(["one topic among as many: decoded", "one topic among as many: applied"], &encoded(1, 1), &cache);
}

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |value| value.parse().expect("a number"))
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let scale = match is_real {
        true => {
            Scale { topics: setting("BENCH_TOPICS", 2_000), partitions: setting("BENCH_PARTITIONS", 50), rounds: 3 }
        }
        false => Scale { topics: 4, partitions: 6, rounds: 1 },
    };
    let dir = tempfile::tempdir().expect("a temporary directory");
    let measured = [Kind::Odradek, Kind::Jvm].map(|kind| {
        let is_wanted = only.is_empty() || only == kind.name();
        // A JVM that is not warm says nothing: only a real run starts one.
        let is_useful = is_real || kind != Kind::Jvm;
        if is_wanted && is_useful { measure(kind, dir.path(), scale) } else { Vec::new() }
    });
    println!("{} partitions in {} topics, {BROKERS} replicas each", scale.all(), scale.topics);
    println!("{:<50} {:>12} {:>12} {:>10}  unit", "", "odradek", "jvm 3.9.1", "target");
    let longest = measured.iter().max_by_key(|lines| lines.len()).expect("two were measured");
    for (at, Line { what, unit, target, .. }) in longest.iter().enumerate() {
        let numbers = measured.each_ref().map(|lines| {
            let line = lines.get(at).filter(|line| line.what == *what && line.unit == *unit);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.3}", line.value))
        });
        let [ours, jvm] = numbers;
        let target = target.map_or_else(|| "-".to_owned(), |target| format!("<= {target:.0}"));
        println!("{what:<50} {ours:>12} {jvm:>12} {target:>10}  {unit}");
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
