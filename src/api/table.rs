//! Which handler answers which API, one row each, and how a request reaches it.
//! Source: kafka 3.9.1 core/src/main/scala/kafka/server/KafkaApis.scala, core/src/main/scala/kafka/network/SocketServer.scala.

use std::ops::RangeInclusive;
use std::sync::Arc;

use log::{debug, error};

use crate::api::session::ClientSession;
use crate::api::{
    Handled, Outcome, RequestContext, Server, alter_configs, api_versions, create_partitions, create_topics,
    delete_records, delete_topics, describe_cluster, describe_configs, describe_producers, fetch, find_coordinator,
    groups, init_producer_id, leader_and_isr, list_offsets, metadata, offset_for_leader_epoch, offsets, produce,
    stop_replica, update_metadata,
};
use crate::codec::reader::Reader;
use crate::codec::writer::Writer;
use crate::network::{Answer, AnswerFuture, Request, Service};
use crate::protocol::api_keys::ApiKey;
use crate::protocol::header::{RequestHeader, write_response_header};
use crate::protocol::message::Message;

macro_rules! table {
    ($($key:ident => $handler:path;)*) => {
        /// What ApiVersions advertises: what works, in the order of the API keys.
        pub const SUPPORTED: &[ApiKey] = &[$( ApiKey::$key, )*];

        fn dispatch(server: Arc<Server>, key: ApiKey, context: RequestContext, correlation_id: i32, body: Reader)
            -> AnswerFuture
        {
            match key {
                $( ApiKey::$key => Box::pin(async move {
                    let Some(request) = decode(key, &context, body) else { return Answer::close() };
                    let api_version = context.api_version;
                    let response = $handler(&server, context, request).await;
                    encode(key, api_version, correlation_id, response)
                }), )*
                #[allow(unreachable_patterns)]
                _ => Box::pin(std::future::ready(Answer::close())),
            }
        }
    };
}

table! {
    Produce => produce::handle;
    Fetch => fetch::handle;
    ListOffsets => list_offsets::handle;
    Metadata => metadata::handle;
    LeaderAndIsr => leader_and_isr::handle;
    StopReplica => stop_replica::handle;
    UpdateMetadata => update_metadata::handle;
    OffsetCommit => offsets::commit;
    OffsetFetch => offsets::fetch;
    FindCoordinator => find_coordinator::handle;
    JoinGroup => groups::join;
    Heartbeat => groups::heartbeat;
    LeaveGroup => groups::leave;
    SyncGroup => groups::sync;
    DescribeGroups => groups::describe;
    ListGroups => groups::list;
    ApiVersions => api_versions::handle;
    CreateTopics => create_topics::handle;
    DeleteTopics => delete_topics::handle;
    DeleteRecords => delete_records::handle;
    InitProducerId => init_producer_id::handle;
    OffsetForLeaderEpoch => offset_for_leader_epoch::handle;
    DescribeConfigs => describe_configs::handle;
    AlterConfigs => alter_configs::handle;
    CreatePartitions => create_partitions::handle;
    DeleteGroups => groups::delete;
    IncrementalAlterConfigs => alter_configs::handle_incremental;
    OffsetDelete => offsets::delete;
    DescribeCluster => describe_cluster::handle;
    DescribeProducers => describe_producers::handle;
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

    fn handle(self: &Arc<Self>, request: Request<ClientSession>) -> AnswerFuture {
        let Request { header, body, peer, received, now_ms } = request;
        let RequestHeader { api_key, api_version, correlation_id, client_id } = header;
        let context = RequestContext { api_version, client_id: client_id.unwrap_or_default(), peer, received, now_ms };
        let supported = ApiKey::from_code(api_key).and_then(|key| Some((key, supported_versions(key)?)));
        match supported {
            Some((key, versions)) if versions.contains(&api_version) => {
                let answer = dispatch(Arc::clone(self), key, context, correlation_id, body);
                if survives_hang_up(key) { in_own_task(answer) } else { answer }
            }
            // The one request that is answered in a version other than its own: clients ask it to learn the versions.
            Some((ApiKey::ApiVersions, _)) => {
                let answer = encode(ApiKey::ApiVersions, 0, correlation_id, api_versions::unsupported_version());
                Box::pin(std::future::ready(answer))
            }
            _ => {
                debug!("{} asks for API {api_key} version {api_version}, which is not supported", context.address());
                Box::pin(std::future::ready(Answer::close()))
            }
        }
    }

    /// Nobody can tell whether a produce was appended before or after the earlier ones of its connection were
    /// acknowledged; every other request waits its turn.
    fn may_start_early(&self, header: &RequestHeader) -> bool {
        header.api_key == ApiKey::Produce.code()
    }
}

/// Requests that change more than one place: half of such a change must not be dropped with its connection.
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
    )
}

fn in_own_task(answer: AnswerFuture) -> AnswerFuture {
    let task = tokio::spawn(answer);
    Box::pin(async move {
        match task.await {
            Ok(answer) => answer,
            Err(ended) => {
                error!("a request was not carried out: {ended}");
                Answer::close()
            }
        }
    })
}

fn decode<M: Message>(key: ApiKey, context: &RequestContext, mut body: Reader) -> Option<M> {
    match M::decode(&mut body, context.api_version) {
        Ok(request) => Some(request),
        Err(why) => {
            let (name, version) = (key.name(), context.api_version);
            match context.peer.session.software() {
                None => debug!("{name} version {version} from {} does not parse: {why}", context.address()),
                Some(client) => debug!(
                    "{name} version {version} from {} ({} {}) does not parse: {why}",
                    context.address(),
                    client.name,
                    client.version
                ),
            }
            None
        }
    }
}

fn encode(key: ApiKey, api_version: i16, correlation_id: i32, outcome: impl Outcome) -> Answer {
    let response = match outcome.handled() {
        Handled::Reply(response) => response,
        Handled::Nothing => return Answer::nothing(),
        Handled::Close => return Answer::close(),
    };
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
