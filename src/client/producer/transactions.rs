//! A producer's transactions (KIP-98): what the coordinator of its transactional id is told before and behind its records. Each
//! follows version 2 of the protocol (KIP-890) if the cluster had finalized that, as far as is known, when the one before ended:
//! then the first write to a partition adds it, and each transaction ends with another epoch.
//!
//! Source: kafka 3.9.1 clients/.../producer/internals/TransactionManager.java, and of version 2 that of 4.1.0.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use super::{Identity, Producer, Sender, Shared, State};
use crate::client::admin::by_topic;
use crate::client::cluster::Coordinated;
use crate::client::connection::{Connection, retried};
use crate::client::error::{ClientError, checked};
use crate::model::transaction_version::TransactionVersion;
use crate::model::{BrokerId, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::add_partitions_to_txn::{AddPartitionsToTxnRequest, AddPartitionsToTxnTopic};
use crate::protocol::messages::end_txn::{EndTxnRequest, EndTxnResponse};
use crate::protocol::messages::init_producer_id::{InitProducerIdRequest, InitProducerIdResponse};
use crate::protocol::transaction_version::versions_of;

/// The coordinator still writes the markers of the transaction before.
const MARKERS_BACKOFF: Duration = Duration::from_millis(20);

/// The transaction that has begun.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    /// Those that the coordinator knows to be in it, or learns of by what is sent to them.
    partitions: HashSet<TopicPartition>,
    /// Why it cannot be committed.
    failure: Option<ClientError>,
    /// It is to be committed, and takes no more records.
    is_ending: bool,
}

impl Transaction {
    pub(super) fn has(&self, partition: &TopicPartition) -> bool {
        self.partitions.contains(partition)
    }

    pub(super) fn add(&mut self, partitions: impl IntoIterator<Item = TopicPartition>) {
        self.partitions.extend(partitions);
    }

    pub(super) fn is_ending(&self) -> bool {
        self.is_ending
    }

    pub(super) fn failure(&self) -> Option<&ClientError> {
        self.failure.as_ref()
    }
}

impl Producer {
    /// Takes the transactional id over: whoever had it is fenced, and what that had open is aborted.
    pub async fn init_transactions(&self) -> Result<(), ClientError> {
        let identity = self.shared.transactional_identity(None).await?;
        let mut state = self.shared.state();
        state.go_on_as(identity);
        state.protocol = self.shared.cluster.transaction_version();
        Ok(())
    }

    /// From here on until it is committed all that is sent is in one transaction.
    pub fn begin_transaction(&self) -> Result<(), ClientError> {
        let mut state = self.shared.state();
        match (&state.transaction, state.identity) {
            (None, Some(_)) => {
                state.transaction = Some(Transaction::default());
                Ok(())
            }
            _ => Err(ClientError::refused("begin a transaction", ErrorCode::InvalidTxnState, None)),
        }
    }

    /// Sends all there is, and commits it once every record is acknowledged; one that was given up is the error.
    pub async fn commit_transaction(&self) -> Result<(), ClientError> {
        let shared = &self.shared;
        if let Some(transaction) = &mut shared.state().transaction {
            transaction.is_ending = true;
        }
        self.flush().await;
        let (protocol, request) = {
            let state = shared.state();
            let (Some(transaction), Some(identity)) = (&state.transaction, state.identity) else {
                return Err(ClientError::refused("commit a transaction", ErrorCode::InvalidTxnState, None));
            };
            if let Some(failure) = transaction.failure() {
                return Err(failure.clone());
            }
            let request = EndTxnRequest {
                transactional_id: shared.settings.transactional_id.clone().unwrap_or_default(),
                producer_id: identity.producer_id,
                producer_epoch: identity.producer_epoch,
                committed: true,
            };
            // The coordinator knows nothing of one that went nowhere.
            (state.protocol, (!transaction.partitions.is_empty()).then_some(request))
        };
        let mut next = None;
        if let Some(request) = &request {
            let doing = "commit the transaction";
            let committed = shared.retried(doing, shared.settings.cluster.retry_backoff, || async {
                let coordinator = shared.coordinator().await?;
                let version = coordinator.version_among::<EndTxnRequest>(versions_of::<EndTxnRequest>(protocol))?;
                let answer = coordinator.send_at(request, version).await?;
                checked(doing, answer.error_code, None)?;
                Ok(answer)
            });
            let EndTxnResponse { producer_id, producer_epoch, .. } = committed.await?;
            // Only version 2 has any.
            next = (producer_id >= 0).then_some(Identity { producer_id, producer_epoch });
        }
        {
            let mut state = shared.state();
            state.transaction = None;
            if let Some(next) = next {
                state.go_on_as(next);
            }
        }
        shared.follow_protocol().await
    }
}

impl Sender {
    /// Adds to the transaction the partitions to which something waits to be sent; says whether there were any. A refusal
    /// is the end of the transaction, and of all that waits.
    pub(super) async fn add_partitions(&mut self) -> bool {
        if self.unannounced.is_empty() {
            return false;
        }
        let added = std::mem::take(&mut self.unannounced);
        let outcome = self.shared.add_partitions(&added).await;
        let mut state = self.shared.state();
        match outcome {
            Ok(()) => {
                if let Some(transaction) = &mut state.transaction {
                    transaction.add(added);
                }
            }
            Err(error) => self.shared.fail_transaction(&mut state, &error),
        }
        true
    }
}

impl State {
    /// Nothing is in flight: each partition begins with the first sequence.
    fn go_on_as(&mut self, identity: Identity) {
        self.identity = Some(identity);
        for queue in self.queues.values_mut() {
            queue.next_sequence = 0;
        }
    }
}

impl Shared {
    /// Takes the transactional id, over from whoever has it, or with another epoch if that is this producer.
    async fn transactional_identity(&self, from: Option<Identity>) -> Result<Identity, ClientError> {
        let settings = &self.settings;
        let mut request = InitProducerIdRequest {
            transactional_id: settings.transactional_id.clone(),
            transaction_timeout_ms: i32::try_from(settings.transaction_timeout.as_millis()).unwrap_or(i32::MAX),
            ..Default::default()
        };
        if let Some(Identity { producer_id, producer_epoch }) = from {
            (request.producer_id, request.producer_epoch) = (producer_id, producer_epoch);
        }
        let request = &request;
        let doing = "take the transactional id";
        let answer = self.retried(doing, settings.cluster.retry_backoff, || async {
            let answer = self.coordinator().await?.send(request).await?;
            checked(doing, answer.error_code, None)?;
            Ok(answer)
        });
        let InitProducerIdResponse { producer_id, producer_epoch, .. } = answer.await?;
        Ok(Identity { producer_id, producer_epoch })
    }

    /// Between transactions: the next one follows what the cluster has finalized by now. Before the first of version 2 the
    /// producer takes another epoch, so that whatever is still on its way from the last one is known by its own.
    async fn follow_protocol(&self) -> Result<(), ClientError> {
        let finalized = self.cluster.transaction_version();
        let (protocol, identity) = {
            let state = self.state();
            (state.protocol, state.identity)
        };
        if finalized == protocol {
            return Ok(());
        }
        let next = if finalized.bumps_epoch() { Some(self.transactional_identity(identity).await?) } else { None };
        let mut state = self.state();
        if let Some(next) = next {
            state.go_on_as(next);
        }
        state.protocol = finalized;
        Ok(())
    }

    /// The transaction, if there is one, cannot be committed any more: nothing of it that waits is sent.
    pub(super) fn fail_transaction(&self, state: &mut State, error: &ClientError) {
        let Some(transaction) = &mut state.transaction else { return };
        transaction.failure.get_or_insert_with(|| error.clone());
        self.give_up_waiting(state, error);
    }

    async fn add_partitions(&self, partitions: &HashSet<TopicPartition>) -> Result<(), ClientError> {
        let topics = by_topic(partitions.iter().map(|partition| (partition, ())));
        let topic = |(name, partitions): (&str, Vec<(i32, ())>)| AddPartitionsToTxnTopic {
            name: name.to_owned(),
            partitions: partitions.into_iter().map(|(partition, ())| partition).collect(),
        };
        let identity = self.state().identity;
        let identity = identity.expect("a transaction begins with an identity, which stays");
        let request = AddPartitionsToTxnRequest {
            v3_and_below_transactional_id: self.settings.transactional_id.clone().unwrap_or_default(),
            v3_and_below_producer_id: identity.producer_id,
            v3_and_below_producer_epoch: identity.producer_epoch,
            v3_and_below_topics: topics.into_iter().map(topic).collect(),
            ..Default::default()
        };
        let request = &request;
        let doing = "add partitions to the transaction";
        self.retried(doing, MARKERS_BACKOFF, || async {
            let coordinator = self.coordinator().await?;
            let ours = versions_of::<AddPartitionsToTxnRequest>(TransactionVersion::V0);
            let version = coordinator.version_among::<AddPartitionsToTxnRequest>(ours)?;
            let answer = coordinator.send_at(request, version).await?;
            let results = answer.results_by_topic_v3_and_below.iter().flat_map(|topic| &topic.results_by_partition);
            let codes = results.map(|partition| partition.partition_error_code);
            // Of several, those that were refused because of another say nothing.
            let (attempted, not): (Vec<i16>, Vec<i16>) =
                codes.partition(|code| ErrorCode::from_code(*code) != ErrorCode::OperationNotAttempted);
            attempted.into_iter().chain(not).try_for_each(|code| checked(doing, code, None))
        })
        .await
    }

    /// One attempt after the other until one succeeds, fails for good, or `max.block.ms` are over. After a failure the
    /// coordinator may be another.
    async fn retried<T, F: Future<Output = Result<T, ClientError>>>(
        &self,
        doing: &str,
        backoff: Duration,
        mut attempt: impl FnMut() -> F,
    ) -> Result<T, ClientError> {
        retried(doing, self.settings.max_block, backoff, || {
            let attempt = attempt();
            async {
                attempt.await.inspect_err(|error| {
                    if error.code() != Some(ErrorCode::ConcurrentTransactions) {
                        self.state().coordinator = None;
                    }
                })
            }
        })
        .await
    }

    async fn coordinator(&self) -> Result<Arc<Connection>, ClientError> {
        let known: Option<BrokerId> = self.state().coordinator;
        if let Some(id) = known {
            return self.cluster.broker(id).await;
        }
        let id = self.settings.transactional_id.as_deref().unwrap_or_default();
        let node = self.cluster.find_coordinator(Coordinated::Transactions(id)).await?;
        self.state().coordinator = Some(node.id);
        self.cluster.broker(node.id).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::producer::tests::transactional_producer;
    use crate::client::producer::{OutgoingRecord, Topic};

    /// What came behind the flush would be sent behind EndTxn: in version 2 it would begin another transaction unasked.
    #[tokio::test]
    async fn a_transaction_that_is_to_be_committed_takes_no_more_records() {
        let producer = transactional_producer();
        let topic: Arc<str> = "a".into();
        let send = || producer.send(&topic, OutgoingRecord::default());
        {
            let mut state = producer.shared.state();
            state.topics.insert(topic.clone(), Topic { leaders: vec![None], ..Default::default() });
            state.transaction = Some(Transaction::default());
        }
        assert!(send().await.is_ok());
        let commit = producer.commit_transaction();
        let refused = async {
            tokio::task::yield_now().await;
            send().await.map(drop)
        };
        tokio::select! {
            biased;
            _ = commit => panic!("a record is not sent yet"),
            refused = refused => assert_eq!(refused.unwrap_err().code(), Some(ErrorCode::InvalidTxnState)),
        }
    }
}
