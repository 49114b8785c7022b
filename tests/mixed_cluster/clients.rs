//! Clients that know nothing of which broker is of which kind: they must get on whoever leads, coordinates and controls.

use std::collections::BTreeSet;

use bytes::Bytes;
use odradek::protocol::message::Payload;
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use odradek::protocol::messages::produce::ProduceRequest;
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;

use crate::logs::Event;
use crate::support::client::{outcome, produce_request};
use crate::support::member::{Member, coordinated};
use crate::support::{PATIENCE, eventually};
use crate::world::{World, records};

pub const KEPT: &str = "kept";
const SEQUENCED: &str = "sequenced";
/// As many as there are partitions of `__consumer_offsets`, one in each.
pub const GROUPS: [&str; 5] = ["group-0", "group-1", "group-2", "group-3", "group-4"];

pub const CODECS: [Codec; 5] = [Codec::None, Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd];

/// What goes on all the time, from before the first change of roles until after the last.
pub struct Clients {
    round: usize,
    producer: Producer,
    consumers: Vec<Consumer>,
    /// All that were ever given.
    producer_ids: BTreeSet<i64>,
}

/// An idempotent producer, whose batches every next leader must know.
struct Producer {
    id: i64,
    epoch: i16,
    sequence: i32,
}

/// The only member of a group, and what it has committed.
struct Consumer {
    group: &'static str,
    member: Member,
    committed: i64,
}

impl Clients {
    /// Each broker leads a partition of each topic.
    pub fn start(world: &mut World) -> Clients {
        let replicas: [&[i32]; 3] = [&[0, 1, 2], &[1, 2, 0], &[2, 0, 1]];
        world.creates(KEPT, &replicas, &[("segment.bytes", "16384"), ("index.interval.bytes", "256")]);
        world.creates(SEQUENCED, &replicas[1..2], &[]);
        let (id, epoch) = eventually(PATIENCE, "a producer id", || {
            world.cluster.client(1).producer_id().map_err(|error| error.to_string())
        });
        let producer = Producer { id, epoch, sequence: 0 };
        world.coordinator(GROUPS[0]);
        world.until_whole();
        let consumers = GROUPS.into_iter().map(|group| Consumer::joins(world, group)).collect();
        let mut clients = Clients { round: 0, producer, consumers, producer_ids: BTreeSet::from([id]) };
        clients.go_on(world);
        clients
    }

    /// Nobody has lost anything, and everybody gets on, whatever has happened before.
    pub fn go_on(&mut self, world: &mut World) {
        world.until_whole();
        self.round += 1;
        for partition in 0..3 {
            let codec = CODECS[(self.round + partition as usize) % CODECS.len()];
            let values: Vec<String> =
                (0..5).map(|i| format!("round {}, {i} of {partition} {}", self.round, "x".repeat(200))).collect();
            world.produces(KEPT, partition, codec, &values);
        }
        for id in world.ids() {
            // A broker that has none left asks the controller for more, and tells clients to wait.
            let (given, _) = eventually(PATIENCE, &format!("broker {id} gives a producer id"), || {
                world.cluster.client(id).producer_id().map_err(|error| error.to_string())
            });
            assert!(self.producer_ids.insert(given), "broker {id} gives {given} once more");
        }
        self.producer.goes_on(world);
        for consumer in &mut self.consumers {
            consumer.goes_on(world);
        }
        world.reads_all();
        world.until_same_bytes();
        world.until_same_files();
        world.is_calm();
    }
}

impl Producer {
    fn goes_on(&mut self, world: &mut World) {
        // One batch at a time, so that the offset is the sequence.
        let produce = |world: &World, sequence: i32| {
            let mut builder = BatchBuilder::new().producer(self.id, self.epoch, sequence);
            let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("the clock is right");
            // A producer whose last record is old is forgotten with the next start.
            builder.append(now.as_millis() as i64, None, Some(format!("sequence {sequence}").as_bytes()), &[]);
            let batch = builder.build();
            eventually(PATIENCE, "the idempotent producer is answered by the leader", || {
                let mut leader = world.cluster.client(world.leader(SEQUENCED, 0));
                let sent = leader.produce(SEQUENCED, 0, batch.clone()).map_err(|error| error.to_string())?;
                const NOT_LEADER_OR_FOLLOWER: i16 = 6;
                if sent == Err(NOT_LEADER_OR_FOLLOWER) { Err("it leads no more".to_owned()) } else { Ok(sent) }
            })
        };
        let holder = world.leader(SEQUENCED, 0);
        world.happens(Event::SequenceGap);
        if self.sequence > 0 {
            let repeated = self.sequence - 1;
            assert_eq!(produce(world, repeated), Ok(i64::from(repeated)), "{holder} knows what it has");
            const OUT_OF_ORDER_SEQUENCE_NUMBER: i16 = 45;
            assert_eq!(produce(world, self.sequence + 1), Err(OUT_OF_ORDER_SEQUENCE_NUMBER), "{holder} sees the gap");
        }
        for sequence in self.sequence..self.sequence + 2 {
            assert_eq!(produce(world, sequence), Ok(i64::from(sequence)), "{holder} takes the next");
            let expected = world.expected.get_mut(&(SEQUENCED.to_owned(), 0)).expect("it was created");
            expected.push(format!("sequence {sequence}"));
        }
        self.sequence += 2;
    }
}

impl Consumer {
    fn joins(world: &World, group: &'static str) -> Consumer {
        let member = Member::joins(group, &|| world.cluster.client(world.coordinator(group)));
        Consumer { group, member, committed: -1 }
    }

    fn goes_on(&mut self, world: &World) {
        let coordinator = || world.cluster.client(world.coordinator(self.group));
        let holder = format!("broker {}", world.coordinator(self.group));
        assert_eq!(self.committed(world), self.committed, "{holder} knows the committed offset of {}", self.group);
        self.member.is_known(&coordinator, &holder);
        self.committed += 1;
        self.member.commits(&coordinator, KEPT, 0, self.committed);
    }

    fn committed(&self, world: &World) -> i64 {
        let topics = vec![OffsetFetchRequestTopic { name: KEPT.into(), partition_indexes: vec![0] }];
        let request = OffsetFetchRequest { group_id: self.group.into(), topics: Some(topics), ..Default::default() };
        let found = coordinated(&|| world.cluster.client(world.coordinator(self.group)), &request, 2, |answer| {
            answer.error_code
        });
        assert_eq!(found.error_code, 0, "{found:?}");
        found.topics[0].partitions[0].committed_offset
    }
}

/// Every codec and every kind of acknowledgement goes to each leader, in every format of records: what old consumers get of
/// each leader, old producers send to each.
pub fn every_format_is_taken_and_given(world: &mut World, name: &str, configs: &[(&str, &str)]) {
    let topic = format!("{name}-taken");
    let replicas: [&[i32]; 3] = [&[0, 1, 2], &[1, 2, 0], &[2, 0, 1]];
    world.creates(&topic, &replicas, configs);
    for partition in 0..3 {
        for codec in CODECS {
            // Zstandard came with the newest format.
            if codec == Codec::Zstd && !configs.is_empty() {
                continue;
            }
            for acks in [0, 1, -1] {
                let values: Vec<String> = (0..3).map(|i| format!("{codec:?} {acks} {i} {}", "y".repeat(60))).collect();
                produce(world, &topic, partition, acks, 8, records(codec, &values), &values);
            }
        }
    }
    for codec in &CODECS[..4] {
        let given = format!("{name}-given-{}", codec.name());
        world.creates(&given, &replicas, &[]);
        let values: Vec<String> = (0..3).map(|i| format!("{codec:?} {i} {}", "z".repeat(60))).collect();
        for giver in 0..3 {
            world.produces(&given, giver, *codec, &values);
            for (magic, version) in [(0, 1), (1, 2)] {
                let old = fetch(world, &given, giver, 0, version).expect("there are records");
                assert_eq!(old[16], magic, "the format of what {giver} gives");
                for taker in 0..3 {
                    produce(world, &topic, taker, -1, version, old.clone(), &values);
                }
            }
        }
    }
    world.reads_all();
    world.until_same_bytes();
}

fn produce(world: &mut World, topic: &str, partition: i32, acks: i16, version: i16, batch: Bytes, values: &[String]) {
    let mut leader = world.cluster.client(world.leader(topic, partition));
    let request = produce_request(topic, partition, batch, acks);
    let id = leader.send(&request, version).expect("the leader reads");
    let expected = world.expected.get_mut(&(topic.to_owned(), partition)).expect("it was created");
    if acks != 0 {
        let sent = outcome(&leader.receive::<ProduceRequest>(version, id).expect("the leader answers"));
        assert_eq!(sent, Ok(expected.len() as i64), "{topic}-{partition}, acks={acks}, version {version}: {values:?}");
        expected.extend_from_slice(values);
        return;
    }
    expected.extend_from_slice(values);
    let end = expected.len() as i64;
    eventually(PATIENCE, "what nobody acknowledges is there", || {
        let read = leader.read_all(topic, partition, end - 1).map_err(|error| error.to_string())?;
        if read.is_empty() { Err("not yet".to_owned()) } else { Ok(()) }
    });
}

/// By a group, and by assignment: with our tool and with Kafka's, whoever coordinates and leads.
pub fn are_consumed_by_tools(world: &mut World) {
    let mut expected: Vec<&String> =
        (0..3).flat_map(|partition| &world.expected[&(KEPT.to_owned(), partition)]).collect();
    expected.sort_unstable();
    let count = expected.len().to_string();
    let from_beginning = ["--topic", KEPT, "--from-beginning", "--max-messages", &count];
    let servers = world.cluster.addresses();
    for (turn, group) in GROUPS.iter().enumerate() {
        // A name that goes to the same partition of `__consumer_offsets` each time, and is new each time.
        let group = format!("tool-of-{group}-{}", expected.len());
        let with_group = [&["--bootstrap-server", &servers][..], &from_beginning, &["--group", &group]].concat();
        let said = match turn {
            0 => {
                let arguments = [&with_group[..], &["--timeout-ms", "60000"]].concat();
                world.cluster.jvm_tool("3.9.1", "org.apache.kafka.tools.consumer.ConsoleConsumer", &arguments)
            }
            _ => world.cluster.script("kafka-console-consumer.sh", &with_group, ""),
        };
        let said = said.unwrap_or_else(|said| panic!("{said}"));
        let mut read: Vec<&str> = said.lines().collect();
        read.sort_unstable();
        assert_eq!(read, expected, "{group}");
    }
    for partition in 0..3 {
        let expected = &world.expected[&(KEPT.to_owned(), partition)];
        let (partition, count) = (partition.to_string(), expected.len().to_string());
        let assigned = ["--topic", KEPT, "--partition", &partition, "--offset", "earliest", "--max-messages", &count];
        let said = world.script("kafka-console-consumer.sh", &assigned);
        assert_eq!(said.lines().collect::<Vec<_>>(), *expected, "partition {partition}");
    }
}

/// What the leader gives to a consumer that asks in that version.
fn fetch(world: &World, topic: &str, partition: i32, fetch_offset: i64, version: i16) -> Option<Bytes> {
    let mut leader = world.cluster.client(world.leader(topic, partition));
    let asked = FetchPartition { partition, fetch_offset, partition_max_bytes: 4 << 20, ..Default::default() };
    let topics = vec![FetchTopic { topic: topic.to_owned(), partitions: vec![asked], ..Default::default() }];
    let request = FetchRequest { max_wait_ms: 0, min_bytes: 0, max_bytes: 4 << 20, topics, ..Default::default() };
    let response = leader.call(&request, version).expect("the leader answers");
    let found = &response.responses[0].partitions[0];
    assert_eq!(found.error_code, 0, "fetch {topic}-{partition} at {fetch_offset}, version {version}");
    match &found.records {
        Some(Payload::Bytes(bytes)) => Some(whole_batches(bytes)),
        _ => None,
    }
}

/// A converted answer is filled up with what looks like the beginning of a batch.
fn whole_batches(bytes: &Bytes) -> Bytes {
    let mut end = 0;
    while let Some(size) = bytes.get(end + 8..end + 12) {
        let next = end + 12 + u32::from_be_bytes(size.try_into().expect("four bytes")) as usize;
        if next > bytes.len() {
            break;
        }
        end = next;
    }
    bytes.slice(..end)
}
