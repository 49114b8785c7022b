//! What signals do to a broker, as to a JVM: the first of TERM, INT and HUP begins an orderly end, which more of them do not cut
//! short; one that was ignored when the broker was started stays so.

mod support;

use odradek::record::compression::Codec;
use rustix::process::Signal;
use support::client::batch;
use support::{Broker, Brokers, Kind, PATIENCE, Process, Scratch, ZooKeeper, eventually, tied};

const TOLD: &str = "Terminating process due to signal SIGTERM";

/// A unit of systemd whose ExecStop is kafka-server-stop.sh sends two at once.
#[test]
fn a_second_signal_does_not_cut_an_orderly_end_short() {
    let mut cluster = Brokers::start("second-signal", 2, "controller.socket.timeout.ms=60000");
    cluster.client(0).create_replicated_topic("t", 2, 2, &[]);
    let controller = cluster.client(0).metadata(&[]).expect("metadata").controller_id;
    let stopped = usize::from(controller == 0);
    // The end waits for a controller that does not answer, until it does.
    cluster.brokers[1 - stopped].process().signal(Signal::STOP);
    let broker = cluster.brokers[stopped].process();
    broker.signal(Signal::TERM);
    // TERM alone: whoever runs this in the background of a script has INT ignored, here and in the broker.
    for (count, signal) in [(1, Some(Signal::TERM)), (2, Some(Signal::TERM)), (3, None)] {
        eventually(PATIENCE, &format!("it tells of {count} signals and goes on"), || {
            assert!(broker.has_ended().is_none(), "{}", broker.last_words());
            let told = broker.said().matches("Terminating process due to signal").count();
            if told == count { Ok(()) } else { Err(broker.last_words()) }
        });
        if let Some(signal) = signal {
            broker.signal(signal);
        }
    }
    cluster.brokers[1 - stopped].process().signal(Signal::CONT);
    let broker = cluster.brokers[stopped].process();
    let status = eventually(PATIENCE, "it ends", || broker.has_ended().ok_or_else(|| broker.last_words()));
    let expected = if Kind::under_test() == Kind::Odradek { 0 } else { 143 };
    assert_eq!(status.code(), Some(expected), "{}", broker.last_words());
    assert!(cluster.brokers[stopped].data.join(".kafka_cleanshutdown").exists());
}

/// `nohup`, which `-daemon` uses, and a script that starts the broker in its background.
#[test]
fn signals_that_whoever_started_the_broker_ignores_do_not_end_it() {
    if Kind::under_test() != Kind::Odradek {
        return;
    }
    let scratch = Scratch::new("ignored-signals");
    let zookeeper = ZooKeeper::start(&scratch);
    let mut broker = Broker::configure(&scratch, zookeeper.port, "");
    let mut command = tied("sh");
    command
        .args(["-c", "trap '' HUP INT; exec \"$0\" server-start \"$1\""])
        .arg(env!("CARGO_BIN_EXE_odradek"))
        .arg(&broker.config);
    broker.process = Some(Process::start("the broker", &mut command, scratch.path("broker.log")));
    broker.until_serving(Kind::Odradek, &scratch);
    broker.process().signal(Signal::HUP);
    broker.process().signal(Signal::INT);
    let mut client = broker.client();
    client.create_topic("t", 1, &[]);
    assert_eq!(client.produce("t", 0, batch(Codec::None, ["on".to_owned()])).expect("Produce is answered"), Ok(0));

    let process = broker.process();
    assert_eq!(process.terminate().code(), Some(0), "{}", process.last_words());
    let said = process.said();
    assert_eq!(said.matches("Terminating process due to signal").count(), 1, "{said}");
    assert!(said.contains(TOLD), "{said}");
}
