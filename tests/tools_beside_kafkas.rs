//! Tools that go on for a time say, line by line, what Kafka's own say about the same cluster, and do what they do.

mod support;

use std::collections::BTreeSet;
use std::fs;
use std::process::{Command, Stdio};

use bytes::Bytes;
use odradek::protocol::error_code::ErrorCode;
use odradek::protocol::messages::init_producer_id::InitProducerIdRequest;
use odradek::record::compression::Codec;
use odradek::record::read::batches;
use regex::Regex;
use support::client::batch;
use support::transactional::{Producer, until_stable, until_transactions_are_coordinated};
use support::{Brokers, Cluster, Kind, PATIENCE, Process, Scratch, eventually, jvm_tool, our_tool};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Whose {
    Ours,
    Kafkas,
}
use Whose::{Kafkas, Ours};

fn tool(whose: Whose, script: &str, class: &str, arguments: &[&str]) -> Command {
    let mut command = match whose {
        Ours => our_tool(script),
        Kafkas => jvm_tool("3.9.1", &format!("org.apache.kafka.tools.{class}")),
    };
    command.args(arguments);
    command
}

/// What a tool has printed by now, without the time of each line; what it has logged is no part of that.
fn printed(tool: &Process) -> Vec<String> {
    let times = Regex::new("\"timestamp\":\\d+,|^[-0-9]+ [0-9:,]+: ").expect("the pattern is constant");
    let said = tool.said();
    let lines = said.lines().filter(|line| line.starts_with('{') || line.starts_with("20"));
    lines.map(|line| times.replace(line, "").into_owned()).collect()
}

fn verifiable_consumer(whose: Whose, scratch: &Scratch, name: &str, address: &str, arguments: &str) -> Process {
    let arguments: Vec<&str> = ["--bootstrap-server", address].into_iter().chain(arguments.split(' ')).collect();
    let mut command = tool(whose, "kafka-verifiable-consumer.sh", "VerifiableConsumer", &arguments);
    Process::start(name, &mut command, scratch.path(&format!("{name}-{whose:?}")))
}

#[test]
fn a_verifiable_consumer_tells_of_records_and_commits() {
    let cluster = Cluster::start("verifiable-records", "");
    let mut client = cluster.broker.client();
    client.create_topic("t", 1, &[]);
    client
        .produce("t", 0, batch(Codec::None, ["a", "b \"c\"", "d"].map(str::to_owned)))
        .expect("answered")
        .expect("ok");
    for (name, arguments, status) in [
        ("verbose", "--topic t --group-id GROUP --max-messages 2 --verbose", 0),
        ("plain", "--topic t --group-id GROUP --max-messages 3", 0),
        ("autocommit", "--topic t --group-id GROUP --max-messages 1 --enable-autocommit", 0),
        ("no-position", "--topic t --group-id GROUP --reset-policy none", 0),
        ("bad-policy", "--topic t --group-id GROUP --reset-policy some", 1),
        ("no-group", "--topic t", 1),
        ("new-protocol", "--topic t --group-id GROUP --group-protocol consumer", 0),
    ] {
        let [ours, kafkas] = [Ours, Kafkas].map(|whose| {
            let arguments = arguments.replace("GROUP", &format!("{name}-{whose:?}"));
            let mut tool = verifiable_consumer(whose, &cluster.scratch, name, &cluster.broker.address(), &arguments);
            let ended = eventually(PATIENCE, "the tool ends", || tool.has_ended().ok_or_else(|| tool.last_words()));
            assert_eq!(ended.code(), Some(status), "{whose:?} {name}: {}", tool.last_words());
            (printed(&tool), tool.last_words())
        });
        assert_eq!(ours.0, kafkas.0, "{name}\n{}\n{}", ours.1, kafkas.1);
        assert_eq!(ours.0.is_empty(), status != 0, "{ours:?}");
    }
}

#[test]
fn members_tell_of_what_their_group_gives_and_takes() {
    let cluster = Cluster::start("verifiable-groups", "");
    cluster.broker.client().create_topic("two", 2, &[]);
    let partitions = |name: &str, list: &[i32]| {
        let list: Vec<String> = list.iter().map(|p| format!("{{\"topic\":\"two\",\"partition\":{p}}}")).collect();
        format!("{{\"name\":\"partitions_{name}\",\"partitions\":[{}]}}", list.join(","))
    };
    let plain = |name: &str| format!("{{\"name\":\"{name}\"}}");
    let until = |tool: &Process, expected: &[String]| {
        eventually(PATIENCE, &format!("{} has said {expected:?}", tool.name), || {
            let said = printed(tool);
            if said == expected { Ok(()) } else { Err(format!("{said:?}; {}", tool.last_words())) }
        });
    };
    let address = cluster.broker.address();
    for (first, second) in [(Ours, Kafkas), (Kafkas, Ours), (Ours, Ours)] {
        let arguments = format!("--topic two --group-id {first:?}-{second:?}");
        let start = |whose, name: &str| verifiable_consumer(whose, &cluster.scratch, name, &address, &arguments);
        let name = |which| format!("{which} of {first:?} and {second:?}").replace(' ', "-");
        let mut one = start(first, &name("first"));
        let mut ones = vec![plain("startup_complete"), partitions("assigned", &[0, 1])];
        until(&one, &ones);
        let mut other = start(second, &name("second"));
        ones.push(partitions("revoked", &[0, 1]));
        // Who gets which depends on the names that the broker gave them.
        let of_first = eventually(PATIENCE, "the partitions are shared", || {
            let said = printed(&one);
            let assigned = |p| said.last() == Some(&partitions("assigned", &[p]));
            (0..2).find(|p| assigned(*p)).ok_or_else(|| format!("{said:?}; {}", one.last_words()))
        });
        ones.push(partitions("assigned", &[of_first]));
        until(&one, &ones);
        let of_second = 1 - of_first;
        let mut others = vec![plain("startup_complete"), partitions("assigned", &[of_second])];
        until(&other, &others);

        assert_eq!(other.terminate().code(), Some(143), "{}", other.last_words());
        others.extend([partitions("revoked", &[of_second]), plain("shutdown_complete")]);
        assert_eq!(printed(&other), others);
        ones.extend([partitions("revoked", &[of_first]), partitions("assigned", &[0, 1])]);
        until(&one, &ones);
        assert_eq!(one.terminate().code(), Some(143), "{}", one.last_words());
        ones.extend([partitions("revoked", &[0, 1]), plain("shutdown_complete")]);
        assert_eq!(printed(&one), ones);
    }
}

/// Whoever comes under an instance's name is the instance; the one before ends, and does not fight for the name.
#[test]
fn a_member_that_another_has_replaced_ends() {
    let cluster = Cluster::start("verifiable-fenced", "");
    cluster.broker.client().create_topic("t", 1, &[]);
    let address = cluster.broker.address();
    let complete = "{\"name\":\"shutdown_complete\"}".to_owned();
    for whose in [Ours, Kafkas] {
        let arguments = format!("--topic t --group-id {whose:?} --group-instance-id i");
        let start = |name| verifiable_consumer(whose, &cluster.scratch, name, &address, &arguments);
        let is_assigned = |tool: &Process| {
            eventually(PATIENCE, "it has the partition", || {
                let said = printed(tool);
                if said.len() == 2 { Ok(()) } else { Err(format!("{said:?}; {}", tool.last_words())) }
            });
        };
        let mut one = start("replaced");
        is_assigned(&one);
        let other = start("replacing");
        is_assigned(&other);
        let ended = eventually(PATIENCE, "the replaced one ends", || one.has_ended().ok_or_else(|| one.last_words()));
        assert_eq!(ended.code(), Some(0), "{}", one.last_words());
        assert_eq!(printed(&one).last(), Some(&complete), "{}", one.last_words());
        assert_eq!(printed(&other).len(), 2, "{}", other.last_words());
    }
}

#[test]
fn replicas_are_compared_batch_by_batch() {
    let mut cluster = Brokers::start("replica-verification", 3, "");
    let mut client = cluster.client(0);
    client.create_replicated_topic("t", 1, 3, &[]);
    let led = cluster.until_partition("t", 0, "everybody is in sync", |found| found.isr_nodes.len() == 3);
    let mut client = cluster.client(led.leader_id);
    for value in ["a", "b", "c"] {
        client.produce("t", 0, batch(Codec::None, [value.to_owned()])).expect("answered").expect("appended");
    }
    // A follower's second batch gets another checksum while the broker is down, which nobody checks.
    let changed = (led.leader_id as usize + 1) % 3;
    cluster.brokers[changed].stop();
    let segment = cluster.brokers[changed].data.join("t-0/00000000000000000000.log");
    let mut bytes = fs::read(&segment).expect("the follower has the log");
    let batch_bytes = bytes.len() / 3;
    bytes[batch_bytes + 17] ^= 1;
    fs::write(&segment, bytes).expect("it can be written");
    cluster.start_broker(changed, Kind::under_test());
    cluster.until_partition("t", 0, "everybody is in sync", |found| found.isr_nodes.len() == 3);

    let addresses = cluster.addresses();
    let arguments =
        ["--broker-list", &addresses, "--topics-include", "t", "--time", "-2", "--report-interval-ms", "100"];
    let [ours, kafkas] = [Ours, Kafkas].map(|whose| {
        let mut command = tool(whose, "kafka-replica-verification.sh", "ReplicaVerificationTool", &arguments);
        let mut tool = Process::start("the tool", &mut command, cluster.scratch.path(&format!("{whose:?}")));
        let said = eventually(PATIENCE, "all is compared and reported", || {
            assert_eq!(tool.has_ended(), None, "{}", tool.last_words());
            let said: BTreeSet<String> = printed(&tool).into_iter().collect();
            let is_reported = said.iter().any(|line| line.starts_with("max lag is 0 for partition t-0 at offset 3 "));
            if is_reported { Ok(said) } else { Err(format!("{said:?}; {}", tool.last_words())) }
        });
        tool.kill();
        said
    });
    assert_eq!(ours, kafkas);
    assert!(ours.iter().any(|line| line.contains("t-0 has unmatched checksum at offset 1; replica")), "{ours:?}");
}

#[test]
fn a_console_consumer_reads_what_its_isolation_level_lets_it() {
    let cluster = Cluster::start("console-isolation", "transaction.state.log.num.partitions=1");
    let mut client = cluster.broker.client();
    client.create_topic("orders", 1, &[]);
    until_transactions_are_coordinated(&mut client);
    for (id, committed) in [("committed", true), ("aborted", false)] {
        let mut me = Producer::begin(&mut client, id);
        me.add(&mut client, "orders", 0);
        (0..2).for_each(|_| me.append(&mut client, 0));
        assert_eq!(me.end(&mut client, committed), ErrorCode::None);
        until_stable(&mut client, 0, if committed { 3 } else { 6 });
    }
    client.produce("orders", 0, batch(Codec::None, ["plain".to_owned()])).expect("answered").expect("appended");
    let mut open = Producer::begin(&mut client, "open");
    open.add(&mut client, "orders", 0);
    open.append(&mut client, 0);
    client.produce("orders", 0, batch(Codec::None, ["behind".to_owned()])).expect("answered").expect("appended");

    let address = cluster.broker.address();
    let common = "--topic orders --partition 0 --offset earliest --timeout-ms 15000 --property print.offset=true";
    let levels =
        ["", "--isolation-level read_uncommitted", "--isolation-level read_committed", "--isolation-level none"];
    let start = |whose: Whose, level: &str| {
        let arguments = format!("--bootstrap-server {address} {common} {level}");
        let arguments: Vec<&str> = arguments.split_whitespace().collect();
        let mut command = tool(whose, "kafka-console-consumer.sh", "consumer.ConsoleConsumer", &arguments);
        let [out, err] = [Stdio::piped(), Stdio::piped()];
        command.stdout(out).stderr(err).spawn().expect("it starts")
    };
    // Each waits for what does not come, all at once.
    let running = levels.map(|level| [Ours, Kafkas].map(|whose| start(whose, level)));
    let told = running.map(|both| {
        both.map(|one| {
            let ended = one.wait_with_output().expect("it ends");
            let [out, err] = [ended.stdout, ended.stderr].map(|said| String::from_utf8_lossy(&said).into_owned());
            let count = err.lines().find(|line| line.starts_with("Processed a total of ")).map(str::to_owned);
            ((ended.status.code(), out, count), err)
        })
    });
    let all = "Offset:0\t0\nOffset:1\t1\nOffset:3\t0\nOffset:4\t1\nOffset:6\tplain\nOffset:7\t0\nOffset:8\tbehind\n";
    let committed = "Offset:0\t0\nOffset:1\t1\nOffset:6\tplain\n";
    for ((level, [ours, kafkas]), expected) in levels.iter().zip(told).zip([all, all, committed, ""]) {
        assert_eq!(ours.0, kafkas.0, "{level}: {}{}", ours.1, kafkas.1);
        assert_eq!(ours.0.1, expected, "{level}: {}", ours.1);
    }
}

/// Of a topic's only partition: how many records are there in transactions, and how many of these are ended, as each marker
/// ends all before it.
fn transactions(cluster: &Cluster, topic: &str) -> (usize, Vec<usize>) {
    let segment = cluster.broker.data.join(format!("{topic}-0/00000000000000000000.log"));
    let bytes = Bytes::from(fs::read(segment).expect("it is there"));
    let (mut records, mut ends) = (0, Vec::new());
    for batch in batches(&bytes) {
        let header = *batch.expect("the batch is sound").header();
        match (header.is_transactional, header.is_control) {
            (true, true) => ends.push(records),
            (true, false) => records += header.record_count as usize,
            (false, _) => {}
        }
    }
    (records, ends)
}

#[test]
fn a_performance_producer_sends_in_transactions() {
    let cluster = Cluster::start("perf-transactions", "transaction.state.log.num.partitions=1");
    let address = format!("bootstrap.servers={}", cluster.broker.address());
    let numbers = Regex::new(r"\d+(\.\d+)?").expect("the pattern is constant");
    let mut said: Vec<Vec<String>> = Vec::new();
    for whose in [Ours, Kafkas] {
        let start = |topic: &str, arguments: &str| {
            cluster.broker.client().create_topic(topic, 1, &[]);
            let common = ["--topic", topic, "--record-size", "10", "--producer-props", &address];
            let arguments: Vec<&str> = common.into_iter().chain(arguments.split(' ')).collect();
            let mut command = tool(whose, "kafka-producer-perf-test.sh", "ProducerPerformance", &arguments);
            Process::start(topic, &mut command, cluster.scratch.path(topic))
        };
        let mut ended = |tool: &mut Process| {
            let ended = eventually(PATIENCE, "the tool ends", || tool.has_ended().ok_or_else(|| tool.last_words()));
            assert!(ended.success(), "{whose:?}: {}", tool.last_words());
            // Both may speak of their settings first.
            let lines = tool.said();
            let lines = lines.lines().filter(|line| line.contains("records sent"));
            said.push(lines.map(|line| numbers.replace_all(line, "N").into_owned()).collect());
        };
        let topic = |of: &str| format!("{of}-{whose:?}").to_lowercase();

        let (none, one, several, fenced) = (topic("none"), topic("one"), topic("several"), topic("fenced"));
        ended(&mut start(&none, "--num-records 10 --throughput -1 --transactional-id unused"));
        assert_eq!(transactions(&cluster, &none), (0, Vec::new()), "{whose:?}");
        ended(&mut start(&one, "--num-records 10 --throughput -1 --transaction-duration-ms 3600000"));
        assert_eq!(transactions(&cluster, &one), (10, vec![10]), "{whose:?}");
        // A record each twentieth of a second: each transaction is old enough at its second or third.
        ended(&mut start(&several, "--num-records 20 --throughput 20 --transaction-duration-ms 60"));
        let (records, ends) = transactions(&cluster, &several);
        assert!(records == 20 && ends.last() == Some(&20) && (2..=20).contains(&ends.len()), "{whose:?}: {ends:?}");
        // All of the same id, one after the other.
        let mut client = cluster.broker.client();
        let mut take_over = |id: &str| {
            let request = InitProducerIdRequest {
                transactional_id: Some(id.to_owned()),
                transaction_timeout_ms: 60_000,
                ..Default::default()
            };
            eventually(PATIENCE, "the id is taken over", || {
                let told = client.call(&request, 1).map_err(|error| error.to_string())?;
                if told.error_code == 0 { Ok(told.producer_epoch) } else { Err(format!("{told:?}")) }
            })
        };
        assert_eq!(take_over("performance-producer-default-transactional-id"), if whose == Ours { 2 } else { 5 });

        let endless =
            format!("--num-records 100000 --throughput 50 --transaction-duration-ms 100 --transactional-id {fenced}");
        let mut tool = start(&fenced, &endless);
        eventually(PATIENCE, "a transaction is committed", || {
            assert_eq!(tool.has_ended(), None, "{}", tool.last_words());
            let (_, ends) = transactions(&cluster, &fenced);
            if ends.is_empty() { Err(tool.last_words()) } else { Ok(()) }
        });
        take_over(&fenced);
        let ended = eventually(PATIENCE, "the zombie ends", || tool.has_ended().ok_or_else(|| tool.last_words()));
        assert_eq!(ended.code(), Some(1), "{whose:?}: {}", tool.last_words());
    }
    let (ours, kafkas) = said.split_at(3);
    assert_eq!(ours, kafkas);
    assert_eq!(ours[0].len(), 1, "{ours:?}");
}
