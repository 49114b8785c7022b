//! Kafka's own JVM tools, of 3.9 and of 2.8, work against the broker as against a JVM one.

mod support;

use odradek::record::compression::Codec;
use support::client::batch;
use support::{Cluster, PATIENCE, eventually};

const TOPICS: &str = "org.apache.kafka.tools.TopicCommand";
const TOPICS_2_8: &str = "kafka.admin.TopicCommand";
const CONFIGS: &str = "kafka.admin.ConfigCommand";
const GROUPS: &str = "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand";
const PRODUCER: &str = "kafka.tools.ConsoleProducer";
const CONSUMER: &str = "org.apache.kafka.tools.consumer.ConsoleConsumer";
const OFFSETS: &str = "org.apache.kafka.tools.GetOffsetShell";
const DELETE_RECORDS: &str = "org.apache.kafka.tools.DeleteRecordsCommand";
const TRANSACTIONS: &str = "org.apache.kafka.tools.TransactionsCommand";
const API_VERSIONS: &str = "kafka.admin.BrokerApiVersionsCommand";
const GROUPS_2_8: &str = "kafka.admin.ConsumerGroupCommand";
const OFFSETS_2_8: &str = "kafka.tools.GetOffsetShell";

fn words(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn the_tools_of_3_9_create_describe_alter_produce_consume_and_delete() {
    let cluster = Cluster::start("tools-39", "delete.topic.enable=true");
    let server = cluster.broker.address();
    let tool = |class: &str, arguments: &[&str]| {
        let all: Vec<&str> = ["--bootstrap-server", &server].iter().chain(arguments).copied().collect();
        cluster.jvm_tool("3.9.1", class, &all).unwrap_or_else(|error| panic!("{error}"))
    };

    let made =
        tool(TOPICS, &["--create", "--topic", "tooled", "--partitions", "2", "--config", "retention.ms=1000000"]);
    assert_eq!(made.trim(), "Created topic tooled.");
    assert_eq!(tool(TOPICS, &["--list"]).trim(), "tooled");
    let described = tool(TOPICS, &["--describe", "--topic", "tooled"]);
    let lines: Vec<String> = described.lines().map(words).collect();
    assert!(lines[0].starts_with("Topic: tooled TopicId: "), "{described}");
    assert!(lines[0].contains("PartitionCount: 2 ReplicationFactor: 1 Configs: "), "{described}");
    assert!(lines[0].contains("retention.ms=1000000"), "{described}");
    assert_eq!(lines[2], "Topic: tooled Partition: 1 Leader: 0 Replicas: 0 Isr: 0 Elr: N/A LastKnownElr: N/A");

    tool(TOPICS, &["--alter", "--topic", "tooled", "--partitions", "3"]);
    cluster.broker.client().until_led("tooled", 3);
    let again = cluster.jvm_tool("3.9.1", TOPICS, &["--bootstrap-server", &server, "--create", "--topic", "tooled"]);
    assert!(again.expect_err("it exists").contains("Topic 'tooled' already exists."));

    let entity = ["--entity-type", "topics", "--entity-name", "tooled"];
    let altered = tool(
        CONFIGS,
        &[&["--alter", "--add-config", "cleanup.policy=compact,retention.ms=5000"][..], &entity].concat(),
    );
    assert_eq!(altered.trim(), "Completed updating config for topic tooled.");
    let described = tool(CONFIGS, &[&["--describe"][..], &entity].concat());
    assert!(
        described.contains(
            "  cleanup.policy=compact sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact, \
             DEFAULT_CONFIG:log.cleanup.policy=delete}"
        ),
        "{described}"
    );
    tool(CONFIGS, &[&["--alter", "--delete-config", "cleanup.policy"][..], &entity].concat());
    let described = tool(CONFIGS, &[&["--describe"][..], &entity].concat());
    assert!(described.contains("retention.ms=5000") && !described.contains("cleanup.policy"), "{described}");

    let produced = cluster.jvm_tool_fed(
        "3.9.1",
        PRODUCER,
        &[
            "--bootstrap-server",
            &server,
            "--topic",
            "lines",
            "--property",
            "parse.key=true",
            "--compression-codec",
            "zstd",
        ],
        "a\tone\nb\ttwo\nc\tthree\n",
    );
    produced.unwrap_or_else(|error| panic!("{error}"));
    let consumed = tool(
        CONSUMER,
        &[
            "--topic",
            "lines",
            "--from-beginning",
            "--max-messages",
            "3",
            "--group",
            "tools",
            "--property",
            "print.key=true",
        ],
    );
    assert_eq!(consumed, "a\tone\nb\ttwo\nc\tthree\n");

    assert_eq!(tool(GROUPS, &["--list"]).trim(), "tools");
    let described = tool(GROUPS, &["--describe", "--group", "tools"]);
    assert!(described.lines().any(|line| words(line).starts_with("tools lines 0 3 3 0 ")), "{described}");
    tool(GROUPS, &["--reset-offsets", "--group", "tools", "--topic", "lines", "--to-offset", "1", "--execute"]);
    let described = tool(GROUPS, &["--describe", "--group", "tools"]);
    assert!(described.lines().any(|line| words(line).starts_with("tools lines 0 1 3 2 ")), "{described}");
    let state = tool(GROUPS, &["--describe", "--group", "tools", "--state"]);
    assert!(state.lines().any(|line| words(line).contains("(0)") && words(line).ends_with("Empty 0")), "{state}");
    assert!(tool(OFFSETS, &["--topic", "lines"]).contains("lines:0:3"));

    let offsets_topic = |formatter: &str| {
        let formatter = format!("org.apache.kafka.tools.consumer.{formatter}");
        let topic = ["--topic", "__consumer_offsets", "--from-beginning", "--timeout-ms", "5000"];
        let printed = tool(CONSUMER, &[&topic[..], &["--formatter", &formatter]].concat());
        // The formatter ends no line.
        let values = serde_json::Deserializer::from_str(&printed).into_iter();
        values.map(|value| value.expect("the formatter prints JSON")).collect::<Vec<serde_json::Value>>()
    };
    let values = offsets_topic("OffsetsMessageFormatter");
    let offset = |v: &serde_json::Value| (v["key"]["data"].clone(), v["value"]["data"]["offset"].clone());
    let expected = serde_json::json!({"group": "tools", "topic": "lines", "partition": 0});
    assert!(values.iter().any(|v| offset(v) == (expected.clone(), serde_json::json!(1))), "{values:?}");
    let values = offsets_topic("GroupMetadataMessageFormatter");
    let of_group = |v: &&serde_json::Value| v["key"]["data"] == serde_json::json!({"group": "tools"});
    let with_member = values
        .iter()
        .filter(of_group)
        .map(|v| &v["value"]["data"])
        .find(|group| group["members"].as_array().is_some_and(|members| members.len() == 1));
    let group = with_member.unwrap_or_else(|| panic!("no record of a group with its member: {values:?}"));
    assert_eq!((&group["protocolType"], &group["protocol"]), (&"consumer".into(), &"range".into()), "{group}");
    assert_eq!((&group["generation"], &group["members"][0]["memberId"]), (&1.into(), &group["leader"]), "{group}");
    assert_eq!(group["members"][0]["clientHost"], "/127.0.0.1", "{group}");

    let producers = tool(TRANSACTIONS, &["describe-producers", "--topic", "lines", "--partition", "0"]);
    let rows: Vec<Vec<&str>> = producers.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((rows.len(), rows[0].len()), (1, 6), "{producers}");
    assert_eq!((&rows[0][1..4], rows[0][5]), (&["0", "-1", "2"][..], "None"), "{producers}");

    let offsets = cluster.scratch.path("offsets.json");
    let json = r#"{"version":1,"partitions":[{"topic":"lines","partition":0,"offset":2}]}"#;
    std::fs::write(&offsets, json).expect("the scratch directory can be written");
    let deleted = tool(DELETE_RECORDS, &["--offset-json-file", &offsets.display().to_string()]);
    assert!(deleted.lines().any(|line| words(line) == "partition: lines-0 low_watermark: 2"), "{deleted}");
    assert!(tool(OFFSETS, &["--topic", "lines", "--time", "earliest"]).contains("lines:0:2"));

    let versions = tool(API_VERSIONS, &[]);
    assert!(versions.starts_with(&format!("{server} (id: 0 rack: null) -> (")), "{versions}");
    let expected = ["Produce(0): 0 to 12 [usable: 11]", "Fetch(1): 0 to 17 [usable: 17]"];
    assert!(expected.iter().all(|line| versions.contains(line)), "{versions}");

    let deleted = tool(GROUPS, &["--delete", "--group", "tools"]);
    assert_eq!(deleted.trim(), "Deletion of requested consumer groups ('tools') was successful.");
    tool(TOPICS, &["--delete", "--topic", "tooled"]);
    eventually(PATIENCE, "the topic is gone", || {
        let list = tool(TOPICS, &["--list"]);
        if list.contains("tooled") { Err(list) } else { Ok(()) }
    });
    assert!(!cluster.broker.data.join("tooled-0").exists(), "a deleted partition's directory is renamed at once");
}

#[test]
fn the_tools_of_2_8_work_through_zookeeper_and_the_broker_sees_what_they_wrote() {
    let cluster = Cluster::start("tools-28", "");
    let zookeeper = format!("127.0.0.1:{}", cluster.zookeeper.port);
    let tool = |class: &str, arguments: &[&str]| {
        let all: Vec<&str> = ["--zookeeper", &zookeeper].iter().chain(arguments).copied().collect();
        cluster.jvm_tool("2.8.2", class, &all).unwrap_or_else(|error| panic!("{error}"))
    };
    let made = tool(
        TOPICS_2_8,
        &[
            "--create",
            "--topic",
            "Hello-Kafka",
            "--partitions",
            "1",
            "--replication-factor",
            "1",
            "--config",
            "retention.ms=77777",
        ],
    );
    assert!(made.contains("Created topic Hello-Kafka."), "{made}");
    let mut client = cluster.broker.client();
    client.until_led("Hello-Kafka", 1);
    let offset = client.produce("Hello-Kafka", 0, batch(Codec::None, ["first".to_owned()]));
    assert_eq!(offset.expect("it is answered"), Ok(0));

    assert_eq!(tool(TOPICS_2_8, &["--list"]).trim(), "Hello-Kafka");
    let described = tool(TOPICS_2_8, &["--describe", "--topic", "Hello-Kafka"]);
    let lines: Vec<String> = described.lines().map(words).collect();
    assert!(lines[0].starts_with("Topic: Hello-Kafka TopicId: "), "{described}");
    assert!(lines[0].ends_with("PartitionCount: 1 ReplicationFactor: 1 Configs: retention.ms=77777"), "{described}");
    assert_eq!(lines[1], "Topic: Hello-Kafka Partition: 0 Leader: 0 Replicas: 0 Isr: 0");

    let added = tool(TOPICS_2_8, &["--alter", "--topic", "Hello-Kafka", "--partitions", "2"]);
    assert!(added.contains("Adding partitions succeeded!"), "{added}");
    client.until_led("Hello-Kafka", 2);

    tool(
        CONFIGS,
        &["--alter", "--entity-type", "topics", "--entity-name", "Hello-Kafka", "--add-config", "retention.ms=88888"],
    );
    let server = cluster.broker.address();
    eventually(PATIENCE, "the broker sees the changed setting", || {
        let described = cluster.jvm_tool(
            "2.8.2",
            CONFIGS,
            &["--bootstrap-server", &server, "--describe", "--entity-type", "topics", "--entity-name", "Hello-Kafka"],
        )?;
        if described.contains("retention.ms=88888") { Ok(()) } else { Err(described) }
    });

    client.commit("old-tools", "Hello-Kafka", 0, 0);
    let tool_of_broker = |class: &str, arguments: &[&str]| {
        cluster.jvm_tool("2.8.2", class, arguments).unwrap_or_else(|error| panic!("{error}"))
    };
    let described = tool_of_broker(GROUPS_2_8, &["--bootstrap-server", &server, "--describe", "--group", "old-tools"]);
    assert!(described.lines().any(|line| words(line) == "old-tools Hello-Kafka 0 0 1 1 - - -"), "{described}");
    let offsets = tool_of_broker(OFFSETS_2_8, &["--broker-list", &server, "--topic", "Hello-Kafka"]);
    assert_eq!(offsets.lines().collect::<Vec<_>>(), ["Hello-Kafka:0:1", "Hello-Kafka:1:0"]);
    let versions = tool_of_broker(API_VERSIONS, &["--bootstrap-server", &server]);
    assert!(versions.contains("Produce(0): 0 to 12 [usable: 9]"), "{versions}");

    let marked = tool(TOPICS_2_8, &["--delete", "--topic", "Hello-Kafka"]);
    assert!(marked.contains("Topic Hello-Kafka is marked for deletion."), "{marked}");
    eventually(PATIENCE, "the topic is gone from ZooKeeper and the broker", || {
        let list = tool(TOPICS_2_8, &["--list"]);
        let known = client.metadata(&["Hello-Kafka"]).map_err(|error| error.to_string())?.topics[0].error_code;
        if !list.contains("Hello-Kafka") && known == 3 { Ok(()) } else { Err(format!("{list}, error {known}")) }
    });
}
