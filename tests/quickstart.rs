//! bin/quickstart.sh takes a newcomer from nothing to messages read back, as often as they like; and where something is
//! missing it says so in a sentence and leaves nothing running.

mod support;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output, Stdio};

use support::{Scratch, deps, free_port, repository};

struct Quickstart {
    scratch: Scratch,
    zookeeper: u16,
    broker: u16,
}

impl Quickstart {
    fn new(name: &str) -> Quickstart {
        let quickstart = Quickstart { scratch: Scratch::new(name), zookeeper: free_port(), broker: free_port() };
        let path = |name: &str| quickstart.scratch.path(name).display().to_string();
        let zookeeper =
            format!("dataDir={}\nclientPort={}\nadmin.enableServer=false\n", path("zookeeper"), quickstart.zookeeper);
        fs::write(path("zookeeper.properties"), zookeeper).expect("the scratch directory can be written");
        let server = format!(
            "broker.id=0\nlisteners=PLAINTEXT://localhost:{}\nlog.dirs={}\nzookeeper.connect=localhost:{}\n\
             offsets.topic.replication.factor=1\ngroup.initial.rebalance.delay.ms=0\n",
            quickstart.broker,
            path("data"),
            quickstart.zookeeper
        );
        fs::write(path("server.properties"), server).expect("the scratch directory can be written");
        quickstart
    }

    fn command(&self) -> Command {
        let mut command = Command::new(repository("bin/quickstart.sh"));
        command
            .env("QUICKSTART_CONFIG", self.scratch.path(""))
            .env("QUICKSTART_RUN", self.scratch.path("run"))
            .env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek"))
            .env("ZOOKEEPER_HOME", deps("zookeeper"))
            .stdin(Stdio::null());
        command
    }

    fn refuses(&self, command: &mut Command, sentence: &str) {
        let output = command.output().expect("bash runs");
        let (out, err) = told(&output);
        assert!(!output.status.success(), "{out}\n{err}");
        assert!(err.lines().any(|line| line.contains(sentence)), "{sentence:?} is not in:\n{out}\n{err}");
        for port in [self.zookeeper, self.broker] {
            assert!(TcpStream::connect(("127.0.0.1", port)).is_err(), "something still listens on {port}");
        }
    }
}

impl Drop for Quickstart {
    fn drop(&mut self) {
        let _ = self.command().arg("stop").output();
    }
}

fn told(output: &Output) -> (String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn it_sends_and_reads_back_three_lines_and_may_run_again_and_again() {
    let quickstart = Quickstart::new("quickstart");
    for run in 1..=4 {
        // The second meets a broker that runs, the others one that has just started.
        if run > 2 {
            assert!(quickstart.command().arg("stop").status().expect("bash runs").success());
        }
        let output = quickstart.command().output().expect("bash runs");
        let (out, err) = told(&output);
        assert!(output.status.success(), "run {run}: {out}\n{err}");
        let read = out.lines().filter(|line| *line == "that is no question").count();
        assert_eq!(read, run, "run {run} reads what all runs have sent:\n{out}");
        assert!(out.contains("\"endpoints\":["), "the znode is shown:\n{out}");
        assert!(out.contains("To stop both"), "{out}");
    }
    let stopped = quickstart.command().arg("stop").output().expect("bash runs");
    assert_eq!(told(&stopped).0, "quickstart: the broker has stopped\nquickstart: ZooKeeper has stopped\n");
    let again = quickstart.command().arg("stop").output().expect("bash runs");
    assert_eq!(told(&again).0, "quickstart: nothing was running\n");
}

#[test]
fn a_cluster_loses_its_leader_and_nothing_else_and_may_run_again() {
    let quickstart = Quickstart::new("quickstart-cluster");
    let settings = quickstart.scratch.path("server.properties");
    let shorter = fs::read_to_string(&settings).expect("it was written") + "zookeeper.session.timeout.ms=3000\n";
    fs::write(&settings, shorter).expect("the scratch directory can be written");
    for run in 1..=2 {
        let output = quickstart.command().args(["--brokers", "3"]).output().expect("bash runs");
        let (out, err) = told(&output);
        assert!(output.status.success(), "run {run}: {out}\n{err}");
        // Read before the leader dies, while it is dead, and once more with what was sent meanwhile.
        let read = |line: &str| out.lines().filter(|read| *read == line).count();
        let counts = (read("that is no question"), read("and one of them gone"));
        assert_eq!(counts, (3 * run, 3 * run - 2), "run {run}: {out}");
        assert!(out.contains("has all that was acknowledged"), "{out}");
    }
    let stopped = quickstart.command().arg("stop").output().expect("bash runs");
    let (out, _) = told(&stopped);
    let mut lines: Vec<&str> = out.lines().collect();
    lines.sort_unstable();
    let expected =
        ["ZooKeeper has stopped", "the broker 1 has stopped", "the broker 2 has stopped", "the broker 3 has stopped"];
    assert_eq!(lines, expected.map(|line| format!("quickstart: {line}")));
}

#[test]
fn a_port_in_use_is_named() {
    let quickstart = Quickstart::new("quickstart-port");
    let taken = TcpListener::bind(("127.0.0.1", quickstart.broker)).expect("the port is free");
    let output = quickstart.command().output().expect("bash runs");
    let (out, err) = told(&output);
    assert!(!output.status.success(), "{out}\n{err}");
    let sentence = format!("port {} is in use, and not by this quickstart's broker", quickstart.broker);
    assert!(err.contains(&sentence), "{out}\n{err}");
    assert!(TcpStream::connect(("127.0.0.1", quickstart.zookeeper)).is_err(), "ZooKeeper was started for nothing");
    drop(taken);
}

#[test]
fn what_is_missing_is_named() {
    let quickstart = Quickstart::new("quickstart-missing");
    quickstart.refuses(quickstart.command().env("JAVA_HOME", "/nowhere"), "there is no Java here");
    quickstart.refuses(quickstart.command().env("ZOOKEEPER_HOME", "/nowhere"), "ZOOKEEPER_HOME is /nowhere, but");
    quickstart.refuses(quickstart.command().env("QUICKSTART_CONFIG", "/nowhere"), "there is no /nowhere/zookeeper");
    // A broker that does not start: its own words, and ZooKeeper stopped again.
    let bad = quickstart.scratch.path("server.properties");
    let settings = fs::read_to_string(&bad).expect("it was written") + "log.segment.bytes=many\n";
    fs::write(&bad, settings).expect("the scratch directory can be written");
    quickstart.refuses(&mut quickstart.command(), "the broker ended before it was ready");
}
