//! A compacted topic, as the state of a stream application has it: of each key the last value counts.

use std::collections::BTreeMap;

use bytes::Bytes;
use odradek::record::read::records;

use crate::cluster::{CHANGELOG, Cluster, bytes_below};
use crate::history::{Did, History, Sent};
use crate::support::{PATIENCE, eventually};

/// As many as Clients.java has, which takes them in turn.
const KEYS: i64 = 50;

/// Once the clients have settled, every replica has of each key what was sent last, and nothing out of order.
pub fn check(cluster: &Cluster, history: &History) {
    let mut expected: BTreeMap<String, i64> = BTreeMap::new();
    for event in history.events.iter().filter(|event| *event.partition.0 == *CHANGELOG) {
        match &event.did {
            Did::Sent { sequence } => drop(expected.insert((sequence % KEYS).to_string(), *sequence)),
            Did::Failed { sequence, error } => panic!("{sequence} of the changelog failed: {error}"),
            _ => {}
        }
    }
    let partition = (CHANGELOG.into(), 0);
    for (id, broker) in cluster.brokers.iter().enumerate() {
        eventually(
            PATIENCE,
            &format!("broker {} has of each key of the changelog what was sent last", broker.id),
            || {
                let leader = cluster.partitions()[&partition].leader_id;
                let end = cluster.high_watermark(&partition, leader)?;
                let bytes = Bytes::from(bytes_below(cluster.log(id, &partition), end)?);
                let mut found: BTreeMap<String, i64> = BTreeMap::new();
                for record in records(&bytes) {
                    let record = record.map_err(|error| format!("{error:?}"))?;
                    let text = |bytes: Option<Bytes>| String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned();
                    let (key, value) = (text(record.key), text(record.value));
                    let sent = Sent::parse(&value).expect("the clients sent it");
                    let earlier = found.insert(key, sent.sequence);
                    assert!(earlier < Some(sent.sequence), "broker {}: {sent} comes after {earlier:?}", broker.id);
                }
                if found == expected { Ok(()) } else { Err(format!("{found:?}, sent were {expected:?}")) }
            },
        );
    }
}
