//! What one request costs the broker, in CPU time of its process, beside a JVM broker and a bare program under the same
//! load in the same run. What is measured is pinned to one core and the load to another; both are warmed up before.
//!
//! The bare program does only what nobody can do without: recv, crc32c, pwrite and a reply, or sendfile.
//!
//! The machine is prepared too, since a virtual one measures its hypervisor else: all memory has been touched before
//! anything is appended, nothing waits for the disk while fetches are measured, and the load is woken once an answer.
//!
//! `cargo bench --bench broker` measures; `cargo test` runs it with tiny inputs. Settings by environment:
//! `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY` (another build of the
//! broker), `BENCH_ONLY=odradek|jvm|bare`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use load::{
    Client, Killed, batch, cpu, frame, free_port, jvm_broker, our_broker, pinned, produce_frame, resident_kib,
    start_zookeeper, wait_for_port,
};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::metadata::MetadataRequest;
use rustix::event::{PollFd, PollFlags, poll};

mod load;

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Odradek,
    Jvm,
    Bare,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Kind::Odradek => "odradek",
            Kind::Jvm => "jvm",
            Kind::Bare => "bare",
        }
    }
}

struct Broker {
    kind: Kind,
    process: Killed,
    port: u16,
    ready_after: Duration,
}

impl Broker {
    /// `name` is its directory and its chroot.
    fn start(kind: Kind, name: &str, dir: &Path, zookeeper: u16, settings: &str) -> Broker {
        let port = free_port();
        let config = dir.join(format!("{name}.properties"));
        let text = format!(
            "broker.id=0\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}/{name}\noffsets.topic.replication.factor=1\n\
             group.initial.rebalance.delay.ms=0\nnum.partitions=1\nlog.segment.delete.delay.ms=0\nlog.retention.ms=-1\n{settings}\n",
            dir.join(name).display()
        );
        fs::write(&config, text).expect("the configuration is written");
        let mut command = match kind {
            Kind::Odradek => our_broker("0", &config),
            Kind::Jvm => jvm_broker("0", &config),
            Kind::Bare => {
                let mut command = pinned("0", &std::env::current_exe().expect("this program has a path"));
                command.arg(BARE).arg(port.to_string()).arg(dir.join(name)).stderr(Stdio::inherit());
                command
            }
        };
        let started = Instant::now();
        let process = Killed(command.spawn().expect("the broker starts"));
        if kind == Kind::Bare {
            drop(wait_for_port(port, name));
            return Broker { kind, process, port, ready_after: started.elapsed() };
        }
        let mut client = Client::connect(port);
        // Ready when it answers for the cluster, itself included.
        while client.call(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, 9).brokers.is_empty() {
            std::thread::sleep(Duration::from_millis(2));
        }
        Broker { kind, process, port, ready_after: started.elapsed() }
    }

    fn cpu(&self) -> Duration {
        cpu(&self.process)
    }

    fn resident_kib(&self) -> u64 {
        resident_kib(&self.process)
    }

    fn client(&self) -> Client {
        Client::connect(self.port)
    }

    /// A topic to append to, and a connection that does. The bare program has a file for each connection.
    fn topic(&self, name: &str) -> Client {
        let mut client = self.client();
        if self.kind != Kind::Bare {
            client.create_topic(name, 1, 1);
        }
        client
    }
}

impl Client {
    /// Sends the same frame `count` times, each when the one before is answered with that many bytes, the length in front
    /// included. All of it has come before any of it is read: the rest of an answer would not wake a reader that waits
    /// for `wake_at`.
    fn ask(&mut self, frame: &[u8], count: usize, answer_bytes: usize) -> u64 {
        let mut answer = vec![0; answer_bytes];
        for _ in 0..count {
            self.stream.write_all(frame).expect("the broker reads");
            let mut readable = [PollFd::new(&self.stream, PollFlags::IN)];
            poll(&mut readable, None).expect("the socket is open");
            self.stream.read_exact(&mut answer).expect("the broker answers whole");
        }
        (count * answer_bytes) as u64
    }

    /// From now on the reader is woken when that much has arrived, and not for each segment.
    /// SO_RCVLOWAT has no safe binding in Rust; it belongs to the socket, so another process may set it. It makes the
    /// window as large as itself, and a window closes a segment before it is full: one of twice the size comes first.
    fn wake_at(&self, bytes: usize) {
        let socket: OwnedFd = self.stream.try_clone().expect("a handle").into();
        let script = format!(
            "from socket import *\ns = socket(fileno=0)\nfor n in ({}, {bytes}): s.setsockopt(SOL_SOCKET, SO_RCVLOWAT, n)",
            2 * bytes + (1 << 17)
        );
        let status = Command::new("python3").arg("-c").arg(script).stdin(Stdio::from(socket)).status();
        assert!(status.expect("python3 is on the PATH").success(), "the socket takes SO_RCVLOWAT");
    }
}

/// The argument that makes this program the bare one; its port and a directory follow.
const BARE: &str = "--bare-program";

/// Serves the frames of this bench and no others: appends what a produce carries, whole, and sends what a fetch asks
/// for from the start of what was appended. One thread, one connection at a time.
fn serve_bare(port: u16, dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    loop {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        // Gone again before the next, as a topic is.
        let path = dir.join("log");
        let _ = fs::remove_file(&path);
        let log = fs::File::options().read(true).write(true).create_new(true).open(&path)?;
        serve_bare_connection(stream, &log)?;
    }
}

fn serve_bare_connection(mut stream: TcpStream, log: &fs::File) -> io::Result<()> {
    const PRODUCE: i16 = 0;
    /// As long as the brokers' answers to the produce of this bench, the length in front included.
    const PRODUCED: usize = 58;
    let mut buffer = vec![0; 4 << 20];
    let (mut held, mut appended) = (0, 0u64);
    let mut replies = Vec::new();
    loop {
        match stream.read(&mut buffer[held..])? {
            0 => return Ok(()),
            read => held += read,
        }
        let mut start = 0;
        while let Some(length) = buffer[start..held].first_chunk::<4>() {
            let end = start + 4 + i32::from_be_bytes(*length) as usize;
            if end > held {
                break;
            }
            let frame = &buffer[start + 4..end];
            if i16::from_be_bytes([frame[0], frame[1]]) == PRODUCE {
                std::hint::black_box(crc32c::crc32c(frame));
                log.write_all_at(frame, appended)?;
                appended += frame.len() as u64;
                replies.extend_from_slice(&(PRODUCED as i32 - 4).to_be_bytes());
                replies.resize(replies.len() + PRODUCED - 4, 0);
            } else {
                // What fetch_frame writes last but for the rack and an empty list: how much of the partition.
                let wanted = &frame[frame.len() - 10..frame.len() - 6];
                let bytes = i32::from_be_bytes(wanted.try_into().expect("four bytes"));
                send_file(&stream, log, usize::try_from(bytes).unwrap_or(0).min(appended as usize))?;
            }
            start = end;
        }
        buffer.copy_within(start..held, 0);
        held -= start;
        stream.write_all(&replies)?;
        replies.clear();
    }
}

fn send_file(stream: &TcpStream, log: &fs::File, bytes: usize) -> io::Result<()> {
    /// As long as the brokers' answers up to the records.
    const HEAD: usize = 72;
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&((HEAD - 4 + bytes) as i32).to_be_bytes());
    rustix::net::send(stream, &head, rustix::net::SendFlags::MORE)?;
    let (mut position, mut left) = (0, bytes);
    while left > 0 {
        left -= rustix::fs::sendfile(stream, log, Some(&mut position), left)?;
    }
    Ok(())
}

fn fetch_frame(topic: &str, offset: i64, bytes: i32) -> Vec<u8> {
    let partition = FetchPartition { fetch_offset: offset, partition_max_bytes: bytes, ..Default::default() };
    let topic = FetchTopic { topic: topic.into(), partitions: vec![partition], ..Default::default() };
    let request =
        FetchRequest { max_wait_ms: 500, min_bytes: 1, max_bytes: bytes, topics: vec![topic], ..Default::default() };
    frame(&request, 11, 1)
}

/// The first touch of a page costs a virtual machine several times what appending to it does. So the page cache is filled
/// once with a clean file, of holes, as large as the memory: every page that is taken later has been touched.
fn touch_all_memory(dir: &Path) {
    let bytes = meminfo_kib("MemTotal:") << 10;
    let path = dir.join("clean");
    fs::File::create(&path).and_then(|file| file.set_len(bytes)).expect("a file of holes takes no room");
    let file = fs::File::open(&path).expect("it is there");
    let mut block = vec![0; 1 << 20];
    for position in (0..bytes).step_by(block.len()) {
        let _ = file.read_at(&mut block, position).expect("it can be read");
    }
}

/// Waits until next to nothing of what was appended is still to be written: the disk takes its part of a CPU.
fn wait_for_write_back() {
    const SETTLED_KIB: u64 = 16 << 10;
    rustix::fs::sync();
    let deadline = Instant::now() + Duration::from_secs(180);
    while meminfo_kib("Dirty:") + meminfo_kib("Writeback:") > SETTLED_KIB {
        if Instant::now() > deadline {
            eprintln!("something else keeps the disk busy: the lines of fetches are too low");
            return;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

fn meminfo_kib(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").expect("Linux has it");
    let line = text.lines().find(|line| line.starts_with(name)).expect("the kernel counts it");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number of KiB")
}

/// The lines of one broker; each is also told as soon as it is measured.
#[derive(Default)]
struct Lines(Vec<Line>);

impl Lines {
    fn push(&mut self, line: Line) {
        eprintln!("measured: {} {:.1} {}", line.what, line.value, line.unit);
        self.0.push(line);
    }
}

/// What the fetches read: as much as the longest of them, and no more, so that the disk is soon done with it.
const FETCHED_TOPIC: &str = "fetched";
const FETCHED_BYTES: usize = 2 << 20;

/// One measured line: what was done, and what it cost.
struct Line {
    what: &'static str,
    value: f64,
    unit: &'static str,
}

fn measure(kind: Kind, dir: &Path, zookeeper: u16, is_real: bool) -> Vec<Line> {
    eprintln!("measuring {}", kind.name());
    let broker = Broker::start(kind, kind.name(), dir, zookeeper, "");
    let mut lines = Lines::default();
    if kind != Kind::Bare {
        let ready_ms = broker.ready_after.as_secs_f64() * 1e3;
        lines.push(Line { what: "ready after start, empty directory", value: ready_ms, unit: "ms" });
        lines.push(Line { what: "resident after start", value: broker.resident_kib() as f64 / 1024.0, unit: "MiB" });
    }
    let scale = |real: usize| if is_real { real } else { 40 };

    let mut client = broker.topic("small");
    let small = produce_frame("small", 0, 1, batch(120, 1));
    client.pump(&small, scale(60_000), 20);
    for (what, window) in [("small produce, 20 in flight", 20), ("small produce, 1 in flight", 1)] {
        let count = scale(if window == 1 { 40_000 } else { 200_000 });
        let before = broker.cpu();
        client.pump(&small, count, window);
        let cost = (broker.cpu() - before).as_secs_f64() * 1e6 / count as f64;
        lines.push(Line { what, value: cost, unit: "µs CPU/request" });
    }
    drop(client);

    // About a gigabyte each, gone again before the next: pages that wait for the disk beyond the system's limit would
    // stop whoever writes.
    let sizes = [
        ("append in 16 KiB batches", "kib16", 16 << 10, 40_000),
        ("append in 128 KiB batches", "kib128", 128 << 10, 6_000),
        ("append in 1 MB batches", "mb1", 1_000_000, 800),
    ];
    for (what, topic, bytes, count) in sizes {
        let mut client = broker.topic(topic);
        let records = batch(100, bytes / 108);
        let size = records.len();
        let append = produce_frame(topic, 0, 1, records);
        let count = scale(count);
        client.pump(&append, count / 4, 4);
        let before = broker.cpu();
        client.pump(&append, count, 4);
        let megabytes = (count * size) as f64 / 1e6;
        let value = megabytes / (broker.cpu() - before).as_secs_f64();
        lines.push(Line { what, value, unit: "MB/CPU-second" });
        if kind != Kind::Bare {
            client.delete_topic(topic);
        }
    }

    let mut client = broker.topic(FETCHED_TOPIC);
    client.pump(&produce_frame(FETCHED_TOPIC, 0, 1, batch(100, (16 << 10) / 108)), FETCHED_BYTES >> 14, 4);
    if is_real {
        wait_for_write_back();
    }
    for (what, bytes, count) in
        [("fetch 1 MiB, 1 in flight", 1 << 20, 8_000), ("fetch 64 KiB, 1 in flight", 64 << 10, 40_000)]
    {
        // From its start, which is in the page cache.
        let fetch = fetch_frame(FETCHED_TOPIC, 0, bytes);
        let count = scale(count);
        let (_, answer) = client.pump(&fetch, 1, 1);
        let answer_bytes = 4 + answer.len();
        client.wake_at(answer_bytes);
        client.ask(&fetch, count / 4, answer_bytes);
        let before = broker.cpu();
        let received = client.ask(&fetch, count, answer_bytes);
        assert!(received as f64 / count as f64 > f64::from(bytes) * 0.5 || !is_real, "the answers carry data");
        let value = received as f64 / 1e6 / (broker.cpu() - before).as_secs_f64();
        lines.push(Line { what, value, unit: "MB/CPU-second" });
        client.wake_at(1);
    }
    if kind == Kind::Bare {
        return lines.0;
    }
    lines.push(Line { what: "resident under load", value: broker.resident_kib() as f64 / 1024.0, unit: "MiB" });

    let before = broker.resident_kib();
    let count = scale(1_000);
    let mut idle: Vec<Client> = (0..count).map(|_| broker.client()).collect();
    for connection in &mut idle {
        connection.call(&MetadataRequest { topics: Some(Vec::new()), ..Default::default() }, 9);
    }
    let value = broker.resident_kib().saturating_sub(before) as f64 / count as f64;
    lines.push(Line { what: "resident an idle connection", value, unit: "KiB" });
    drop(broker);
    measure_durable(kind, dir, zookeeper, is_real, &mut lines);
    lines.0
}

/// What it costs that a record is on the disk before it is acknowledged. A JVM broker flushes after each append for that.
fn measure_durable(kind: Kind, dir: &Path, zookeeper: u16, is_real: bool, lines: &mut Lines) {
    let settings = match kind {
        Kind::Odradek => "log.flush.before.acknowledgement=true",
        _ => "log.flush.interval.messages=1",
    };
    let broker = Broker::start(kind, &format!("{}-durable", kind.name()), dir, zookeeper, settings);
    let mut client = broker.topic("durable");
    let frame = produce_frame("durable", 0, 1, batch(120, 1));
    for (what, window, count) in [
        ("fsynced produce, 1 in flight", 1, 1_000),
        ("fsynced produce, 20 in flight", 20, 10_000),
        ("fsynced produce, 500 in flight", 500, 100_000),
    ] {
        let count = if is_real { count } else { 40 };
        let began = Instant::now();
        client.pump(&frame, count, window);
        let value = count as f64 / began.elapsed().as_secs_f64();
        lines.push(Line { what, value, unit: "acknowledged/s" });
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if let [_, mode, port, dir] = &arguments[..]
        && mode == BARE
    {
        let served = serve_bare(port.parse().expect("a port"), Path::new(dir));
        return served.expect("the bare program serves until it is killed");
    }
    let is_real = arguments.iter().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    load::pin_load();
    let (_zookeeper, port) = start_zookeeper(dir.path());
    // A ZooKeeper that has served nobody yet would be measured with the first broker's start.
    drop(Broker::start(Kind::Odradek, "first", dir.path(), port, ""));
    if is_real {
        touch_all_memory(dir.path());
    }
    let measured = [Kind::Odradek, Kind::Jvm, Kind::Bare].map(|kind| {
        let is_wanted = only.is_empty() || only == kind.name();
        // A JVM that is not warm says nothing: only a real run starts one.
        let is_useful = is_real || kind != Kind::Jvm;
        if is_wanted && is_useful { measure(kind, dir.path(), port, is_real) } else { Vec::new() }
    });
    println!("{:<38} {:>12} {:>12} {:>12}  unit", "", "odradek", "jvm 3.9.1", "bare");
    let longest = measured.iter().max_by_key(|lines| lines.len()).expect("three were measured");
    for Line { what, unit, .. } in longest {
        let numbers = measured.each_ref().map(|lines| {
            let line = lines.iter().find(|line| line.what == *what);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.1}", line.value))
        });
        let [ours, jvm, bare] = numbers;
        println!("{what:<38} {ours:>12} {jvm:>12} {bare:>12}  {unit}");
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
