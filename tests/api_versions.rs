//! The whole answer to ApiVersions, beside that of a JVM broker of 3.9 in the same cluster, to clients and between
//! brokers: what differs is here by name. And what comes of requests that are not advertised.

mod support;

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};

use odradek::protocol::message::Message;
use odradek::protocol::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use support::client::Client;
use support::{Broker, Brokers, Kind, Scratch, ZooKeeper, free_port};

/// What a JVM broker advertises and ours does not, and what of README's list of what does not work yet that is.
const MISSING: &[(i16, &str, &str)] = &[
    (17, "SaslHandshake", "Security"),
    (36, "SaslAuthenticate", "Security"),
    (38, "CreateDelegationToken", "Security"),
    (39, "RenewDelegationToken", "Security"),
    (40, "ExpireDelegationToken", "Security"),
    (41, "DescribeDelegationToken", "Security"),
    (48, "DescribeClientQuotas", "Quotas"),
    (49, "AlterClientQuotas", "Quotas"),
    (50, "DescribeUserScramCredentials", "Security"),
    (51, "AlterUserScramCredentials", "Security"),
    // A JVM broker that is not on its way to KRaft closes the connection on which it comes.
    (58, "Envelope", "migration to KRaft"),
];

/// What ours speaks beyond a JVM broker of 3.9: transactions of version 2, by the name of the API, theirs and ours.
const BEYOND: &[(i16, &str, i16, i16)] = &[(0, "Produce", 11, 12), (26, "EndTxn", 4, 5), (28, "TxnOffsetCommit", 4, 5)];

fn told(port: u16, version: i16) -> ApiVersionsResponse {
    let request = ApiVersionsRequest { client_software_name: "test".into(), client_software_version: "1".into() };
    Client::connect(port).and_then(|mut client| client.call(&request, version)).expect("ApiVersions is answered")
}

#[test]
fn all_that_is_advertised_is_what_a_jvm_broker_advertises_but_for_what_is_not_there() {
    let scratch = Scratch::new("api-versions");
    let zookeeper = ZooKeeper::start(&scratch);
    let start = |id, kind| {
        let [external, internal] = [free_port(), free_port()];
        let settings = format!(
            "listeners=EXTERNAL://127.0.0.1:{external},INTERNAL://127.0.0.1:{internal}\n\
             listener.security.protocol.map=INTERNAL:PLAINTEXT,EXTERNAL:PLAINTEXT\ninter.broker.listener.name=INTERNAL"
        );
        let mut broker = Broker::configure_as(id, &scratch, zookeeper.port, &settings);
        broker.port = external;
        broker.start(kind, &scratch);
        (broker, [external, internal])
    };
    let (_ours, our_ports) = start(0, Kind::Odradek);
    let (_theirs, their_ports) = start(1, Kind::Jvm("3.9.2"));
    for (ours, theirs) in our_ports.into_iter().zip(their_ports) {
        for version in ApiVersionsRequest::VERSIONS {
            let (mut ours, mut theirs) = (told(ours, version), told(theirs, version));
            let mut missing = BTreeMap::new();
            theirs.api_keys.retain(|api| {
                let is_missing = !ours.api_keys.iter().any(|our| our.api_key == api.api_key);
                if is_missing {
                    missing.insert(api.api_key, api.max_version);
                }
                !is_missing
            });
            let expected: Vec<i16> = MISSING.iter().map(|(key, ..)| *key).collect();
            assert_eq!(missing.into_keys().collect::<Vec<_>>(), expected, "version {version}");
            ours.api_keys.sort_unstable_by_key(|api| api.api_key);
            theirs.api_keys.sort_unstable_by_key(|api| api.api_key);
            for (key, name, last_of_theirs, last_of_ours) in BEYOND {
                let ours = ours.api_keys.iter().find(|api| api.api_key == *key).expect("it is there");
                let theirs = theirs.api_keys.iter_mut().find(|api| api.api_key == *key).expect("it is there");
                assert_eq!((theirs.max_version, ours.max_version), (*last_of_theirs, *last_of_ours), "{name}");
                theirs.max_version = ours.max_version;
            }
            if version >= 3 {
                // What an operator may finalize once theirs is not there any more.
                let feature = ("transaction.version".to_owned(), 2, 2);
                let supported = ours.supported_features.drain(..);
                let supported = supported.map(|known| (known.name, known.min_version, known.max_version));
                assert_eq!(supported.collect::<Vec<_>>(), [feature]);
            }
            assert_eq!(ours, theirs, "version {version}");
        }
    }
}

/// The whole answer to the head of a request with nothing behind it, without its length, or none if the connection is closed.
fn reaction(port: u16, api_key: i16, version: i16) -> Option<Vec<u8>> {
    let mut client = Client::connect(port).expect("the broker listens");
    // Key, version, correlation id, no client id. Who reads a flexible header has tagged fields to read, of which there are none.
    let head =
        [&api_key.to_be_bytes()[..], &version.to_be_bytes(), &7_i32.to_be_bytes(), &(-1_i16).to_be_bytes(), &[0]];
    let head = head.concat();
    let length = i32::try_from(head.len()).expect("it is short").to_be_bytes();
    client.stream.write_all(&[&length[..], &head].concat()).expect("the broker reads");
    let mut length = [0; 4];
    match client.stream.read_exact(&mut length) {
        Err(error) if [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset].contains(&error.kind()) => return None,
        read => read.unwrap_or_else(|error| panic!("key {api_key}, version {version}: {error}")),
    }
    let mut answer = vec![0; usize::try_from(i32::from_be_bytes(length)).expect("it has a length")];
    client.stream.read_exact(&mut answer).expect("the answer is whole");
    Some(answer)
}

#[test]
fn what_is_not_advertised_ends_as_at_a_jvm_broker() {
    let brokers = Brokers::start_as("api-versions-not", &[Kind::Odradek, Kind::Jvm("3.9.2")], "");
    let ports = [0, 1].map(|id| brokers.brokers[id].port);
    let ours = told(ports[0], *ApiVersionsRequest::VERSIONS.end()).api_keys;
    let advertised = |key: i16| ours.iter().find(|api| api.api_key == key);
    let unknown = [i16::MIN, -2, -1].into_iter().chain(0..=100).chain([1000, i16::MAX]);
    let of_unknown = unknown.filter(|key| advertised(*key).is_none()).flat_map(|key| [(key, 0), (key, 1), (key, -1)]);
    let beyond = |key: i16| {
        advertised(key)
            .into_iter()
            .flat_map(move |api| [api.max_version + 1, i16::MAX, -1, i16::MIN].map(|version| (key, version)))
    };
    let mut answered = Vec::new();
    for (key, version) in of_unknown.chain((0..=100).flat_map(beyond)) {
        let [ours, theirs] = ports.map(|port| reaction(port, key, version));
        assert_eq!(ours, theirs, "key {key}, version {version}");
        answered.extend(ours.map(|_| (key, version)));
    }
    // Who asks in a version that is unknown hears of those that are known.
    assert_eq!(answered, [5, i16::MAX, -1, i16::MIN].map(|version| (ApiVersionsRequest::KEY, version)));
}
