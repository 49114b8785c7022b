//! What the integration tests share: a real ZooKeeper and brokers as processes of their own on free ports, a raw
//! client, and waiting for what must come true. Everything started ends with the value that holds it.
//!
//! `ODRADEK_TEST_BROKER=jvm-3.9.1` runs a test against a JVM broker, which shows that the test itself is right.
//! A failed test leaves its directory, with all logs, and says where it is.

// Each test file compiles this module for itself and uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod member;
pub mod transactional;

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use odradek::config::log::LogConfig;
use odradek::config::sections::LogDirsConfig;
use odradek::log::dirs::LogDirs;
use odradek::protocol::messages::metadata::MetadataResponsePartition;
use odradek_zookeeper::znode::{controller, controller_epoch};
use rustix::process::{Pid, Signal, kill_process};
use zookeeper_client::{Acls, CreateMode};

pub const PATIENCE: Duration = Duration::from_secs(60);

/// What tests/deps.sh installed.
pub fn deps(name: &str) -> PathBuf {
    let deps = std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-deps")), PathBuf::from);
    let path = deps.join(name);
    assert!(path.exists(), "{} is missing: run tests/deps.sh, which installs it", path.display());
    path
}

pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Probes until it gives a value; fails with what it said last.
pub fn eventually<T>(deadline: Duration, what: &str, mut probe: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        match probe() {
            Ok(value) => return value,
            Err(seen) => assert!(began.elapsed() < deadline, "not within {deadline:?}: {what}; last seen: {seen}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Opens a log directory as a broker does, with these settings for every topic.
pub fn open_log_dirs(root: &Path, topics: LogConfig) -> Arc<LogDirs> {
    let config = LogDirsConfig {
        dirs: vec![root.to_path_buf()],
        producer_id_expiration_ms: i64::MAX,
        ..LogDirsConfig::default()
    };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = Arc::new(LogDirs::open(&config, failures, Arc::default()).expect("openable"));
    let topics = Arc::new(topics);
    dirs.load(&|_| Arc::clone(&topics), 0, &|_| {}).expect("loadable");
    dirs
}

/// A port below those that the kernel gives to outgoing connections: one of these could take it from a server that is
/// down for a moment. None is given twice, since who asked for it may not listen yet.
pub fn free_port() -> u16 {
    static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());
    loop {
        let port = rand::random_range(10_000..32_768);
        if TcpListener::bind(("127.0.0.1", port)).is_ok() && GIVEN.lock().expect("nobody panics with it").insert(port) {
            return port;
        }
    }
}

/// A command that dies with the thread that starts it, so that a killed test run leaves nothing behind.
pub fn tied(program: impl AsRef<std::ffi::OsStr>) -> Command {
    if Path::new("/usr/bin/setpriv").exists() {
        let mut command = Command::new("/usr/bin/setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        return command;
    }
    Command::new(program)
}

/// A process that is killed when the value goes.
pub struct Process {
    pub name: String,
    pub child: Child,
    pub log: PathBuf,
}

impl Process {
    pub fn start(name: &str, command: &mut Command, log: PathBuf) -> Process {
        let out = OpenOptions::new().create(true).append(true).open(&log).expect("the log can be written");
        let err = out.try_clone().expect("a handle");
        let child = command.stdin(Stdio::null()).stdout(out).stderr(err).spawn();
        let child = child.unwrap_or_else(|error| panic!("start {name}: {error}"));
        Process { name: name.to_owned(), child, log }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be waited for")
    }

    pub fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id() as i32).expect("a process id is not 0");
        kill_process(pid, signal).unwrap_or_else(|error| panic!("signal {}: {error}", self.name));
    }

    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// An orderly stop.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        eventually(PATIENCE, &format!("{} ends after TERM", self.name), || {
            self.has_ended().ok_or_else(|| format!("it runs; {}", self.last_words()))
        })
    }

    /// A line of /proc/PID/status in KiB: VmRSS, VmHWM.
    pub fn memory_kib(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("the process runs");
        let line = status.lines().find(|line| line.starts_with(field)).expect("the kernel counts memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number of KiB")
    }

    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    pub fn last_words(&self) -> String {
        let said = self.said();
        let lines: Vec<&str> = said.lines().rev().take(8).collect();
        format!("the last lines of {}:\n{}", self.log.display(), lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    pub fn until_port(&mut self, port: u16) {
        eventually(PATIENCE, &format!("{} listens on {port}", self.name), || {
            if let Some(status) = self.has_ended() {
                panic!("{} ended ({status}) before it listened on {port}; {}", self.name, self.last_words());
            }
            TcpStream::connect(("127.0.0.1", port)).map(drop).map_err(|error| error.to_string())
        });
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A directory that goes with a test that passes, and stays with one that fails.
pub struct Scratch(PathBuf);

impl Scratch {
    pub fn new(name: &str) -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let unique = format!("odradek-{name}.{}.{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(unique);
        fs::create_dir_all(&path).expect("a directory in the temporary directory");
        Scratch(path)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("all files and logs are left in {}", self.0.display());
        } else {
            let _ = fs::remove_dir_all(&self.0);
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Odradek,
    /// A JVM broker of that version.
    Jvm(&'static str),
}

impl Kind {
    /// The broker under test: ours, unless the environment says otherwise.
    pub fn under_test() -> Kind {
        Kind::named(&std::env::var("ODRADEK_TEST_BROKER").unwrap_or_default())
    }

    pub fn named(name: &str) -> Kind {
        match name {
            "jvm-3.9.1" => Kind::Jvm("3.9.1"),
            "jvm-2.8.2" => Kind::Jvm("2.8.2"),
            "odradek" | "" => Kind::Odradek,
            other => panic!("ODRADEK_TEST_BROKER={other} is no broker: odradek, jvm-3.9.1, jvm-2.8.2"),
        }
    }
}

/// `java` with small memory and a quick start, its log4j speaking to stdout.
pub fn java(jars: &Path, scratch: &Scratch) -> Command {
    let log4j = scratch.path("log4j.properties");
    if !log4j.exists() {
        let text = "log4j.rootLogger=INFO, stdout\nlog4j.appender.stdout=org.apache.log4j.ConsoleAppender\n\
                    log4j.appender.stdout.layout=org.apache.log4j.PatternLayout\n\
                    log4j.appender.stdout.layout.ConversionPattern=[%d] %p %m (%c)%n\n\
                    log4j.logger.kafka.request.logger=WARN\n";
        fs::write(&log4j, text).expect("the scratch directory can be written");
    }
    let mut command = tied("java");
    command
        .args(["-Xmx512M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dlog4j.configuration=file:{}", log4j.display()))
        .arg("-cp")
        .arg(format!("{}/*", jars.display()));
    command
}

/// One of Kafka's command-line tools, without its arguments.
pub fn jvm_tool(version: &str, class: &str) -> Command {
    let log4j = repository("config/tools-log4j.properties");
    let mut command = tied("java");
    command
        .args(["-Xmx256M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"])
        .arg(format!("-Dlog4j.configuration=file:{}", log4j.display()))
        .arg("-cp")
        .arg(format!("{}/*", deps(&format!("kafka-{version}")).display()))
        .arg(class);
    command
}

/// One of the scripts in bin/, without its arguments.
pub fn our_tool(script: &str) -> Command {
    let mut command = tied(repository("bin").join(script));
    command.env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek"));
    command
}

/// A real ZooKeeper with short ticks, so that sessions may be short too.
pub struct ZooKeeper {
    pub process: Process,
    pub port: u16,
    name: String,
    config: PathBuf,
    /// Where its jars are among what tests/deps.sh installed.
    release: &'static str,
}

impl ZooKeeper {
    pub fn start(scratch: &Scratch) -> ZooKeeper {
        ZooKeeper::start_release("zookeeper", scratch)
    }

    pub fn start_release(release: &'static str, scratch: &Scratch) -> ZooKeeper {
        ZooKeeper::configure(release, "zookeeper", scratch, "")
    }

    /// Servers that elect one of them to lead, and go on while most of them are there.
    pub fn start_ensemble(count: usize, scratch: &Scratch) -> Vec<ZooKeeper> {
        let members: String =
            (1..=count).map(|id| format!("server.{id}=127.0.0.1:{}:{}\n", free_port(), free_port())).collect();
        let start = |id| {
            let name = format!("zookeeper-{id}");
            fs::create_dir_all(scratch.path(&name)).expect("the scratch directory can be written");
            fs::write(scratch.path(&name).join("myid"), format!("{id}")).expect("it was just made");
            ZooKeeper::configure("zookeeper", &name, scratch, &format!("initLimit=20\nsyncLimit=10\n{members}"))
        };
        (1..=count).map(start).collect()
    }

    fn configure(release: &'static str, name: &str, scratch: &Scratch, settings: &str) -> ZooKeeper {
        let port = free_port();
        let config = scratch.path(&format!("{name}.properties"));
        let data = scratch.path(name);
        let text = format!(
            "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\n\
             maxClientCnxns=0\ntickTime=500\n4lw.commands.whitelist=*\n{settings}",
            data.display()
        );
        fs::write(&config, text).expect("the scratch directory can be written");
        let process = ZooKeeper::run(release, name, scratch, &config);
        let mut zookeeper = ZooKeeper { process, port, name: name.to_owned(), config, release };
        zookeeper.process.until_port(port);
        zookeeper
    }

    fn run(release: &str, name: &str, scratch: &Scratch, config: &Path) -> Process {
        let mut command = java(&deps(release), scratch);
        let logback = repository("config/zookeeper-logback.xml");
        command.arg(format!("-Dlogback.configurationFile={}", logback.display()));
        command.arg("org.apache.zookeeper.server.quorum.QuorumPeerMain").arg(config);
        Process::start(name, &mut command, scratch.path(&format!("{name}.log")))
    }

    /// Starts a server that has ended, on the same port and data.
    pub fn start_again(&mut self, scratch: &Scratch) {
        self.process = ZooKeeper::run(self.release, &self.name, scratch, &self.config);
        self.process.until_port(self.port);
    }

    /// What it says of itself. In an ensemble that has elected nobody it says that it does not serve.
    pub fn status(&self) -> std::io::Result<String> {
        let mut socket = TcpStream::connect(("127.0.0.1", self.port))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        socket.write_all(b"srvr")?;
        let mut said = String::new();
        socket.read_to_string(&mut said)?;
        Ok(said)
    }

    /// Kills the server and starts it again.
    pub fn restart(&mut self, scratch: &Scratch, away: Duration) {
        self.process.kill();
        std::thread::sleep(away); // The time away is what the test is about.
        self.start_again(scratch);
    }
}

/// Takes the office of the controller for a client that does nothing with it. What its holder still writes is refused; who
/// deletes `/controller`, or closes the client, has another elected.
pub async fn usurp(zookeeper: u16) -> zookeeper_client::Client {
    let client = zookeeper_client::Client::connect(&format!("127.0.0.1:{zookeeper}")).await.expect("ZooKeeper answers");
    let (epoch, stat) = client.get_data(controller_epoch::PATH).await.expect("there has been a controller");
    let epoch: i32 = String::from_utf8_lossy(&epoch).parse().expect("an epoch is a number");
    let options = CreateMode::Ephemeral.with_acls(Acls::anyone_all());
    let mut writer = client.new_multi_writer();
    let written = [
        writer.add_set_data(controller_epoch::PATH, (epoch + 1).to_string().as_bytes(), Some(stat.version)),
        writer.add_delete(controller::PATH, None),
        writer.add_create(controller::PATH, &controller::encode(99, 0), &options),
    ];
    written.into_iter().for_each(|added| added.expect("the paths are well formed"));
    writer.commit().await.expect("nobody else is at it");
    client
}

/// One broker with its directory; it may be stopped, killed and started again, as another kind too.
pub struct Broker {
    pub process: Option<Process>,
    pub id: i32,
    pub port: u16,
    pub config: PathBuf,
    pub data: PathBuf,
    log: PathBuf,
}

impl Broker {
    /// Broker 0.
    pub fn configure(scratch: &Scratch, zookeeper: u16, settings: &str) -> Broker {
        Broker::configure_as(0, scratch, zookeeper, settings)
    }

    /// A broker of that id, with a port, a directory and a log of its own.
    pub fn configure_as(id: i32, scratch: &Scratch, zookeeper: u16, settings: &str) -> Broker {
        let port = free_port();
        let suffix = if id == 0 { String::new() } else { format!("-{id}") };
        let config = scratch.path(&format!("server{suffix}.properties"));
        let data = scratch.path(&format!("data{suffix}"));
        let log = scratch.path(&format!("broker{suffix}.log"));
        let text = format!(
            "broker.id={id}\nlisteners=PLAINTEXT://127.0.0.1:{port}\nlog.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}\n\
             zookeeper.session.timeout.ms=3000\nzookeeper.connection.timeout.ms=30000\noffsets.topic.replication.factor=1\noffsets.topic.num.partitions=5\n\
             transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\nlog.retention.hours=-1\n{settings}\n",
            data.display()
        );
        fs::write(&config, text).expect("the scratch directory can be written");
        Broker { process: None, id, port, config, data, log }
    }

    pub fn spawn(&self, kind: Kind, scratch: &Scratch) -> Process {
        let mut command = match kind {
            Kind::Odradek => {
                let mut command = tied(env!("CARGO_BIN_EXE_odradek"));
                command.arg("server-start");
                command
            }
            Kind::Jvm(version) => {
                let mut command = java(&deps(&format!("kafka-{version}")), scratch);
                // The last -Xmx holds: several brokers may run beside other tests.
                command.args(["-Xmx256M", "kafka.Kafka"]);
                command
            }
        };
        command.arg(&self.config);
        Process::start(&format!("broker {}", self.id), &mut command, self.log.clone())
    }

    /// Starts it and waits until it serves.
    pub fn start(&mut self, kind: Kind, scratch: &Scratch) {
        self.process = Some(self.spawn(kind, scratch));
        self.until_serving(kind, scratch);
    }

    /// Waits until it answers, for each partition that it leads too.
    pub fn until_serving(&mut self, kind: Kind, scratch: &Scratch) {
        let began = Instant::now();
        eventually(PATIENCE, &format!("broker {} answers for the cluster", self.id), || {
            self.start_again_if_refused(kind, scratch, began);
            self.serves()
        });
    }

    /// A broker that was killed leaves its registration behind until its session ends; one that refuses to start
    /// meanwhile, as Kafka does, is started again.
    pub fn start_again_if_refused(&mut self, kind: Kind, scratch: &Scratch, began: Instant) {
        let process = self.process.as_mut().expect("the broker was started");
        let Some(status) = process.has_ended() else { return };
        assert!(began.elapsed() < PATIENCE / 2, "the broker ended ({status}); {}", process.last_words());
        // A JVM broker also gives up when its session ends while it starts, which a busy machine makes it do.
        let said = process.said();
        assert!(
            said.contains("NodeExists") || said.contains("SessionExpired"),
            "the broker ended ({status}) when started; {}",
            process.last_words()
        );
        self.process = Some(self.spawn(kind, scratch));
    }

    pub fn serves(&self) -> Result<(), String> {
        let mut client = client::Client::connect(self.port).map_err(|error| error.to_string())?;
        let metadata = client.metadata(&[]).map_err(|error| error.to_string())?;
        if metadata.brokers.is_empty() || metadata.controller_id < 0 {
            return Err(format!("{metadata:?}"));
        }
        client.leads_its_partitions(self.id)
    }

    pub fn process(&mut self) -> &mut Process {
        self.process.as_mut().expect("the broker was started")
    }

    pub fn stop(&mut self) -> ExitStatus {
        self.process.take().expect("the broker was started").terminate()
    }

    pub fn kill(&mut self) {
        self.process.take().expect("the broker was started").kill();
    }

    pub fn client(&self) -> client::Client {
        client::Client::connect(self.port).unwrap_or_else(|error| panic!("connect to the broker: {error}"))
    }

    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }
}

/// ZooKeeper and one broker. The fields end in this order.
pub struct Cluster {
    pub broker: Broker,
    pub zookeeper: ZooKeeper,
    pub scratch: Scratch,
}

impl Cluster {
    /// The broker under test, answering, with a few more lines for its server.properties.
    pub fn start(name: &str, settings: &str) -> Cluster {
        Cluster::start_as(Kind::under_test(), name, settings)
    }

    pub fn start_as(kind: Kind, name: &str, settings: &str) -> Cluster {
        Cluster::start_on("zookeeper", kind, name, settings)
    }

    /// On a release of ZooKeeper as tests/deps.sh calls it.
    pub fn start_on(release: &'static str, kind: Kind, name: &str, settings: &str) -> Cluster {
        let scratch = Scratch::new(name);
        let zookeeper = ZooKeeper::start_release(release, &scratch);
        let mut broker = Broker::configure(&scratch, zookeeper.port, settings);
        broker.start(kind, &scratch);
        Cluster { broker, zookeeper, scratch }
    }

    pub fn start_broker(&mut self, kind: Kind) {
        self.broker.start(kind, &self.scratch);
    }

    /// Runs one of Kafka's JVM tools: its output if it ends with status 0, what it said if not.
    pub fn jvm_tool(&self, version: &str, class: &str, arguments: &[&str]) -> Result<String, String> {
        self.scratch.jvm_tool_fed(version, class, arguments, "")
    }

    pub fn jvm_tool_fed(&self, version: &str, class: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        self.scratch.jvm_tool_fed(version, class, arguments, input)
    }

    /// Runs one of our scripts in bin/ the same way.
    pub fn script(&self, script: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        self.scratch.script(script, arguments, input)
    }
}

/// ZooKeeper and several brokers, of which each may be stopped, killed and started again. The fields end in this order.
pub struct Brokers {
    pub brokers: Vec<Broker>,
    pub zookeeper: ZooKeeper,
    pub scratch: Scratch,
}

impl Brokers {
    /// Brokers under test with the ids 0 to `count - 1`, each of which knows of all, with a few more lines for the
    /// server.properties of each. Internal topics have as many replicas as there are brokers, up to three.
    pub fn start(name: &str, count: i32, settings: &str) -> Brokers {
        Brokers::start_as(name, &vec![Kind::under_test(); usize::try_from(count).expect("a few")], settings)
    }

    /// One broker of each kind, in the order of their ids.
    pub fn start_as(name: &str, kinds: &[Kind], settings: &str) -> Brokers {
        let scratch = Scratch::new(name);
        let zookeeper = ZooKeeper::start(&scratch);
        let replicas = kinds.len().min(3);
        let settings = format!(
            "offsets.topic.replication.factor={replicas}\ntransaction.state.log.replication.factor={replicas}\n{settings}"
        );
        let ids = (0..).zip(kinds);
        let brokers = ids.map(|(id, _)| Broker::configure_as(id, &scratch, zookeeper.port, &settings)).collect();
        let mut cluster = Brokers { brokers, zookeeper, scratch };
        for (broker, kind) in cluster.brokers.iter_mut().zip(kinds) {
            broker.start(*kind, &cluster.scratch);
        }
        cluster.until_all_know(&(0..).take(kinds.len()).collect::<Vec<_>>());
        cluster
    }

    pub fn start_broker(&mut self, id: usize, kind: Kind) {
        self.brokers[id].start(kind, &self.scratch);
    }

    /// Waits until every broker that runs knows of these, and of no others.
    pub fn until_all_know(&self, ids: &[i32]) {
        for broker in self.brokers.iter().filter(|broker| broker.process.is_some()) {
            eventually(PATIENCE, &format!("broker {} knows of the brokers {ids:?}", broker.id), || {
                let mut client = client::Client::connect(broker.port).map_err(|error| error.to_string())?;
                let metadata = client.metadata(&[]).map_err(|error| error.to_string())?;
                let mut known: Vec<i32> = metadata.brokers.iter().map(|broker| broker.node_id).collect();
                known.sort_unstable();
                if known == ids && ids.contains(&metadata.controller_id) {
                    Ok(())
                } else {
                    Err(format!("{metadata:?}"))
                }
            });
        }
    }

    pub fn client(&self, id: i32) -> client::Client {
        self.brokers[usize::try_from(id).expect("a broker's id")].client()
    }

    /// Of all brokers, for `bootstrap.servers`.
    pub fn addresses(&self) -> String {
        self.brokers.iter().map(Broker::address).collect::<Vec<_>>().join(",")
    }

    /// What the brokers that run say of a partition, once they agree and it has a leader for which `accepted` holds.
    pub fn until_partition(
        &self,
        topic: &str,
        partition: i32,
        what: &str,
        accepted: impl Fn(&MetadataResponsePartition) -> bool,
    ) -> MetadataResponsePartition {
        eventually(PATIENCE, &format!("{topic}-{partition}: {what}"), || {
            let mut seen: Option<MetadataResponsePartition> = None;
            for broker in self.brokers.iter().filter(|broker| broker.process.is_some()) {
                let mut client = client::Client::connect(broker.port).map_err(|error| error.to_string())?;
                let metadata = client.metadata(&[topic]).map_err(|error| error.to_string())?;
                let found = metadata.topics.first().and_then(|topic| {
                    topic.partitions.iter().find(|found| found.partition_index == partition).cloned()
                });
                let found = found.ok_or_else(|| format!("broker {} does not know it: {metadata:?}", broker.id))?;
                let (leader, leader_epoch) = (found.leader_id, found.leader_epoch);
                if leader < 0 || !accepted(&found) {
                    return Err(format!("broker {}: {found:?}", broker.id));
                }
                if let Some(seen) = &seen
                    && (seen.leader_id, seen.leader_epoch, &seen.isr_nodes) != (leader, leader_epoch, &found.isr_nodes)
                {
                    return Err(format!("brokers disagree: {seen:?}, {found:?}"));
                }
                seen = Some(found);
            }
            seen.ok_or_else(|| "no broker runs".to_owned())
        })
    }

    pub fn jvm_tool(&self, version: &str, class: &str, arguments: &[&str]) -> Result<String, String> {
        self.scratch.jvm_tool_fed(version, class, arguments, "")
    }

    pub fn script(&self, script: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        self.scratch.script(script, arguments, input)
    }
}

impl Scratch {
    fn jvm_tool_fed(&self, version: &str, class: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = jvm_tool(version, class);
        command.args(arguments);
        let output = self.fed(command, input);
        told(class, arguments, &output)
    }

    fn script(&self, script: &str, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut command = our_tool(script);
        command.args(arguments);
        let output = self.fed(command, input);
        told(script, arguments, &output)
    }

    fn fed(&self, mut command: Command, input: &str) -> Output {
        let file = self.path("input");
        fs::write(&file, input).expect("the scratch directory can be written");
        let input = File::open(&file).expect("it was just written");
        command.stdin(input).output().unwrap_or_else(|error| panic!("run {command:?}: {error}"))
    }
}

fn told(what: &str, arguments: &[&str], output: &Output) -> Result<String, String> {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(out);
    }
    let err = String::from_utf8_lossy(&output.stderr);
    Err(format!("{what} {} ended with {}: {out}{err}", arguments.join(" "), output.status))
}
