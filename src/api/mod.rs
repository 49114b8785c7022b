//! One file per API family: check the request, call one room, answer. A handler knows versions only to turn them into
//! named arguments; the rooms below never see one.
//!
//! Invariant: a handler's work before its first wait happens in request order, since the connection polls it once when
//! the request is let in.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use odradek_zookeeper::session::ZooKeeper;
use tokio::sync::watch;

use crate::api::answer::{AnswerBudget, AnswerTooLong};
use crate::api::counters::ApiCounters;
use crate::api::long_work::LongWork;
use crate::api::session::ClientSession;
use crate::config::kafka_config::KafkaConfig;
use crate::controller::task::Controller;
use crate::controller::task::topic_administration::Topics;
use crate::coordinator::group::task::GroupCoordinator;
use crate::coordinator::producer_ids::ProducerIds;
use crate::coordinator::transaction::task::TransactionCoordinator;
use crate::coordinator::transaction::verifier::Verifier;
use crate::metadata::cache::MetadataCache;
use crate::metadata::features::FinalizedFeatures;
use crate::model::BrokerId;
use crate::model::host_address::host_address;
use crate::network::Peer;
use crate::protocol::message::Message;
use crate::replica::replica_manager::ReplicaManager;
use crate::replica::to_controller::ToController;

pub mod acls;
pub mod allocate_producer_ids;
pub mod alter_configs;
pub mod alter_partition;
pub mod alter_replica_log_dirs;
pub mod answer;
pub mod api_versions;
#[cfg(test)]
mod bad_batches_tests;
pub mod consumer_groups;
pub mod controlled_shutdown;
pub mod counters;
pub mod create_partitions;
pub mod create_topics;
pub mod delete_records;
pub mod delete_topics;
pub mod describe_cluster;
pub mod describe_configs;
pub mod describe_log_dirs;
pub mod describe_producers;
pub mod describe_transactions;
pub mod elect_leaders;
pub(crate) mod errors;
pub mod fetch;
pub mod find_coordinator;
pub mod groups;
pub mod init_producer_id;
pub mod leader_and_isr;
mod leader_hint;
pub mod list_offsets;
pub mod long_work;
pub mod metadata;
pub mod offset_for_leader_epoch;
pub mod offsets;
pub mod produce;
pub mod reassignments;
pub mod refusals;
pub mod session;
pub mod stop_replica;
pub mod table;
mod topic_numbers;
pub mod transactions;
pub mod txn_offset_commit;
pub mod update_features;
pub mod update_metadata;
pub mod write_txn_markers;

/// What every handler may use: the handle of each room.
pub struct Server {
    pub broker_id: BrokerId,
    /// The id in `/cluster/id`.
    pub cluster_id: String,
    /// Replaced whole when a dynamic setting changes.
    pub config: Arc<ArcSwap<KafkaConfig>>,
    pub metadata: Arc<MetadataCache>,
    pub features: watch::Receiver<FinalizedFeatures>,
    pub groups: Arc<GroupCoordinator>,
    pub transactions: Arc<TransactionCoordinator>,
    pub verifier: Verifier,
    pub producer_ids: ProducerIds,
    pub controller: Controller,
    /// The controller as any broker asks it.
    pub to_controller: tokio::sync::Mutex<ToController>,
    pub topics: Topics,
    pub zookeeper: ZooKeeper,
    pub replicas: Arc<ReplicaManager>,
    pub counters: Arc<ApiCounters>,
    pub long_work: LongWork,
    /// `fetch.max.bytes`
    pub fetch_max_bytes: u32,
    /// `socket.response.max.bytes`
    pub socket_response_max_bytes: usize,
}

/// What a handler knows of its request beside the body.
#[derive(Debug)]
pub struct RequestContext {
    pub api_version: i16,
    /// Empty where the client gave none.
    pub client_id: String,
    pub peer: Arc<Peer<ClientSession>>,
    pub received: Instant,
    /// Wall clock when the request was read, ms since the epoch: the time of everything that the request does.
    pub now_ms: i64,
    /// Every handler whose answer may be much longer than its request charges it.
    pub answer: AnswerBudget,
    /// `None` where the request ends with its connection anyway.
    pub hang_up: Option<HangUp>,
    /// Nanoseconds after `received` when others last had the thread.
    pub paused_at: AtomicU64,
}

/// How long a request may have its thread while others wait for it.
const SLICE: Duration = Duration::from_millis(1);

/// Tells a request that outlives its connection that nobody waits for the answer any more.
#[derive(Clone, Debug, Default)]
pub struct HangUp(watch::Sender<bool>);

impl HangUp {
    pub fn set(&self) {
        self.0.send_replace(true);
    }
}

impl RequestContext {
    /// Waits for as long as there is a client to tell of it; `None` as soon as there is none.
    pub async fn while_connected<T>(&self, wait: impl Future<Output = Option<T>>) -> Option<T> {
        let Some(hang_up) = &self.hang_up else { return wait.await };
        let mut gone = hang_up.0.subscribe();
        tokio::select! {
            outcome = wait => outcome,
            _ = gone.wait_for(|gone| *gone) => None,
        }
    }

    /// Between two of the things that a request names: lets others have the thread after a slice of work. True if the
    /// client has hung up, and the rest need not be done.
    pub async fn pause(&self) -> bool {
        let worked = self.received.elapsed();
        let since = Duration::from_nanos(self.paused_at.load(Ordering::Relaxed));
        if worked.saturating_sub(since) >= SLICE {
            tokio::task::yield_now().await;
            let now = u64::try_from(self.received.elapsed().as_nanos()).unwrap_or(u64::MAX);
            self.paused_at.store(now, Ordering::Relaxed);
        }
        self.hang_up.as_ref().is_some_and(|hang_up| *hang_up.0.borrow())
    }

    /// Upper-case name of the listener that the request came in by.
    pub fn listener(&self) -> &str {
        &self.peer.listener
    }

    /// The client's address as the JVM prints an `InetAddress` without a name: `/10.0.0.1`.
    pub fn client_host(&self) -> String {
        format!("/{}", host_address(&self.peer.address))
    }

    pub fn address(&self) -> SocketAddr {
        self.peer.address
    }
}

/// The answer of a handler, where there is more to say than a response.
#[derive(Debug)]
pub enum Handled<R> {
    Reply(R),
    /// The request wants no answer.
    Nothing,
    /// The connection is closed: the client could not be told otherwise.
    Close,
    /// The request is refused, in the form that its API has for it.
    TooLong(AnswerTooLong),
}

/// What a handler returns: a response, or a [`Handled`] where there is more to say.
pub trait Outcome {
    type Response: Message;
    fn handled(self) -> Handled<Self::Response>;
}

impl<M: Message> Outcome for M {
    type Response = M;
    fn handled(self) -> Handled<M> {
        Handled::Reply(self)
    }
}

impl<O: Outcome> Outcome for Result<O, AnswerTooLong> {
    type Response = O::Response;
    fn handled(self) -> Handled<O::Response> {
        self.map_or_else(Handled::TooLong, Outcome::handled)
    }
}

impl<M: Message> Outcome for Handled<M> {
    type Response = M;
    fn handled(self) -> Handled<M> {
        self
    }
}
