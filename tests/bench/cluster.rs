//! What replication and control cost: three brokers of ours, and three JVM brokers under the same load in the same run, on
//! the same two cores.
//!
//! `cargo bench --bench cluster` measures; `cargo test` runs it with tiny inputs and without a JVM. Settings by environment:
//! `ODRADEK_TEST_DEPS` (where tests/deps.sh installed ZooKeeper and Kafka), `ODRADEK_BINARY` (another build of the broker),
//! `BENCH_ONLY=odradek|jvm`.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use load::{
    Client, Killed, batch, cpu, free_port, jvm_broker, our_broker, produce_frame, resident_kib, start_zookeeper, stop,
};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use zookeeper_client::Client as ZooKeeperClient;

mod load;

const BROKERS: usize = 3;
/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(180);

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

struct Broker {
    kind: Kind,
    config: PathBuf,
    port: u16,
    process: Option<Killed>,
}

impl Broker {
    fn configure(kind: Kind, id: usize, dir: &Path, zookeeper: u16) -> Broker {
        let port = free_port();
        let config = dir.join(format!("{}-{id}.properties", kind.name()));
        let text = format!(
            "broker.id={id}\nlisteners=PLAINTEXT://127.0.0.1:{port}\nadvertised.listeners=PLAINTEXT://127.0.0.1:{port}\n\
             log.dirs={}\nzookeeper.connect=127.0.0.1:{zookeeper}/{}\noffsets.topic.replication.factor=3\n\
             auto.leader.rebalance.enable=false\nlog.retention.ms=-1\n",
            dir.join(format!("{}-{id}", kind.name())).display(),
            kind.name()
        );
        fs::write(&config, text).expect("the configuration is written");
        Broker { kind, config, port, process: None }
    }

    fn start(&mut self) {
        let mut command = match self.kind {
            Kind::Odradek => our_broker("0,1", &self.config),
            Kind::Jvm => jvm_broker("0,1", &self.config),
        };
        self.process = Some(Killed(command.spawn().expect("the broker starts")));
    }

    fn process(&self) -> &Killed {
        self.process.as_ref().expect("the broker runs")
    }

    /// An orderly stop, to its end.
    fn stop(&mut self) {
        stop(self.process.take().expect("the broker runs"));
    }
}

struct Cluster {
    brokers: Vec<Broker>,
}

impl Cluster {
    fn start(kind: Kind, dir: &Path, zookeeper: u16) -> Cluster {
        let mut brokers: Vec<Broker> = (0..BROKERS).map(|id| Broker::configure(kind, id, dir, zookeeper)).collect();
        brokers.iter_mut().for_each(Broker::start);
        let cluster = Cluster { brokers };
        until("all brokers are known to all", || {
            (0..BROKERS).all(|id| cluster.metadata(id, &[]).brokers.len() == BROKERS).then_some(())
        });
        cluster
    }

    fn client(&self, id: usize) -> Client {
        Client::connect(self.brokers[id].port)
    }

    fn metadata(&self, id: usize, topics: &[&str]) -> MetadataResponse {
        let topic = |name: &&str| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() };
        let topics = Some(topics.iter().map(topic).collect());
        self.client(id).call(&MetadataRequest { topics, ..Default::default() }, 9)
    }

    fn controller(&self, asked: usize) -> usize {
        until("a controller", || usize::try_from(self.metadata(asked, &[]).controller_id).ok())
    }

    /// The leader of each partition, once the broker knows one for each and all ISRs have that many members.
    fn leaders(&self, asked: usize, topic: &str, partitions: usize, in_sync: usize) -> Vec<usize> {
        until("every partition is led and in sync", || {
            let metadata = self.metadata(asked, &[topic]);
            let found = &metadata.topics.first()?.partitions;
            let is_whole = found.len() == partitions
                && found.iter().all(|p| p.error_code != 5 && p.leader_id >= 0 && p.isr_nodes.len() >= in_sync);
            let mut leaders: Vec<(i32, usize)> =
                found.iter().filter_map(|p| Some((p.partition_index, usize::try_from(p.leader_id).ok()?))).collect();
            leaders.sort_unstable();
            is_whole.then(|| leaders.into_iter().map(|(_, leader)| leader).collect())
        })
    }

    fn cpu(&self) -> Duration {
        self.brokers.iter().map(|broker| cpu(broker.process())).sum()
    }

    /// The frame for each partition goes to its leader, all at once from a connection each. Gives the CPU time of all
    /// brokers.
    fn pump(&self, leaders: &[usize], frames: &[Vec<u8>], count: usize, window: usize) -> Duration {
        let before = self.cpu();
        std::thread::scope(|scope| {
            for (leader, frame) in leaders.iter().zip(frames) {
                let mut client = self.client(*leader);
                scope.spawn(move || client.pump(frame, count, window));
            }
        });
        self.cpu() - before
    }
}

/// What a process shows only to who asks again.
fn until<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

struct Line {
    what: &'static str,
    value: f64,
    unit: &'static str,
}

fn measure(kind: Kind, dir: &Path, zookeeper: u16, is_real: bool) -> Vec<Line> {
    eprintln!("measuring {}", kind.name());
    let mut cluster = Cluster::start(kind, dir, zookeeper);
    let mut lines = Vec::new();
    let mut push = |what, value: f64, unit| {
        eprintln!("measured: {what} {value:.1} {unit}");
        lines.push(Line { what, value, unit });
    };
    let scale = |real: usize| if is_real { real } else { 40 };

    // One partition for each broker to lead.
    let topic = "replicated";
    cluster.client(cluster.controller(0)).create_topic(topic, 3, 3);
    let leaders = cluster.leaders(0, topic, 3, 3);
    let frames = |records: bytes::Bytes| -> Vec<Vec<u8>> {
        (0..3).map(|partition| produce_frame(topic, partition, -1, records.clone())).collect()
    };
    let small = frames(batch(120, 1));
    cluster.pump(&leaders, &small, scale(6_000), 5);
    let count = scale(20_000);
    let spent = cluster.pump(&leaders, &small, count, 5);
    push(
        "small produce, acks=all, RF 3, 3 x 5 in flight",
        spent.as_secs_f64() * 1e6 / (3 * count) as f64,
        "\u{b5}s CPU/request",
    );

    let records = batch(100, (128 << 10) / 108);
    let size = records.len();
    let large = frames(records);
    cluster.pump(&leaders, &large, scale(200), 2);
    let count = scale(1_000);
    let spent = cluster.pump(&leaders, &large, count, 2);
    push("128 KiB batches, acks=all, RF 3", (3 * count * size) as f64 / 1e6 / spent.as_secs_f64(), "MB/CPU-second");

    let mut histogram = Histogram::<u64>::new(3).expect("three digits are allowed");
    let mut client = cluster.client(leaders[0]);
    client.pump(&small[0], scale(500), 1);
    for _ in 0..scale(3_000) {
        let asked = Instant::now();
        client.pump(&small[0], 1, 1);
        histogram.record(asked.elapsed().as_micros() as u64).expect("it resizes itself");
    }
    push("acks=all, 1 in flight, p50", histogram.value_at_quantile(0.5) as f64, "\u{b5}s");
    push("acks=all, 1 in flight, p99", histogram.value_at_quantile(0.99) as f64, "\u{b5}s");
    drop(client);

    let (many, partitions) = ("many", scale(2_000));
    let began = Instant::now();
    cluster.client(cluster.controller(0)).create_topic(many, partitions as i32, 3);
    (0..BROKERS).for_each(|id| drop(cluster.leaders(id, many, partitions, 3)));
    push("create a topic of 2,000 partitions, RF 3", began.elapsed().as_secs_f64(), "s");
    // Under load.
    cluster.pump(&leaders, &small, scale(5_000), 5);
    let resident = cluster.brokers.iter().map(|broker| resident_kib(broker.process())).max().unwrap_or(0);
    push("resident a broker, 2,000 partitions, RF 3", resident as f64 / 1024.0, "MiB");

    let controller = cluster.controller(0);
    let stopped = (controller + 1) % BROKERS;
    // What the loads above wrote, a broker that stops would wait for: that is the disk, not the partitions.
    rustix::fs::sync();
    let began = Instant::now();
    cluster.brokers[stopped].stop();
    push("controlled shutdown, 2,000 partitions", began.elapsed().as_secs_f64(), "s");
    drop(cluster.leaders(controller, many, partitions, 2));
    let began = Instant::now();
    cluster.brokers[stopped].start();
    (0..BROKERS).for_each(|id| drop(cluster.leaders(id, many, partitions, 3)));
    push("start to all ISRs whole, 2,000 partitions", began.elapsed().as_secs_f64(), "s");

    // The brokers that stay lead two thirds, and the one that dies leads a third again.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let watcher = runtime
        .block_on(ZooKeeperClient::connect(&format!("127.0.0.1:{zookeeper}/{}", kind.name())))
        .expect("ZooKeeper serves");
    drop(cluster.brokers[controller].process.take());
    let registration = format!("/brokers/ids/{controller}");
    until("the session expires", || {
        let found = runtime.block_on(watcher.check_stat(&registration)).expect("ZooKeeper serves");
        found.is_none().then_some(())
    });
    let began = Instant::now();
    let asked = (controller + 1) % BROKERS;
    until("the others lead all", || {
        let metadata = cluster.metadata(asked, &[many]);
        let found = &metadata.topics.first()?.partitions;
        let are_led = found.iter().all(|p| p.leader_id >= 0 && p.leader_id != controller as i32 && p.error_code == 0);
        are_led.then_some(())
    });
    push("controller killed: session expiry to all led", began.elapsed().as_secs_f64(), "s");
    lines
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let only = std::env::var("BENCH_ONLY").unwrap_or_default();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (_zookeeper, port) = start_zookeeper(dir.path());
    let measured = [Kind::Odradek, Kind::Jvm].map(|kind| {
        let is_wanted = only.is_empty() || only == kind.name();
        // A JVM that is not warm says nothing: only a real run starts one.
        let is_useful = is_real || kind != Kind::Jvm;
        if is_wanted && is_useful { measure(kind, dir.path(), port, is_real) } else { Vec::new() }
    });
    println!("{:<50} {:>12} {:>12}  unit", "", "odradek", "jvm 3.9.1");
    let longest = measured.iter().max_by_key(|lines| lines.len()).expect("two were measured");
    for Line { what, unit, .. } in longest {
        let numbers = measured.each_ref().map(|lines| {
            let line = lines.iter().find(|line| line.what == *what);
            line.map_or_else(|| "-".to_owned(), |line| format!("{:.1}", line.value))
        });
        let [ours, jvm] = numbers;
        println!("{what:<50} {ours:>12} {jvm:>12}  {unit}");
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
