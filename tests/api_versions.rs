//! The whole answer to ApiVersions, beside that of a JVM broker of 3.9.1 in the same cluster, to clients and between
//! brokers: what differs is here by name.

mod support;

use std::collections::BTreeMap;

use odradek::protocol::message::Message;
use odradek::protocol::messages::api_versions::{ApiVersionsRequest, ApiVersionsResponse};
use support::client::Client;
use support::{Broker, Kind, Scratch, ZooKeeper, free_port};

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
    let (_theirs, their_ports) = start(1, Kind::Jvm("3.9.1"));
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
