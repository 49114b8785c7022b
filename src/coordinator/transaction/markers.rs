//! Markers on their way to the leaders of the partitions that transactions have written to: which broker is sent which,
//! and what has to be sent again.
//!
//! One request a broker is on its way at a time, with all that was waiting for it; whoever waits meanwhile goes with the
//! next. A partition that has no leader, or whose leader did not answer or is none, is tried again by whoever leads it
//! then. Markers of a transaction that is fenced in one partition are written in the others all the same, as Kafka does; of one
//! that is sent anew, or no more, whatever is still answered counts for nothing.
//! Pure: the sender (`marker_sender`) asks what is due, and tells what was answered.
//! Source: kafka 3.9 TransactionMarkerChannelManager.scala, TransactionMarkerRequestCompletionHandler.scala.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use crate::coordinator::transaction::requests::{Markers, MarkersFate};
use crate::coordinator::transaction::state::Producer;
use crate::metadata::image::Image;
use crate::model::{BrokerId, LeaderEpoch, TopicPartition};
use crate::protocol::error_code::ErrorCode;
use crate::protocol::messages::write_txn_markers::{
    WritableTxnMarker, WritableTxnMarkerTopic, WriteTxnMarkersRequest, WriteTxnMarkersResponse,
};
use crate::record::build::TransactionOutcome;

/// So many partitions go with one request, or one transaction.
const PARTITIONS_A_REQUEST: usize = 10_000;

/// Some of a transaction's partitions, and what became of their markers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub(crate) markers: Markers,
    pub(crate) fate: MarkersFate,
}

#[derive(Debug, Default)]
pub(crate) struct MarkerQueues {
    /// The transactions whose markers this broker sends, and for how many partitions the answer is missing.
    sending: HashMap<Arc<str>, Sending>,
    brokers: BTreeMap<BrokerId, Queue>,
    /// Of partitions without a leader, or whose leader could not be reached.
    parked: Vec<Markers>,
    /// Of partitions that the metadata does not know.
    unknown: Vec<Markers>,
    /// Of partitions that their leader does not know. The metadata may be behind, and the partition gone, or the leader.
    denied: Vec<Markers>,
}

#[derive(Debug)]
struct Sending {
    producer: Producer,
    coordinator_epoch: LeaderEpoch,
    missing: usize,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: Vec<Markers>,
    is_asked: bool,
}

impl MarkerQueues {
    pub(crate) fn send(&mut self, markers: Markers, image: &Image) {
        let sending = Sending {
            producer: markers.producer,
            coordinator_epoch: markers.coordinator_epoch,
            missing: markers.partitions.len(),
        };
        self.sending.insert(Arc::clone(&markers.transactional_id), sending);
        self.route(markers, image);
    }

    pub(crate) fn stop(&mut self, transactional_id: &str) {
        self.sending.remove(transactional_id);
    }

    fn is_sending(&self, markers: &Markers) -> bool {
        self.sending.get(&markers.transactional_id).is_some_and(|sending| {
            sending.producer == markers.producer && sending.coordinator_epoch == markers.coordinator_epoch
        })
    }

    fn route(&mut self, markers: Markers, image: &Image) {
        if !self.is_sending(&markers) {
            return;
        }
        let Markers { transactional_id, producer, outcome, coordinator_epoch, partitions } = markers;
        let part = |partitions| Markers {
            transactional_id: Arc::clone(&transactional_id),
            producer,
            outcome,
            coordinator_epoch,
            partitions,
        };
        let (mut unknown, mut parked) = (BTreeSet::new(), BTreeSet::new());
        let mut by_leader: BTreeMap<BrokerId, BTreeSet<TopicPartition>> = BTreeMap::new();
        for partition in partitions {
            match image.partition(&partition.topic, partition.partition).map(|known| known.leader) {
                Some(leader) if image.is_alive(leader) => {
                    by_leader.entry(leader).or_default().insert(partition);
                }
                Some(_) => {
                    parked.insert(partition);
                }
                None => {
                    unknown.insert(partition);
                }
            }
        }
        for (leader, partitions) in by_leader {
            self.brokers.entry(leader).or_default().waiting.push(part(partitions));
        }
        if !parked.is_empty() {
            self.parked.push(part(parked));
        }
        if !unknown.is_empty() {
            self.unknown.push(part(unknown));
        }
    }

    /// Whether there is something that only time, or another leader, will help.
    pub(crate) fn has_parked(&self) -> bool {
        !self.parked.is_empty() || !self.unknown.is_empty() || !self.denied.is_empty()
    }

    /// Looks for the leaders of what had none.
    pub(crate) fn route_parked(&mut self, image: &Image) {
        let again = [std::mem::take(&mut self.parked), std::mem::take(&mut self.unknown)].into_iter().flatten();
        for markers in again.collect::<Vec<_>>() {
            self.route(markers, image);
        }
    }

    /// The same for what its leader does not know.
    pub(crate) fn route_denied(&mut self, image: &Image) {
        for markers in std::mem::take(&mut self.denied) {
            self.route(markers, image);
        }
    }

    /// What is to be asked of which broker now.
    pub(crate) fn due(&mut self) -> Vec<(BrokerId, Vec<Markers>)> {
        let MarkerQueues { brokers, sending, .. } = self;
        let is_sending = |markers: &Markers| {
            sending.get(&markers.transactional_id).is_some_and(|sending| {
                sending.producer == markers.producer && sending.coordinator_epoch == markers.coordinator_epoch
            })
        };
        let mut due = Vec::new();
        for (broker, queue) in brokers.iter_mut().filter(|(_, queue)| !queue.is_asked) {
            queue.waiting.retain(is_sending);
            let mut partitions = 0;
            let fits = |markers: &&Markers| {
                let is_first = partitions == 0;
                partitions += markers.partitions.len();
                is_first || partitions <= PARTITIONS_A_REQUEST
            };
            let count = queue.waiting.iter().take_while(fits).count();
            if count > 0 {
                queue.is_asked = true;
                due.push((*broker, queue.waiting.drain(..count).collect()));
            }
        }
        due
    }

    /// What a broker said of what it was asked, or nothing, if it did not answer. Gives what the coordinator is to be told.
    pub(crate) fn answered(
        &mut self,
        broker: BrokerId,
        asked: Vec<Markers>,
        answer: Option<&WriteTxnMarkersResponse>,
    ) -> Vec<Told> {
        if let Some(queue) = self.brokers.get_mut(&broker) {
            queue.is_asked = false;
            if queue.waiting.is_empty() {
                self.brokers.remove(&broker);
            }
        }
        let Some(answer) = answer else {
            self.parked.extend(asked);
            return Vec::new();
        };
        let mut said: HashMap<(i64, &str, i32), ErrorCode> = HashMap::new();
        for marker in &answer.markers {
            for topic in &marker.topics {
                for partition in &topic.partitions {
                    let place = (marker.producer_id, topic.name.as_str(), partition.partition_index);
                    said.insert(place, ErrorCode::from_code(partition.error_code));
                }
            }
        }
        let mut told = Vec::new();
        for markers in asked {
            if !self.is_sending(&markers) {
                continue;
            }
            let producer_id = markers.producer.id.0;
            let code_of =
                |partition: &TopicPartition| said.get(&(producer_id, &*partition.topic, partition.partition)).copied();
            if markers.partitions.iter().any(|partition| code_of(partition).is_some_and(is_fenced)) {
                told.extend(self.done(markers, MarkersFate::Fenced));
                continue;
            }
            let (written, again): (BTreeSet<_>, BTreeSet<_>) =
                markers.partitions.iter().cloned().partition(|partition| code_of(partition).is_some_and(is_done));
            let (denied, again) =
                again.into_iter().partition(|partition| code_of(partition) == Some(ErrorCode::UnknownTopicOrPartition));
            let of = |partitions| Markers { partitions, ..markers.clone() };
            let (denied, again) = (of(denied), of(again));
            if !denied.partitions.is_empty() {
                self.denied.push(denied);
            }
            if !again.partitions.is_empty() {
                complain(&again, code_of);
                self.parked.push(again);
            }
            told.extend(self.done(Markers { partitions: written, ..markers }, MarkersFate::Written));
        }
        told
    }

    /// The topics of partitions that the metadata, or their leaders, do not know. They may be gone, or not have been told of yet.
    pub(crate) fn unknown_topics(&self) -> BTreeSet<Arc<str>> {
        let unknown = self.unknown.iter().chain(&self.denied);
        unknown.flat_map(|markers| &markers.partitions).map(|p| Arc::clone(&p.topic)).collect()
    }

    /// These partitions are gone: nobody will read of them how a transaction ended.
    pub(crate) fn gone(&mut self, is_gone: impl Fn(&TopicPartition) -> bool) -> Vec<Told> {
        let mut gone = Vec::new();
        for list in [&mut self.unknown, &mut self.denied] {
            list.retain_mut(|markers| {
                let (of_it, kept) = std::mem::take(&mut markers.partitions).into_iter().partition(&is_gone);
                gone.push(Markers { partitions: of_it, ..markers.clone() });
                markers.partitions = kept;
                !markers.partitions.is_empty()
            });
        }
        gone.into_iter().filter_map(|gone| self.done(gone, MarkersFate::Written)).collect()
    }

    fn done(&mut self, markers: Markers, fate: MarkersFate) -> Option<Told> {
        if markers.partitions.is_empty() || !self.is_sending(&markers) {
            return None;
        }
        let sending = self.sending.get_mut(&markers.transactional_id)?;
        sending.missing = sending.missing.saturating_sub(markers.partitions.len());
        if sending.missing == 0 {
            self.sending.remove(&markers.transactional_id);
        }
        Some(Told { markers, fate })
    }

    /// How many transactions wait for markers.
    pub(crate) fn len(&self) -> usize {
        self.sending.len()
    }
}

/// The marker is written, or can never be: logs of old formats have no transactions.
fn is_done(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::None | ErrorCode::UnsupportedForMessageFormat | ErrorCode::UnsupportedVersion)
}

fn is_fenced(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::InvalidProducerEpoch | ErrorCode::TransactionCoordinatorFenced)
}

/// What is said of a marker that nobody expects to be said. It is sent again all the same: what else could end it?
fn complain(again: &Markers, code_of: impl Fn(&TopicPartition) -> Option<ErrorCode>) {
    let odd = again.partitions.iter().find_map(|partition| match code_of(partition) {
        Some(
            ErrorCode::NotLeaderOrFollower
            | ErrorCode::NotEnoughReplicas
            | ErrorCode::NotEnoughReplicasAfterAppend
            | ErrorCode::RequestTimedOut
            | ErrorCode::KafkaStorageError,
        ) => None,
        code => Some((partition, code)),
    });
    if let Some((partition, code)) = odd {
        let code = code.map_or("nothing".to_owned(), |code| code.to_string());
        log::warn!("a marker of {} was answered with {code} for {partition}, and is sent again", again.producer);
    }
}

pub(crate) fn request(markers: &[Markers]) -> WriteTxnMarkersRequest {
    let marker = |markers: &Markers| {
        let partitions: Vec<&TopicPartition> = markers.partitions.iter().collect();
        let topic = |partitions: &[&TopicPartition]| WritableTxnMarkerTopic {
            name: partitions[0].topic.to_string(),
            partition_indexes: partitions.iter().map(|partition| partition.partition).collect(),
        };
        WritableTxnMarker {
            producer_id: markers.producer.id.0,
            producer_epoch: markers.producer.epoch.0,
            transaction_result: markers.outcome == TransactionOutcome::Commit,
            topics: partitions.chunk_by(|one, next| one.topic == next.topic).map(topic).collect(),
            coordinator_epoch: markers.coordinator_epoch.0,
        }
    };
    WriteTxnMarkersRequest { markers: markers.iter().map(marker).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metadata::image::tests::{partition, update};
    use crate::model::{ProducerEpoch, ProducerId};
    use crate::protocol::messages::write_txn_markers::{
        WritableTxnMarkerPartitionResult, WritableTxnMarkerResult, WritableTxnMarkerTopicResult,
    };

    fn markers(id: &str, producer: i64, partitions: &[(&str, i32)]) -> Markers {
        Markers {
            transactional_id: Arc::from(id),
            producer: Producer { id: ProducerId(producer), epoch: ProducerEpoch(0) },
            outcome: TransactionOutcome::Commit,
            coordinator_epoch: LeaderEpoch(3),
            partitions: partitions.iter().map(|(topic, p)| TopicPartition::new(*topic, *p)).collect(),
        }
    }

    fn told(id: &str, producer: i64, partitions: &[(&str, i32)], fate: MarkersFate) -> Told {
        Told { markers: markers(id, producer, partitions), fate }
    }

    /// Brokers 1 and 2 are there, 3 is not.
    fn image(partitions: &[(&str, i32, i32)]) -> Image {
        let led = partitions.iter().map(|(topic, number, leader)| partition(topic, *number, *leader)).collect();
        Image::default().with(update(led)).0
    }

    fn answer(said: &[(i64, &str, i32, ErrorCode)]) -> WriteTxnMarkersResponse {
        let result = |(producer_id, topic, partition_index, code): &(i64, &str, i32, ErrorCode)| {
            let partition =
                WritableTxnMarkerPartitionResult { partition_index: *partition_index, error_code: code.code() };
            let topic = WritableTxnMarkerTopicResult { name: (*topic).to_owned(), partitions: vec![partition] };
            WritableTxnMarkerResult { producer_id: *producer_id, topics: vec![topic] }
        };
        WriteTxnMarkersResponse { markers: said.iter().map(result).collect() }
    }

    #[test]
    fn each_leader_is_asked_once_at_a_time_for_all_that_waits() {
        let image = image(&[("a", 0, 1), ("a", 1, 2), ("b", 0, 1)]);
        let mut queues = MarkerQueues::default();
        queues.send(markers("t", 7, &[("a", 0), ("a", 1), ("b", 0)]), &image);
        let due = queues.due();
        let to_1 = markers("t", 7, &[("a", 0), ("b", 0)]);
        assert_eq!(due, [(BrokerId(1), vec![to_1.clone()]), (BrokerId(2), vec![markers("t", 7, &[("a", 1)])])]);
        queues.send(markers("u", 8, &[("a", 0)]), &image);
        queues.send(markers("v", 9, &[("b", 0)]), &image);
        assert_eq!(queues.due(), [], "both are asked");
        let written = answer(&[(7, "a", 0, ErrorCode::None), (7, "b", 0, ErrorCode::UnsupportedForMessageFormat)]);
        let heard = queues.answered(BrokerId(1), vec![to_1], Some(&written));
        assert_eq!(heard, [told("t", 7, &[("a", 0), ("b", 0)], MarkersFate::Written)]);
        let together = vec![markers("u", 8, &[("a", 0)]), markers("v", 9, &[("b", 0)])];
        assert_eq!(queues.due(), [(BrokerId(1), together)]);
        assert_eq!(queues.len(), 3);
    }

    #[test]
    fn what_was_not_written_goes_to_whoever_leads_then() {
        let mut queues = MarkerQueues::default();
        queues.send(markers("t", 7, &[("a", 0), ("a", 1), ("a", 2)]), &image(&[("a", 0, 1), ("a", 1, 1), ("a", 2, 3)]));
        let (_, asked) = queues.due().remove(0);
        assert!(queues.has_parked(), "one has no leader that lives");
        let heard = queues.answered(
            BrokerId(1),
            asked,
            Some(&answer(&[(7, "a", 0, ErrorCode::NotLeaderOrFollower), (7, "a", 1, ErrorCode::None)])),
        );
        assert_eq!(heard, [told("t", 7, &[("a", 1)], MarkersFate::Written)]);
        assert_eq!(queues.due(), []);
        queues.route_parked(&image(&[("a", 0, 2), ("a", 1, 1), ("a", 2, 2)]));
        let (broker, asked) = queues.due().remove(0);
        assert_eq!((broker, asked.len()), (BrokerId(2), 2));
        assert_eq!(queues.answered(broker, asked, None), [], "it did not answer");
        queues.route_parked(&image(&[("a", 0, 1), ("a", 2, 1)]));
        let (broker, asked) = queues.due().remove(0);
        let written = answer(&[(7, "a", 0, ErrorCode::None), (7, "a", 2, ErrorCode::None)]);
        assert_eq!(queues.answered(broker, asked, Some(&written)).len(), 2);
        assert_eq!((queues.len(), queues.has_parked()), (0, false));
    }

    #[test]
    fn what_is_fenced_is_sent_no_more_but_the_rest_is_and_a_late_answer_counts_for_nothing() {
        let image = image(&[("a", 0, 1), ("a", 1, 2)]);
        let mut queues = MarkerQueues::default();
        queues.send(markers("t", 7, &[("a", 0), ("a", 1)]), &image);
        let due = queues.due();
        let fenced = answer(&[(7, "a", 0, ErrorCode::TransactionCoordinatorFenced)]);
        let heard = queues.answered(BrokerId(1), due[0].1.clone(), Some(&fenced));
        assert_eq!(heard, [told("t", 7, &[("a", 0)], MarkersFate::Fenced)]);
        assert_eq!(queues.answered(BrokerId(2), due[1].1.clone(), None), []);
        queues.route_parked(&image);
        let (broker, asked) = queues.due().remove(0);
        assert_eq!((broker, &asked[..]), (BrokerId(2), &[markers("t", 7, &[("a", 1)])][..]));
        let heard = queues.answered(broker, asked, Some(&answer(&[(7, "a", 1, ErrorCode::None)])));
        assert_eq!(heard, [told("t", 7, &[("a", 1)], MarkersFate::Written)]);
        assert_eq!((queues.due(), queues.len()), (Vec::new(), 0));
        queues.send(markers("t", 7, &[("a", 0)]), &image);
        queues.stop("t");
        assert_eq!((queues.due(), queues.len()), (Vec::new(), 0));
        // Sent anew by a later load, it is another one, whatever is said of the first.
        for late in [ErrorCode::None, ErrorCode::TransactionCoordinatorFenced] {
            queues.send(markers("t", 7, &[("a", 0)]), &image);
            let (_, asked) = queues.due().remove(0);
            queues.send(Markers { coordinator_epoch: LeaderEpoch(4), ..markers("t", 7, &[("a", 0)]) }, &image);
            assert_eq!(queues.answered(BrokerId(1), asked, Some(&answer(&[(7, "a", 0, late)]))), []);
            let (broker, asked) = queues.due().remove(0);
            assert_eq!(asked[0].coordinator_epoch, LeaderEpoch(4));
            assert_eq!(queues.answered(broker, asked, Some(&answer(&[(7, "a", 0, ErrorCode::None)]))).len(), 1);
        }
    }

    #[test]
    fn partitions_that_are_gone_need_no_marker() {
        let mut queues = MarkerQueues::default();
        queues.send(markers("t", 7, &[("a", 0), ("b", 0)]), &image(&[]));
        assert_eq!(queues.unknown_topics(), ["a", "b"].map(Arc::from).into());
        let heard = queues.gone(|partition| &*partition.topic == "a");
        assert_eq!(heard, [told("t", 7, &[("a", 0)], MarkersFate::Written)]);
        assert_eq!(queues.unknown_topics(), ["b"].map(Arc::from).into());
        queues.route_parked(&image(&[("b", 0, 2)]));
        assert_eq!(queues.due(), [(BrokerId(2), vec![markers("t", 7, &[("b", 0)])])]);
    }

    /// The metadata of this broker may be behind: its leader would deny a partition that is gone for ever.
    #[test]
    fn of_what_its_leader_does_not_know_zookeeper_decides_whether_it_is_gone() {
        let image = image(&[("a", 0, 1), ("a", 1, 1), ("b", 0, 1)]);
        let mut queues = MarkerQueues::default();
        let all = [("a", 0), ("a", 1), ("b", 0)];
        let denied = |partitions: &[(&'static str, i32)]| -> Vec<_> {
            partitions.iter().map(|(topic, number)| (7, *topic, *number, ErrorCode::UnknownTopicOrPartition)).collect()
        };
        queues.send(markers("t", 7, &all), &image);
        let (broker, asked) = queues.due().remove(0);
        assert_eq!(queues.answered(broker, asked, Some(&answer(&denied(&all)))), []);
        queues.route_parked(&image);
        assert_eq!((queues.due(), queues.has_parked()), (Vec::new(), true), "ZooKeeper is asked first");
        assert_eq!(queues.unknown_topics(), ["a", "b"].map(Arc::from).into());
        let heard = queues.gone(|partition| &*partition.topic == "b");
        assert_eq!(heard, [told("t", 7, &[("b", 0)], MarkersFate::Written)]);
        // The leader is about to hear of the others.
        queues.route_denied(&image);
        let (broker, asked) = queues.due().remove(0);
        assert_eq!((broker, &asked[..]), (BrokerId(1), &[markers("t", 7, &all[..2])][..]));
        let said = [(7, "a", 0, ErrorCode::None), (7, "a", 1, ErrorCode::UnknownTopicOrPartition)];
        assert_eq!(queues.answered(broker, asked, Some(&answer(&said))).len(), 1);
        let heard = queues.gone(|_| true);
        assert_eq!(heard, [told("t", 7, &[("a", 1)], MarkersFate::Written)]);
        assert_eq!((queues.len(), queues.has_parked()), (0, false));
    }

    #[test]
    fn a_request_names_each_topic_of_a_transaction_once() {
        let asked = request(&[markers("t", 7, &[("a", 1), ("b", 0), ("a", 0)])]);
        let [marker] = &asked.markers[..] else { panic!("one transaction") };
        let topics: Vec<_> = marker.topics.iter().map(|topic| (&*topic.name, &topic.partition_indexes[..])).collect();
        assert_eq!(topics, [("a", &[0, 1][..]), ("b", &[0][..])]);
        assert_eq!((marker.producer_id, marker.transaction_result, marker.coordinator_epoch), (7, true, 3));
    }
}
