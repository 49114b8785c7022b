//! Transactional clients: Kafka's own, told what to do line by line, and one whose requests are made by hand.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use odradek::protocol::messages::api_versions::{ApiVersionsRequest, FinalizedFeatureKey};
use odradek::protocol::messages::describe_transactions::DescribeTransactionsRequest;
use odradek::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::{BatchBuilder, ControlRecord, TransactionOutcome};
use odradek::record::read::batches;

use super::client::{Client, TIMESTAMP, produce_request};
use super::{Brokers, PATIENCE, Scratch, deps, eventually, repository, tied};

/// tests/jvm/Transactions.java
pub struct Jvm {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: std::path::PathBuf,
}

impl Jvm {
    /// With the client of a release, as tests/deps.sh names its jars, of the brokers at these addresses.
    pub fn start(scratch: &Scratch, addresses: &str, jars: &str) -> Jvm {
        let log = scratch.path("transactions-java.log");
        let mut child = tied("java")
            .args(["-Xmx128M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", deps(jars).display()))
            .arg(format!("-Dlog4j.configuration=file:{}", repository("config/tools-log4j.properties").display()))
            .arg(repository("tests/jvm/Transactions.java"))
            .arg(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the scratch directory can be written"))
            .spawn()
            .expect("there is java");
        let asks = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut jvm = Jvm { child, asks, answers, log };
        assert_eq!(jvm.answer(), "ready");
        jvm
    }

    pub fn ask(&mut self, line: &str) {
        writeln!(self.asks, "{line}").expect("it listens");
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("it speaks");
        if read == 0 {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            panic!("it has ended: {said}");
        }
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn told(&mut self, line: &str) -> String {
        self.ask(line);
        self.answer()
    }

    /// Lines that are all answered with "ok".
    #[track_caller]
    pub fn all_ok(&mut self, lines: &[&str]) {
        for line in lines {
            let told = self.told(line);
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert_eq!(told, "ok", "{line}: {said}");
        }
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What kafka-features.sh says, whether it did what it was told or not.
pub fn features(
    bootstrap: &str,
    arguments: &str,
    run: impl Fn(&str, &[&str], &str) -> Result<String, String>,
) -> String {
    let words: Vec<&str> = ["--bootstrap-server", bootstrap].into_iter().chain(arguments.split(' ')).collect();
    run("kafka-features.sh", &words, "").unwrap_or_else(|refused| refused)
}

/// What a broker tells its clients is finalized.
pub fn finalized(client: &mut Client) -> Vec<(String, i16)> {
    let request = ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
    let told = client.call(&request, 3).expect("ApiVersions is answered");
    let level = |feature: FinalizedFeatureKey| (feature.name, feature.max_version_level);
    told.finalized_features.into_iter().map(level).collect()
}

pub fn until_finalized(cluster: &Brokers, expected: &[(String, i16)]) {
    for broker in cluster.brokers.iter().filter(|broker| broker.process.is_some()) {
        eventually(PATIENCE, &format!("broker {} has heard what is finalized", broker.id), || {
            let told = finalized(&mut broker.client());
            if told == expected { Ok(()) } else { Err(format!("{told:?}")) }
        });
    }
}

pub fn version_2() -> Vec<(String, i16)> {
    vec![("transaction.version".to_owned(), 2)]
}

/// What is in the segments of a log, one after the other.
pub fn segments(log: &Path) -> io::Result<Bytes> {
    let mut segments: Vec<_> = fs::read_dir(log)?.flatten().map(|file| file.path()).collect();
    segments.retain(|path| path.extension().is_some_and(|extension| extension == "log"));
    segments.sort();
    let mut bytes = Vec::new();
    for segment in segments {
        bytes.extend(fs::read(segment)?);
    }
    Ok(bytes.into())
}

/// Of each commit in a log, as far as that is written: the epoch of what is committed, and that of the marker, which in version
/// 2 of the protocol is the producer's next.
pub fn commits(log: &Path) -> Vec<(i16, i16)> {
    let bytes = segments(log).expect("the log is there");
    let mut open: HashMap<i64, i16> = HashMap::new();
    let mut commits = Vec::new();
    for batch in batches(&bytes).map_while(Result::ok).filter(|batch| batch.header().is_transactional) {
        let header = *batch.header();
        if !header.is_control {
            open.insert(header.producer_id, header.producer_epoch);
            continue;
        }
        let Some(epoch) = open.remove(&header.producer_id) else { continue };
        let Some(Ok(marker)) = batch.records().expect("it is not compressed").next() else { break };
        let control = ControlRecord::read(marker.key.as_deref(), marker.value.as_deref());
        if let Ok(ControlRecord::EndTransaction { outcome: TransactionOutcome::Commit, .. }) = control {
            commits.push((epoch, header.producer_epoch));
        }
    }
    commits
}

pub fn init(client: &mut Client, id: &str, version: i16) -> InitProducerIdResponse {
    let request = InitProducerIdRequest {
        transactional_id: Some(id.to_owned()),
        transaction_timeout_ms: 60_000,
        ..Default::default()
    };
    client.call(&request, version).expect("InitProducerId is answered")
}

/// The first answer that does not say "later".
pub fn settled<T: std::fmt::Debug>(what: &str, mut ask: impl FnMut() -> T, code: impl Fn(&T) -> i16) -> T {
    eventually(PATIENCE, what, || {
        let told = ask();
        let later = [
            ErrorCode::CoordinatorLoadInProgress,
            ErrorCode::CoordinatorNotAvailable,
            ErrorCode::NotCoordinator,
            ErrorCode::ConcurrentTransactions,
        ];
        if later.contains(&ErrorCode::from_code(code(&told))) { Err(format!("{told:?}")) } else { Ok(told) }
    })
}

pub fn until_transactions_are_coordinated(client: &mut Client) {
    let request = FindCoordinatorRequest { key: "t".to_owned(), key_type: 1, ..Default::default() };
    eventually(PATIENCE, "there is a coordinator of transactions", || {
        let found = client.call(&request, 3).expect("FindCoordinator is answered");
        if found.error_code == 0 { Ok(()) } else { Err(format!("{found:?}")) }
    });
}

/// One transactional producer by hand.
pub struct Producer {
    pub id: String,
    pub me: InitProducerIdResponse,
    pub sequence: i32,
}

impl Producer {
    pub fn coordinator(brokers: &Brokers, id: &str) -> i32 {
        let request = FindCoordinatorRequest { key: id.to_owned(), key_type: 1, ..Default::default() };
        eventually(PATIENCE, "there is a coordinator", || {
            let found = brokers.client(0).call(&request, 3).map_err(|error| error.to_string())?;
            if found.error_code == 0 { Ok(found.node_id) } else { Err(format!("{found:?}")) }
        })
    }

    pub fn begin(client: &mut Client, id: &str) -> Producer {
        let me = settled("an id is given", || init(client, id, 4), |told| told.error_code);
        assert_eq!(me.error_code, 0, "{me:?}");
        Producer { id: id.to_owned(), me, sequence: 0 }
    }

    pub fn add(&self, client: &mut Client, topic: &str, partition: i32) {
        assert_eq!(self.try_add(client, topic, partition), ErrorCode::None);
    }

    pub fn try_add(&self, client: &mut Client, topic: &str, partition: i32) -> ErrorCode {
        let topics = vec![AddPartitionsToTxnTopic { name: topic.to_owned(), partitions: vec![partition] }];
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.id.clone(),
            v3_and_below_producer_id: self.me.producer_id,
            v3_and_below_producer_epoch: self.me.producer_epoch,
            v3_and_below_topics: topics,
            ..Default::default()
        };
        let code = settled(
            "a partition is added",
            || {
                let told = client.call(&request, 3).expect("AddPartitionsToTxn is answered");
                told.results_by_topic_v3_and_below[0].results_by_partition[0].partition_error_code
            },
            |code| *code,
        );
        ErrorCode::from_code(code)
    }

    pub fn batch(&self, sequence: i32) -> Bytes {
        let (id, epoch) = (self.me.producer_id, self.me.producer_epoch);
        let mut batch = BatchBuilder::new().producer(id, epoch, sequence).transactional(true);
        batch.append(TIMESTAMP, None, Some(sequence.to_string().as_bytes()), &[]);
        batch.build()
    }

    pub fn request(&self, topic: &str, partition: i32, sequence: i32) -> ProduceRequest {
        let transactional_id = Some(self.id.clone());
        ProduceRequest { transactional_id, ..produce_request(topic, partition, self.batch(sequence), -1) }
    }

    pub fn send(&self, client: &mut Client, version: i16, partition: i32, sequence: i32) -> ErrorCode {
        let told = client.call(&self.request("orders", partition, sequence), version).expect("Produce is answered");
        ErrorCode::from_code(told.responses[0].partition_responses[0].error_code)
    }

    /// Sent again for as long as the coordinator cannot be asked.
    pub fn append(&mut self, client: &mut Client, partition: i32) {
        let sequence = self.sequence;
        self.sequence += 1;
        eventually(PATIENCE, "a record is appended", || match self.send(client, 9, partition, sequence) {
            ErrorCode::None => Ok(()),
            code => Err(format!("{code}")),
        });
    }

    /// Version 2 of the protocol: nobody has added the partition before. Sent again while the last transaction is being ended.
    pub fn write(&mut self, client: &mut Client, partition: i32) -> i64 {
        let sequence = self.sequence;
        self.sequence += 1;
        let request = self.request("orders", partition, sequence);
        let told = settled(
            "a record is appended",
            || {
                client
                    .call(&request, 12)
                    .expect("Produce is answered")
                    .responses
                    .remove(0)
                    .partition_responses
                    .remove(0)
            },
            |told| told.error_code,
        );
        assert_eq!(told.error_code, 0, "{told:?}");
        told.base_offset
    }

    /// Version 2 of the protocol: whoever this is now goes on with another epoch.
    pub fn end_and_bump(&mut self, client: &mut Client, committed: bool) -> ErrorCode {
        let told = self.ask_to_end(client, 5, committed);
        if told.error_code == 0 {
            (self.me.producer_id, self.me.producer_epoch) = (told.producer_id, told.producer_epoch);
            self.sequence = 0;
        }
        ErrorCode::from_code(told.error_code)
    }

    pub fn ask_to_end(&self, client: &mut Client, version: i16, committed: bool) -> EndTxnResponse {
        let request = EndTxnRequest {
            transactional_id: self.id.clone(),
            producer_id: self.me.producer_id,
            producer_epoch: self.me.producer_epoch,
            committed,
        };
        client.call(&request, version).expect("EndTxn is answered")
    }

    pub fn end(&self, client: &mut Client, committed: bool) -> ErrorCode {
        ErrorCode::from_code(self.ask_to_end(client, 3, committed).error_code)
    }
}

/// Where readers of committed records end.
pub fn stable_end(client: &mut Client, partition: i32) -> Result<i64, String> {
    end(client, partition, 1)
}

/// Where all others do.
pub fn high_watermark(client: &mut Client, partition: i32) -> Result<i64, String> {
    end(client, partition, 0)
}

fn end(client: &mut Client, partition: i32, isolation_level: i8) -> Result<i64, String> {
    let partitions = vec![ListOffsetsPartition { partition_index: partition, timestamp: -1, ..Default::default() }];
    let topics = vec![ListOffsetsTopic { name: "orders".to_owned(), partitions }];
    let request = ListOffsetsRequest { replica_id: -1, isolation_level, topics };
    let told = client.call(&request, 5).map_err(|error| error.to_string())?;
    let found = &told.topics[0].partitions[0];
    if found.error_code == 0 { Ok(found.offset) } else { Err(format!("{found:?}")) }
}

pub fn until_stable(client: &mut Client, partition: i32, expected: i64) {
    eventually(PATIENCE, "the last stable offset moves on", || {
        let end = stable_end(client, partition)?;
        if end == expected { Ok(()) } else { Err(end.to_string()) }
    });
}

/// An id that a broker coordinates.
pub fn id_coordinated_by(brokers: &Brokers, broker: i32) -> String {
    let ids = (0..).map(|number| format!("id-{number}"));
    ids.take(100).find(|id| Producer::coordinator(brokers, id) == broker).expect("some partition is led there")
}

/// The state that a coordinator knows a transactional id in, or that it knows none.
pub fn state_of(client: &mut Client, id: &str) -> Result<String, ErrorCode> {
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    let ask = || client.call(&request, 0).expect("DescribeTransactions is answered").transaction_states.remove(0);
    let told = settled("a coordinator answers", ask, |told| told.error_code);
    match told.error_code {
        0 => Ok(told.transaction_state),
        code => Err(ErrorCode::from_code(code)),
    }
}

pub fn until_state(client: &mut Client, id: &str, state: &str, topics: &[(String, Vec<i32>)]) {
    let request = DescribeTransactionsRequest { transactional_ids: vec![id.to_owned()] };
    eventually(PATIENCE, &format!("{id} is {state}"), || {
        let told = client.call(&request, 0).map_err(|error| error.to_string())?.transaction_states.remove(0);
        let found: Vec<_> = told.topics.into_iter().map(|topic| (topic.topic, topic.partitions)).collect();
        match told.transaction_state == state && found == topics {
            true => Ok(()),
            false => Err(format!("{} {found:?}", told.transaction_state)),
        }
    });
}
