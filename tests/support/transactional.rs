//! Kafka's own transactional clients, told what to do line by line.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};

use super::{Scratch, deps, repository, tied};

/// tests/jvm/Transactions.java
pub struct Jvm {
    child: Child,
    asks: ChildStdin,
    answers: BufReader<ChildStdout>,
    log: std::path::PathBuf,
}

impl Jvm {
    /// With the client of a release, as tests/deps.sh names its jars, of the brokers at these addresses.
    pub fn start(scratch: &Scratch, addresses: &str, jars: &str) -> Jvm {
        let log = scratch.path("transactions-java.log");
        let mut child = tied("java")
            .args(["-Xmx128M", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-cp"])
            .arg(format!("{}/*", deps(jars).display()))
            .arg(format!("-Dlog4j.configuration=file:{}", repository("config/tools-log4j.properties").display()))
            .arg(repository("tests/jvm/Transactions.java"))
            .arg(addresses)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).expect("the scratch directory can be written"))
            .spawn()
            .expect("there is java");
        let asks = child.stdin.take().expect("it is piped");
        let answers = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut jvm = Jvm { child, asks, answers, log };
        assert_eq!(jvm.answer(), "ready");
        jvm
    }

    pub fn ask(&mut self, line: &str) {
        writeln!(self.asks, "{line}").expect("it listens");
    }

    pub fn answer(&mut self) -> String {
        let mut line = String::new();
        let read = self.answers.read_line(&mut line).expect("it speaks");
        if read == 0 {
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            panic!("it has ended: {said}");
        }
        line.trim_end().to_owned()
    }

    #[track_caller]
    pub fn told(&mut self, line: &str) -> String {
        self.ask(line);
        self.answer()
    }

    /// Lines that are all answered with "ok".
    #[track_caller]
    pub fn all_ok(&mut self, lines: &[&str]) {
        for line in lines {
            let told = self.told(line);
            let said = std::fs::read_to_string(&self.log).unwrap_or_default();
            assert_eq!(told, "ok", "{line}: {said}");
        }
    }
}

impl Drop for Jvm {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
