//! Promise: an operator who gives `__transaction_state` or `__consumer_offsets` more partitions while brokers run finds
//! what Kafka makes of that. A name goes on where it was for as long as brokers run, since each counts with the number that
//! it found when it started; transactions are coordinated by nobody who is elected since, who says so once; and all is
//! well once all brokers have been started again.

mod support;

use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::messages::find_coordinator::FindCoordinatorRequest;
use odradek::protocol::messages::list_transactions::ListTransactionsRequest;
use support::client::Client;
use support::transactional::{id_coordinated_by, init, settled};
use support::{Brokers, Kind, PATIENCE, eventually};

const SETTINGS: &str =
    "transaction.state.log.num.partitions=2\noffsets.topic.num.partitions=2\nauto.leader.rebalance.enable=false";

/// A group that a broker coordinates.
fn group_coordinated_by(brokers: &Brokers, broker: i32) -> String {
    let coordinator = |group: &String| {
        let request = FindCoordinatorRequest { key: group.clone(), ..Default::default() };
        eventually(PATIENCE, "there is a coordinator", || {
            let found = brokers.client(0).call(&request, 2).map_err(|error| error.to_string())?;
            if found.error_code == 0 { Ok(found.node_id) } else { Err(format!("{found:?}")) }
        })
    };
    let mut groups = (0..100).map(|number| format!("group-{number}"));
    groups.find(|group| coordinator(group) == broker).expect("some partition is led there")
}

fn listed(client: &mut Client) -> ErrorCode {
    let request = ListTransactionsRequest { duration_filter: -1, ..Default::default() };
    ErrorCode::from_code(client.call(&request, 0).expect("ListTransactions is answered").error_code)
}

#[test]
fn names_stay_where_they_are_and_no_transaction_is_coordinated_by_whoever_is_elected_since() {
    let kind = Kind::under_test();
    let mut brokers = Brokers::start("coordinator-topics", 2, SETTINGS);
    brokers.client(0).create_topic("orders", 1, &[]);
    let ids = [0, 1].map(|broker| id_coordinated_by(&brokers, broker));
    let groups = [0, 1].map(|broker| group_coordinated_by(&brokers, broker));
    for partition in 0..2 {
        for topic in ["__transaction_state", "__consumer_offsets"] {
            brokers.until_partition(topic, partition, "in sync", |found| found.isr_nodes.len() == 2);
        }
    }
    for (broker, (id, group)) in (0..).zip(ids.iter().zip(&groups)) {
        let mut client = brokers.client(broker);
        assert_eq!(settled("an id is given", || init(&mut client, id, 4), |told| told.error_code).error_code, 0);
        client.commit(group, "orders", 0, 10 + i64::from(broker));
    }

    let bootstrap = brokers.brokers[0].address();
    for topic in ["__transaction_state", "__consumer_offsets"] {
        let arguments = ["--bootstrap-server", &bootstrap, "--alter", "--topic", topic, "--partitions", "4"];
        brokers.script("kafka-topics.sh", &arguments, "").expect("it grows");
        for partition in 0..4 {
            brokers.until_partition(topic, partition, "in sync", |found| found.isr_nodes.len() == 2);
        }
    }
    for (broker, (id, group)) in (0..).zip(ids.iter().zip(&groups)) {
        let mut client = brokers.client(broker);
        assert_eq!((init(&mut client, id, 4).error_code, init(&mut client, id, 4).producer_epoch), (0, 2));
        client.commit(group, "orders", 0, 20 + i64::from(broker));
    }

    brokers.brokers[1].kill();
    let mut client = brokers.client(0);
    eventually(PATIENCE, "the broker says why it coordinates no more", || {
        let said = brokers.brokers[0].process().said();
        let complaints = said.matches("umber of partitions has changed from 2 to 4").count();
        if complaints > 0 { Ok(()) } else { Err(said) }
    });
    eventually(PATIENCE, "the group has moved", || match client.try_committed(&groups[1], "orders", 0) {
        Ok(21) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    client.commit(&groups[1], "orders", 0, 31);
    assert_eq!(client.committed(&groups[0], "orders", 0), 20);
    assert_eq!(init(&mut client, &ids[1], 4).error_code, ErrorCode::CoordinatorLoadInProgress.code());
    assert_eq!(listed(&mut client), ErrorCode::CoordinatorLoadInProgress);
    assert_eq!(init(&mut client, &ids[0], 4).producer_epoch, 3, "what it coordinates already goes on");
    if kind == Kind::Odradek {
        let said = brokers.brokers[0].process().said();
        assert_eq!(said.matches("umber of partitions has changed").count(), 1, "{said}");
    }

    brokers.brokers[0].stop();
    brokers.start_broker(0, kind);
    brokers.start_broker(1, kind);
    let mut client = brokers.client(0);
    for id in &ids {
        let request = FindCoordinatorRequest { key: id.clone(), key_type: 1, ..Default::default() };
        let given = settled(
            "an id is given",
            || {
                let found = client.call(&request, 2).expect("FindCoordinator is answered");
                match found.error_code {
                    0 => init(&mut brokers.client(found.node_id), id, 4).error_code,
                    code => code,
                }
            },
            |code| *code,
        );
        assert_eq!(given, 0);
    }
    assert_eq!(settled("all are known", || listed(&mut client).code(), |code| *code), 0);
}
