//! A raw client that sends any message in any version, one at a time or many in flight.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use bytes::Bytes;
use odradek::codec::reader::Reader;
use odradek::codec::writer::Writer;
use odradek::protocol::api_keys::ApiKey;
use odradek::protocol::header::{RequestHeader, read_response_header};
use odradek::protocol::message::{Message, Payload, Request};
use odradek::protocol::messages::create_topics::{CreatableTopic, CreatableTopicConfig, CreateTopicsRequest};
use odradek::protocol::messages::fetch::{FetchPartition, FetchRequest, FetchTopic};
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::protocol::messages::list_offsets::{ListOffsetsPartition, ListOffsetsRequest, ListOffsetsTopic};
use odradek::protocol::messages::metadata::{MetadataRequest, MetadataRequestTopic, MetadataResponse};
use odradek::protocol::messages::offset_commit::{
    OffsetCommitRequest, OffsetCommitRequestPartition, OffsetCommitRequestTopic,
};
use odradek::protocol::messages::offset_fetch::{OffsetFetchRequest, OffsetFetchRequestTopic};
use odradek::protocol::messages::produce::{PartitionProduceData, ProduceRequest, ProduceResponse, TopicProduceData};
use odradek::record::build::BatchBuilder;
use odradek::record::compression::Codec;
use odradek::record::read::{Record, records};

use super::{PATIENCE, eventually};

pub const TIMESTAMP: i64 = 1_700_000_000_000;

pub struct Client {
    pub stream: TcpStream,
    correlation_id: i32,
}

/// The bytes of a request with its header, behind their length.
pub fn frame<R: Message>(request: &R, version: i16, correlation_id: i32) -> Vec<u8> {
    let mut writer = Writer::new();
    RequestHeader { api_key: R::KEY, api_version: version, correlation_id, client_id: Some("test".into()) }
        .write(&mut writer)
        .expect("a header is short");
    request.encode(&mut writer, version).expect("the version has a place for all");
    let body = writer.into_bytes().expect("no file is in a request");
    let mut frame = (body.len() as i32).to_be_bytes().to_vec();
    frame.extend_from_slice(&body);
    frame
}

pub fn invalid(why: impl ToString) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.to_string())
}

impl Client {
    pub fn connect(port: u16) -> io::Result<Client> {
        let stream = TcpStream::connect_timeout(&SocketAddr::from(([127, 0, 0, 1], port)), Duration::from_secs(5))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        stream.set_write_timeout(Some(Duration::from_secs(30)))?;
        Ok(Client { stream, correlation_id: 0 })
    }

    /// Sends without waiting; gives the correlation id.
    pub fn send<R: Request>(&mut self, request: &R, version: i16) -> io::Result<i32> {
        self.correlation_id += 1;
        self.stream.write_all(&frame(request, version, self.correlation_id))?;
        Ok(self.correlation_id)
    }

    /// The next answer, which must be that to the request of the given correlation id.
    pub fn receive<R: Request>(&mut self, version: i16, correlation_id: i32) -> io::Result<R::Response> {
        let mut length = [0; 4];
        self.stream.read_exact(&mut length)?;
        let mut body = vec![0; usize::try_from(i32::from_be_bytes(length)).map_err(invalid)?];
        self.stream.read_exact(&mut body)?;
        let mut reader = Reader::new(Bytes::from(body));
        let key = ApiKey::from_code(R::KEY).expect("the key is declared");
        let answered =
            read_response_header(&mut reader, key, version).map_err(|error| invalid(format!("{error:?}")))?;
        if answered != correlation_id {
            return Err(invalid(format!("answer to {answered}, wanted that to {correlation_id}")));
        }
        R::Response::decode(&mut reader, version).map_err(|error| invalid(format!("{error:?}")))
    }

    pub fn call<R: Request>(&mut self, request: &R, version: i16) -> io::Result<R::Response> {
        let correlation_id = self.send(request, version)?;
        self.receive::<R>(version, correlation_id)
    }

    pub fn metadata(&mut self, topics: &[&str]) -> io::Result<MetadataResponse> {
        let topics = topics
            .iter()
            .map(|name| MetadataRequestTopic { name: Some((*name).to_owned()), ..Default::default() })
            .collect();
        self.call(&MetadataRequest { topics: Some(topics), allow_auto_topic_creation: false, ..Default::default() }, 9)
    }

    /// Whether the broker leads every partition that it is to lead: it has said so of each that it can lead, and answers
    /// for each that it leads.
    pub fn leads_its_partitions(&mut self, broker_id: i32) -> Result<(), String> {
        let all = MetadataRequest { topics: None, allow_auto_topic_creation: false, ..Default::default() };
        let metadata = self.call(&all, 9).map_err(|error| error.to_string())?;
        let mut topics = Vec::new();
        for topic in metadata.topics {
            let mut partitions = Vec::new();
            for partition in topic.partitions {
                let can_lead = |id| partition.isr_nodes.contains(&id) && !partition.offline_replicas.contains(&id);
                if partition.leader_id < 0 && can_lead(broker_id) {
                    return Err(format!("{:?}-{} has no leader yet", topic.name, partition.partition_index));
                }
                if partition.leader_id == broker_id {
                    let partition_index = partition.partition_index;
                    partitions.push(ListOffsetsPartition { partition_index, timestamp: -1, ..Default::default() });
                }
            }
            topics.push(ListOffsetsTopic { name: topic.name.unwrap_or_default(), partitions });
        }
        let ends = ListOffsetsRequest { replica_id: -1, topics, ..Default::default() };
        let ends = self.call(&ends, 4).map_err(|error| error.to_string())?;
        for topic in ends.topics {
            const NOT_YET: [i16; 4] = [3, 5, 6, 14];
            if let Some(partition) = topic.partitions.iter().find(|partition| NOT_YET.contains(&partition.error_code)) {
                return Err(format!(
                    "{}-{} is not led yet: {}",
                    topic.name, partition.partition_index, partition.error_code
                ));
            }
        }
        Ok(())
    }

    /// Creates a topic and waits until each partition has a leader.
    pub fn create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) {
        let code = self.try_create_topic(name, partitions, configs).expect("the broker answers CreateTopics");
        assert_eq!(code, 0, "create {name}");
        self.until_led(name, partitions);
    }

    /// Creates a topic with that many replicas and waits until each partition has a leader.
    pub fn create_replicated_topic(&mut self, name: &str, partitions: i32, replicas: i16, configs: &[(&str, &str)]) {
        let code = self.try_create_replicated_topic(name, partitions, replicas, configs);
        assert_eq!(code.expect("the broker answers CreateTopics"), 0, "create {name}");
        self.until_led(name, partitions);
    }

    /// Asks for a topic; gives the error code.
    pub fn try_create_topic(&mut self, name: &str, partitions: i32, configs: &[(&str, &str)]) -> io::Result<i16> {
        self.try_create_replicated_topic(name, partitions, 1, configs)
    }

    pub fn try_create_replicated_topic(
        &mut self,
        name: &str,
        partitions: i32,
        replicas: i16,
        configs: &[(&str, &str)],
    ) -> io::Result<i16> {
        let configs = configs
            .iter()
            .map(|(name, value)| CreatableTopicConfig { name: (*name).to_owned(), value: Some((*value).to_owned()) })
            .collect();
        let topic = CreatableTopic {
            name: name.to_owned(),
            num_partitions: partitions,
            replication_factor: replicas,
            configs,
            ..Default::default()
        };
        let request = CreateTopicsRequest { topics: vec![topic], timeout_ms: 30_000, ..Default::default() };
        Ok(self.call(&request, 5)?.topics[0].error_code)
    }

    /// Waits until each partition has a leader, and this broker says of those that it leads that it does: that may come
    /// after the metadata, which it has from the controller.
    pub fn until_led(&mut self, topic: &str, partitions: i32) {
        eventually(PATIENCE, &format!("all partitions of {topic} have a leader"), || {
            let metadata = self.metadata(&[topic]).map_err(|error| error.to_string())?;
            let found = &metadata.topics[0];
            let led = found.partitions.iter().filter(|p| p.error_code == 0 && p.leader_id >= 0).count();
            if found.error_code != 0 || led != partitions as usize {
                return Err(format!("{found:?}"));
            }
            let port = self.stream.peer_addr().map_err(|error| error.to_string())?.port();
            let here = metadata.brokers.iter().find(|broker| broker.port == i32::from(port));
            here.map_or(Ok(()), |broker| self.leads_its_partitions(broker.node_id))
        });
    }

    /// Appends a batch and gives its base offset.
    pub fn produce(&mut self, topic: &str, partition: i32, batch: Bytes) -> io::Result<Result<i64, i16>> {
        let correlation_id = self.send(&produce_request(topic, partition, batch, -1), 8)?;
        self.receive::<ProduceRequest>(8, correlation_id).map(|response| outcome(&response))
    }

    /// Everything from an offset up to the high watermark.
    pub fn read_all(&mut self, topic: &str, partition: i32, from: i64) -> io::Result<Vec<Record>> {
        let mut all = Vec::new();
        let mut offset = from;
        loop {
            let asked =
                FetchPartition { partition, fetch_offset: offset, partition_max_bytes: 4 << 20, ..Default::default() };
            let topics = vec![FetchTopic { topic: topic.to_owned(), partitions: vec![asked], ..Default::default() }];
            let request =
                FetchRequest { max_wait_ms: 0, min_bytes: 0, max_bytes: 4 << 20, topics, ..Default::default() };
            let response = self.call(&request, 11)?;
            let found = &response.responses[0].partitions[0];
            if found.error_code != 0 {
                return Err(invalid(format!("fetch {topic}-{partition} at {offset}: error {}", found.error_code)));
            }
            if offset >= found.high_watermark {
                return Ok(all);
            }
            let Some(Payload::Bytes(bytes)) = &found.records else {
                return Err(invalid("a fetch below the high watermark gives records"));
            };
            // A fetch may begin inside a batch: what comes before the offset is not asked for.
            for record in records(bytes) {
                let record = record.map_err(|error| invalid(format!("{error:?}")))?;
                if record.offset >= offset {
                    offset = record.offset + 1;
                    all.push(record);
                }
            }
        }
    }

    pub fn producer_id(&mut self) -> io::Result<(i64, i16)> {
        let response = self.call(
            &InitProducerIdRequest { transactional_id: None, transaction_timeout_ms: 60_000, ..Default::default() },
            1,
        )?;
        match response.error_code {
            0 => Ok((response.producer_id, response.producer_epoch)),
            code => Err(invalid(format!("InitProducerId: error {code}"))),
        }
    }

    pub fn until_coordinated(&mut self, group: &str) {
        eventually(PATIENCE, &format!("{group} has a coordinator"), || {
            let request = FindCoordinatorRequest { key: group.to_owned(), ..Default::default() };
            let response = self.call(&request, 2).map_err(|error| error.to_string())?;
            if response.error_code == 0 { Ok(()) } else { Err(format!("{response:?}")) }
        });
    }

    /// Commits a position without being a member.
    pub fn commit(&mut self, group: &str, topic: &str, partition: i32, offset: i64) {
        self.until_coordinated(group);
        eventually(PATIENCE, &format!("commit of {group}"), || {
            let partitions = vec![OffsetCommitRequestPartition {
                partition_index: partition,
                committed_offset: offset,
                committed_metadata: Some("by a test".into()),
                ..Default::default()
            }];
            let topics = vec![OffsetCommitRequestTopic { name: topic.to_owned(), partitions }];
            let request = OffsetCommitRequest { group_id: group.to_owned(), topics, ..Default::default() };
            let response = self.call(&request, 2).map_err(|error| error.to_string())?;
            match response.topics[0].partitions[0].error_code {
                0 => Ok(()),
                code => Err(format!("error {code}")),
            }
        });
    }

    /// The committed position, -1 if there is none.
    pub fn committed(&mut self, group: &str, topic: &str, partition: i32) -> i64 {
        self.until_coordinated(group);
        eventually(PATIENCE, &format!("the committed offset of {group}"), || {
            self.try_committed(group, topic, partition)
        })
    }

    /// The same as this broker says now.
    pub fn try_committed(&mut self, group: &str, topic: &str, partition: i32) -> Result<i64, String> {
        let topics = vec![OffsetFetchRequestTopic { name: topic.to_owned(), partition_indexes: vec![partition] }];
        let request = OffsetFetchRequest { group_id: group.to_owned(), topics: Some(topics), ..Default::default() };
        let response = self.call(&request, 2).map_err(|error| error.to_string())?;
        if response.error_code != 0 {
            return Err(format!("{response:?}"));
        }
        let found = &response.topics[0].partitions[0];
        if found.error_code == 0 { Ok(found.committed_offset) } else { Err(format!("{found:?}")) }
    }
}

pub fn produce_request(topic: &str, partition: i32, batch: Bytes, acks: i16) -> ProduceRequest {
    let data = PartitionProduceData { index: partition, records: Some(Payload::Bytes(batch)) };
    let topic_data = vec![TopicProduceData { name: topic.to_owned(), partition_data: vec![data] }];
    ProduceRequest { acks, timeout_ms: 30_000, topic_data, ..Default::default() }
}

pub fn outcome(response: &ProduceResponse) -> Result<i64, i16> {
    let partition = &response.responses[0].partition_responses[0];
    if partition.error_code == 0 { Ok(partition.base_offset) } else { Err(partition.error_code) }
}

/// A batch of one record a value.
pub fn batch(codec: Codec, values: impl IntoIterator<Item = String>) -> Bytes {
    let mut builder = BatchBuilder::new().compression(codec, None);
    for (i, value) in values.into_iter().enumerate() {
        builder.append(TIMESTAMP + i as i64, Some(b"key"), Some(value.as_bytes()), &[(b"by", Some(b"a test"))]);
    }
    builder.build()
}

pub fn values(records: &[Record]) -> Vec<String> {
    records
        .iter()
        .map(|record| String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned())
        .collect()
}
