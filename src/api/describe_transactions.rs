//! DescribeTransactions and ListTransactions: what this broker knows of the transactional ids that it coordinates (KIP-664).
//! Source: kafka 3.9 core/src/main/scala/kafka/server/KafkaApis.scala, TransactionStateManager.scala
//! (listTransactionStates).

use std::collections::HashSet;

use crate::api::answer::AnswerTooLong;
use crate::api::{RequestContext, Server};
use crate::coordinator::transaction::error::TransactionError;
use crate::coordinator::transaction::state::{StoredTransaction, TransactionState};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::describe_transactions::{
    DescribeTransactionsRequest, DescribeTransactionsResponse, TopicData, TransactionState as Described,
};
use crate::protocol::messages::list_transactions::{
    ListTransactionsRequest, ListTransactionsResponse, TransactionState as Listed,
};

pub(crate) async fn describe(
    server: &Server,
    context: &RequestContext,
    request: DescribeTransactionsRequest,
) -> Result<DescribeTransactionsResponse, AnswerTooLong> {
    let mut transaction_states = Vec::new();
    let mut seen = HashSet::new();
    for transactional_id in request.transactional_ids {
        context.pause().await;
        if seen.insert(transactional_id.clone()) {
            let known = server.transactions.describe(&transactional_id);
            let described = described(context, transactional_id, known)?;
            context.answer.push(&mut transaction_states, described)?;
        }
    }
    Ok(DescribeTransactionsResponse { transaction_states, ..Default::default() })
}

fn described(
    context: &RequestContext,
    transactional_id: String,
    known: Result<StoredTransaction, TransactionError>,
) -> Result<Described, AnswerTooLong> {
    let known = match known {
        Ok(known) => known,
        Err(error) => {
            let error_code = ErrorCode::from(error).code();
            return Ok(Described { error_code, transactional_id, ..Default::default() });
        }
    };
    let mut topics: Vec<TopicData> = Vec::new();
    for partition in &known.partitions {
        match topics.last_mut() {
            Some(topic) if topic.topic == *partition.topic => topic.partitions.push(partition.partition),
            _ => {
                let topic = TopicData { topic: partition.topic.to_string(), partitions: vec![partition.partition] };
                context.answer.push(&mut topics, topic)?;
            }
        }
    }
    Ok(Described {
        error_code: 0,
        transactional_id,
        transaction_state: known.state.name().to_owned(),
        transaction_timeout_ms: known.timeout_ms,
        transaction_start_time_ms: known.start_ms.unwrap_or(-1),
        producer_id: known.producer.id.0,
        producer_epoch: known.producer.epoch.0,
        topics,
    })
}

pub(crate) async fn list(
    server: &Server,
    context: &RequestContext,
    request: ListTransactionsRequest,
) -> Result<ListTransactionsResponse, AnswerTooLong> {
    let mut states: HashSet<TransactionState> = HashSet::new();
    let mut unknown_state_filters = Vec::new();
    for name in &request.state_filters {
        match TransactionState::from_name(name) {
            Some(state) => drop(states.insert(state)),
            None => unknown_state_filters.push(name.clone()),
        }
    }
    let producer_ids: HashSet<i64> = request.producer_id_filters.iter().copied().collect();
    let mut transaction_states = Vec::new();
    // Strangers make as many ids as there is memory for, and a small request asks for all of them.
    let listed = server.long_work.run_now(true, || {
        server.transactions.list(|transactional_id, known| {
            let producer_id = known.producer.id.0;
            let running_ms = context.now_ms.saturating_sub(known.start_ms.unwrap_or(-1));
            let is_wanted = (producer_ids.is_empty() || producer_ids.contains(&producer_id))
                && (request.state_filters.is_empty() || states.contains(&known.state))
                && (request.duration_filter < 0 || running_ms > request.duration_filter);
            if !is_wanted {
                return Ok(());
            }
            let listed = Listed {
                transactional_id: transactional_id.to_owned(),
                producer_id,
                transaction_state: known.state.name().to_owned(),
            };
            context.answer.push(&mut transaction_states, listed)
        })
    });
    match listed {
        Ok(outcome) => {
            outcome?;
            Ok(ListTransactionsResponse { unknown_state_filters, transaction_states, ..Default::default() })
        }
        Err(error) => {
            let error_code = ErrorCode::from(error).code();
            Ok(ListTransactionsResponse { error_code, unknown_state_filters, ..Default::default() })
        }
    }
}
