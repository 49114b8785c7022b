//! kafka-dump-log.sh prints, line by line, what Kafka's own tool prints of the same files.

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use odradek::record::append::prepare;
use odradek::record::append_rules::{AcceptedSets, AppendRules, TopicCompression};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use support::{Scratch, jvm_tool, our_tool, repository};

const T0: i64 = 1_700_000_000_000;

/// Key and value of a record.
type KeyValue<'a> = (Option<&'a [u8]>, Option<&'a [u8]>);

/// What a tool said on stdout and, in any order, on stderr; and whether all went well.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    out: Vec<String>,
    err: Vec<String>,
    is_ok: bool,
}

fn run(mut command: Command, files: &[PathBuf], flags: &[&str]) -> Said {
    let listed: Vec<String> = files.iter().map(|file| file.display().to_string()).collect();
    let output = command.args(["--files", &listed.join(",")]).args(flags).output().expect("the tool runs");
    let lines = |bytes: &[u8]| String::from_utf8_lossy(bytes).lines().map(str::to_owned).collect::<Vec<_>>();
    let mut err = lines(&output.stderr);
    err.retain(|line| !line.starts_with("log4j:") && !line.starts_with("SLF4J"));
    err.sort();
    Said { out: lines(&output.stdout), err, is_ok: output.status.success() }
}

fn ours(files: &[PathBuf], flags: &[&str]) -> Said {
    run(our_tool("kafka-dump-log.sh"), files, flags)
}

/// Holds both tools to the same words, and gives them back.
fn same(files: &[PathBuf], flags: &[&str]) -> Said {
    let ours = ours(files, flags);
    let kafkas = run(jvm_tool("3.9.1", "kafka.tools.DumpLogSegments"), files, flags);
    for (at, (our_line, line)) in ours.out.iter().zip(&kafkas.out).enumerate() {
        assert_eq!(our_line, line, "{flags:?}, line {at}");
    }
    assert_eq!(ours, kafkas, "{flags:?}");
    ours
}

fn files_of(dir: &Path) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> =
        fs::read_dir(dir).expect("readable").map(|entry| entry.expect("readable").path()).collect();
    // Kafka's tool falls over names without a dot.
    files.retain(|path| path.extension().is_some());
    files.sort();
    files
}

/// A segment file with these batches from offset 0 on, as a topic of this format and codec stores them.
fn segment(dir: &Path, log_format: u8, codec: Codec, batches: Vec<BatchBuilder>) -> PathBuf {
    let compression = TopicCompression::Codec { codec, level: None };
    let rules = AppendRules { accepted_sets: AcceptedSets::Any, log_format, compression, ..AppendRules::default() };
    let (mut bytes, mut next) = (Vec::new(), 0);
    for batch in batches {
        let mut prepared = prepare(batch.build(), &rules, T0).expect("a valid batch");
        prepared.assign(next, 3, T0);
        next = prepared.last_offset() + 1;
        for batch in prepared.batches() {
            bytes.extend_from_slice(batch.head());
            bytes.extend_from_slice(batch.body());
        }
    }
    fs::create_dir_all(dir).expect("writable");
    let path = dir.join("00000000000000000000.log");
    fs::write(&path, bytes).expect("writable");
    path
}

fn batch(records: &[KeyValue<'_>]) -> BatchBuilder {
    let mut batch = BatchBuilder::new();
    for (at, (key, value)) in records.iter().enumerate() {
        batch.append(T0 + at as i64, *key, *value, &[]);
    }
    batch
}

/// All that a JVM broker leaves in the directory of a partition: codecs, producers, transactions, indexes, snapshots.
#[test]
fn a_partition_of_a_jvm_broker_reads_the_same() {
    let scratch = Scratch::new("dump-log");
    let dir = scratch.path("t-0");
    let jvm = jvm_tool("3.9.1", &repository("tests/jvm/LogDir.java").display().to_string())
        .args(["write", &dir.display().to_string()])
        .output()
        .expect("java runs");
    assert!(jvm.status.success(), "{}", String::from_utf8_lossy(&jvm.stderr));
    let files = files_of(&dir);
    for kind in ["log", "index", "timeindex", "txnindex", "snapshot"] {
        assert!(files.iter().any(|path| path.extension().is_some_and(|extension| extension == kind)), "{kind}");
    }
    let shallow = same(&files, &[]);
    assert!(shallow.out.iter().any(|line| line.contains("isTransactional: true isControl: true")), "{shallow:?}");
    let deep = same(&files, &["--deep-iteration", "--verify-index-only"]);
    assert!(deep.out.iter().any(|line| line.contains("endTxnMarker: ABORT coordinatorEpoch: 3")), "{deep:?}");
    same(&files, &["--print-data-log", "--max-bytes", "5000"]);
    same(
        &files,
        &["--index-sanity-check", "--value-decoder-class", "kafka.serializer.LongDecoder", "--skip-record-metadata"],
    );

    // Indexes beside a log that is not theirs, a log that ends within a batch, a damaged checksum.
    let other = scratch.path("damaged");
    fs::create_dir_all(&other).expect("writable");
    let log = dir.join("00000000000000000000.log");
    let mut bytes = fs::read(&log).expect("readable");
    bytes.truncate(bytes.len() - 7);
    bytes[100] ^= 1;
    fs::write(other.join("00000000000000000000.log"), &bytes).expect("writable");
    let index = fs::read(dir.join("00000000000000000000.index")).expect("readable");
    let mut shifted = index[..16].to_vec();
    shifted[3] += 1;
    fs::write(other.join("00000000000000000000.index"), shifted).expect("writable");
    let mut times = fs::read(dir.join("00000000000000000000.timeindex")).expect("readable");
    times.truncate(24);
    times[7] ^= 3;
    fs::write(other.join("00000000000000000000.timeindex"), times).expect("writable");
    fs::write(other.join("00000000000000000000.unknown"), "").expect("writable");
    let damaged = same(&files_of(&other), &[]);
    assert!(damaged.out.iter().any(|line| line.contains("invalid bytes at the end")), "{damaged:?}");
    assert!(damaged.out.iter().any(|line| line.ends_with("isvalid: false")), "{damaged:?}");
    for complaint in ["Mismatches in :", "Ignoring unknown file", "Found timestamp mismatch in :"] {
        assert!(damaged.err.iter().any(|line| line.starts_with(complaint)), "{complaint} {damaged:?}");
    }
}

/// Keys, values and headers of every kind; formats of before 0.11; numbers as keys.
#[test]
fn records_of_every_format_read_the_same() {
    let scratch = Scratch::new("dump-log-records");
    let plain: &[KeyValue<'_>] = &[
        (None, Some(b"no key")),
        (Some(b"no value"), None),
        (Some(b""), Some(b"")),
        (Some("k\u{e9}y".as_bytes()), Some(b"a\tb")),
    ];
    let mut files = Vec::new();
    for (format, codec) in [(0, Codec::None), (0, Codec::Gzip), (1, Codec::None), (1, Codec::Lz4), (2, Codec::Zstd)] {
        let dir = scratch.path(&format!("format-{format}-{codec:?}-0"));
        files.push(segment(&dir, format, codec, vec![batch(plain), batch(&plain[..1])]));
    }
    let mut headers = BatchBuilder::new().producer(5, 1, i32::MAX - 1);
    headers.append(T0, Some(b"k"), Some(b"v"), &[(b"one", Some(b"1")), (b"two", None)]);
    headers.append(T0 + 5, None, None, &[(b"", None)]);
    headers.append(T0 + 5, None, None, &[]);
    files.push(segment(&scratch.path("headers-0"), 2, Codec::None, vec![headers]));
    same(&files, &["--print-data-log"]);

    let numbers = batch(&[(Some(&7_i64.to_be_bytes()), Some(&(-9_i32).to_be_bytes()))]);
    let numbers = segment(&scratch.path("numbers-0"), 2, Codec::None, vec![numbers]);
    let said = same(
        &[numbers],
        &[
            "--key-decoder-class",
            "kafka.serializer.LongDecoder",
            "--value-decoder-class",
            "org.apache.kafka.tools.api.IntegerDecoder",
        ],
    );
    assert!(said.out.iter().any(|line| line.ends_with("key: 7 payload: -9")), "{said:?}");
}

fn text(text: &str) -> Vec<u8> {
    [&(text.len() as i16).to_be_bytes(), text.as_bytes()].concat()
}

fn bytes(bytes: &[u8]) -> Vec<u8> {
    [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
}

#[test]
fn records_of_internal_topics_read_the_same() {
    let scratch = Scratch::new("dump-log-internal");
    let offset_key = [vec![0, 1], text("g"), text("t"), vec![0, 0, 0, 2]].concat();
    let group_key = [vec![0, 2], text("g \"quoted\"")].concat();
    let timestamp = T0.to_be_bytes().to_vec();
    let offset =
        [vec![0, 3], 42_i64.to_be_bytes().to_vec(), vec![0, 0, 0, 5], text("note"), timestamp.clone()].concat();
    let old_offset =
        [vec![0, 1], 41_i64.to_be_bytes().to_vec(), text(""), timestamp.clone(), timestamp.clone()].concat();
    let owned = [vec![0, 0, 0, 1], text("t"), vec![0, 0, 0, 1, 0, 0, 0, 2]].concat();
    let topics = [vec![0, 0, 0, 1], text("t")].concat();
    let subscription = [vec![0, 3], topics, vec![0, 0, 0, 2, 1, 2], owned.clone(), vec![0, 0, 0, 9, 255, 255]].concat();
    let assignment = [vec![0, 1], owned, vec![255; 4]].concat();
    let group = |protocol_type: &str, subscription: &[u8]| {
        let member = [
            text("m"),
            vec![255, 255],
            text("client"),
            text("/127.0.0.1"),
            vec![0, 0, 1, 0, 0, 0, 2, 0],
            bytes(subscription),
            bytes(&assignment),
        ];
        let head = [vec![0, 3], text(protocol_type), vec![0, 0, 0, 7], text("range"), text("m"), timestamp.clone()];
        [head.concat(), vec![0, 0, 0, 1], member.concat()].concat()
    };
    let groups = batch(&[
        (Some(&offset_key), Some(&offset)),
        (Some(&offset_key), Some(&old_offset)),
        (Some(&offset_key), None),
        (Some(&group_key), Some(&group("consumer", &subscription))),
        (Some(&group_key), Some(&group("consumer", b"\x00\x01 not a subscription"))),
        (Some(&group_key), Some(&group("connect", &subscription))),
        (Some(&group_key), None),
        (Some(&[0, 77]), Some(b"of a later coordinator")),
    ]);
    let groups = segment(&scratch.path("__consumer_offsets-0"), 2, Codec::None, vec![groups]);
    let said = same(&[groups], &["--offsets-decoder"]);
    assert!(said.out.iter().any(|line| line.contains("\"ownedPartitions\":[{\"topic\":\"t\",\"partitions\":[2]}]")));

    let transaction = |state: u8, topics: Vec<u8>| {
        let head = [vec![0, 0], 1000_i64.to_be_bytes().to_vec(), vec![0, 4, 0, 0, 234, 96, state]];
        [head.concat(), topics, timestamp.clone(), timestamp.clone()].concat()
    };
    let id = [vec![0, 0], text("transactional id")].concat();
    let one = [vec![0, 0, 0, 1], text("t"), vec![0, 0, 0, 1, 0, 0, 0, 3]].concat();
    let states = (0..8).map(|state| transaction(state, if state == 0 { vec![255; 4] } else { one.clone() }));
    let values: Vec<Vec<u8>> = states.collect();
    let mut records: Vec<KeyValue<'_>> =
        values.iter().map(|value| (Some(id.as_slice()), Some(value.as_slice()))).collect();
    records.push((Some(&id), None));
    records.push((Some(&[0, 9]), None));
    let transactions = segment(&scratch.path("__transaction_state-0"), 2, Codec::None, vec![batch(&records)]);
    let said = same(&[transactions], &["--transaction-log-decoder"]);
    assert!(said.out.iter().any(|line| line.contains("state=PrepareEpochFence,partitions=[t-3]")), "{said:?}");
}

/// What nobody can read ends in a sentence and status 1, as Kafka's ends in an exception.
#[test]
fn what_cannot_be_dumped_is_said() {
    let scratch = Scratch::new("dump-log-refusals");
    let log = segment(&scratch.path("t-0"), 2, Codec::None, vec![batch(&[(None, Some(b"v"))])]);
    let whole = fs::read(&log).expect("readable");
    let case = |name: &str, content: &[u8]| {
        let path = scratch.path(name);
        fs::write(&path, content).expect("writable");
        path
    };
    let mut bad_record = whole.clone();
    bad_record[61] = 0x7e;
    let mut tiny = whole.clone();
    tiny[8..12].copy_from_slice(&[0, 0, 0, 3]);
    let refused: [(PathBuf, &[&str], &str); 7] = [
        (scratch.path("00000000000000000009.log"), &[], "No such file"),
        (case("name.log", &whole), &[], "is not named after an offset"),
        (case("00000000000000000001.log", &bad_record), &["--deep-iteration"], "a record is longer"),
        (case("00000000000000000002.log", &tiny), &[], "size field 3 is too small"),
        (case("00000000000000000001.index", &[0, 0, 0, 1, 0, 1, 0, 0]), &[], "There is no batch at position 65536"),
        (case("00000000000000000001.timeindex", &[0; 13]), &["--index-sanity-check"], "nor a multiple of 12"),
        (log.clone(), &["--cluster-metadata-decoder"], "there is no KRaft here"),
    ];
    for (path, flags, sentence) in refused {
        let said = ours(std::slice::from_ref(&path), flags);
        assert!(!said.is_ok, "{} {said:?}", path.display());
        assert!(said.err.iter().any(|line| line.contains(sentence)), "{sentence}: {said:?}");
    }
    let damaged = ours(&[case("00000000000000000000.snapshot", &[0, 1, 9])], &[]);
    assert!(damaged.is_ok && damaged.err.iter().any(|line| line.contains("is corrupt")), "{damaged:?}");
}
