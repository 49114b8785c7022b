//! What compaction costs, beside a JVM broker's cleaner on a copy of the same directory: bytes of log read for each second
//! of processor time, plain and with zstd.
//!
//! `cargo bench --bench cleaner` measures; `cargo test` runs ours with tiny inputs. The bound is what nobody can avoid: each
//! byte is read twice (keys first, then records), checked by CRC-32C and written once if it stays.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use odradek::config::log::LogConfig;
use odradek::config::sections::{CleanerConfig, LogDirsConfig};
use odradek::log::cleaner::Cleaner;
use odradek::log::dirs::LogDirs;
use odradek::model::{LeaderEpoch, TopicPartition};
use odradek::record::append::prepare;
use odradek::record::append_rules::{AppendOrigin, AppendRules};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;

const NOW_MS: i64 = 4_000_000_000_000;
const SEGMENT_BYTES: u32 = 64 << 20;
const DEDUPE_BYTES: u64 = 64 << 20;

fn topic() -> Arc<LogConfig> {
    Arc::new(LogConfig {
        compact: true,
        delete: false,
        retention_ms: None,
        segment_bytes: SEGMENT_BYTES,
        min_cleanable_dirty_ratio: 0.0,
        ..LogConfig::default()
    })
}

fn open(root: &Path) -> Arc<LogDirs> {
    let config = LogDirsConfig { dirs: vec![root.to_path_buf()], ..LogDirsConfig::default() };
    let (failures, _) = tokio::sync::mpsc::unbounded_channel();
    let dirs = Arc::new(LogDirs::open(&config, failures, Arc::default()).expect("openable"));
    dirs.load(&|_| topic(), 0, &|_| {}).expect("loadable");
    dirs
}

/// Batches of 50 records with values of 200 bytes, as compressible as text, whose keys come back `repeats` times.
fn fill(root: &Path, codec: Codec, records: u64, repeats: u64) -> u64 {
    let dirs = open(root);
    let log = dirs.get_or_create(&TopicPartition::new("t", 0), None, topic(), true, 0).expect("creatable");
    log.lead(LeaderEpoch(0)).expect("nobody led before");
    let rules = AppendRules::default();
    let mut noise = 1_u64;
    for _ in 0..records / 50 {
        let mut builder = BatchBuilder::new().compression(codec, None);
        for _ in 0..50 {
            let mut value = [0; 200];
            for byte in &mut value {
                noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                *byte = b'a' + (noise >> 60) as u8;
            }
            let key = format!("key {:012}", (noise >> 20) % (records / repeats).max(1));
            builder.append(NOW_MS, Some(key.as_bytes()), Some(&value), &[]);
        }
        let mut prepared = prepare(builder.build(), &rules, 0).expect("valid");
        let info = log.append_as_leader(&mut prepared, LeaderEpoch(0), AppendOrigin::Client, 0).expect("appended");
        log.update_high_watermark(info.log_end_offset);
    }
    log.roll(0).expect("rolled");
    let bytes = log.size();
    drop(log);
    dirs.shutdown(0);
    bytes
}

fn copy(from: &Path, to: &Path) -> PathBuf {
    std::fs::create_dir_all(to.join("t-0")).expect("writable");
    for entry in std::fs::read_dir(from.join("t-0")).expect("readable").flatten() {
        std::fs::copy(entry.path(), to.join("t-0").join(entry.file_name())).expect("writable");
    }
    std::fs::write(to.join(".kafka_cleanshutdown"), "").expect("writable");
    to.to_path_buf()
}

/// Of the calling thread, in seconds.
fn cpu() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").expect("this bench needs /proc");
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).expect("a number") / 1e9
}

struct Measured {
    cpu: f64,
    wall: f64,
    left: u64,
}

fn ours(root: &Path) -> Measured {
    let dirs = open(root);
    let log = dirs.get(&TopicPartition::new("t", 0)).expect("there");
    log.update_high_watermark(log.log_end_offset());
    let config = CleanerConfig { dedupe_buffer_bytes: DEDUPE_BYTES, ..CleanerConfig::default() };
    let cleaner = Cleaner::new(Arc::clone(&dirs), &config);
    let (began, worked) = (Instant::now(), cpu());
    assert!(cleaner.clean_filthiest(&config, &AtomicBool::new(false), NOW_MS));
    let measured = Measured { cpu: cpu() - worked, wall: began.elapsed().as_secs_f64(), left: log.size() };
    drop(log);
    dirs.tick_deletions(i64::MAX);
    measured
}

fn theirs(jars: &Path, root: &Path, warm_up: &Path) -> Measured {
    let dir = |root: &Path| root.join("t-0").display().to_string();
    let numbers = [0, NOW_MS, DEDUPE_BYTES as i64, i64::from(SEGMENT_BYTES)].map(|number| number.to_string());
    let output = Command::new("java")
        .args(["-Xmx512m", "-XX:+UseSerialGC", "-cp", &format!("{}/*", jars.display())])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/jvm/Cleaner.java"))
        .args(["clean", &dir(root)])
        .args(&numbers)
        .arg(dir(warm_up))
        .output()
        .expect("java is on the PATH");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let line = text.lines().rfind(|line| line.starts_with("cleaned ")).expect("it says what it did");
    let number = |name: &str| -> f64 {
        let mut words = line.split_whitespace().skip_while(|word| *word != name);
        words.nth(1).and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("no {name} in {line}"))
    };
    Measured { cpu: number("cpu") / 1e9, wall: number("ns") / 1e9, left: number("written") as u64 }
}

fn main() {
    let is_real = std::env::args().any(|argument| argument == "--bench");
    let records = if is_real { 1_500_000 } else { 5_000 };
    let deps = std::env::var_os("ODRADEK_TEST_DEPS")
        .map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/target/test-deps")), PathBuf::from);
    let jars = deps.join("kafka-3.9.1");
    println!("{:<26} {:>9} {:>9} {:>12} {:>9} {:>9}", "", "MB", "left MB", "MB/CPU-s", "CPU s", "wall s");
    for codec in [Codec::None, Codec::Zstd] {
        for repeats in [3, 50] {
            let root = tempfile::tempdir().expect("a temporary directory");
            let source = root.path().join("source");
            let bytes = fill(&source, codec, records, repeats);
            let show = |who: &str, measured: Measured| {
                let mb = bytes as f64 / 1e6;
                println!(
                    "{:<26} {mb:>9.1} {:>9.1} {:>12.0} {:>9.2} {:>9.2}",
                    format!("{codec}, keys x {repeats}: {who}"),
                    measured.left as f64 / 1e6,
                    mb / measured.cpu,
                    measured.cpu,
                    measured.wall
                );
            };
            show("ours", ours(&copy(&source, &root.path().join("ours"))));
            if is_real {
                let warm_up = copy(&source, &root.path().join("warm-up"));
                show("JVM 3.9.1", theirs(&jars, &copy(&source, &root.path().join("jvm")), &warm_up));
            }
        }
    }
    if !is_real {
        println!("tiny inputs: the numbers above say only that the bench runs");
    }
}
