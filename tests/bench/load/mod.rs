//! What the benches of a broker share: real processes, a client that sends frames and reads answers away, and figures of
//! a process.

// Each bench takes what it needs.
#![allow(dead_code)]

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::codec::reader::Reader;
use odradek::codec::writer::Writer;
use odradek::protocol::api_keys::ApiKey;
use odradek::protocol::header::{RequestHeader, read_response_header};
use odradek::protocol::message::{Message, Payload, Request};
use odradek::protocol::messages::create_topics::{CreatableTopic, CreateTopicsRequest};
use odradek::protocol::messages::delete_topics::DeleteTopicsRequest;
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic};
use odradek::protocol::messages::produce::{PartitionProduceData, ProduceRequest, TopicProduceData};
use odradek::record::build::BatchBuilder;

/// A process that ends with its value.
pub struct Killed(pub Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub fn deps() -> PathBuf {
    std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-deps")), PathBuf::from)
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port is free").port()
}

pub fn wait_for_port(port: u16, what: &str) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    // A JVM broker of 10,000 partitions needs a minute.
    let deadline = Instant::now() + Duration::from_secs(180);
    loop {
        match TcpStream::connect(address) {
            Ok(stream) => return stream,
            Err(error) => assert!(Instant::now() < deadline, "{what} does not listen on {port}: {error}"),
        }
        // A process that starts has no event to wait for.
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// This process keeps to core 1, and leaves core 0 to what is measured.
pub fn pin_load() {
    let mut load = rustix::thread::CpuSet::new();
    load.set(1);
    rustix::thread::sched_setaffinity(None, &load).unwrap_or_else(|error| eprintln!("the load is not pinned: {error}"));
}

/// On core 0 for what is measured, on core 1 for what is not; `0,1` where both are free to all.
pub fn pinned(cores: &str, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.arg("-c").arg(cores).arg(program).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Another build of the broker may be measured: `ODRADEK_BINARY`.
pub fn our_broker(cores: &str, config: &Path) -> Command {
    let binary = std::env::var_os("ODRADEK_BINARY").unwrap_or_else(|| env!("CARGO_BIN_EXE_odradek").into());
    let mut command = pinned(cores, Path::new(&binary));
    command.arg("server-start").arg(config);
    command
}

pub fn jvm_broker(cores: &str, config: &Path) -> Command {
    let mut command = pinned(cores, Path::new("java"));
    // The heap and collector of kafka-server-start.sh.
    command
        .args(["-Xmx1G", "-Xms1G", "-server", "-XX:+UseG1GC", "-XX:MaxGCPauseMillis=20"])
        .args(["-XX:InitiatingHeapOccupancyPercent=35", "-XX:+ExplicitGCInvokesConcurrent", "-cp"])
        .arg(format!("{}/*", deps().join("kafka-3.9.1").display()))
        .arg("kafka.Kafka")
        .arg(config);
    command
}

/// An orderly stop, to its end.
pub fn stop(mut process: Killed) {
    let pid = rustix::process::Pid::from_child(&process.0);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("the broker can be told to stop");
    process.0.wait().expect("it is ours");
}

pub fn start_zookeeper(dir: &Path) -> (Killed, u16) {
    start_zookeeper_with(dir, "1", "-Xmx256M")
}

pub fn start_zookeeper_with(dir: &Path, cores: &str, heap: &str) -> (Killed, u16) {
    let jars = deps().join("zookeeper");
    assert!(jars.exists(), "{} is missing: run tests/deps.sh, which installs it", jars.display());
    let port = free_port();
    let config = dir.join("zookeeper.properties");
    let text = format!(
        "dataDir={}\nclientPort={port}\nclientPortAddress=127.0.0.1\nadmin.enableServer=false\nmaxClientCnxns=0\n",
        dir.join("zookeeper").display()
    );
    fs::write(&config, text).expect("the configuration is written");
    let child = pinned(cores, Path::new("java"))
        .args([heap, "-cp"])
        .arg(format!("{}/*", jars.display()))
        .arg("org.apache.zookeeper.server.quorum.QuorumPeerMain")
        .arg(&config)
        .spawn()
        .expect("java starts");
    while !zookeeper_serves(wait_for_port(port, "ZooKeeper")) {
        // As above: only asking again tells.
        std::thread::sleep(Duration::from_millis(10));
    }
    (Killed(child), port)
}

/// A ZooKeeper that has just bound its port may never answer who connects then: it is asked until it does.
pub fn zookeeper_serves(mut stream: TcpStream) -> bool {
    let mut answer = String::new();
    stream.set_read_timeout(Some(Duration::from_secs(1))).expect("a socket option");
    let asked = stream.write_all(b"srvr").and_then(|()| stream.read_to_string(&mut answer));
    asked.is_ok() && answer.contains("Mode:")
}

fn stat(process: &Killed, file: &str) -> String {
    fs::read_to_string(format!("/proc/{}/{file}", process.0.id())).expect("the process runs")
}

/// User and system time of all threads so far.
pub fn cpu(process: &Killed) -> Duration {
    let stat = stat(process, "stat");
    let fields: Vec<&str> = stat.rsplit_once(')').expect("the name ends").1.split_whitespace().collect();
    let ticks: u64 = [11, 12].iter().map(|&field| fields[field].parse::<u64>().expect("ticks are a number")).sum();
    let per_second = rustix::param::clock_ticks_per_second();
    Duration::from_micros(ticks * 1_000_000 / per_second)
}

pub fn resident_kib(process: &Killed) -> u64 {
    let status = stat(process, "status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the process has memory");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

pub struct Client {
    pub stream: TcpStream,
    correlation_id: i32,
}

/// A request as one frame, with room for nothing else: it can be sent again and again.
pub fn frame<R: Message>(request: &R, version: i16, correlation_id: i32) -> Vec<u8> {
    let mut writer = Writer::new();
    RequestHeader { api_key: R::KEY, api_version: version, correlation_id, client_id: Some("bench".into()) }
        .write(&mut writer)
        .expect("a header is short");
    request.encode(&mut writer, version).expect("the version has a place for all");
    let body = writer.into_bytes().expect("no file is in a request");
    let mut frame = (body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

impl Client {
    pub fn connect(port: u16) -> Client {
        let stream = wait_for_port(port, "the broker");
        stream.set_nodelay(true).expect("a socket option");
        Client { stream, correlation_id: 0 }
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> R::Response {
        self.correlation_id += 1;
        let (frame, correlation_id) = (frame(request, version, self.correlation_id), self.correlation_id);
        self.call_framed::<R>(&frame, version, correlation_id)
    }

    /// The same of a request that is a frame already.
    pub fn call_framed<R: Request>(&mut self, frame: &[u8], version: i16, correlation_id: i32) -> R::Response {
        self.stream.write_all(frame).expect("the broker reads");
        self.answer::<R>(version, correlation_id)
    }

    /// The next answer, which must be that to the request of the given correlation id.
    pub fn answer<R: Request>(&mut self, version: i16, correlation_id: i32) -> R::Response {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).expect("the broker answers");
        let mut body = vec![0; i32::from_be_bytes(length) as usize];
        self.stream.read_exact(&mut body).expect("the broker answers whole");
        let mut reader = Reader::new(Bytes::from(body));
        let key = ApiKey::from_code(R::KEY).expect("the key is declared");
        assert_eq!(read_response_header(&mut reader, key, version), Ok(correlation_id));
        R::Response::decode(&mut reader, version).expect("the answer parses")
    }

    pub fn create_topic(&mut self, name: &str, num_partitions: i32, replication_factor: i16) {
        let topic = CreatableTopic { name: name.into(), num_partitions, replication_factor, ..Default::default() };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        let response = self.call(&request, 5);
        assert_eq!(response.topics[0].error_code, 0, "{:?}", response.topics[0]);
        let wanted = MetadataRequest {
            topics: Some(vec![MetadataRequestTopic { name: Some(name.into()), ..Default::default() }]),
            ..Default::default()
        };
        while self.call(&wanted, 9).topics[0].error_code != 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn delete_topic(&mut self, name: &str) {
        let request = DeleteTopicsRequest { topic_names: vec![name.into()], timeout_ms: 30_000, ..Default::default() };
        let response = self.call(&request, 3);
        assert_eq!(response.responses[0].error_code, 0, "{:?}", response.responses[0]);
    }

    /// Sends the same frame `count` times with up to `window` unanswered, and reads the answers away.
    /// Gives the bytes of all answers and the last answer.
    pub fn pump(&mut self, frame: &[u8], count: usize, window: usize) -> (u64, Vec<u8>) {
        let (mut sent, mut received, mut bytes) = (0, 0, 0u64);
        let mut incoming = io::BufReader::with_capacity(2 << 20, self.stream.try_clone().expect("a handle"));
        let mut answer = Vec::new();
        while received < count {
            // In bulk, as a client with a full queue does.
            let burst = (window - (sent - received)).min(count - sent);
            if burst * 2 >= window || sent + burst == count {
                let mut outgoing = Vec::with_capacity(burst * frame.len());
                (0..burst).for_each(|_| outgoing.extend_from_slice(frame));
                self.stream.write_all(&outgoing).expect("the broker reads");
                sent += burst;
            }
            let mut length = [0; 4];
            incoming.read_exact(&mut length).expect("the broker answers");
            answer.resize(i32::from_be_bytes(length) as usize, 0);
            incoming.read_exact(&mut answer).expect("the broker answers whole");
            received += 1;
            bytes += answer.len() as u64;
        }
        (bytes, answer)
    }

    /// Sends frames, and reads as many answers away.
    pub fn exchange(&mut self, frames: &[u8], answers: usize) {
        self.stream.write_all(frames).expect("the broker reads");
        for _ in 0..answers {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length).expect("the broker answers");
            let mut answer = vec![0; i32::from_be_bytes(length) as usize];
            self.stream.read_exact(&mut answer).expect("the broker answers whole");
        }
    }
}

pub fn batch(value_bytes: usize, records: usize) -> Bytes {
    let mut builder = BatchBuilder::new();
    let value: Vec<u8> = (0..value_bytes).map(|i| (i * 131 % 251) as u8).collect();
    for _ in 0..records {
        builder.append(1_700_000_000_000, None, Some(&value), &[]);
    }
    builder.build()
}

pub fn produce_frame(topic: &str, index: i32, acks: i16, records: Bytes) -> Vec<u8> {
    let partition = PartitionProduceData { index, records: Some(Payload::Bytes(records)) };
    let topic = TopicProduceData { name: topic.into(), partition_data: vec![partition] };
    let request = ProduceRequest { acks, timeout_ms: 30_000, topic_data: vec![topic], ..Default::default() };
    frame(&request, 8, 1)
}
