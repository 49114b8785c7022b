//! Which handler answers which API, one row each, and how a request reaches it.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaApis.scala,
//! core/src/main/scala/kafka/network/SocketServer.scala.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use log::{debug, error};

use crate::api::answer::AnswerBudget;
use crate::api::counters::{ApiCounters, count};
use crate::api::refusals::Refusing;
use crate::api::session::ClientSession;
use crate::api::{
    Handled, HangUp, Outcome, RequestContext, Server, acls, allocate_producer_ids, alter_configs, alter_partition,
    alter_replica_log_dirs, api_versions, consumer_groups, controlled_shutdown, create_partitions, create_topics,
    delete_records, delete_topics, describe_cluster, describe_configs, describe_log_dirs, describe_producers,
    describe_transactions, elect_leaders, fetch, find_coordinator, groups, init_producer_id, leader_and_isr,
    list_offsets, metadata, offset_for_leader_epoch, offsets, produce, reassignments, stop_replica, transactions,
    txn_offset_commit, update_features, update_metadata, write_txn_markers,
};
use crate::codec::reader::{DecodeError, Reader};
use crate::codec::writer::{FileRegion, Writer};
use crate::model::shown::shown;
use crate::network;
use crate::network::{Answer, AnswerFuture, Asked, Service};
use crate::protocol::api_keys::ApiKey;
use crate::protocol::error_code::ErrorCode;
use crate::protocol::header::{RequestHeader, write_response_header};
use crate::protocol::message::{Message, Request, Wire};
use crate::protocol::messages::produce::ProduceRequest;

/// So much is read, and done for what was read, within a slice of work. The bytes of a produce are records, of which
/// none is looked at while the request is read.
pub(super) const SLICE_BYTES: usize = 128 * 1024;

/// A row with `counted` builds its answer under the budget of its context and is refused if that does not suffice; the
/// answer of any other is no longer than a small multiple of its request, or of what the broker keeps anyway.
macro_rules! table {
    (@kept $body:ident) => { None };
    (@kept $body:ident counted) => { Some($body.clone()) };
    ($($key:ident => $handler:path $(, $counted:ident)?;)*) => {
        /// What ApiVersions advertises: what works, in the order of the API keys.
        pub const SUPPORTED: &[ApiKey] = &[ApiKey::Produce, $( ApiKey::$key, )*];

        fn dispatch(server: Arc<Server>, key: ApiKey, context: RequestContext, correlation_id: i32, body: Reader)
            -> AnswerFuture
        {
            match key {
                $( ApiKey::$key => Box::pin(async move {
                    let kept: Option<Reader> = table!(@kept body $($counted)?);
                    let is_long = body.remaining() > SLICE_BYTES;
                    let read = server.long_work.run(is_long, || decode(key, &context, &server.counters, body)).await;
                    let answer = Answering::new(key, &context, correlation_id, &server);
                    match read {
                        Ok(request) => {
                            let is_long = context.answer.taken() > SLICE_BYTES;
                            let response = server.long_work.poll(is_long, $handler(&server, &context, request)).await;
                            let is_long = context.answer.taken() > SLICE_BYTES;
                            server.long_work.run(is_long, || answer.encode(response, kept)).await
                        }
                        Err(refused) => answer.encode(*refused, None),
                    }
                }), )*
                #[allow(unreachable_patterns)]
                _ => Box::pin(std::future::ready(Answer::close())),
            }
        }
    };
}

table! {
    Fetch => fetch::handle, counted;
    ListOffsets => list_offsets::handle, counted;
    Metadata => metadata::handle, counted;
    LeaderAndIsr => leader_and_isr::handle, counted;
    StopReplica => stop_replica::handle, counted;
    UpdateMetadata => update_metadata::handle;
    ControlledShutdown => controlled_shutdown::handle, counted;
    OffsetCommit => offsets::commit;
    OffsetFetch => offsets::fetch, counted;
    FindCoordinator => find_coordinator::handle, counted;
    JoinGroup => groups::join;
    Heartbeat => groups::heartbeat;
    LeaveGroup => groups::leave;
    SyncGroup => groups::sync;
    DescribeGroups => groups::describe, counted;
    ListGroups => groups::list, counted;
    ApiVersions => api_versions::handle;
    CreateTopics => create_topics::handle, counted;
    DeleteTopics => delete_topics::handle;
    DeleteRecords => delete_records::handle;
    InitProducerId => init_producer_id::handle;
    OffsetForLeaderEpoch => offset_for_leader_epoch::handle;
    AddPartitionsToTxn => transactions::add_partitions;
    AddOffsetsToTxn => transactions::add_offsets;
    EndTxn => transactions::end;
    WriteTxnMarkers => write_txn_markers::handle;
    TxnOffsetCommit => txn_offset_commit::handle;
    DescribeAcls => acls::describe;
    CreateAcls => acls::create, counted;
    DeleteAcls => acls::delete, counted;
    DescribeConfigs => describe_configs::handle, counted;
    AlterConfigs => alter_configs::handle;
    AlterReplicaLogDirs => alter_replica_log_dirs::handle;
    DescribeLogDirs => describe_log_dirs::handle, counted;
    CreatePartitions => create_partitions::handle;
    DeleteGroups => groups::delete;
    ElectLeaders => elect_leaders::handle, counted;
    IncrementalAlterConfigs => alter_configs::handle_incremental;
    AlterPartitionReassignments => reassignments::alter, counted;
    ListPartitionReassignments => reassignments::list, counted;
    OffsetDelete => offsets::delete;
    AlterPartition => alter_partition::handle;
    UpdateFeatures => update_features::handle, counted;
    DescribeCluster => describe_cluster::handle;
    DescribeProducers => describe_producers::handle, counted;
    DescribeTransactions => describe_transactions::describe, counted;
    ListTransactions => describe_transactions::list, counted;
    AllocateProducerIds => allocate_producer_ids::handle;
    ConsumerGroupHeartbeat => consumer_groups::heartbeat;
    ConsumerGroupDescribe => consumer_groups::describe, counted;
}

/// The versions of an API that work; `None` if it is not advertised.
pub fn supported_versions(key: ApiKey) -> Option<RangeInclusive<i16>> {
    SUPPORTED.contains(&key).then(|| key.versions())
}

impl Service for Server {
    type Session = ClientSession;

    fn open_session(&self) -> ClientSession {
        ClientSession::default()
    }

    fn handle(self: &Arc<Self>, request: network::Request<ClientSession>) -> Asked {
        let network::Request { header, body, peer, received, now_ms, is_early } = request;
        let RequestHeader { api_key, api_version, correlation_id, client_id } = header;
        let supported = ApiKey::from_code(api_key).and_then(|key| Some((key, supported_versions(key)?)));
        let survives = supported.as_ref().is_some_and(|(key, _)| survives_hang_up(*key));
        let hang_up = survives.then(HangUp::default);
        let answer = AnswerBudget::new(self.socket_response_max_bytes, peer.memory.working_memory());
        let context = RequestContext {
            api_version,
            client_id: client_id.unwrap_or_default(),
            peer,
            received,
            now_ms,
            answer,
            hang_up: hang_up.clone(),
            paused_at: AtomicU64::new(0),
        };
        match supported {
            Some((key, versions)) if versions.contains(&api_version) => {
                count(self.counters.requests(key, api_version));
                if key == ApiKey::Produce {
                    return produce(self, context, correlation_id, body, is_early);
                }
                let answer = dispatch(Arc::clone(self), key, context, correlation_id, body);
                Asked::Waits(match hang_up {
                    Some(hang_up) => in_own_task(answer, hang_up),
                    None => answer,
                })
            }
            // The one request that is answered in a version other than its own: clients ask it to learn the versions.
            Some((ApiKey::ApiVersions, _)) => {
                let counters = &*self.counters;
                count(&counters.unsupported);
                let answer = Answering { key: ApiKey::ApiVersions, api_version: 0, correlation_id, counters };
                Asked::Answered(answer.encode(api_versions::unsupported_version(), None))
            }
            _ => {
                count(&self.counters.unsupported);
                debug!("{} asks for API {api_key} version {api_version}, which is not supported", context.address());
                Asked::Answered(Answer::close())
            }
        }
    }

    /// Nobody can tell whether a produce was appended before or after the earlier ones of its connection were
    /// acknowledged; every other request waits its turn, and so does what a produce would be refused.
    fn may_start_early(&self, header: &RequestHeader) -> bool {
        header.api_key == ApiKey::Produce.code()
    }

    fn region_failed(&self, region: &FileRegion) {
        self.replicas.region_failed(region.clone());
    }
}

/// Requests that change more than one place: half of such a change must not be dropped with its connection. Those of
/// clients end after the change they are at.
fn survives_hang_up(key: ApiKey) -> bool {
    matches!(
        key,
        ApiKey::LeaderAndIsr
            | ApiKey::StopReplica
            | ApiKey::UpdateMetadata
            | ApiKey::CreateTopics
            | ApiKey::DeleteTopics
            | ApiKey::CreatePartitions
            | ApiKey::AlterConfigs
            | ApiKey::IncrementalAlterConfigs
            | ApiKey::AlterReplicaLogDirs
            | ApiKey::WriteTxnMarkers
    )
}

struct Connected(HangUp);

impl Drop for Connected {
    fn drop(&mut self) {
        self.0.set();
    }
}

fn in_own_task(answer: AnswerFuture, hang_up: HangUp) -> AnswerFuture {
    let task = tokio::spawn(answer);
    // The connection drops it, with all that it waits for.
    let connected = Connected(hang_up);
    Box::pin(async move {
        let _connected = connected;
        match task.await {
            Ok(answer) => answer,
            Err(ended) => {
                error!("a request was not carried out: {ended}");
                Answer::close()
            }
        }
    })
}

/// Produces start in their order, and so wait for nothing before they do. One behind others goes on when these are done, and
/// so waits for no place afterwards either. Most are answered at once, and cost no future.
fn produce(server: &Arc<Server>, context: RequestContext, correlation_id: i32, body: Reader, is_early: bool) -> Asked {
    let key = ApiKey::Produce;
    let is_long = body.remaining() > SLICE_BYTES && names_many::<ProduceRequest>(&body, context.api_version);
    let read = server.long_work.run_now(is_long, || decode(key, &context, &server.counters, body));
    let encode = move |server: &Server, context: &RequestContext, handled| {
        let is_long = context.answer.taken() > SLICE_BYTES;
        let answer = Answering::new(key, context, correlation_id, server);
        server.long_work.run_now(is_long, || answer.encode(handled, None))
    };
    let handled = match read {
        Ok(request) => produce::start(server, &context, request, is_early),
        Err(refused) => Ok(*refused),
    };
    match handled {
        Ok(handled) => Asked::Answered(encode(server, &context, handled)),
        Err(waiting) => {
            let server = Arc::clone(server);
            let is_in_turn = waiting.is_asked_again();
            let answer = Box::pin(async move {
                let handled = waiting.acknowledged(&server, &context).await;
                encode(&server, &context, handled)
            });
            if is_in_turn { Asked::InTurn(answer) } else { Asked::Waits(answer) }
        }
    }
}

/// Most of a long produce is records, of which none is looked at here: what takes long to read takes memory too.
fn names_many<R: Request>(body: &Reader, version: i16) -> bool {
    let mut beginning = body.clone();
    beginning.read_the_beginning();
    matches!(R::decode_partly(&mut beginning, version).1, Err(DecodeError::OverBudget))
}

/// Reads the request, and counts what memory it takes. One that would take too much is answered with the part of it that
/// was read.
fn decode<R>(
    key: ApiKey,
    context: &RequestContext,
    counters: &ApiCounters,
    mut body: Reader,
) -> Result<R, Box<Handled<R::Response>>>
where
    R: Request,
    R::Response: Refusing<Request = R>,
{
    let version = context.api_version;
    let (request, outcome) = R::decode_partly(&mut body, version);
    context.answer.count_request(body.memory_taken());
    let Err(why) = outcome else { return Ok(request) };
    let name = key.name();
    match context.peer.session.software() {
        None => debug!("{name} version {version} from {} does not parse: {why}", context.address()),
        Some(client) => debug!(
            "{name} version {version} from {} ({} {}) does not parse: {why}",
            context.address(),
            shown(&client.name),
            shown(&client.version)
        ),
    }
    if why != DecodeError::OverBudget {
        count(&counters.malformed);
        return Err(Box::new(Handled::Close));
    }
    count(&counters.refused_requests);
    let text = "The request would take many times its bytes in memory.";
    Err(Box::new(R::Response::refused(request, version, ErrorCode::PolicyViolation, text)))
}

/// What an answer is written by, beside the response.
struct Answering<'a> {
    key: ApiKey,
    api_version: i16,
    correlation_id: i32,
    counters: &'a ApiCounters,
}

impl<'a> Answering<'a> {
    fn new(key: ApiKey, context: &RequestContext, correlation_id: i32, server: &'a Server) -> Answering<'a> {
        Answering { key, api_version: context.api_version, correlation_id, counters: &server.counters }
    }

    /// `kept` is the body of a request whose answer may turn out too long.
    fn encode<O>(&self, outcome: O, kept: Option<Reader>) -> Answer
    where
        O: Outcome,
        O::Response: Refusing,
    {
        let Answering { key, api_version, correlation_id, counters } = *self;
        let response = match outcome.handled() {
            Handled::Reply(response) => response,
            Handled::Nothing => return Answer::nothing(),
            Handled::Close => return Answer::close(),
            Handled::TooLong(why) => {
                count(&counters.refused_answers);
                debug!("the answer to {} version {api_version} would be too long", key.name());
                let Some(mut body) = kept else { return Answer::close() };
                // It has been read before. A refusal of all that it names might be too long as well.
                body.read_the_beginning();
                let (request, _) = <O::Response as Refusing>::Request::decode_partly(&mut body, api_version);
                let refused = O::Response::refused(request, api_version, ErrorCode::PolicyViolation, &why.to_string());
                return self.encode(refused, None);
            }
        };
        response.errors(&mut |code| count(counters.errors(key, ErrorCode::from_code(code))));
        let mut writer = Writer::with_capacity(256);
        write_response_header(&mut writer, key, api_version, correlation_id);
        match response.encode(&mut writer, api_version) {
            Ok(()) => Answer::reply(writer.into_chunks()),
            Err(why) => {
                error!("the answer to {} version {api_version} cannot be written: {why}", key.name());
                Answer::close()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use bytes::Bytes;

    use super::*;
    use crate::api::answer::AnswerTooLong;
    use crate::protocol::message::Payload;
    use crate::protocol::messages::fetch::{FetchResponse, FetchableTopicResponse, PartitionData};
    use crate::protocol::messages::produce::{PartitionProduceData, TopicProduceData};

    #[test]
    fn an_answer_counts_each_error_that_it_tells() {
        let counters = ApiCounters::default();
        let answer = Answering { key: ApiKey::Fetch, api_version: 12, correlation_id: 1, counters: &counters };
        let codes = [0, ErrorCode::OffsetOutOfRange.code(), 0, ErrorCode::OffsetOutOfRange.code()];
        let partitions = codes.map(|error_code| PartitionData { error_code, ..Default::default() }).to_vec();
        let responses = vec![FetchableTopicResponse { partitions, ..Default::default() }];
        let error_code = ErrorCode::FetchSessionIdNotFound.code();
        answer.encode(FetchResponse { error_code, responses, ..Default::default() }, None);
        answer.encode(Handled::<FetchResponse>::TooLong(AnswerTooLong), None);
        let of = |key, error| counters.errors(key, error).load(Ordering::Relaxed);
        assert_eq!(of(ApiKey::Fetch, ErrorCode::OffsetOutOfRange), 2);
        assert_eq!(of(ApiKey::Fetch, ErrorCode::FetchSessionIdNotFound), 1);
        assert_eq!(of(ApiKey::Fetch, ErrorCode::None), 0);
        assert_eq!(of(ApiKey::Produce, ErrorCode::OffsetOutOfRange), 0);
        assert_eq!(counters.refused_answers.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn a_long_produce_is_long_to_read_for_its_partitions_and_not_for_its_records() {
        let body = |partitions: i32, records: usize| {
            let records = Some(Payload::Bytes(Bytes::from(vec![0; records])));
            let data = |index| PartitionProduceData { index, records: records.clone() };
            let topic = TopicProduceData { name: "t".into(), partition_data: (0..partitions).map(data).collect() };
            let mut writer = Writer::new();
            let request = ProduceRequest { topic_data: vec![topic], ..Default::default() };
            request.encode(&mut writer, 9).expect("it has a place for all");
            Reader::new(writer.into_bytes().expect("no file is in it"))
        };
        assert!(!names_many::<ProduceRequest>(&body(1, 1_000_000), 9));
        assert!(!names_many::<ProduceRequest>(&body(100, 10_000), 9));
        assert!(names_many::<ProduceRequest>(&body(100_000, 0), 9));
    }
}
