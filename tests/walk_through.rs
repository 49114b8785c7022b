//! The walk-through of any Kafka tutorial, word for word but for ports and directories: with our scripts, and with the
//! tools of Kafka 2.8 where the tutorial is old.

mod support;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio};

use support::client::Client;
use support::{Cluster, PATIENCE, Scratch, deps, eventually, free_port, repository};

/// A shell in the repository, as the tutorial's reader has it. Its `ps` shows only this test's processes, since
/// the stop scripts, as Kafka's, stop every broker that they see.
struct Shell {
    scratch: Scratch,
    zookeeper: u16,
    broker: u16,
}

impl Shell {
    fn new(name: &str) -> Shell {
        let shell = Shell { scratch: Scratch::new(name), zookeeper: free_port(), broker: free_port() };
        let path = |name: &str| shell.scratch.path(name).display().to_string();
        let zookeeper = format!(
            "dataDir={}\nclientPort={}\nmaxClientCnxns=0\nadmin.enableServer=false\ntickTime=500\n",
            path("zookeeper"),
            shell.zookeeper
        );
        fs::write(path("zookeeper.properties"), zookeeper).expect("the scratch directory can be written");
        let sample = fs::read_to_string(repository("config/server.properties")).expect("the sample configuration");
        let changed = format!(
            "{sample}\nlisteners=PLAINTEXT://localhost:{}\nlog.dirs={}\nzookeeper.connect=localhost:{}\n",
            shell.broker,
            path("data"),
            shell.zookeeper
        );
        fs::write(path("server.properties"), changed).expect("the scratch directory can be written");
        let shim = shell.scratch.path("shim");
        fs::create_dir(&shim).expect("the scratch directory can be written");
        let ps = format!("#!/bin/sh\n/bin/ps \"$@\" | /bin/grep -F '{}'\n", shell.scratch.path("").display());
        fs::write(shim.join("ps"), ps).expect("the scratch directory can be written");
        fs::set_permissions(shim.join("ps"), fs::Permissions::from_mode(0o755)).expect("a file of ours");
        shell
    }

    fn run(&self, line: &str, input: &str) -> Output {
        let line = line
            .replace("localhost:2181", &format!("localhost:{}", self.zookeeper))
            .replace("localhost:9092", &format!("localhost:{}", self.broker))
            .replace("config/", &self.scratch.path("").display().to_string());
        let file = self.scratch.path("input");
        fs::write(&file, input).expect("the scratch directory can be written");
        let path = format!("{}:{}", self.scratch.path("shim").display(), std::env::var("PATH").unwrap_or_default());
        Command::new("bash")
            .args(["-c", &line])
            .current_dir(repository(""))
            .env("PATH", path)
            .env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek"))
            .env("ZOOKEEPER_HOME", deps("zookeeper"))
            .env("LOG_DIR", self.scratch.path("logs"))
            .stdin(Stdio::from(fs::File::open(file).expect("it was just written")))
            .output()
            .expect("bash runs")
    }

    /// What a command of the tutorial prints; it must end with status 0.
    fn says(&self, line: &str, input: &str) -> String {
        let output = self.run(line, input);
        let out = String::from_utf8_lossy(&output.stdout).into_owned();
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{line}: {}\n{out}\n{err}\n{}", output.status, self.logs());
        out
    }

    fn logs(&self) -> String {
        ["zookeeper.out", "kafkaServer.out"]
            .map(|name| fs::read_to_string(self.scratch.path("logs").join(name)).unwrap_or_default())
            .map(|said| said.lines().rev().take(6).collect::<Vec<_>>().join("\n"))
            .join("\n---\n")
    }

    fn processes(&self) -> Vec<(i32, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").expect("there is a /proc").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            if line.contains(".properties") && line.contains(&self.scratch.path("").display().to_string()) {
                found.push((pid, line));
            }
        }
        found
    }

    fn start(&self, zookeeper: &str, broker: &str) {
        self.says(zookeeper, "");
        eventually(PATIENCE, "ZooKeeper listens", || {
            std::net::TcpStream::connect(("localhost", self.zookeeper)).map(drop).map_err(|e| e.to_string())
        });
        self.says(broker, "");
        eventually(PATIENCE, "the broker answers", || {
            let mut client = Client::connect(self.broker).map_err(|e| format!("{e}; {}", self.logs()))?;
            let metadata = client.metadata(&[]).map_err(|e| e.to_string())?;
            if metadata.brokers.len() == 1 { Ok(()) } else { Err(format!("{metadata:?}")) }
        });
    }

    fn stop(&self) {
        // The rule of Kafka's own kafka-server-stop.sh finds the broker, too.
        let found = self.says("ps ax | grep ' kafka\\.Kafka ' | grep java | grep -v grep | awk '{print $1}'", "");
        assert_eq!(found.lines().count(), 1, "one broker is seen: {found:?}");
        self.says("bin/kafka-server-stop.sh", "");
        eventually(PATIENCE, "the broker has ended", || {
            let left: Vec<_> = self.processes().into_iter().filter(|(_, line)| line.contains("kafka.Kafka")).collect();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let again = self.run("bin/kafka-server-stop.sh", "");
        assert_eq!(String::from_utf8_lossy(&again.stdout), "No kafka server to stop\n");
        assert_eq!(again.status.code(), Some(1));
        self.says("bin/zookeeper-server-stop.sh", "");
        eventually(PATIENCE, "ZooKeeper has ended", || {
            let left = self.processes();
            if left.is_empty() { Ok(()) } else { Err(format!("{left:?}")) }
        });
        let again = self.run("bin/zookeeper-server-stop.sh", "");
        assert_eq!(String::from_utf8_lossy(&again.stdout), "No zookeeper server to stop\n");
    }
}

impl Drop for Shell {
    /// Daemons are nobody's children: what a failed test leaves is found by its directory.
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            if let Some(pid) = rustix::process::Pid::from_raw(pid) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tutorial_works_word_for_word_with_our_scripts() {
    let shell = Shell::new("tutorial");
    shell.start(
        "bin/zookeeper-server-start.sh -daemon config/zookeeper.properties",
        "bin/kafka-server-start.sh -daemon config/server.properties",
    );
    // As of Kafka 2.2 and later.
    let created = shell.says(
        "bin/kafka-topics.sh --create --bootstrap-server localhost:9092 --replication-factor 1 --partitions 1 --topic Hello-Kafka",
        "",
    );
    assert_eq!(created, "Created topic Hello-Kafka.\n");
    assert_eq!(shell.says("bin/kafka-topics.sh --list --bootstrap-server localhost:9092", ""), "Hello-Kafka\n");
    let described =
        shell.says("bin/kafka-topics.sh --describe --bootstrap-server localhost:9092 --topic Hello-Kafka", "");
    let lines: Vec<String> = described.lines().map(words).collect();
    assert!(lines[0].starts_with("Topic: Hello-Kafka TopicId: "), "{described}");
    assert!(lines[0].contains(" PartitionCount: 1 ReplicationFactor: 1 Configs:"), "{described}");
    assert!(lines[1].starts_with("Topic: Hello-Kafka Partition: 0 Leader: 0 Replicas: 0 Isr: 0"), "{described}");
    let sent = shell.says(
        "bin/kafka-console-producer.sh --bootstrap-server localhost:9092 --topic Hello-Kafka",
        "Hello\nMy first message\nMy second message\n",
    );
    assert_eq!(sent, "");
    let consume = "bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic Hello-Kafka --from-beginning --max-messages 3";
    assert_eq!(shell.says(consume, ""), "Hello\nMy first message\nMy second message\n");

    // As of Kafka 0.8 to 2.1.
    let created = shell.says(
        "bin/kafka-topics.sh --create --zookeeper localhost:2181 --replication-factor 1 --partitions 1 --topic Old-Kafka",
        "",
    );
    assert!(created.contains("Created topic Old-Kafka."), "{created}");
    let list = shell.says("bin/kafka-topics.sh --list --zookeeper localhost:2181", "");
    assert!(list.contains("Hello-Kafka\n") && list.contains("Old-Kafka\n"), "{list}");
    shell.says("bin/kafka-console-producer.sh --broker-list localhost:9092 --topic Old-Kafka", "Hello\nagain\n");
    let consumed = shell.says(
        "bin/kafka-console-consumer.sh --zookeeper localhost:2181 --topic Old-Kafka --from-beginning --max-messages 2",
        "",
    );
    assert_eq!(consumed, "Hello\nagain\n");
    let described = shell.says("bin/kafka-topics.sh --describe --zookeeper localhost:2181 --topic Old-Kafka", "");
    assert!(words(&described).contains("Topic: Old-Kafka Partition: 0 Leader: 0 Replicas: 0 Isr: 0"), "{described}");
    shell.says("bin/kafka-topics.sh --zookeeper localhost:2181 --alter --topic Old-Kafka --partitions 2", "");
    eventually(PATIENCE, "the partitions are two", || {
        let described = shell.says("bin/kafka-topics.sh --describe --zookeeper localhost:2181 --topic Old-Kafka", "");
        if described.contains("PartitionCount: 2") { Ok(()) } else { Err(described) }
    });
    shell.says("bin/kafka-topics.sh --zookeeper localhost:2181 --delete --topic Old-Kafka", "");
    eventually(PATIENCE, "the topic is gone", || {
        let list = shell.says("bin/kafka-topics.sh --list --zookeeper localhost:2181", "");
        if list.contains("Old-Kafka\n") { Err(list) } else { Ok(()) }
    });

    // Groups and the rest of what a tutorial shows.
    let consume = "bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic Hello-Kafka --group readers --from-beginning --max-messages 3";
    assert_eq!(shell.says(consume, "").lines().count(), 3);
    assert!(
        shell.says("bin/kafka-consumer-groups.sh --bootstrap-server localhost:9092 --list", "").contains("readers")
    );
    let described =
        shell.says("bin/kafka-consumer-groups.sh --bootstrap-server localhost:9092 --describe --group readers", "");
    assert!(described.lines().any(|line| words(line).starts_with("readers Hello-Kafka 0 3 3 0")), "{described}");
    let offsets = shell.says("bin/kafka-get-offsets.sh --bootstrap-server localhost:9092 --topic Hello-Kafka", "");
    assert_eq!(offsets, "Hello-Kafka:0:3\n");
    let altered = shell.says(
        "bin/kafka-configs.sh --bootstrap-server localhost:9092 --alter --entity-type topics --entity-name Hello-Kafka --add-config retention.ms=86400000",
        "",
    );
    assert_eq!(altered, "Completed updating config for topic Hello-Kafka.\n");
    let versions = shell.says("bin/kafka-broker-api-versions.sh --bootstrap-server localhost:9092", "");
    assert!(
        versions.contains("(id: 0 rack: null) -> (") && versions.contains("Produce(0): 0 to 12 [usable: 11]"),
        "{versions}"
    );
    let measured = shell.says(
        "bin/kafka-producer-perf-test.sh --topic perf --num-records 5000 --record-size 100 --throughput -1 --producer-props bootstrap.servers=localhost:9092",
        "",
    );
    assert!(measured.contains("5000 records sent, ") && measured.contains(" 99.9th."), "{measured}");
    let measured = shell
        .says("bin/kafka-consumer-perf-test.sh --bootstrap-server localhost:9092 --topic perf --messages 5000", "");
    assert!(measured.starts_with("start.time, end.time, "), "{measured}");

    // What was sent is there after a restart of both.
    shell.stop();
    // As units made for JVMs have it.
    shell.start(
        "bin/kafka-run-class.sh -daemon -name zookeeper -loggc org.apache.zookeeper.server.quorum.QuorumPeerMain \
         config/zookeeper.properties",
        "KAFKA_HEAP_OPTS='-Xmx6g -Xms6g' JMX_PORT=9999 KAFKA_LOG4J_OPTS=-Dlog4j.configuration=file:/etc/kafka/log4j.properties \
         KAFKA_OPTS=-javaagent:/opt/agent.jar=9404 \
         bin/kafka-run-class.sh -daemon -name kafkaServer -loggc kafka.Kafka config/server.properties",
    );
    let said = fs::read_to_string(shell.scratch.path("logs/kafkaServer.out")).expect("the broker's log");
    let named = "without effect here: JMX_PORT, KAFKA_HEAP_OPTS, KAFKA_LOG4J_OPTS, -javaagent of KAFKA_OPTS";
    assert_eq!(said.lines().filter(|line| line.contains(named)).count(), 1, "{said}");
    let list = "bin/kafka-run-class.sh org.apache.kafka.tools.TopicCommand --bootstrap-server localhost:9092 --list --exclude-internal";
    assert_eq!(shell.says(list, ""), "Hello-Kafka\nperf\n");
    let consume = "bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic Hello-Kafka --from-beginning --max-messages 3";
    assert_eq!(shell.says(consume, ""), "Hello\nMy first message\nMy second message\n");
    shell.stop();
}

/// Under a `KAFKA_HOME` that has of Kafka's scripts the one that starts a broker.
#[test]
fn the_script_of_the_swap_puts_ours_in_a_jvm_brokers_place_and_back() {
    let shell = Shell::new("swap-script");
    let (home, start) = (shell.scratch.path("kafka"), shell.scratch.path("kafka/bin/kafka-server-start.sh"));
    fs::create_dir_all(home.join("bin")).expect("the scratch directory can be written");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = -daemon ] && shift\n\
         nohup java -Xmx256M -cp '{}/*' kafka.Kafka \"$@\" >>'{}' 2>&1 </dev/null &\n",
        deps("kafka-3.9.2").display(),
        shell.scratch.path("logs/kafkaServer.out").display(),
    );
    fs::write(&start, script).expect("the scratch directory can be written");
    fs::set_permissions(&start, fs::Permissions::from_mode(0o755)).expect("a file of ours");
    let settings = shell.scratch.path("server.properties");
    let sample = fs::read_to_string(&settings).expect("it was just written");
    fs::write(&settings, format!("{sample}\ninter.broker.protocol.version=3.9\n")).expect("writable");
    shell.start(
        "bin/zookeeper-server-start.sh -daemon config/zookeeper.properties",
        &format!("{} -daemon config/server.properties", start.display()),
    );
    shell.says(
        "bin/kafka-topics.sh --create --bootstrap-server localhost:9092 --replication-factor 1 --partitions 1 --topic t",
        "",
    );
    let is_ours = || shell.processes().iter().any(|(_, line)| line.starts_with("odradek java kafka.Kafka"));
    let mut sent = String::new();
    for (round, successor) in ["", &home.display().to_string(), ""].into_iter().enumerate() {
        let value = format!("before swap {round}\n");
        shell.says("bin/kafka-console-producer.sh --bootstrap-server localhost:9092 --topic t", &value);
        sent.push_str(&value);
        let said = shell.says(&format!("bin/swap-broker.sh config/server.properties localhost:9092 {successor}"), "");
        assert!(said.contains("broker 0 has been replaced"), "{said}");
        assert_eq!((said.contains("odradek preflight"), is_ours()), (successor.is_empty(), successor.is_empty()));
        let consume = "bin/kafka-console-consumer.sh --bootstrap-server localhost:9092 --topic t --from-beginning";
        assert_eq!(shell.says(&format!("{consume} --max-messages {}", round + 1), ""), sent);
    }
    let refused = shell.run("bin/swap-broker.sh config/other.properties localhost:9092", "");
    assert_eq!(refused.status.code(), Some(1), "no such file");
    shell.stop();
}

#[test]
fn the_tutorial_works_word_for_word_with_the_tools_of_kafka_2_8() {
    let cluster = Cluster::start("tutorial-28", "");
    let (zookeeper, server) = (format!("localhost:{}", cluster.zookeeper.port), cluster.broker.address());
    let topics = |line: &str| {
        let arguments: Vec<&str> = line.split(' ').chain(["--zookeeper", &zookeeper]).collect();
        cluster.jvm_tool("2.8.2", "kafka.admin.TopicCommand", &arguments).unwrap_or_else(|error| panic!("{error}"))
    };
    let created = topics("--create --replication-factor 1 --partitions 1 --topic Hello-Kafka");
    assert!(created.contains("Created topic Hello-Kafka."), "{created}");
    cluster.broker.client().until_led("Hello-Kafka", 1);
    let produced = cluster.jvm_tool_fed(
        "2.8.2",
        "kafka.tools.ConsoleProducer",
        &["--broker-list", &server, "--topic", "Hello-Kafka"],
        "Hello\nMy first message\nMy second message\n",
    );
    produced.unwrap_or_else(|error| panic!("{error}"));
    let consumed = cluster.jvm_tool(
        "2.8.2",
        "kafka.tools.ConsoleConsumer",
        &["--bootstrap-server", &server, "--topic", "Hello-Kafka", "--from-beginning", "--max-messages", "3"],
    );
    assert_eq!(consumed.unwrap_or_else(|error| panic!("{error}")), "Hello\nMy first message\nMy second message\n");
    assert!(topics("--list").lines().any(|line| line == "Hello-Kafka"));
    let described = topics("--describe --topic Hello-Kafka");
    assert!(words(&described).contains("Topic: Hello-Kafka Partition: 0 Leader: 0 Replicas: 0 Isr: 0"), "{described}");
}
