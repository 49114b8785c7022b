//! Days of rolls: brokers of ours, of the oldest and of the last release that we live beside give way to each other, in any
//! order, stopped and killed, under load, for as long as they are told. All that is decided follows from a seed.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};

use crate::cluster::{BROKERS, Clients, Cluster};
use crate::roll::{self, End, assert_no_rebalance_after, give_way, until_group_is_whole};
use crate::support::Kind;
use crate::{check, number, until_progress};

const KINDS: [Kind; 3] = [Kind::Odradek, Kind::Jvm("2.8.2"), Kind::Jvm("3.9.2")];
/// What all of them speak.
const SETTINGS: &str = "inter.broker.protocol.version=2.8\n";
/// After so many all is checked, and the clients begin anew with topics that are new: what they wrote down, and what brokers
/// hold, does not grow with the days.
const SWAPS_A_LEG: usize = 8;

#[test]
#[ignore = "it takes as long as it is told: tests/run.sh rolls, or soak"]
fn brokers_of_three_kinds_give_way_to_each_other() {
    let seed = number("ODRADEK_FAULTS_SEED").unwrap_or_else(rand::random);
    let duration = Duration::from_secs(number("ODRADEK_FAULTS_SECONDS").unwrap_or(0));
    println!("ODRADEK_FAULTS_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let kinds = [(); BROKERS].map(|()| *KINDS.choose(&mut rng).expect("there are three"));
    println!("{kinds:?}");
    let mut cluster = Cluster::start(kinds, Clients::Java, &format!("{}{SETTINGS}", roll::SETTINGS));
    let mut swaps = 0;
    loop {
        let mut history = cluster.start_clients(seed);
        until_progress(&mut cluster, &mut history);
        let generation = until_group_is_whole(&cluster, &mut history);
        for _ in 0..SWAPS_A_LEG {
            let (id, to) = (rng.random_range(0..BROKERS), *KINDS.choose(&mut rng).expect("there are three"));
            let end = if rng.random() { End::Stopped } else { End::Killed };
            // Some are back before anybody has missed them, some after their session has ended.
            let away = Duration::from_millis(rng.random_range(0..6000));
            swaps += 1;
            println!(
                "{:7.1} s: swap {swaps}: broker {id}, {end:?}, {:?} gives way to {to:?} after {away:?}",
                began.elapsed().as_secs_f64(),
                cluster.kinds[id]
            );
            give_way(&mut cluster, &mut history, id, to, end, away);
        }
        check(&mut cluster, &mut history);
        assert_no_rebalance_after(generation, &history);
        if began.elapsed() >= duration {
            break;
        }
        cluster.renew_topics();
    }
    println!("{swaps} swaps in {:.0} s", began.elapsed().as_secs_f64());
}
