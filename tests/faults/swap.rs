//! The swap, as README tells it: three JVM brokers under load become ours one after the other, with the same settings,
//! directories and ZooKeeper, and then JVM brokers again; first stopped in order, then killed. Before each, `odradek preflight`
//! is asked. What the clients saw of it is printed beside what they see when JVM brokers give way to JVM brokers.

use std::time::Duration;

use crate::check;
use crate::cluster::{BROKERS, Clients, Cluster};
use crate::roll::{self, End, assert_no_rebalance_after, give_way, until_group_is_whole, worst_gaps};
use crate::support::Kind;
use crate::until_progress;

/// The last release with ZooKeeper.
const JVM: Kind = Kind::Jvm("3.9.2");

#[test]
#[ignore = "it takes minutes: tests/run.sh soak has it"]
fn a_jvm_cluster_becomes_ours_one_broker_after_the_other_and_goes_back() {
    let rolls = [
        (JVM, End::Stopped),
        (Kind::Odradek, End::Stopped),
        (JVM, End::Stopped),
        (JVM, End::Killed),
        (Kind::Odradek, End::Killed),
        (JVM, End::Killed),
    ];
    let mut cluster = Cluster::start([JVM; BROKERS], Clients::Java, roll::SETTINGS);
    let mut history = cluster.start_clients(0);
    until_progress(&mut cluster, &mut history);
    let generation = until_group_is_whole(&cluster, &mut history);
    let mut from = JVM;
    for (to, end) in rolls {
        history.follow();
        let first = history.events.len();
        for id in 0..BROKERS {
            give_way(&mut cluster, &mut history, id, to, end, Duration::ZERO);
        }
        println!("{from:?} gives way to {to:?}, {end:?}. The longest that nothing came, in seconds, for each client:");
        for (what, gap) in worst_gaps(&history.events[first..]) {
            println!("    {what:22}{gap:6.1}");
        }
        from = to;
    }
    check(&mut cluster, &mut history);
    assert_no_rebalance_after(generation, &history);
}
