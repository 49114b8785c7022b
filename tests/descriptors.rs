//! Connections leave descriptors to the log: a client that opens as many as it can harms no log directory and no other
//! client.

mod support;

use std::fs;
use std::net::TcpStream;

use odradek::record::compression::Codec;
use support::client::batch;
use support::{Broker, Cluster, Kind, PATIENCE, Process, Scratch, ZooKeeper, eventually, tied};

const DESCRIPTORS: usize = 256;
const CONNECTIONS: usize = 400;

/// The broker under a limit that it cannot raise.
fn start_limited(broker: &mut Broker, scratch: &Scratch) {
    let mut command = tied("sh");
    command
        .args(["-c", &format!("ulimit -n {DESCRIPTORS}; exec \"$0\" server-start \"$1\"")])
        .arg(env!("CARGO_BIN_EXE_odradek"))
        .arg(&broker.config);
    let mut process = Process::start("the broker", &mut command, scratch.path("broker.log"));
    process.until_port(broker.port);
    broker.process = Some(process);
}

fn open_descriptors(cluster: &mut Cluster) -> usize {
    let path = format!("/proc/{}/fd", cluster.broker.process().id());
    fs::read_dir(path).expect("the broker runs").count()
}

#[test]
fn connections_leave_descriptors_to_the_log_and_to_those_who_came_before() {
    if Kind::under_test() != Kind::Odradek {
        return;
    }
    let scratch = Scratch::new("descriptors");
    let zookeeper = ZooKeeper::start(&scratch);
    let mut broker = Broker::configure(&scratch, zookeeper.port, "");
    start_limited(&mut broker, &scratch);
    let mut cluster = Cluster { broker, zookeeper, scratch };
    let mut client = cluster.broker.client();
    eventually(PATIENCE, "there is a controller", || {
        let metadata = client.metadata(&[]).map_err(|error| error.to_string())?;
        if metadata.controller_id == 0 { Ok(()) } else { Err(format!("{metadata:?}")) }
    });
    client.create_topic("before", 1, &[]);
    let produced = client.produce("before", 0, batch(Codec::None, ["0".to_owned()]));
    assert_eq!(produced.expect("it is answered"), Ok(0));

    let connect = || TcpStream::connect(("127.0.0.1", cluster.broker.port)).expect("the backlog takes it");
    let held: Vec<TcpStream> = (0..CONNECTIONS).map(|_| connect()).collect();
    eventually(PATIENCE, "the broker closes what is too much", || {
        let mut byte = [0; 1];
        let is_closed = |stream: &&TcpStream| {
            stream.set_nonblocking(true).expect("a socket option");
            !matches!(stream.peek(&mut byte), Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
        };
        let closed = held.iter().filter(is_closed).count();
        if closed >= CONNECTIONS - DESCRIPTORS * 3 / 4 { Ok(()) } else { Err(format!("{closed} are closed")) }
    });
    let open = open_descriptors(&mut cluster);
    assert!(open <= DESCRIPTORS * 3 / 4 + 8, "{open} descriptors are open");

    // The log still opens what it needs, and whoever was there is served.
    client.create_topic("beside", 5, &[]);
    for partition in 0..5 {
        let produced = client.produce("beside", partition, batch(Codec::None, ["0".to_owned()]));
        assert_eq!(produced.expect("it is answered"), Ok(0));
    }
    assert_eq!(client.produce("before", 0, batch(Codec::None, ["1".to_owned()])).expect("it is answered"), Ok(1));
    let said = cluster.broker.process().said();
    assert!(!said.contains("ERROR"), "{}", cluster.broker.process().last_words());
    let warnings = said.lines().filter(|line| line.contains("are kept for the log")).count();
    assert!((1..=10).contains(&warnings), "{warnings} warnings");

    drop(held);
    eventually(PATIENCE, "there is room again", || {
        let metadata =
            support::client::Client::connect(cluster.broker.port).and_then(|mut new| new.metadata(&["before"]));
        metadata.map(drop).map_err(|error| error.to_string())
    });
}
