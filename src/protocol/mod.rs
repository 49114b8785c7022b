//! Kafka's wire protocol: messages declared as data, headers, API keys and error codes.
//! Knows how bytes become structs and back; it does not know what any request means.

pub mod api_keys;
pub mod elements;
pub mod error_code;
pub mod header;
pub mod message;
pub mod messages;
pub(crate) mod transaction_version;

#[cfg(test)]
mod tests {
    use super::message::{Message, Payload};
    use super::messages::describe_configs::{DescribeConfigsRequest, DescribeConfigsResource};
    use super::messages::fetch::{FetchRequest, FetchResponse, FetchTopic, FetchableTopicResponse, PartitionData};
    use super::messages::heartbeat::HeartbeatRequest;
    use crate::codec::reader::{DecodeError, Reader};
    use crate::codec::writer::Writer;
    use crate::model::TopicId;

    fn encoded<M: Message>(message: &M, version: i16) -> bytes::Bytes {
        let mut writer = Writer::new();
        message.encode(&mut writer, version).expect("the message has a place for all its fields");
        writer.into_bytes().expect("no file is in the message")
    }

    #[test]
    fn a_message_reads_back_in_each_version() {
        for version in FetchRequest::VERSIONS {
            let topic = if version >= 13 {
                FetchTopic { topic_id: TopicId([9; 16]), ..Default::default() }
            } else {
                FetchTopic { topic: "orders".into(), ..Default::default() }
            };
            let request = FetchRequest { max_wait_ms: 500, min_bytes: 1, topics: vec![topic], ..Default::default() };
            let mut reader = Reader::new(encoded(&request, version));
            assert_eq!(FetchRequest::decode(&mut reader, version), Ok(request));
            assert_eq!(reader.remaining(), 0, "version {version}");
        }
    }

    #[test]
    fn a_value_without_a_place_is_refused_unless_it_is_ignorable() {
        let request = HeartbeatRequest { group_instance_id: Some("a".into()), ..Default::default() };
        assert!(request.encode(&mut Writer::new(), 2).is_err());
        assert!(request.encode(&mut Writer::new(), 3).is_ok());
    }

    #[test]
    fn the_bytes_of_a_flexible_heartbeat_are_those_of_kafka() {
        let request =
            HeartbeatRequest { group_id: "g".into(), generation_id: 7, member_id: "m".into(), group_instance_id: None };
        assert_eq!(encoded(&request, 4)[..], [2, b'g', 0, 0, 0, 7, 2, b'm', 0, 0]);
        assert_eq!(encoded(&request, 3)[..], [0, 1, b'g', 0, 0, 0, 7, 0, 1, b'm', 0xff, 0xff]);
    }

    /// An element of 4 bytes on the wire and 56 in memory.
    #[test]
    fn an_array_that_swells_in_memory_is_refused_and_its_first_elements_are_told() {
        let resource = DescribeConfigsResource { resource_type: 4, ..Default::default() };
        let request = |count| DescribeConfigsRequest { resources: vec![resource.clone(); count], ..Default::default() };
        let read = |count| DescribeConfigsRequest::decode_partly(&mut Reader::new(encoded(&request(count), 4)), 4);
        let (whole, outcome) = read(1_000);
        assert_eq!((whole.resources.len(), outcome), (1_000, Ok(())));
        let (part, outcome) = read(100_000);
        assert_eq!((part.resources.len(), outcome), (8, Err(DecodeError::OverBudget)));
        assert_eq!(part.resources[7], resource);
    }

    #[test]
    fn no_prefix_of_a_message_panics_or_reads_whole() {
        let partition =
            PartitionData { records: Some(Payload::Bytes(bytes::Bytes::from_static(b"batch"))), ..Default::default() };
        let topic = FetchableTopicResponse { topic: "t".into(), partitions: vec![partition], ..Default::default() };
        let response = FetchResponse { responses: vec![topic], ..Default::default() };
        for version in [0, 11, 12] {
            let whole = encoded(&response, version);
            for end in 0..whole.len() {
                assert!(FetchResponse::decode(&mut Reader::new(whole.slice(..end)), version).is_err());
            }
        }
    }

    /// Source: kafka 3.9.0-rc3 generator/src/main/java/org/apache/kafka/message/MessageDataGenerator.java, whose
    /// readers look at each tag by itself.
    #[test]
    fn tagged_fields_come_in_any_order_and_of_one_that_comes_twice_the_last_holds() {
        let read = |tags: &[u8]| {
            let mut bytes = encoded(&FetchResponse::default(), 16).to_vec();
            assert_eq!(bytes.pop(), Some(0), "no tagged field is written");
            bytes.extend(tags);
            FetchResponse::decode(&mut Reader::new(bytes.into()), 16)
        };
        let endpoints = |ids: &[u8]| {
            let each = ids.iter().flat_map(|&id| [0, 0, 0, id, 2, b'h', 0, 0, 0, 9, 0, 0]);
            let value: Vec<u8> = [ids.len() as u8 + 1].into_iter().chain(each).collect();
            [&[0, value.len() as u8][..], &value].concat()
        };
        let ids = |response: Result<FetchResponse, DecodeError>| {
            response.map(|response| response.node_endpoints.iter().map(|node| node.node_id).collect::<Vec<_>>())
        };
        assert_eq!(ids(read(&[&[3, 7, 1, 0][..], &endpoints(&[1, 2]), &[5, 0]].concat())), Ok(vec![1, 2]));
        assert_eq!(ids(read(&[&[2][..], &endpoints(&[1, 2]), &endpoints(&[3])].concat())), Ok(vec![3]));
        assert_eq!(ids(read(&[&[2][..], &endpoints(&[1, 2]), &endpoints(&[])].concat())), Ok(vec![]));
        assert_eq!(ids(read(&[4, 7, 1, 0, 7, 0, 6, 0, 7, 0])), Ok(vec![]));
    }

    /// What nobody could write again, whoever asks for it, is not taken.
    #[test]
    fn text_that_becomes_too_long_for_any_message_is_refused() {
        let request = |bytes: usize| {
            let mut request = vec![0x7f, 0xff];
            request[..2].copy_from_slice(&(bytes as u16).to_be_bytes());
            request.extend(vec![0xff; bytes]);
            request.extend([0, 0, 0, 1, 0, 0]);
            HeartbeatRequest::decode(&mut Reader::new(request.into()), 0)
        };
        let longest = i16::MAX as usize / 3;
        assert_eq!(request(longest).map(|request| request.group_id.len()), Ok(3 * longest));
        assert_eq!(request(longest + 1), Err(DecodeError::InvalidLength(3 * longest as i64 + 3)));
    }
}
