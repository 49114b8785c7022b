//! Brokers that have gone and come back between two controllers.
use crate::controller::active::Event;
use crate::controller::active_tests::{Driver, Said, found, leadership, settings, tp};
use crate::controller::state::LeaderAndIsr;
use crate::model::PartitionEpoch;

/// Three replicas, as they were written before, or after, the registrations of some brokers.
fn elected(brokers: &[(i32, i64)], mzxid: i64) -> Driver {
    let state = leadership(1, 5, &[1, 2, 3]);
    let read = [("t-0", state.clone(), mzxid)];
    Driver::elected_over(settings(), brokers, &[("t", found(&[&[1, 2, 3]]))], &read, &[("t-0", state)], &[])
}

#[test]
fn a_leader_that_bounced_unseen_is_out_of_sync_and_leads_no_more() {
    let driver = elected(&[(1, 120), (2, 102), (3, 103)], 110);
    assert_eq!(driver.state("t-0"), (2, 6, vec![2, 3]));
    let leads = driver.said.iter().filter(|said| matches!(said, Said::Lead(..)));
    let lead = |to| Said::Lead(to, "t-0".to_owned(), 2, 6, vec![2, 3], false);
    assert_eq!(leads.cloned().collect::<Vec<_>>(), [lead(1), lead(2), lead(3)]);
}

#[test]
fn a_follower_that_bounced_unseen_is_out_of_sync() {
    let driver = elected(&[(1, 101), (2, 102), (3, 120)], 110);
    assert_eq!(driver.state("t-0"), (1, 6, vec![1, 2]));
}

#[test]
fn where_all_have_bounced_unseen_the_isr_stays_and_another_epoch_begins() {
    let driver = elected(&[(1, 120), (2, 121), (3, 122)], 110);
    assert_eq!(driver.state("t-0"), (1, 6, vec![1, 2, 3]));
    let driver = elected(&[(2, 121)], 110);
    assert_eq!(driver.state("t-0"), (2, 6, vec![2]), "the others are gone, as every controller sees");
}

#[test]
fn nothing_is_written_where_all_registered_before_the_isr_was() {
    let mut driver = elected(&[(1, 101), (2, 102), (3, 109)], 110);
    assert_eq!(driver.states[&tp("t-0")], leadership(1, 5, &[1, 2, 3]));
    // Of a replica that is not in sync nobody expects anything.
    let state = leadership(1, 5, &[1, 2]);
    let topics = [("t", found(&[&[1, 2, 3]]))];
    let brokers = [(1, 101), (2, 102), (3, 120)];
    driver =
        Driver::elected_over(settings(), &brokers, &topics, &[("t-0", state.clone(), 110)], &[("t-0", state)], &[]);
    assert_eq!(driver.states[&tp("t-0")], leadership(1, 5, &[1, 2]));
    // And whoever is alone has nobody to differ from: a cluster of one starts without a write.
    let state = leadership(1, 5, &[1]);
    let topics = [("t", found(&[&[1]]))];
    driver = Driver::elected_over(
        settings(),
        &[(1, 120)],
        &topics,
        &[("t-0", state.clone(), 110)],
        &[("t-0", state.clone())],
        &[],
    );
    assert_eq!(driver.states[&tp("t-0")], state);
}

#[test]
fn a_bounce_is_not_forgotten_because_a_leader_wrote_the_isr_meanwhile() {
    // As leaders of an older protocol do: broker 2 has only let 3 go.
    let (read, now) = (leadership(2, 5, &[1, 2, 3]), leadership(2, 5, &[1, 2]));
    let now = LeaderAndIsr { partition_epoch: PartitionEpoch(9), ..now };
    let topics = [("t", found(&[&[1, 2, 3]]))];
    let brokers = [(1, 120), (2, 102), (3, 103)];
    let mut driver = Driver::elected_over(settings(), &brokers, &topics, &[("t-0", read, 110)], &[("t-0", now)], &[]);
    assert_eq!(driver.state("t-0"), (2, 6, vec![2]));
    // Once that is written, whoever is let in again counts as others do.
    let in_again = LeaderAndIsr { partition_epoch: PartitionEpoch(11), ..leadership(2, 6, &[2, 1]) };
    driver.states.insert(tp("t-0"), in_again.clone());
    driver.on(Event::IsrsChanged(vec![(tp("t-0"), in_again)]));
    driver.brokers(&[(1, 120), (2, 102)]);
    assert_eq!(driver.state("t-0"), (2, 6, vec![2, 1]));
    driver.brokers(&[(1, 120)]);
    assert_eq!(driver.state("t-0"), (1, 7, vec![1]));
}

#[test]
fn a_topic_on_its_way_out_and_a_partition_without_a_leader_are_settled_as_ever() {
    let state = leadership(1, 5, &[1, 2]);
    let topics = [("t", found(&[&[1, 2]]))];
    let elected = |state: &LeaderAndIsr, deletions: &[&str]| {
        let read = [("t-0", state.clone(), 110)];
        let brokers = [(1, 120), (2, 102)];
        Driver::elected_over(settings(), &brokers, &topics, &read, &[("t-0", state.clone())], deletions)
    };
    assert_eq!(elected(&state, &["t"]).states[&tp("t-0")], state);
    let nobody = leadership(-1, 5, &[1]);
    assert_eq!(elected(&nobody, &[]).state("t-0"), (1, 6, vec![1]));
}
