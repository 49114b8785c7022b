//! Moves and elections, step by step, and with a controller that dies after any write.
use std::collections::BTreeMap;

use crate::controller::active::{Action, Answer, Deleted, Event, Hosted, Request, RequestId, TopicFound, TopicRead};
use crate::controller::active_tests::{Driver, Said, found, leadership, tp};
use crate::controller::leader_election::{Elected, ElectionRefusal, ElectionType};
use crate::controller::reassignment::ReassignmentRefusal;
use crate::controller::state::{Assignment, LeaderAndIsr};
use crate::model::{BrokerEpoch, BrokerId, PartitionEpoch, TopicId, TopicPartition};

fn ids(ids: &[i32]) -> Vec<BrokerId> {
    ids.iter().copied().map(BrokerId).collect()
}

fn moving(replicas: &[i32], adding: &[i32], removing: &[i32]) -> Assignment {
    Assignment { replicas: ids(replicas), adding: ids(adding), removing: ids(removing) }
}

impl Driver {
    fn request(&mut self, request: Request) -> (Vec<Said>, Answer) {
        let said = self.on(Event::Requested { id: RequestId(3), request });
        match self.done.pop() {
            Some(Action::Answer { id: RequestId(3), answer }) => (said, answer),
            other => panic!("whoever asks is told, not {other:?}"),
        }
    }

    fn reassign(&mut self, asked: &[(&str, Option<&[i32]>)]) -> (Vec<Said>, Vec<Option<ReassignmentRefusal>>) {
        let asked = asked.iter().map(|(name, target)| (tp(name), target.map(ids))).collect();
        match self.request(Request::Reassign(asked)) {
            (said, Answer::Reassigned(outcomes)) => (said, outcomes.into_iter().map(|(_, outcome)| outcome).collect()),
            (_, other) => panic!("{other:?} answers something else"),
        }
    }

    fn elect(&mut self, partitions: Option<&[&str]>, election: ElectionType) -> (Vec<Said>, Vec<Elected>) {
        let partitions = partitions.map(|names| names.iter().map(|name| tp(name)).collect());
        match self.request(Request::ElectLeaders { partitions, election }) {
            (said, Answer::Elected(elected)) => (said, elected),
            (_, other) => panic!("{other:?} answers something else"),
        }
    }

    /// The leader has taken others into its ISR.
    fn in_sync(&mut self, name: &str, isr: &[i32]) -> Vec<Said> {
        let before = self.states[&tp(name)].clone();
        let partition_epoch = PartitionEpoch(before.partition_epoch.0 + 1);
        let now = LeaderAndIsr { isr: ids(isr), partition_epoch, ..before };
        self.states.insert(tp(name), now.clone());
        self.on(Event::IsrsChanged(vec![(tp(name), now)]))
    }

    fn assignment(&self, name: &str) -> Assignment {
        let name = tp(name);
        self.topics[&*name.topic].partitions[&name.partition].clone()
    }

    /// What another controller finds that is elected now.
    fn successor(&self, brokers: &[i32]) -> Driver {
        let topics: Vec<(&str, TopicFound)> =
            self.topics.iter().map(|(name, found)| (name.as_str(), found.clone())).collect();
        let names: Vec<String> = self.states.keys().map(ToString::to_string).collect();
        let states: Vec<(&str, LeaderAndIsr)> =
            names.iter().zip(self.states.values()).map(|(name, state)| (name.as_str(), state.clone())).collect();
        Driver::elected(brokers, &topics, &states)
    }
}

fn lead(to: i32, name: &str, leader: i32, epoch: i32, isr: &[i32], is_new: bool) -> Said {
    Said::Lead(to, name.to_owned(), leader, epoch, isr.to_vec(), is_new)
}

fn leads(said: &[Said]) -> Vec<Said> {
    said.iter().filter(|said| matches!(said, Said::Lead(..))).cloned().collect()
}

fn stops(said: &[Said]) -> Vec<Said> {
    said.iter().filter(|said| matches!(said, Said::Stop(..))).cloned().collect()
}

fn deleted(on: i32, name: &str) -> Said {
    Said::Stop(on, name.to_owned(), true)
}

/// One partition on brokers 1 and 2 of five.
fn cluster() -> Driver {
    Driver::elected(&[1, 2, 3, 4, 5], &[("t", found(&[&[1, 2]]))], &[("t-0", leadership(1, 5, &[1, 2]))])
}

#[test]
fn a_move_adds_replicas_waits_until_they_are_in_sync_and_removes_the_others() {
    let mut driver = cluster();
    let (said, outcomes) = driver.reassign(&[("t-0", Some(&[3, 4]))]);
    assert_eq!(outcomes, [None]);
    assert_eq!(driver.assignment("t-0"), moving(&[3, 4, 1, 2], &[3, 4], &[1, 2]));
    assert_eq!(driver.state("t-0"), (1, 6, vec![1, 2]), "a new leader epoch tells old replicas and new ones apart");
    assert_eq!(
        leads(&said),
        [
            lead(1, "t-0", 1, 6, &[1, 2], false),
            lead(2, "t-0", 1, 6, &[1, 2], false),
            lead(3, "t-0", 1, 6, &[1, 2], true),
            lead(4, "t-0", 1, 6, &[1, 2], true),
        ]
    );
    let (_, answer) = driver.request(Request::ListReassignments(None));
    assert_eq!(answer, Answer::Reassignments(vec![(tp("t-0"), moving(&[3, 4, 1, 2], &[3, 4], &[1, 2]))]));

    assert_eq!(leads(&driver.in_sync("t-0", &[1, 2, 3])), [], "one of two");
    assert_eq!(driver.assignment("t-0"), moving(&[3, 4, 1, 2], &[3, 4], &[1, 2]));
    let said = driver.in_sync("t-0", &[1, 2, 3, 4]);
    assert_eq!(driver.state("t-0"), (3, 7, vec![3, 4]));
    assert_eq!(driver.assignment("t-0"), moving(&[3, 4], &[], &[]));
    assert_eq!(leads(&said), [lead(3, "t-0", 3, 7, &[3, 4], false), lead(4, "t-0", 3, 7, &[3, 4], false)]);
    assert_eq!(stops(&said), [deleted(1, "t-0"), deleted(2, "t-0")]);
    let (_, answer) = driver.request(Request::ListReassignments(Some(vec![tp("t-0")])));
    assert_eq!(answer, Answer::Reassignments(vec![]));
}

#[test]
fn a_leader_that_stays_goes_on_leading_and_what_is_in_place_is_done_at_once() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3, 1]))]);
    driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.state("t-0"), (1, 7, vec![1, 3]));
    assert_eq!(driver.assignment("t-0"), moving(&[3, 1], &[], &[]));
    let (said, outcomes) = driver.reassign(&[("t-0", Some(&[1]))]);
    assert_eq!((outcomes, driver.state("t-0")), (vec![None], (1, 8, vec![1])));
    assert_eq!(stops(&said), [deleted(3, "t-0")]);
    let mut driver = cluster();
    let (said, outcomes) = driver.reassign(&[("t-0", Some(&[2, 1]))]);
    assert_eq!((outcomes, driver.state("t-0")), (vec![None], (1, 6, vec![1, 2])), "another order moves no leader");
    assert_eq!(driver.assignment("t-0"), moving(&[2, 1], &[], &[]));
    assert_eq!(leads(&said).len(), 2);
}

#[test]
fn a_cancelled_move_leaves_the_replicas_that_there_were() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3, 4]))]);
    driver.in_sync("t-0", &[1, 2, 3]);
    let (said, outcomes) = driver.reassign(&[("t-0", None)]);
    assert_eq!(outcomes, [None]);
    assert_eq!(driver.assignment("t-0"), moving(&[1, 2], &[], &[]));
    let (leader, epoch, isr) = driver.state("t-0");
    assert_eq!((leader, isr), (1, vec![1, 2]));
    assert_eq!(stops(&said), [deleted(3, "t-0"), deleted(4, "t-0")]);
    assert_eq!(leads(&said), [lead(1, "t-0", 1, epoch, &[1, 2], false), lead(2, "t-0", 1, epoch, &[1, 2], false)]);
    let (_, outcomes) = driver.reassign(&[("t-0", None)]);
    assert_eq!(outcomes, [Some(ReassignmentRefusal::NoReassignmentInProgress)]);
}

#[test]
fn a_move_may_be_replaced_by_another() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3, 4]))]);
    driver.in_sync("t-0", &[1, 2, 3]);
    let (said, _) = driver.reassign(&[("t-0", Some(&[4, 5]))]);
    assert_eq!(driver.assignment("t-0"), moving(&[4, 5, 1, 2], &[4, 5], &[1, 2]));
    assert_eq!(driver.state("t-0").2, [1, 2], "who is no longer wanted leaves the ISR");
    assert_eq!(stops(&said), [deleted(3, "t-0")]);
    driver.in_sync("t-0", &[1, 2, 4, 5]);
    assert_eq!(driver.assignment("t-0"), moving(&[4, 5], &[], &[]));
}

#[test]
fn what_would_leave_nobody_in_sync_is_refused() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3]))]);
    // Both of its brokers die after another has caught up; the target is led at once.
    let state = LeaderAndIsr { partition_epoch: PartitionEpoch(70), ..leadership(3, 8, &[3]) };
    driver.states.insert(tp("t-0"), state);
    let mut driver = driver.successor(&[4]);
    let (_, outcomes) = driver.reassign(&[("t-0", None)]);
    let [Some(ReassignmentRefusal::InvalidReplicaAssignment(why))] = &outcomes[..] else { panic!("{outcomes:?}") };
    assert!(why.contains("unclean leader election"), "{why}");
    assert_eq!(driver.assignment("t-0"), moving(&[3, 1, 2], &[3], &[1, 2]));
}

#[test]
fn bad_wishes_are_refused_in_kafkas_words() {
    let mut driver = cluster();
    let mut refused = |name: &str, target: &[i32]| {
        let (said, outcomes) = driver.reassign(&[(name, Some(target))]);
        assert_eq!(said, []);
        outcomes.into_iter().next().flatten().map(|refusal| refusal.to_string()).unwrap_or_default()
    };
    assert_eq!(refused("t-0", &[]), "Empty replica list specified in partition reassignment.");
    assert_eq!(refused("t-0", &[1, 1]), "Duplicate replica ids in partition reassignment replica list: List(1, 1)");
    assert_eq!(refused("t-0", &[-1]), "Invalid broker id in replica list: List(-1)");
    assert_eq!(
        refused("t-0", &[1, 9]),
        "Replica assignment has brokers that are not alive. Replica list: List(9), live broker list: Set(1, 2, 3, 4, 5)"
    );
    assert_eq!(refused("t-1", &[1]), "The partition does not exist.");
    assert_eq!(refused("x-0", &[1]), "The partition does not exist.");
}

/// The driver does every write at once; a successor that is elected after any prefix of them must come to the same end.
#[test]
fn a_move_is_finished_by_whoever_is_controller_after_any_write() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3, 4]))]);
    let begun = driver.successor(&[1, 2, 3, 4, 5]);
    assert!(leads(&begun.said).contains(&lead(3, "t-0", 1, 7, &[1, 2], true)), "told again: {:?}", begun.said);
    let mut begun = begun;
    begun.in_sync("t-0", &[1, 2, 3, 4]);
    assert_eq!((begun.assignment("t-0"), begun.state("t-0").2), (moving(&[3, 4], &[], &[]), vec![3, 4]));

    // The leadership of the target is written, the topic is not.
    driver.unwritable.insert("t".to_owned());
    driver.in_sync("t-0", &[1, 2, 3, 4]);
    assert_eq!(driver.assignment("t-0"), moving(&[3, 4, 1, 2], &[3, 4], &[1, 2]));
    assert_eq!(driver.state("t-0"), (3, 7, vec![3, 4]));
    assert!(driver.active.is_unfinished());
    let mut half = driver.successor(&[1, 2, 3, 4, 5]);
    assert_eq!((half.assignment("t-0"), half.state("t-0").2), (moving(&[3, 4], &[], &[]), vec![3, 4]));
    assert_eq!(stops(&half.said), [deleted(1, "t-0"), deleted(2, "t-0")]);
    assert_eq!(half.reassign(&[("t-0", None)]).1, [Some(ReassignmentRefusal::NoReassignmentInProgress)]);
    // Or the same controller tries again.
    driver.unwritable.clear();
    driver.on(Event::Retry);
    assert_eq!(driver.assignment("t-0"), moving(&[3, 4], &[], &[]));
    assert!(!driver.active.is_unfinished());
}

#[test]
fn a_wish_that_cannot_be_written_is_refused_and_changes_nothing() {
    let mut driver = cluster();
    driver.unwritable.insert("t".to_owned());
    let (_, outcomes) = driver.reassign(&[("t-0", Some(&[3]))]);
    assert_eq!(outcomes, [Some(ReassignmentRefusal::NotWritten)]);
    assert_eq!((driver.assignment("t-0"), driver.state("t-0")), (moving(&[1, 2], &[], &[]), (1, 5, vec![1, 2])));
}

#[test]
fn a_topic_that_has_been_made_anew_is_not_moved() {
    let mut driver = cluster();
    let other = TopicFound { id: Some(TopicId([3; 16])), version: 9, ..found(&[&[1, 2]]) };
    driver.topics.insert("t".to_owned(), other.clone());
    assert_eq!(driver.reassign(&[("t-0", Some(&[3]))]).1, [Some(ReassignmentRefusal::NotWritten)]);
    assert_eq!(driver.topics["t"], other);
    let (_, outcomes) = driver.reassign(&[("t-0", None)]);
    assert_eq!(outcomes, [Some(ReassignmentRefusal::NoReassignmentInProgress)], "nothing of it is left");
}

#[test]
fn a_topic_that_is_found_to_have_been_made_anew_is_not_moved_either() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3]))]);
    let other = TopicFound { id: Some(TopicId([3; 16])), version: 9, ..found(&[&[1, 2]]) };
    driver.topics.insert("t".to_owned(), other.clone());
    let read = TopicRead { name: "t".into(), found: Some(other.clone()), fresh_id: TopicId([1; 16]) };
    driver.on(Event::TopicsRead(vec![read]));
    driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.topics["t"], other);
}

/// Tools of 2.8 write topics through ZooKeeper, whether or not these move and are to be deleted.
#[test]
fn a_move_of_a_topic_that_is_to_be_deleted_ends_though_somebody_else_has_written_it() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3]))]);
    driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    driver.topics.get_mut("t").expect("it is there").version += 1;
    let said = driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.assignment("t-0"), moving(&[3], &[], &[]));
    assert!(said.contains(&deleted(3, "t-0")), "{said:?}");
}

#[test]
fn partitions_that_are_added_meanwhile_are_kept() {
    let mut driver = cluster();
    let grown = TopicFound { version: 4, ..found(&[&[1, 2], &[2, 1]]) };
    driver.topics.insert("t".to_owned(), grown);
    driver.reassign(&[("t-0", Some(&[3]))]);
    assert_eq!(driver.assignment("t-0"), moving(&[3, 1, 2], &[3], &[1, 2]));
    assert_eq!(driver.assignment("t-1"), moving(&[2, 1], &[], &[]));
    assert_eq!(driver.state("t-1"), (2, 0, vec![2, 1]), "the added one is led");
}

#[test]
fn a_replica_that_was_not_there_is_told_when_its_broker_is_back() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3, 1]))]);
    let all =
        |without: i32| (1..=5).filter(|id| *id != without).map(|id| (id, 100 + i64::from(id))).collect::<Vec<_>>();
    driver.brokers(&all(3));
    let mut back = all(3);
    back.push((3, 300));
    let said = driver.brokers(&back);
    let (_, epoch, _) = driver.state("t-0");
    assert!(leads(&said).contains(&lead(3, "t-0", 1, epoch, &[1, 2], true)), "{said:?}");
}

#[test]
fn a_replica_that_was_not_there_when_it_was_moved_away_is_deleted_when_its_broker_is_back() {
    let all = |epoch_of_2: Option<i64>| {
        let others = [1, 3, 4, 5].map(|id| (id, 100 + i64::from(id)));
        others.into_iter().chain(epoch_of_2.map(|epoch| (2, epoch))).collect::<Vec<_>>()
    };
    let mut driver = cluster();
    driver.brokers(&all(None));
    driver.reassign(&[("t-0", Some(&[1, 3]))]);
    let said = driver.in_sync("t-0", &[1, 3]);
    assert_eq!((driver.assignment("t-0"), stops(&said)), (moving(&[1, 3], &[], &[]), vec![]), "nobody can be told");
    assert_eq!(stops(&driver.brokers(&all(Some(200)))), [deleted(2, "t-0")]);
    assert_eq!(stops(&driver.brokers(&all(Some(201)))), [deleted(2, "t-0")], "it has not answered");
    driver.answer_deletions(2, Deleted::Yes);
    assert_eq!(stops(&driver.brokers(&all(Some(202)))), [], "it has");
}

/// It answers, after its replica has been moved away, what it was told before.
#[test]
fn a_broker_that_says_late_that_it_hosts_a_replica_is_to_delete_it_still() {
    let all = |epoch| [(1, 101), (2, epoch), (3, 103), (4, 104), (5, 105)];
    let mut driver = cluster();
    driver.brokers(&all(200));
    driver.reassign(&[("t-0", Some(&[1, 3]))]);
    assert_eq!(stops(&driver.in_sync("t-0", &[1, 3])).last(), Some(&deleted(2, "t-0")));
    let (broker, broker_epoch) = (BrokerId(2), BrokerEpoch(200));
    driver.on(Event::LeaderAndIsrAnswered { broker, broker_epoch, hosted: vec![(tp("t-0"), Hosted::Yes)] });
    assert_eq!(stops(&driver.brokers(&all(201))), [deleted(2, "t-0")], "it has bounced before it did");
}

/// Broker 2 was not there when its replica of t-0 was moved away, nor when t was deleted.
fn left_behind() -> (Driver, [(i32, i64); 4]) {
    let others = [1, 3, 4, 5].map(|id| (id, 100 + i64::from(id)));
    let mut driver = cluster();
    driver.brokers(&others);
    driver.reassign(&[("t-0", Some(&[1, 3]))]);
    driver.in_sync("t-0", &[1, 3]);
    let said = driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    for id in [1, 3] {
        driver.said.clone_from(&said);
        driver.answer_deletions(id, Deleted::Yes);
    }
    assert!(driver.active.cluster().topics.is_empty());
    (driver, others)
}

#[test]
fn a_replica_of_a_topic_that_is_gone_is_deleted_when_its_broker_is_back() {
    let (mut driver, others) = left_behind();
    let back = |epoch| [&others[..], &[(2, epoch)]].concat();
    assert_eq!(stops(&driver.brokers(&back(200))), [deleted(2, "t-0")]);
    driver.answer_deletions(2, Deleted::Yes);
    assert_eq!(stops(&driver.brokers(&back(201))), []);

    // Beside another topic of its name, which has no replica there.
    let (mut driver, _) = left_behind();
    driver.create("t", TopicFound { id: Some(TopicId([8; 16])), ..found(&[&[1, 3]]) });
    assert_eq!(stops(&driver.brokers(&back(200))), [deleted(2, "t-0")]);
}

#[test]
fn a_replica_of_a_topic_that_is_gone_makes_way_for_one_of_the_same_name_and_never_goes_with_it() {
    let again = || {
        let (mut driver, others) = left_behind();
        driver.create("t", TopicFound { id: Some(TopicId([8; 16])), ..found(&[&[1, 2]]) });
        let said = driver.brokers(&[&others[..], &[(2, 200)]].concat());
        assert_eq!((leads(&said), stops(&said)), (vec![lead(2, "t-0", 1, 0, &[1], false)], vec![]));
        (driver, others)
    };
    let answer = |driver: &mut Driver, hosted| {
        let (broker, broker_epoch) = (BrokerId(2), BrokerEpoch(200));
        driver.on(Event::LeaderAndIsrAnswered { broker, broker_epoch, hosted: vec![(tp("t-0"), hosted)] })
    };
    let (mut driver, _) = again();
    let said = answer(&mut driver, Hosted::NotBesideEarlier);
    let told: Vec<Said> = said.iter().filter(|said| !matches!(said, Said::Metadata(..))).cloned().collect();
    assert_eq!(told, [deleted(2, "t-0"), lead(2, "t-0", 1, 0, &[1], true)]);
    // It was told twice of its replica before it had answered.
    assert_eq!(answer(&mut driver, Hosted::NotBesideEarlier), [], "the second deletion would come behind that");
    driver.said = said;
    // What came to nothing as a whole says nothing of the replica.
    driver.answer_deletions(2, Deleted::NotAdmitted);
    let said = answer(&mut driver, Hosted::NotBesideEarlier);
    assert_eq!(stops(&said), [deleted(2, "t-0")]);
    driver.said = said;
    driver.answer_deletions(2, Deleted::Refused);
    assert_eq!(answer(&mut driver, Hosted::NotBesideEarlier), [], "it could not be deleted");

    // Nobody knows how, but the earlier one has gone: whatever is there now is of this topic.
    let (mut driver, others) = again();
    answer(&mut driver, Hosted::Yes);
    assert_eq!(answer(&mut driver, Hosted::NotBesideEarlier), []);
    assert_eq!(stops(&driver.brokers(&[&others[..], &[(2, 201)]].concat())), []);
}

/// Its new replicas fetch from a leader that knows of it.
#[test]
fn a_topic_that_is_to_be_deleted_while_it_moves_is_served_until_it_has_moved_and_is_then_deleted() {
    let leaders = |said: &[Said]| -> Vec<i32> {
        let told = said.iter().filter_map(|said| match said {
            Said::Metadata(1, _, named) => named.iter().find(|(name, _)| name == "t-0").map(|(_, leader)| *leader),
            _ => None,
        });
        told.collect()
    };
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[1, 3]))]);
    let said = driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    assert_eq!((leaders(&said), stops(&said)), (vec![], vec![]), "it waits for the move");
    let mut brokers = vec![(1, 101), (2, 102), (4, 104), (5, 105)];
    driver.brokers(&brokers);
    brokers.push((3, 300));
    let said = driver.brokers(&brokers);
    let (_, epoch, _) = driver.state("t-0");
    assert!(leads(&said).contains(&lead(3, "t-0", 1, epoch, &[1, 2], true)), "{said:?}");
    assert!(!leaders(&said).contains(&-2), "{said:?}");
    let said = driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.assignment("t-0").replicas, ids(&[1, 3]));
    assert_eq!(leaders(&said).last(), Some(&-2), "{said:?}");
    assert!(stops(&said).contains(&deleted(3, "t-0")), "{said:?}");
}

#[test]
fn a_topic_that_is_to_be_deleted_while_it_moves_has_a_leader_again_when_its_only_source_is_back() {
    let mut driver = cluster();
    driver.in_sync("t-0", &[1]);
    driver.reassign(&[("t-0", Some(&[3]))]);
    driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    let mut brokers = vec![(2, 102), (3, 103), (4, 104), (5, 105)];
    driver.brokers(&brokers);
    assert_eq!(driver.state("t-0"), (-1, 7, vec![1]));
    brokers.push((1, 300));
    let said = driver.brokers(&brokers);
    assert_eq!(driver.state("t-0"), (1, 8, vec![1]));
    assert!(leads(&said).contains(&lead(1, "t-0", 1, 8, &[1], false)), "{said:?}");
    let said = driver.in_sync("t-0", &[1, 3]);
    assert!(said.contains(&deleted(3, "t-0")), "{said:?}");
}

#[test]
fn a_replica_that_was_moved_away_and_back_is_not_deleted() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[1, 3]))]);
    assert_eq!(stops(&driver.in_sync("t-0", &[1, 2, 3])), [deleted(2, "t-0")]);
    driver.reassign(&[("t-0", Some(&[1, 3, 2]))]);
    assert_eq!(driver.assignment("t-0").adding, ids(&[2]));
    assert_eq!(stops(&driver.brokers(&[(1, 101), (2, 200), (3, 103), (4, 104), (5, 105)])), []);
}

/// Where the directory with its log is lost, it would lead an empty one.
#[test]
fn an_added_replica_that_is_in_sync_is_never_told_again_that_it_is_new() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[4, 5]))]);
    driver.in_sync("t-0", &[1, 2, 4]);
    driver.elect(Some(&["t-0"]), ElectionType::Preferred);
    assert_eq!(driver.state("t-0"), (4, 7, vec![1, 2, 4]));
    let next = driver.successor(&[1, 2, 3, 4, 5]);
    let told: Vec<Said> = leads(&next.said).into_iter().filter(|said| matches!(said, Said::Lead(4 | 5, ..))).collect();
    let isr = &[1, 2, 4];
    assert_eq!(told, [lead(4, "t-0", 4, 8, isr, false), lead(5, "t-0", 4, 8, isr, true)]);

    driver.in_sync("t-0", &[4]);
    let said = driver.brokers(&[(1, 101), (2, 102), (3, 103), (4, 400), (5, 105)]);
    assert_eq!(driver.state("t-0"), (4, 10, vec![4]));
    assert!(said.contains(&lead(4, "t-0", 4, 10, &[4], false)), "{said:?}");
}

#[test]
fn a_topic_is_deleted_only_when_its_moves_have_ended() {
    let mut driver = cluster();
    driver.reassign(&[("t-0", Some(&[3]))]);
    let said = driver.on(Event::DeletionsRequested(vec!["t".to_owned()]));
    assert_eq!(stops(&said), []);
    let said = driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.assignment("t-0"), moving(&[3], &[], &[]));
    assert!(said.contains(&deleted(3, "t-0")), "{said:?}");
    assert_eq!(driver.reassign(&[("t-0", Some(&[1]))]).1, [Some(ReassignmentRefusal::UnknownTopicOrPartition)]);
}

#[test]
fn moves_asked_for_through_zookeeper_are_struck_out_when_they_end() {
    let mut driver = cluster();
    let asked = || vec![(tp("t-0"), ids(&[3])), (tp("x-0"), ids(&[1]))];
    driver.done.clear();
    driver.on(Event::ReassignmentsRequested(asked()));
    let struck = |name, to: Option<&[i32]>| Action::ForgetReassignments(vec![(tp(name), to.map(ids))]);
    assert_eq!(driver.done, [struck("x-0", Some(&[1]))]);
    assert_eq!(driver.assignment("t-0"), moving(&[3, 1, 2], &[3], &[1, 2]));
    driver.done.clear();
    assert_eq!(driver.on(Event::ReassignmentsRequested(asked()[..1].to_vec())), [], "asked for already");
    driver.in_sync("t-0", &[1, 2, 3]);
    assert_eq!(driver.done, [struck("t-0", Some(&[3]))]);
    driver.on(Event::ReassignmentsRequested(vec![(tp("t-0"), ids(&[4]))]));
    driver.done.clear();
    driver.on(Event::ReassignmentsRequested(vec![(tp("t-0"), ids(&[5]))]));
    assert_eq!(driver.assignment("t-0"), moving(&[5, 3], &[5], &[3]), "what is asked last holds");
    assert_eq!(driver.done, []);
    driver.in_sync("t-0", &[3, 5]);
    assert_eq!(driver.done, [struck("t-0", Some(&[5]))], "what somebody has asked for since stays");
}

#[test]
fn what_is_asked_of_the_controller_overrules_what_stands_in_zookeeper_whether_or_not_it_has_been_heard_of() {
    let mut driver = cluster();
    driver.on(Event::ReassignmentsRequested(vec![(tp("t-0"), ids(&[3]))]));
    let mut next = driver.successor(&[1, 2, 3, 4, 5]);
    for driver in [&mut driver, &mut next] {
        driver.done.clear();
        driver.reassign(&[("t-0", None)]);
        assert_eq!(driver.done, [Action::ForgetReassignments(vec![(tp("t-0"), None)])]);
        assert_eq!(driver.assignment("t-0"), moving(&[1, 2], &[], &[]));
    }
}

fn led_elsewhere() -> Driver {
    let topics = [("t", found(&[&[1, 2], &[1, 2], &[2, 1], &[3, 1]]))];
    let states = [
        ("t-0", leadership(2, 4, &[2, 1])),
        ("t-1", leadership(2, 4, &[2])),
        ("t-2", leadership(2, 4, &[2, 1])),
        ("t-3", leadership(3, 4, &[3])),
    ];
    let mut driver = Driver::elected(&[1, 2, 3], &topics, &states);
    driver.brokers(&[(1, 101), (2, 102)]);
    driver
}

fn outcome<'a>(elected: &'a [Elected], name: &str) -> &'a Result<BrokerId, ElectionRefusal> {
    let by_name: BTreeMap<&TopicPartition, &Result<BrokerId, ElectionRefusal>> =
        elected.iter().map(|(name, outcome)| (name, outcome)).collect();
    by_name[&tp(name)]
}

#[test]
fn the_preferred_replica_leads_if_it_is_online_and_in_sync() {
    let mut driver = led_elsewhere();
    let names = ["t-0", "t-1", "t-2", "t-3", "t-9"];
    let (said, elected) = driver.elect(Some(&names), ElectionType::Preferred);
    let not_elected = Err(ElectionRefusal::NotElected(ElectionType::Preferred));
    assert_eq!(*outcome(&elected, "t-0"), Ok(BrokerId(1)));
    assert_eq!(*outcome(&elected, "t-1"), not_elected, "not in sync");
    assert_eq!(*outcome(&elected, "t-2"), Err(ElectionRefusal::ElectionNotNeeded));
    assert_eq!(*outcome(&elected, "t-3"), not_elected, "not online");
    assert_eq!(*outcome(&elected, "t-9"), Err(ElectionRefusal::UnknownTopicOrPartition));
    assert_eq!(driver.state("t-0"), (1, 5, vec![2, 1]), "the ISR stays");
    assert_eq!(leads(&said), [lead(1, "t-0", 1, 5, &[2, 1], false), lead(2, "t-0", 1, 5, &[2, 1], false)]);
    let mut driver = led_elsewhere();
    let (_, elected) = driver.elect(None, ElectionType::Preferred);
    assert_eq!(elected.len(), 3, "of all partitions only those that need it are answered: {elected:?}");
}

#[test]
fn an_unclean_election_is_one_that_an_administrator_asks_for() {
    let mut driver = led_elsewhere();
    assert_eq!(driver.state("t-3"), (-1, 5, vec![3]));
    let (_, elected) = driver.elect(Some(&["t-0", "t-3"]), ElectionType::Unclean);
    assert_eq!(*outcome(&elected, "t-0"), Err(ElectionRefusal::ElectionNotNeeded));
    assert_eq!(*outcome(&elected, "t-3"), Ok(BrokerId(1)));
    assert_eq!(driver.state("t-3"), (1, 6, vec![1]));
    assert!(driver.states[&tp("t-3")].recovering);
    driver.brokers(&[(2, 102)]);
    let (_, elected) = driver.elect(None, ElectionType::Unclean);
    assert_eq!(elected, [(tp("t-3"), Err(ElectionRefusal::NotElected(ElectionType::Unclean)))]);
}

#[test]
fn a_state_that_someone_else_has_written_is_read_before_the_election_is_tried_again() {
    let mut driver = led_elsewhere();
    let meanwhile = LeaderAndIsr { partition_epoch: PartitionEpoch(30), ..leadership(2, 9, &[2, 1]) };
    driver.states.insert(tp("t-0"), meanwhile);
    let (_, elected) = driver.elect(Some(&["t-0"]), ElectionType::Preferred);
    assert_eq!(elected, [(tp("t-0"), Ok(BrokerId(1)))]);
    assert_eq!(driver.state("t-0"), (1, 10, vec![2, 1]));
}

#[test]
fn leaders_go_back_when_too_many_of_a_broker_are_elsewhere() {
    let topics = [("t", found(&[&[1, 2], &[1, 2], &[1, 2], &[1, 2]]))];
    let states =
        ["t-0", "t-1", "t-2", "t-3"].map(|name| (name, leadership(if name == "t-3" { 2 } else { 1 }, 4, &[1, 2])));
    let mut driver = Driver::elected(&[1, 2], &topics, &states);
    assert_eq!(driver.on(Event::RebalanceDue { imbalance_percentage: 25 }), [], "a quarter may be elsewhere");
    driver.on(Event::RebalanceDue { imbalance_percentage: 24 });
    assert_eq!(driver.state("t-3"), (1, 5, vec![1, 2]));
    let states = [("t-0", leadership(2, 4, &[2]))];
    let mut driver = Driver::elected(&[1, 2], &[("t", found(&[&[1, 2]]))], &states);
    assert_eq!(driver.on(Event::RebalanceDue { imbalance_percentage: 0 }), [], "it is not in sync");
}

#[test]
fn an_election_asked_for_through_zookeeper_is_held() {
    let mut driver = led_elsewhere();
    driver.on(Event::PreferredElectionRequested(["t-0", "t-1", "x-0"].map(tp).to_vec()));
    assert_eq!(driver.state("t-0"), (1, 5, vec![2, 1]));
    assert_eq!(driver.state("t-1"), (2, 4, vec![2]));
}
