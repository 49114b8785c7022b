//! What the instances have made of the records that they consumed: they write in transactions, of which some are aborted, in
//! which some instances die, and which others are fenced out of.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use odradek::protocol::messages::list_transactions::ListTransactionsRequest;
use odradek::record::build::{ControlRecord, TransactionOutcome};
use odradek::record::read::batches;

use crate::cluster::{BROKERS, Cluster, End, Partition};
use crate::history::{Did, Held, History, Sent, Transforming};
use crate::support::{PATIENCE, eventually};

/// It reads what is committed, all the time.
pub const READER: &str = "transformed";

/// Once the clients have settled: each record that was there to be read has been transformed once by those, whoever looks, the
/// reader has seen nothing else at any time, and no log has a transaction that is open.
pub fn check(those: &Transforming, cluster: &Cluster, history: &History, held: &Held) {
    let mut read: BTreeMap<&Partition, Vec<(i64, Sent)>> = BTreeMap::new();
    for event in history.events.iter().filter(|event| *event.partition.0 == *those.output) {
        match &event.did {
            Did::Consumed { offset, sent } if *event.client == *READER => {
                read.entry(&event.partition).or_default().push((*offset, sent.clone()));
            }
            Did::Consumed { .. } => {}
            Did::Error(error) => println!("{}: {error}", event.client),
            did => panic!("{}: {did:?}", event.client),
        }
    }
    let (mut transformed, mut aborted, mut bumped) = (Vec::new(), 0, 0);
    for partition in cluster.partitions().keys().filter(|(topic, _)| **topic == *those.output) {
        until_nothing_is_open(cluster, partition);
        let found = ended(&cluster.bytes(partition).0);
        let read = read.remove(partition).unwrap_or_default();
        let parts = read.iter().zip(&found.committed).find(|(read, committed)| read != committed);
        assert_eq!(parts, None, "{partition:?}: what was read first that is not what is committed");
        assert_eq!(read.len(), found.committed.len(), "{partition:?}: how much was read, and is committed");
        transformed.extend(found.committed.into_iter().map(|(_, sent)| sent));
        aborted += found.aborted;
        bumped += found.bumped;
    }
    println!(
        "{}: {} records are transformed, {aborted} more were aborted; {bumped} commits of version 2",
        those.group,
        transformed.len()
    );
    let inputs = held.records.iter().flat_map(|((topic, partition), records)| {
        (0..)
            .zip(records)
            .map(move |(offset, _)| Sent { producer: format!("{topic}-{partition}").into(), sequence: offset })
    });
    let found = not_once(inputs, transformed);
    assert!(found.is_empty(), "{} are not transformed once:\n{}", found.len(), found[..found.len().min(50)].join("\n"));
    assert!(aborted > 0, "some transactions are to be aborted, of which records are in the log");
    let levels: Vec<i16> = cluster.transaction_versions.iter().copied().collect();
    match levels[..] {
        [2] => {
            assert!(bumped > 0 || !those.follows_version_2, "{} follows version 2 where it is finalized", those.group)
        }
        [0] => assert_eq!(bumped, 0, "nobody follows version 2 where it is not finalized"),
        _ => {}
    }
}

/// What of a log is decided.
#[derive(Debug, Default, PartialEq, Eq)]
struct Ended {
    /// With their offsets, of which markers and aborted records take some.
    committed: Vec<(i64, Sent)>,
    aborted: usize,
    /// How often a commit brought its producer's next epoch with it.
    bumped: usize,
}

/// Reads a log as a reader of committed records does that knows nothing but the batches themselves.
fn ended(bytes: &Bytes) -> Ended {
    let mut open: HashMap<i64, Vec<(i64, Sent)>> = HashMap::new();
    let mut epochs: HashMap<i64, i16> = HashMap::new();
    let mut ended = Ended::default();
    for batch in batches(bytes) {
        let batch = batch.expect("the batch is sound");
        let header = *batch.header();
        assert!(header.is_transactional, "nobody else writes there: {header:?}");
        let epoch = header.producer_epoch;
        let before = epochs.insert(header.producer_id, epoch).unwrap_or(epoch);
        assert!(before <= epoch, "a producer in epoch {before} is fenced: {header:?}");
        for record in batch.records().expect("the batch is sound") {
            let record = record.expect("the record is sound");
            if header.is_control {
                let control = ControlRecord::read(record.key.as_deref(), record.value.as_deref());
                let records = open.remove(&header.producer_id).unwrap_or_default();
                match control.expect("the marker is sound") {
                    ControlRecord::EndTransaction { outcome: TransactionOutcome::Commit, .. } => {
                        ended.bumped += usize::from(before < epoch && !records.is_empty());
                        ended.committed.extend(records);
                    }
                    ControlRecord::EndTransaction { outcome: TransactionOutcome::Abort, .. } => {
                        ended.aborted += records.len();
                    }
                    other => panic!("{other:?} at {}", record.offset),
                }
            } else {
                let value = String::from_utf8_lossy(record.value.as_deref().unwrap_or_default()).into_owned();
                let sent = Sent::parse(&value).expect("an instance sent it");
                open.entry(header.producer_id).or_default().push((record.offset, sent));
            }
        }
    }
    assert!(open.is_empty(), "transactions without an end: {open:?}");
    // Readers are given records in the order of the log, not in that of its markers.
    ended.committed.sort_by_key(|(offset, _)| *offset);
    ended
}

/// Says which of the inputs was not transformed once, and what was transformed that was no input.
fn not_once(inputs: impl Iterator<Item = Sent>, transformed: Vec<Sent>) -> Vec<String> {
    let mut times: HashMap<Sent, (bool, usize)> = inputs.map(|input| (input, (true, 0))).collect();
    for sent in transformed {
        times.entry(sent).or_default().1 += 1;
    }
    let mut found: Vec<String> = times
        .into_iter()
        .filter_map(|(sent, (is_input, count))| match (is_input, count) {
            (true, 1) => None,
            (true, 0) => Some(format!("{sent} is not transformed")),
            (true, count) => Some(format!("{sent} is transformed {count} times")),
            (false, _) => Some(format!("{sent} is transformed, and is not there")),
        })
        .collect();
    found.sort_unstable();
    found
}

/// A transaction that nobody ends is aborted by the clock.
fn until_nothing_is_open(cluster: &Cluster, partition: &Partition) {
    eventually(PATIENCE, &format!("no transaction is open in {partition:?}"), || {
        let leader = cluster.partitions()[partition].leader_id;
        let [stable, end] = [End::LastStable, End::HighWatermark].map(|end| cluster.end(end, partition, leader));
        let (stable, end) = (stable?, end?);
        if stable == end { Ok(()) } else { Err(format!("{stable} of {end} is stable")) }
    });
}

/// The transactional ids are known to their coordinators, and none has a transaction.
pub fn until_all_are_ended(cluster: &Cluster) {
    eventually(PATIENCE, "the coordinators have no transaction that is not ended", || {
        let mut known = Vec::new();
        for broker in 0..BROKERS {
            let listed = cluster.brokers[broker].client().call(&ListTransactionsRequest::default(), 0);
            let listed = listed.map_err(|error| error.to_string())?;
            if listed.error_code != 0 {
                return Err(format!("broker {broker}: {listed:?}"));
            }
            for state in listed.transaction_states {
                if !["Empty", "CompleteCommit", "CompleteAbort"].contains(&&*state.transaction_state) {
                    return Err(format!("broker {broker}: {state:?}"));
                }
                known.push(state.transactional_id);
            }
        }
        known.sort_unstable();
        let mut expected: Vec<&str> = cluster.cast().transactional_ids().collect();
        expected.sort_unstable();
        if known == expected { Ok(()) } else { Err(format!("they know {known:?}")) }
    });
}

#[cfg(test)]
mod tests {
    use odradek::record::build::{BatchBuilder, end_transaction_marker};

    use super::*;

    fn sent(sequence: i64) -> Sent {
        Sent { producer: "orders-0".into(), sequence }
    }

    /// Of a producer with this id and epoch: a batch of one record, of which this is the sequence, or a marker.
    type Part = ((i64, i16), Result<i64, TransactionOutcome>);

    fn log(parts: &[Part]) -> Bytes {
        let mut log = Vec::new();
        for (offset, ((producer_id, epoch), part)) in (0i64..).zip(parts) {
            let batch = match part {
                Ok(sequence) => {
                    let mut builder = BatchBuilder::new().producer(*producer_id, *epoch, 0).transactional(true);
                    builder.append(0, None, Some(sent(*sequence).to_string().as_bytes()), &[]);
                    builder.build()
                }
                Err(outcome) => end_transaction_marker(*producer_id, *epoch, *outcome, 0, 0),
            };
            let at = log.len();
            log.extend_from_slice(&batch);
            log[at..at + 8].copy_from_slice(&offset.to_be_bytes());
        }
        Bytes::from(log)
    }

    #[test]
    fn a_marker_decides_what_its_producer_has_open_and_nothing_else() {
        use TransactionOutcome::{Abort, Commit};
        let parts = [
            ((1, 0), Ok(0)),
            ((2, 0), Ok(1)),
            ((1, 0), Ok(2)),
            ((2, 1), Err(Abort)),
            ((2, 1), Ok(3)),
            ((2, 2), Err(Commit)),
            ((1, 0), Err(Commit)),
        ];
        let found = ended(&log(&parts));
        let committed = [(0, 0), (2, 2), (4, 3)].map(|(offset, sequence)| (offset, sent(sequence))).to_vec();
        assert_eq!(found, Ended { committed, aborted: 1, bumped: 1 });
    }

    #[test]
    #[should_panic(expected = "transactions without an end")]
    fn a_transaction_that_is_open_is_found() {
        ended(&log(&[((1, 0), Ok(0))]));
    }

    #[test]
    #[should_panic(expected = "a producer in epoch 1 is fenced")]
    fn what_comes_after_its_epoch_is_found() {
        ended(&log(&[((1, 0), Ok(0)), ((1, 1), Err(TransactionOutcome::Commit)), ((1, 0), Ok(1))]));
    }

    #[test]
    fn what_is_transformed_twice_never_or_out_of_nothing_is_found() {
        let inputs = || (0..4).map(sent);
        assert_eq!(not_once(inputs(), (0..4).rev().map(sent).collect()), Vec::<String>::new());
        let found = not_once(inputs(), [0, 1, 1, 3, 4].map(sent).to_vec());
        let expected = [
            "orders-0 1 is transformed 2 times",
            "orders-0 2 is not transformed",
            "orders-0 4 is transformed, and is not there",
        ];
        assert_eq!(found, expected);
    }
}
