//! Our command-line tools against a live broker, call by call: exit status and output are those that Kafka 3.9.1's tools
//! gave for the same calls. What differs on purpose is not here: the order of topics in a description, and the line ends
//! between the rows of a reset, which Kafka 3.8 and 3.9 forget.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};

use bytes::Bytes;
use odradek::protocol::messages::join_group::{JoinGroupRequest, JoinGroupRequestProtocol};
use odradek::record::compression::Codec;
use odradek_zookeeper::session::{CreateKind, ZooKeeper as Session};
use odradek_zookeeper::settings::Settings;
use regex::Regex;
use support::client::{Client, batch, values};
use support::{Broker, Brokers, Cluster, Kind, PATIENCE, Process, Scratch, ZooKeeper, eventually, repository, tied};

/// A call, its standard input, its exit status, its standard output, and what its standard error contains.
///
/// `%B` stands for `--bootstrap-server` with the broker's address, `%P` for the address, `%D` for the test's directory.
/// A line that ends with `…` may go on with anything: there Kafka names its exceptions. Blanks that only fill columns
/// count as one.
type Call = (&'static str, &'static str, i32, &'static str, &'static str);

/// Ends well, after a command line alone.
const fn says(line: &'static str, out: &'static str) -> Call {
    (line, "", 0, out, "")
}

/// Fails, and says so where the rest would stand.
const fn fails(line: &'static str, out: &'static str) -> Call {
    (line, "", 1, out, "")
}

/// Fails, and says so on standard error.
const fn refuses(line: &'static str, err: &'static str) -> Call {
    (line, "", 1, "", err)
}

const COLLISION: &str = "WARNING: Due to limitations in metric names, topics with a period ('.') or underscore ('_') could collide. To avoid issues it is best to use either, but not both.";

const TOPICS: &[Call] = &[
    says("kafka-topics.sh %B --list", "\n"),
    says("kafka-topics.sh %B --create --topic a --partitions 2", "Created topic a.\n"),
    fails("kafka-topics.sh %B --create --topic a", "Error while executing topic command : Topic 'a' already exists.\n"),
    says("kafka-topics.sh %B --create --topic a --if-not-exists", ""),
    says("kafka-topics.sh %B --create --topic a.b_c", "%W\nCreated topic a.b_c.\n"),
    fails(
        "kafka-topics.sh %B --create --topic a_b.c",
        "%W\nError while executing topic command : Topic 'a_b.c' collides with existing topics: a.b_c\n",
    ),
    fails(
        "kafka-topics.sh %B --create --topic 'bad!'",
        "Error while executing topic command : Topic name is invalid: 'bad!' contains one or more characters other than ASCII alphanumerics, '.', '_' and '-'\n",
    ),
    fails(
        "kafka-topics.sh %B --create --topic z --partitions 0",
        "Error while executing topic command : The partitions must be greater than 0\n",
    ),
    (
        "kafka-topics.sh %B --create --topic z --partitions x",
        "",
        1,
        "Error while executing topic command : Cannot parse argument 'x' of option partitions\n",
        "Cannot parse argument 'x' of option partitions",
    ),
    fails(
        "kafka-topics.sh %B --create --topic z --replication-factor 3",
        "Error while executing topic command : Replication factor: 3 larger than available brokers: 1.\n",
    ),
    fails(
        "kafka-topics.sh %B --create --topic z --config foo=bar",
        "Error while executing topic command : Unknown topic config name: foo\n",
    ),
    fails(
        "kafka-topics.sh %B --create --topic z --config retention.ms=abc",
        "Error while executing topic command : Invalid value abc for configuration retention.ms: Not a number of type LONG\n",
    ),
    fails(
        "kafka-topics.sh %B --create --topic z --replica-assignment 0:0",
        "Error while executing topic command : Partition replica lists may not contain duplicate entries: 0\n",
    ),
    says(
        "kafka-topics.sh %B --create --topic w --partitions 1 --config cleanup.policy=compact,delete --config max.message.bytes=1000",
        "Created topic w.\n",
    ),
    says(
        "kafka-topics.sh %B --describe --topic w",
        "Topic: w\tTopicId: ID\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: cleanup.policy=compact,delete,max.message.bytes=1000\n\
         \tTopic: w\tPartition: 0\tLeader: 0\tReplicas: 0\tIsr: 0\tElr: N/A\tLastKnownElr: N/A\n",
    ),
    says(
        "kafka-topics.sh %B --describe --topics-with-overrides",
        "Topic: w\tTopicId: ID\tPartitionCount: 1\tReplicationFactor: 1\tConfigs: cleanup.policy=compact,delete,max.message.bytes=1000\n",
    ),
    fails(
        "kafka-topics.sh %B --describe --topic none",
        "Error while executing topic command : Topic 'Optional[none]' does not exist as expected\n",
    ),
    says("kafka-topics.sh %B --describe --topic none --if-exists", ""),
    says(
        "kafka-topics.sh %B --describe --topic w --topic-id AAAAAAAAAAAAAAAAAAAAAQ --if-exists",
        "Only topic id will be used when both --topic and --topic-id are specified and topicId is not Uuid.ZERO_UUID\n",
    ),
    fails(
        "kafka-topics.sh %B --describe --topic w --topic-id AAAAAAAAAAAAAAAAAAAAAQ",
        "Error while executing topic command : TopicId 'AAAAAAAAAAAAAAAAAAAAAQ' does not exist as expected\n",
    ),
    refuses("kafka-topics.sh %B --describe --if-exists", "--topic or --topic-id is required to describe a topic"),
    fails(
        "kafka-topics.sh %B --describe --topic-id AAAAAAAAAAAAAAAAAAAAAQ",
        "Error while executing topic command : TopicId 'AAAAAAAAAAAAAAAAAAAAAQ' does not exist as expected\n",
    ),
    says("kafka-topics.sh %B --describe --under-replicated-partitions", ""),
    says("kafka-topics.sh %B --describe --under-replicated-partitions --unavailable-partitions", ""),
    says("kafka-topics.sh %B --describe --under-min-isr-partitions", ""),
    says(
        "kafka-topics.sh %B --describe --at-min-isr-partitions --topic w",
        "\tTopic: w\tPartition: 0\tLeader: 0\tReplicas: 0\tIsr: 0\tElr: N/A\tLastKnownElr: N/A\n",
    ),
    says("kafka-topics.sh %B --alter --topic a --partitions 3", ""),
    fails(
        "kafka-topics.sh %B --alter --topic a --partitions 2",
        "Error while executing topic command : Topic currently has 3 partitions, which is higher than the requested 2.\n",
    ),
    fails(
        "kafka-topics.sh %B --alter --topic a --partitions 3",
        "Error while executing topic command : Topic already has 3 partitions.\n",
    ),
    fails(
        "kafka-topics.sh %B --alter --topic none --partitions 3",
        "Error while executing topic command : Topic 'Optional[none]' does not exist as expected\n",
    ),
    says("kafka-topics.sh %B --alter --topic none --partitions 3 --if-exists", ""),
    refuses("kafka-topics.sh %B --alter --topic a", "Missing required argument \"[partitions]\""),
    refuses(
        "kafka-topics.sh %B --alter --topic a --config retention.ms=5",
        "can't be used with option \"[alter]\" (the kafka-configs CLI supports altering topic configs with a --bootstrap-server option)",
    ),
    says("kafka-topics.sh %B --alter --topic a --partitions 4 --replica-assignment 0,0,0,0", ""),
    fails(
        "kafka-topics.sh %B --alter --topic a --partitions 5 --replica-assignment 0",
        "Error while executing topic command : Increasing the number of partitions by 1 but 0 assignments provided.\n",
    ),
    fails(
        "kafka-topics.sh %B --alter --topic a --partitions 5 --replica-assignment 0,0,0,0,999",
        "Error while executing topic command : Unknown broker(s) in replica assignment: 999.\n",
    ),
    says("kafka-topics.sh %B --list --topic 'a.*'", "a\na.b_c\n"),
    fails("kafka-topics.sh %B --list --topic 'a['", "Error while executing topic command : a[ is an invalid regex.\n"),
    fails(
        "kafka-topics.sh %B --delete --topic none",
        "Error while executing topic command : Topic 'Optional[none]' does not exist as expected\n",
    ),
    says("kafka-topics.sh %B --delete --topic none --if-exists", ""),
    refuses("kafka-topics.sh %B --delete", "Missing required argument \"[topic]\""),
    says("kafka-topics.sh %B --delete --topic 'a.*'", ""),
    says("kafka-topics.sh %B --list", "w\n"),
    refuses(
        "kafka-topics.sh %B --list --create",
        "Command must include exactly one action: --list, --describe, --create, --alter or --delete",
    ),
    refuses("kafka-topics.sh --list", "--bootstrap-server must be specified"),
    refuses("kafka-topics.sh %B --bogus", "bogus is not a recognized option"),
    says("kafka-topics.sh %B --list --version", "3.9.1\n"),
    says("kafka-topics.sh -bootstrap-server %P -list -topic=w", "w\n"),
    says("kafka-topics.sh --bootstrap-server PLAINTEXT://%P --list", "w\n"),
    says("kafka-topics.sh %B --list --topic '(?!a).*(?<=w)'", "w\n"),
    // What nobody reads was written all the same.
    says("(kafka-topics.sh %B --list; echo $? >%D/status) | true; cat %D/status", "0\n"),
];

/// Kafka's tools give up at once where no server has an address.
const NOWHERE: &[Call] = &[
    refuses(
        "kafka-topics.sh --bootstrap-server nohost.invalid:1 --list",
        "Couldn't resolve server nohost.invalid:1 from bootstrap.servers",
    ),
    refuses("kafka-topics.sh --bootstrap-server localhost --list", "Failed to create new KafkaAdminClient"),
    refuses(
        "kafka-configs.sh --bootstrap-server nohost.invalid:1 --describe --topic a",
        "Failed to create new KafkaAdminClient",
    ),
    says(
        "kafka-consumer-groups.sh --bootstrap-server nohost.invalid:1 --list",
        "\nError: Executing consumer group command failed due to Failed to create new KafkaAdminClient\n",
    ),
    refuses(
        "kafka-get-offsets.sh --bootstrap-server nohost.invalid:1",
        "Error occurred: Failed to create new KafkaAdminClient",
    ),
    refuses(
        "kafka-broker-api-versions.sh --bootstrap-server nohost.invalid:1",
        "No resolvable bootstrap urls given in bootstrap.servers",
    ),
    // Alone among them it gives up at once, too, where nobody listens.
    refuses("kafka-broker-api-versions.sh --bootstrap-server localhost:1", "localhost:1"),
    says("kafka-broker-api-versions.sh --bootstrap-server localhost:1,%P | grep -c ' (id: 0 rack: '", "1\n"),
    (
        "kafka-console-producer.sh --bootstrap-server nohost.invalid:1 --topic a",
        "x\n",
        1,
        "",
        "Failed to construct kafka producer",
    ),
    refuses(
        "kafka-console-consumer.sh --bootstrap-server nohost.invalid:1 --topic a",
        "No resolvable bootstrap urls given in bootstrap.servers",
    ),
];

const CONFIGS: &[Call] = &[
    says("kafka-topics.sh %B --create --topic t --partitions 2", "Created topic t.\n"),
    says("kafka-configs.sh %B --describe --entity-type topics --entity-name t", "Dynamic configs for topic t are:\n"),
    says(
        "kafka-configs.sh %B --alter --entity-type topics --entity-name t --add-config retention.ms=1000,cleanup.policy=[compact,delete]",
        "Completed updating config for topic t.\n",
    ),
    says(
        "kafka-configs.sh %B --describe --topic t",
        "Dynamic configs for topic t are:\n  \
         cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}\n  \
         retention.ms=1000 sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:retention.ms=1000}\n",
    ),
    refuses("kafka-configs.sh %B --alter --topic t --delete-config foo", "Invalid config(s): foo"),
    refuses("kafka-configs.sh %B --alter --topic t --delete-config segment.bytes", "Invalid config(s): segment.bytes"),
    refuses("kafka-configs.sh %B --alter --topic t --add-config foo=1", "Unknown topic config name: foo"),
    refuses(
        "kafka-configs.sh %B --alter --topic t --add-config retention.ms=abc",
        "Invalid config value for resource ConfigResource(type=TOPIC, name='t'): Invalid value abc for configuration retention.ms: Not a number of type LONG",
    ),
    refuses(
        "kafka-configs.sh %B --alter --topic t --add-config retention.ms",
        "requirement failed: Invalid entity config: all configs to be added must be in the format \"key=val\".",
    ),
    refuses("kafka-configs.sh %B --alter --topic t --add-config retention.ms==1", "requirement failed: Invalid entity"),
    refuses(
        "kafka-configs.sh %B --describe --topic t --zk-tls-config-file f",
        "Only the --zookeeper option can be used with the --zk-tls-config-file option.",
    ),
    refuses(
        "kafka-configs.sh %B --alter --topic t",
        "At least one of --add-config, --add-config-file, or --delete-config must be specified with --alter",
    ),
    says(
        "kafka-configs.sh %B --alter --topic t --delete-config retention.ms",
        "Completed updating config for topic t.\n",
    ),
    says(
        "kafka-configs.sh %B --describe --topic t",
        "Dynamic configs for topic t are:\n  \
         cleanup.policy=compact,delete sensitive=false synonyms={DYNAMIC_TOPIC_CONFIG:cleanup.policy=compact,delete, DEFAULT_CONFIG:log.cleanup.policy=delete}\n",
    ),
    (
        "kafka-configs.sh %B --describe --topic none",
        "",
        1,
        "Dynamic configs for topic none are:\n",
        "Error while executing config command",
    ),
    refuses(
        "kafka-configs.sh %B --alter --topic none --add-config retention.ms=1",
        "Error while executing config command",
    ),
    refuses("kafka-configs.sh %B --describe", "At least one entity type must be specified"),
    refuses("kafka-configs.sh %B --describe --entity-type foo", "Invalid entity type foo, the entity type must be one"),
    refuses(
        "kafka-configs.sh %B --alter --entity-type topics --add-config retention.ms=1",
        "an entity name must be specified with --alter of topics",
    ),
    refuses(
        "kafka-configs.sh %B --alter --describe --topic t",
        "Command must include exactly one action: --describe, --alter",
    ),
    // The broker was started with --override num.partitions=3.
    says(
        "kafka-configs.sh %B --describe --all --broker 0 | grep ' num.partitions='",
        "  num.partitions=3 sensitive=false synonyms={STATIC_BROKER_CONFIG:num.partitions=3, DEFAULT_CONFIG:num.partitions=1}\n",
    ),
    says("kafka-topics.sh %B --create --topic three", "Created topic three.\n"),
    says("kafka-get-offsets.sh %B --topic three", "three:0:0\nthree:1:0\nthree:2:0\n"),
];

/// Of the controller. The topic is that of the calls about settings.
const ADMINISTRATION: &[Call] = &[
    says("kafka-reassign-partitions.sh %B --list", "No partition reassignments found.\n"),
    (
        "tee %D/move.json",
        "{\"partitions\":[{\"topic\":\"three\",\"partition\":0,\"replicas\":[0]},{\"topic\":\"three\",\"partition\":1,\"replicas\":[0]}]}\n",
        0,
        "{\"partitions\":[{\"topic\":\"three\",\"partition\":0,\"replicas\":[0]},{\"topic\":\"three\",\"partition\":1,\"replicas\":[0]}]}\n",
        "",
    ),
    says(
        "kafka-reassign-partitions.sh %B --execute --reassignment-json-file %D/move.json",
        "Current partition replica assignment\n\n{\"version\":1,\"partitions\":[{\"topic\":\"three\",\"partition\":0,\"replicas\":[0],\"log_dirs\":[\"any\"]},{\"topic\":\"three\",\"partition\":1,\"replicas\":[0],\"log_dirs\":[\"any\"]}]}\n\nSave this to use as the --reassignment-json-file option during rollback\nSuccessfully started partition reassignments for three-0,three-1\n",
    ),
    says(
        "kafka-reassign-partitions.sh %B --verify --reassignment-json-file %D/move.json",
        "Status of partition reassignment:\nReassignment of partition three-0 is completed.\nReassignment of partition three-1 is completed.\n\nClearing broker-level throttles on broker 0\nClearing topic-level throttles on topic three\n",
    ),
    says(
        "kafka-reassign-partitions.sh %B --cancel --reassignment-json-file %D/move.json",
        "None of the specified partition reassignments are active.\nNone of the specified partition moves are active.Clearing broker-level throttles on broker 0\nClearing topic-level throttles on topic three\n",
    ),
    refuses(
        "kafka-reassign-partitions.sh %B --list --verify",
        "Command must include exactly one action: --generate, --execute, --verify, --cancel, --list",
    ),
    // Kafka's words about JSON of the wrong kind are those of its library.
    fails(
        "echo '{\"partitions\":[{\"topic\":\"three\",\"partition\":0,\"replicas\":[0],\"log_dirs\":\"any\"}]}' >%D/odd.json; kafka-reassign-partitions.sh %B --execute --reassignment-json-file %D/odd.json",
        "Error: Expected …\n",
    ),
    fails(
        "echo '{\"topics\":{\"topic\":\"three\"}}' >%D/odd.json; kafka-reassign-partitions.sh %B --generate --broker-list 0 --topics-to-move-json-file %D/odd.json",
        "Error: Expected JSON array, received {\"topic\":\"three\"}…\n",
    ),
    refuses(
        "kafka-reassign-partitions.sh %B --list --throttle 5",
        "Option \"[throttle]\" can't be used with action \"[list]\"",
    ),
    says("kafka-leader-election.sh %B --election-type preferred --all-topic-partitions", ""),
    says(
        "kafka-leader-election.sh %B --election-type preferred --topic three --partition 0",
        "Valid replica already elected for partitions three-0\n",
    ),
    (
        "kafka-leader-election.sh %B --election-type UNCLEAN --topic three --partition 9",
        "",
        1,
        "Error completing leader election (UNCLEAN) for partition: three-9: org.apache.kafka.common.errors.UnknownTopicOrPartitionException: …\n",
        "1 replica(s) could not be elected",
    ),
    refuses(
        "kafka-leader-election.sh %B --election-type preferred",
        "One and only one of the following options is required: topic, all-topic-partitions, path-to-json-file",
    ),
    refuses("kafka-leader-election.sh --election-type preferred", "Missing required option(s): bootstrap-server"),
    says(
        "kafka-features.sh %B describe",
        "Feature: transaction.version\tSupportedMinVersion: 2\tSupportedMaxVersion: 2\tFinalizedVersionLevel: 0\tEpoch: 0\n",
    ),
    (
        "kafka-features.sh %B upgrade --feature a=1",
        "",
        1,
        "Could not upgrade a to 1. Could not apply finalized feature update because the provided feature is not supported.\n",
        "1 out of 1 operation(s) failed.",
    ),
    (
        "kafka-features.sh %B downgrade --metadata 3.3",
        "",
        1,
        "Could not downgrade metadata.version to 7. Could not apply finalized feature update because the provided feature is not supported.\n",
        "1 out of 1 operation(s) failed.",
    ),
    (
        "kafka-features.sh %B disable --feature a",
        "",
        1,
        "Could not disable a. Can not delete non-existing finalized feature.\n",
        "1 out of 1 operation(s) failed.",
    ),
    refuses("kafka-features.sh %B upgrade", "You must specify at least one feature to upgrade"),
    refuses("kafka-features.sh %B describe --feature a", "unrecognized arguments: '--feature'"),
    refuses("kafka-features.sh describe %B", "unrecognized arguments: '--bootstrap-server'"),
    refuses("kafka-features.sh %B describe this and that", "unrecognized arguments: 'this and that'"),
    refuses("kafka-transactions.sh %B list --topic three", "unrecognized arguments: '--topic'"),
    refuses("kafka-transactions.sh %B abort --topic three", "argument --partition is required"),
    says("kafka-cluster.sh cluster-id %B | cut -c 1-11", "Cluster ID:\n"),
    refuses("kafka-cluster.sh %B cluster-id", "unrecognized arguments: '--bootstrap-server'"),
    says(
        "kafka-run-class.sh org.apache.kafka.tools.TransactionsCommand %B list | cut -f 1-2",
        "TransactionalId\tCoordinator\n",
    ),
    says("kafka-verifiable-producer.sh >%D/usage", ""),
    says("kafka-verifiable-consumer.sh >%D/usage", ""),
    refuses("kafka-verifiable-consumer.sh %B --topic three", "argument --group-id is required"),
    refuses("kafka-verifiable-consumer.sh %B --group-id g", "argument --topic is required"),
    refuses(
        "kafka-verifiable-consumer.sh --topic three --group-id g",
        "one of the arguments --bootstrap-server --broker-list is required",
    ),
    refuses("kafka-verifiable-consumer.sh %B --topic three --group-id g --reset-policy foo", "auto.offset.reset"),
    // What ends it is told, and no failure of the tool.
    (
        "set -o pipefail; kafka-verifiable-consumer.sh %B --topic three --group-id g --reset-policy none | sed 's/\"timestamp\":[0-9]*,//'",
        "",
        0,
        "{\"name\":\"startup_complete\"}\n{\"name\":\"partitions_assigned\",\"partitions\":[{\"topic\":\"three\",\"partition\":0},{\"topic\":\"three\",\"partition\":1},{\"topic\":\"three\",\"partition\":2}]}\n{\"name\":\"partitions_revoked\",\"partitions\":[{\"topic\":\"three\",\"partition\":0},{\"topic\":\"three\",\"partition\":1},{\"topic\":\"three\",\"partition\":2}]}\n{\"name\":\"shutdown_complete\"}\n",
        "Error during processing, terminating consumer process: ",
    ),
    refuses("kafka-replica-verification.sh", "Validate that all replicas for a set of topics have the same data."),
    refuses("kafka-replica-verification.sh --time -2", "Missing required argument \"[broker-list]\""),
    refuses(
        "kafka-replica-verification.sh --broker-list localhost",
        "Please provide valid host:port like host1:9091,host2:9092",
    ),
    refuses(
        "kafka-replica-verification.sh --broker-list %P --topics-include a --topic-white-list b",
        "Option \"[topics-include]\" can't be used with option \"[topic-white-list]\"",
    ),
    refuses("kafka-replica-verification.sh --broker-list %P --topics-include '['", "[ is an invalid regex"),
    refuses(
        "kafka-replica-verification.sh --broker-list %P --topics-include none",
        "No topics found. [topics-include] if specified, is either filtering out all topics or there is no topic.",
    ),
    says(
        "kafka-e2e-latency.sh %P fast 3 all 10 | sed 's/[0-9.]* ms/N ms/; s/\t.*/\tN/; s/= [0-9]*/= N/g'",
        "Topic \"fast\" does not exist. Will create topic with 1 partition(s) and replication factor = N\n0\tN\nAvg latency: N ms\nPercentiles: 50th = N, 99th = N, 99.9th = N\n",
    ),
    // Acknowledgements come in any order.
    says(
        "kafka-verifiable-producer.sh %B --topic fast --max-messages 2 --value-prefix 7 | sed 's/\"timestamp\":[0-9]*,//; s/,\"partition.*//; s/,\"avg.*//' | LC_ALL=C sort",
        "{\"name\":\"producer_send_success\",\"key\":null,\"value\":\"7.0\",\"topic\":\"fast\"\n{\"name\":\"producer_send_success\",\"key\":null,\"value\":\"7.1\",\"topic\":\"fast\"\n{\"name\":\"shutdown_complete\"}\n{\"name\":\"startup_complete\"}\n{\"name\":\"tool_data\",\"sent\":2,\"acked\":2,\"target_throughput\":-1\n",
    ),
    // More than none a second is too many, whatever is waited.
    says(
        "timeout 2 kafka-verifiable-producer.sh %B --topic fast --throughput 0 --max-messages 1000 >%D/still; echo $?; grep -q producer_send_success %D/still && echo sent",
        "124\nsent\n",
    ),
    refuses("kafka-e2e-latency.sh %P fast 3 0 10", "Latency testing requires synchronous acknowledgement."),
    says(
        "kafka-cluster.sh unregister --id 3 -b %P",
        "The target cluster does not support the broker unregistration API.\n",
    ),
];

const MESSAGES: &[Call] = &[
    says("kafka-topics.sh %B --create --topic g --partitions 2", "Created topic g.\n"),
    (
        "kafka-console-producer.sh %B --topic g --property parse.key=true --property key.separator=:",
        "k1:v1\nk2:v2\nk3:v3\n:v4\n",
        0,
        "",
        "",
    ),
    (
        "kafka-console-producer.sh %B --topic g --line-reader com.example.LineMessageReader",
        "x\n",
        1,
        "",
        "com.example.LineMessageReader",
    ),
    (
        "kafka-console-producer.sh %B --topic g --property parse.key=true --property key.separator=:",
        "nokey\n",
        1,
        "",
        "No key separator found on line number 1: 'nokey'",
    ),
    ("kafka-console-producer.sh %B", "x\n", 1, "", "Missing required argument \"[topic]\""),
    ("kafka-console-producer.sh --topic g", "x\n", 1, "", "Missing required option(s) [bootstrap-server]"),
    ("kafka-console-producer.sh %B --topic g --compression-codec foo", "x\n", 1, "", "foo"),
    says("kafka-topics.sh %B --create --topic h --partitions 1", "Created topic h.\n"),
    (
        "kafka-console-producer.sh --broker-list %P --topic h --property parse.headers=true --property parse.key=true --property null.marker=NULL --compression-codec lz4 --request-required-acks 1 --sync",
        "h1:a,h2:b\tk\tv\nNULL\tk2\tNULL\nh3:NULL\tNULL\tv3\n",
        0,
        "",
        "",
    ),
    (
        "kafka-console-consumer.sh %B --topic h --from-beginning --max-messages 3 --property print.key=true --property print.headers=true --property print.partition=true --property print.offset=true --property null.literal=NIL",
        "",
        0,
        "Partition:0\tOffset:0\th1:a,h2:b\tk\tv\n\
         Partition:0\tOffset:1\tNO_HEADERS\tk2\tNIL\n\
         Partition:0\tOffset:2\th3:NIL\tNIL\tv3\n",
        "Processed a total of 3 messages",
    ),
    says(
        "kafka-console-consumer.sh %B --topic h --from-beginning --max-messages 3 --property 'key.separator=|' --property print.key=true --property 'line.separator=;' --property headers.separator=/ --property print.headers=true",
        "h1:a/h2:b|k|v;NO_HEADERS|k2|null;h3:null|null|v3;",
    ),
    says("kafka-console-consumer.sh %B --topic g --partition 0 --offset earliest --max-messages 1", "v3\n"),
    says("kafka-console-consumer.sh %B --topic h --partition 0 --offset 2 --max-messages 1", "v3\n"),
    (
        "kafka-console-consumer.sh %B --topic h --partition 0 --offset latest --timeout-ms 300",
        "",
        0,
        "",
        "Processed a total of 0 messages",
    ),
    (
        "kafka-console-consumer.sh %B --topic h --partition 0 --offset latest --timeout-ms 300",
        "",
        0,
        "",
        "org.apache.kafka.common.errors.TimeoutException",
    ),
    refuses("kafka-console-consumer.sh %B --topic h --formatter com.example.DefaultMessageFormatter", "com.example"),
    (
        "kafka-console-consumer.sh %B --topic h --partition 0 --offset 2 --max-messages 1 --value-deserializer com.example.IntegerDeserializer",
        "",
        0,
        "v3\n",
        "Unable to instantiate a deserializer from com.example.IntegerDeserializer",
    ),
    refuses(
        "kafka-console-consumer.sh %B --topic h --partition 0 --offset -3",
        "The provided offset value '-3' is incorrect. Valid values are 'earliest', 'latest', or a non-negative long.",
    ),
    refuses("kafka-console-consumer.sh %B --topic h --offset 1", "The partition is required when offset is specified."),
    refuses(
        "kafka-console-consumer.sh %B --topic h --partition 0 --offset 1 --from-beginning",
        "Options from-beginning and offset cannot be specified together.",
    ),
    refuses(
        "kafka-console-consumer.sh %B --topic h --partition 0 --group x",
        "Options group and partition cannot be specified together.",
    ),
    says(
        "kafka-console-consumer.sh %B --topic h --from-beginning --max-messages 3 --isolation-level read_committed",
        "v\nnull\nv3\n",
    ),
    refuses("kafka-console-consumer.sh %B --topic h --isolation-level foo", "foo"),
    says("kafka-console-consumer.sh %B --include 'h|zz' --from-beginning --max-messages 1", "v\n"),
    says("kafka-console-consumer.sh %B --include '(?!__|g|t|f).*' --from-beginning --max-messages 1", "v\n"),
    (
        "(kafka-console-consumer.sh %B --topic h --from-beginning; echo $? >%D/status) | true; cat %D/status",
        "",
        0,
        "0\n",
        "Unable to write to standard out, closing consumer.",
    ),
    says(
        "(kafka-console-consumer.sh %B --topic h --from-beginning 2>&1; echo $? >%D/status) | true; cat %D/status",
        "0\n",
    ),
    says("kafka-topics.sh %B --create --topic i --partitions 1", "Created topic i.\n"),
    (
        "kafka-console-producer.sh %B --topic i --property parse.headers=true --property 'headers.separator=[;|]'",
        "a:1;b:2|c:3;\tv\r:\tw\n",
        0,
        "",
        "",
    ),
    ("kafka-console-producer.sh %B --topic j", "ä\\b\n", 0, "", ""),
    says(
        "kafka-console-consumer.sh %B --topic j --from-beginning --max-messages 1 --value-deserializer org.apache.kafka.common.serialization.BytesDeserializer",
        "\\xC3\\xA4\\x5Cb\n",
    ),
    says(
        "kafka-console-consumer.sh %B --topic j --from-beginning --max-messages 1 --value-deserializer org.apache.kafka.common.serialization.StringDeserializer --property value.deserializer.value.deserializer.encoding=ISO-8859-1",
        "Ã¤\\b\n",
    ),
    says(
        "kafka-console-consumer.sh %B --topic i --from-beginning --max-messages 2 --property print.headers=true",
        "a:1,b:2,c:3\tv\n:\tw\n",
    ),
    (
        "tee %D/delete.json",
        "{\"partitions\":[{\"topic\":\"i\",\"partition\":0,\"offset\":9}]}\n",
        0,
        "{\"partitions\":[{\"topic\":\"i\",\"partition\":0,\"offset\":9}]}\n",
        "",
    ),
    says(
        "kafka-delete-records.sh %B --offset-json-file %D/delete.json",
        "Executing records delete operation\nRecords delete operation completed:\npartition: i-0\terror: org.apache.kafka.common.errors.OffsetOutOfRangeException: The requested offset is not within the range of offsets maintained by the server.\n",
    ),
    refuses("kafka-console-consumer.sh %B --topic h --include h", "Exactly one of --include/--topic is required."),
    refuses(
        "kafka-console-consumer.sh %B --topic h --group grp2 --consumer-property group.id=other",
        "do not match. Detected group ids: 'grp2', 'other'",
    ),
    (
        "kafka-console-consumer.sh %B --topic h --group grp --from-beginning --max-messages 2",
        "",
        0,
        "v\nnull\n",
        "Processed a total of 2 messages",
    ),
    (
        "kafka-console-consumer.sh %B --topic __consumer_offsets --from-beginning --timeout-ms 2000 --formatter 'kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter' | grep -m1 '^.grp,h' | sed 's/=[0-9][0-9]*/=N/g'",
        "",
        0,
        "[grp,h,0]::OffsetAndMetadata(offset=N, leaderEpoch=…\n",
        "WARNING: kafka.coordinator.group.GroupMetadataManager$OffsetsMessageFormatter is deprecated and will be removed in the next major release. Please use org.apache.kafka.tools.consumer.OffsetsMessageFormatter instead",
    ),
    says(
        "kafka-console-consumer.sh %B --topic __consumer_offsets --from-beginning --timeout-ms 2000 --formatter org.apache.kafka.tools.consumer.OffsetsMessageFormatter | grep -m1 grp",
        "{\"key\":{\"version\":1,\"data\":{\"group\":\"grp\",\"topic\":\"h\",\"partition\":0}},\"value\":{\"version\":…\n",
    ),
    // By default a pattern matches no internal topic.
    says(
        "kafka-console-consumer.sh %B --include '__consumer_offsets|h' --from-beginning --timeout-ms 2000",
        "v\nnull\nv3\n",
    ),
    (
        "kafka-console-consumer.sh %B --include __consumer_offsets --from-beginning --max-messages 1 --consumer-property exclude.internal.topics=false --formatter org.apache.kafka.tools.consumer.NoOpMessageFormatter",
        "",
        0,
        "",
        "Processed a total of 1 messages",
    ),
    // One that cannot be printed counts as read, the others do not.
    (
        "kafka-console-consumer.sh %B --topic h --group half --from-beginning --value-deserializer org.apache.kafka.common.serialization.LongDeserializer",
        "",
        1,
        "",
        "Processed a total of 1 messages",
    ),
    // Where Kafka's tool finds out record by record that nobody reads, and takes the first for read.
    (
        "(kafka-console-consumer.sh %B --topic h --group unread --from-beginning; echo $? >%D/status) | true; cat %D/status",
        "",
        0,
        "0\n",
        "Unable to write to standard out, closing consumer.",
    ),
    says("kafka-get-offsets.sh %B --topic h", "h:0:3\n"),
    says("kafka-get-offsets.sh %B --topic h --time -2", "h:0:0\n"),
    says("kafka-get-offsets.sh %B --topic h --time earliest-local", "h:0:0\n"),
    says("kafka-get-offsets.sh %B --topic h --time latest-tiered", ""),
    says("kafka-get-offsets.sh %B --topic t --time max-timestamp", ""),
    says("kafka-get-offsets.sh %B --topic t --time 1700000000000", ""),
    says("kafka-get-offsets.sh %B --topic h --time 1700000000000", "h:0:0\n"),
    refuses(
        "kafka-get-offsets.sh %B --topic t --time foo",
        "Error occurred: Malformed time argument foo. Please use -1 or latest / -2 or earliest / -3 or max-timestamp / -4 or earliest-local / -5 or latest-tiered, or a specified long format timestamp",
    ),
    says("kafka-get-offsets.sh %B --exclude-internal-topics --topic '[tw]'", "t:0:0\nt:1:0\nw:0:0\n"),
    says("kafka-get-offsets.sh %B --topic t --partitions 1", "t:1:0\n"),
    says("kafka-get-offsets.sh %B --topic-partitions t:0-1,t:1", "t:0:0\nt:1:0\n"),
    says("kafka-get-offsets.sh %B --topic-partitions t:1-", "t:1:0\n"),
    refuses(
        "kafka-get-offsets.sh %B --topic none",
        "Error occurred: Could not match any topic-partitions with the specified filters",
    ),
    refuses(
        "kafka-get-offsets.sh %B --topic t --partitions x",
        "Error occurred: --partitions expects a comma separated list of numeric partition ids, but received: x",
    ),
    refuses(
        "kafka-get-offsets.sh %B --topic-partitions t:0 --topic t",
        "Error occurred: --topic-partitions cannot be used with --topic or --partitions",
    ),
];

const GROUPS: &[Call] = &[
    says("kafka-consumer-groups.sh %B --list --state | grep grp", "grp Empty\n"),
    says("kafka-consumer-groups.sh %B --list --type classic | grep grp", "grp Classic\n"),
    says("kafka-consumer-groups.sh %B --list --state Stable", "GROUP STATE\n"),
    says("kafka-consumer-groups.sh %B --list --state Dead,CompletingRebalance,", "GROUP STATE\n"),
    refuses(
        "kafka-consumer-groups.sh %B --list --state foo",
        "Invalid state list 'foo'. Valid states are: PreparingRebalance, CompletingRebalance, Stable, Dead, Empty, Assigning, Reconciling",
    ),
    (
        "kafka-consumer-groups.sh %B --describe --group grp",
        "",
        0,
        "\nGROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\ngrp h 0 2 3 1 - - -\n",
        "Consumer group 'grp' has no active members.",
    ),
    says(
        "kafka-consumer-groups.sh %B --describe --group half --group unread --group half",
        "\nGROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\nhalf h 0 1 3 2 - - -\n\nGROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG CONSUMER-ID HOST CLIENT-ID\nunread h 0 0 3 3 - - -\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group unread --group unread --topic h --shift-by 1 --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\nunread h 0 1\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete --group unread --group unread",
        "Deletion of requested consumer groups ('unread') was successful.\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete-offsets --group half --group half --topic h",
        "\nError: Executing consumer group command failed due to Found multiple arguments for option group…\n",
    ),
    refuses("kafka-consumer-groups.sh %B --delete --group half --state", "[state]"),
    says(
        "kafka-consumer-groups.sh %B --describe --group grp --state",
        "\nGROUP COORDINATOR (ID) ASSIGNMENT-STRATEGY STATE #MEMBERS\ngrp %P (0) Empty 0\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --describe --group grp --members --verbose",
        "\nGROUP CONSUMER-ID HOST CLIENT-ID #PARTITIONS ASSIGNMENT\n",
    ),
    refuses(
        "kafka-consumer-groups.sh %B --describe --group grp --members --state",
        "Option [describe] takes at most one of these options: [members], [offsets], [state]",
    ),
    says("kafka-consumer-groups.sh %B --describe --group none", "\nError: Consumer group 'none' does not exist.\n"),
    says(
        "kafka-consumer-groups.sh %B --describe --group none --members",
        "\nError: Consumer group 'none' does not exist.\n\nGROUP CONSUMER-ID HOST CLIENT-ID #PARTITIONS\n",
    ),
    (
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-earliest",
        "",
        0,
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 0\n",
        "WARN: No action will be performed as the --execute option is missing.",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h:0 --shift-by -1 --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 1\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --shift-by 100 --dry-run",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 3\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-current --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 1\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-datetime 2020-01-01T00:00:00.000 --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 0\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-datetime 2035-01-01T00:00:00.000+0200 --execute",
        "\nWarn: Partition 0 from topic h is empty. Falling back to latest known offset.\n\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 3\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-datetime foo --execute",
        "\nError: Executing consumer group command failed due to …\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --by-duration PT1H --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 0\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --by-duration foo --execute",
        "\nError: Executing consumer group command failed due to Text cannot be parsed to a Duration\n",
    ),
    says("kafka-consumer-groups.sh %B --reset-offsets --group grp --all-topics --to-latest --export", "h,0,3\n\n"),
    says(
        "echo h,0,1 >%D/plan; kafka-consumer-groups.sh %B --reset-offsets --group grp --from-file %D/plan --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\ngrp h 0 1\n",
    ),
    says(
        "echo none,0,1 >%D/plan; kafka-consumer-groups.sh %B --reset-offsets --group grp --from-file %D/plan --execute",
        "\nError: Executing consumer group command failed due to …\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --from-file %D/none --execute",
        "\nError: Executing consumer group command failed due to …\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic none --to-latest",
        "\nError: Executing consumer group command failed due to …\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h:9 --to-latest --timeout 500",
        "\nError: Executing consumer group command failed due to …\n",
    ),
    refuses(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h",
        "Option '[reset-offsets]' requires one of the following scenarios",
    ),
    refuses(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --to-latest",
        "One of the reset scopes should be defined: --all-topics, --topic.",
    ),
    refuses(
        "kafka-consumer-groups.sh %B --reset-offsets --group grp --topic h --to-latest --to-earliest",
        "Option \"[to-earliest]\" can't be used with option \"[to-latest]\"",
    ),
    says(
        "kafka-consumer-groups.sh %B --reset-offsets --group new --topic h --to-latest --execute",
        "\nGROUP TOPIC PARTITION NEW-OFFSET\nnew h 0 3\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete-offsets --group grp --topic none",
        "Request succeed for deleting offsets with topic none group grp\n\nTOPIC PARTITION STATUS\nnone Not Provided Error: :org.apache.kafka.common.errors.UnknownTopicOrPartitionException: This server does not host this topic-partition.\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete-offsets --group none --topic h",
        "\nError: 'none' does not exist.\n\nTOPIC PARTITION STATUS\nh 0 Error: :org.apache.kafka.common.errors.GroupIdNotFoundException: The group id does not exist.\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete-offsets --group grp --topic h",
        "Request succeed for deleting offsets with topic h group grp\n\nTOPIC PARTITION STATUS\nh 0 Successful\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete --group none",
        "\nError: Deletion of some consumer groups failed:\n* Group 'none' could not be deleted due to: java.util.concurrent.ExecutionException: org.apache.kafka.common.errors.GroupIdNotFoundException: The group id does not exist.\n",
    ),
    says(
        "kafka-consumer-groups.sh %B --delete --group new",
        "Deletion of requested consumer groups ('new') was successful.\n",
    ),
    refuses("kafka-consumer-groups.sh %B --delete", "Option [delete] takes one of these options"),
    refuses(
        "kafka-consumer-groups.sh %B --delete --group new --topic h",
        "The consumer does not support topic-specific offset deletion from a consumer group.",
    ),
    refuses("kafka-consumer-groups.sh --list", "Missing required argument \"[bootstrap-server]\""),
];

/// Kafka's clients keep metrics, and the tools print them; ours say that there are none.
const PERFORMANCE: &[Call] = &[
    (
        "kafka-producer-perf-test.sh --topic h --num-records 2 --record-size 2000000 --throughput -1 --producer-props bootstrap.servers=%P",
        "",
        0,
        "0 records sent, 0.000000 records/sec (0.00 MB/sec), NaN ms avg latency, 0.00 ms max latency, 0 ms 50th, 0 ms 95th, 0 ms 99th, 0 ms 99.9th.\n",
        "org.apache.kafka.common.errors.RecordTooLargeException: ",
    ),
    says(
        "printf 'aXXbXc' >%D/payloads; kafka-producer-perf-test.sh --topic h --num-records 1 --payload-file %D/payloads --payload-delimiter 'X+' --throughput -1 --producer-props bootstrap.servers=%P | head -2",
        "Reading payloads from: %D/payloads\nNumber of messages read: 3\n",
    ),
    (
        "kafka-producer-perf-test.sh --topic h --num-records 3 --record-size 10 --throughput -1 --producer-props bootstrap.servers=%P --print-metrics | wc -l",
        "",
        0,
        "1\n",
        "There are no metrics to print",
    ),
    (
        "kafka-consumer-perf-test.sh %B --topic h --messages 3 --hide-header --print-metrics | wc -l",
        "",
        0,
        "1\n",
        "There are no metrics to print",
    ),
];

struct Bench {
    /// The broker ends before ZooKeeper, and both before their directory.
    _broker: Process,
    _zookeeper: ZooKeeper,
    scratch: Scratch,
    address: String,
}

impl Bench {
    /// A broker as a user starts it, with our script and an override.
    fn start() -> Bench {
        let scratch = Scratch::new("tools");
        let zookeeper = ZooKeeper::start(&scratch);
        let configured = Broker::configure(&scratch, zookeeper.port, "");
        let mut command = tied(repository("bin/kafka-server-start.sh"));
        command.env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek")).env("LOG_DIR", scratch.path("logs"));
        command.arg(&configured.config).args(["--override", "num.partitions=3"]);
        let mut broker = Process::start("the broker", &mut command, scratch.path("broker.log"));
        broker.until_port(configured.port);
        eventually(PATIENCE, "the broker answers for the cluster", || {
            let metadata = configured.client().metadata(&[]).map_err(|error| error.to_string())?;
            if metadata.controller_id == 0 { Ok(()) } else { Err(format!("{metadata:?}")) }
        });
        Bench { _broker: broker, _zookeeper: zookeeper, scratch, address: configured.address() }
    }

    fn filled(&self, text: &str) -> String {
        text.replace("%B", "--bootstrap-server %P")
            .replace("%P", &self.address)
            .replace("%D", &self.scratch.path("").display().to_string())
            .replace("%W", COLLISION)
    }

    /// What differs from what is expected, if anything does.
    fn difference(&self, (line, input, status, out, err): &Call) -> Result<(), String> {
        let file = self.scratch.path("input");
        fs::write(&file, input).expect("the scratch directory can be written");
        // A tool that waits for what never comes fails its call alone.
        let output = tied("timeout")
            .args(["20", "bash", "-c", &self.filled(line)])
            .current_dir(repository(""))
            .env("PATH", format!("{}:{}", repository("bin").display(), std::env::var("PATH").unwrap_or_default()))
            .env("ODRADEK_BINARY", env!("CARGO_BIN_EXE_odradek"))
            .stdin(Stdio::from(File::open(file).expect("it was just written")))
            .output()
            .expect("bash runs");
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let is_right = output.status.code() == Some(*status)
            && reads_as(&said, &self.filled(out))
            && complained.contains(err)
            && (status == &0 || !err.is_empty() || !out.is_empty());
        if is_right { Ok(()) } else { Err(format!("{line}\n{}\n{said}--- stderr\n{complained}", output.status)) }
    }
}

/// Without what only fills columns, and with one name for all topic ids.
fn plain(text: &str) -> Vec<String> {
    let ids = Regex::new(r"TopicId: \S+").expect("the pattern is constant");
    let blanks = Regex::new(" +").expect("the pattern is constant");
    let text = ids.replace_all(text, "TopicId: ID");
    text.split('\n').map(|line| blanks.replace_all(line, " ").trim_end_matches(' ').to_owned()).collect()
}

fn reads_as(said: &str, expected: &str) -> bool {
    let (said, expected) = (plain(said), plain(expected));
    said.len() == expected.len()
        && said.iter().zip(&expected).all(|(said, expected)| match expected.strip_suffix('…') {
            Some(start) => said.starts_with(start),
            None => said == expected,
        })
}

#[test]
fn every_call_ends_and_reads_as_kafkas() {
    if Kind::under_test() != Kind::Odradek {
        return; // It is about our tools.
    }
    let bench = Bench::start();
    let mut wrong = Vec::new();
    for call in [TOPICS, NOWHERE, CONFIGS, ADMINISTRATION, MESSAGES, GROUPS, PERFORMANCE].into_iter().flatten() {
        // What was deleted or committed may take a moment to be seen.
        let is_question = ["--list", "--describe", "get-offsets"].iter().any(|word| call.0.contains(word));
        let began = Instant::now();
        let mut outcome = bench.difference(call);
        while outcome.is_err() && is_question && began.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(100));
            outcome = bench.difference(call);
        }
        wrong.extend(outcome.err());
    }
    assert!(wrong.is_empty(), "{} calls differ:\n{}", wrong.len(), wrong.join("\n=====\n"));
}

/// As Kafka's admin client, which asks again while there is no leader, or one that does not lead yet.
#[test]
fn a_tool_waits_for_the_leaders_of_a_broker_that_has_just_started() {
    let mut cluster = Cluster::start("tools-at-start", "");
    let mut client = cluster.broker.client();
    client.create_topic("t", 3, &[]);
    client.produce("t", 1, batch(Codec::None, ["once".to_owned()])).expect("answered").expect("appended");
    for start in 1..=4 {
        assert_eq!(cluster.broker.stop().code(), Some(0));
        let mut process = cluster.broker.spawn(Kind::under_test(), &cluster.scratch);
        let port = cluster.broker.port;
        eventually(PATIENCE, "the broker has heard of the topic", || {
            assert!(process.has_ended().is_none(), "{}", process.last_words());
            let mut client = Client::connect(port).map_err(|error| error.to_string())?;
            let metadata = client.metadata(&["t"]).map_err(|error| error.to_string())?;
            if metadata.topics[0].error_code == 0 { Ok(()) } else { Err(format!("{metadata:?}")) }
        });
        cluster.broker.process = Some(process);
        let offsets = cluster.script(
            "kafka-get-offsets.sh",
            &["--bootstrap-server", &cluster.broker.address(), "--topic", "t"],
            "",
        );
        assert_eq!(offsets.as_deref(), Ok("t:0:0\nt:1:1\nt:2:0\n"), "start {start}");
    }
}

/// Many short lines fill a batch that is too large for the topic.
#[test]
fn lines_that_the_topic_takes_one_by_one_are_written_though_a_batch_of_them_is_too_large() {
    let cluster = Cluster::start("tools-split", "");
    let mut client = cluster.broker.client();
    client.create_topic("small", 1, &[("max.message.bytes", "2000")]);
    let lines: Vec<String> = (0..1000).map(|number| format!("line {number} of a thousand")).collect();
    let address = cluster.broker.address();
    let mut written = Vec::new();
    for idempotence in ["enable.idempotence=true", "enable.idempotence=false"] {
        let arguments = ["--bootstrap-server", &address, "--topic", "small", "--producer-property", idempotence];
        let said = cluster.script("kafka-console-producer.sh", &arguments, &(lines.join("\n") + "\n"));
        assert!(said.is_ok(), "{said:?}");
        written.extend(lines.clone());
        let mut found = values(&client.read_all("small", 0, 0).expect("answered"));
        if idempotence.ends_with("false") {
            // With several requests in flight it keeps no order, as Kafka's does not.
            found[lines.len()..].sort();
            written[lines.len()..].sort();
        }
        assert!(found == written, "{idempotence}: {} of {} lines", found.len(), written.len());
    }
}

/// As with Kafka's clients, what has no leader is waited for, and the rest is told and read meanwhile.
#[test]
fn a_partition_without_a_leader_keeps_no_tool_from_the_others() {
    let mut cluster = Cluster::start("tools-leaderless", "");
    cluster.broker.stop();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let settings = Settings::new(format!("127.0.0.1:{}", cluster.zookeeper.port));
        let zk = Session::connect(settings).await.expect("ZooKeeper runs");
        // Nobody is broker 9.
        let topic =
            br#"{"version":2,"partitions":{"0":[0],"1":[9],"2":[0]},"adding_replicas":{},"removing_replicas":{}}"#;
        let state = br#"{"controller_epoch":1,"leader":9,"version":1,"leader_epoch":0,"isr":[9]}"#;
        zk.create("/brokers/topics/x", topic, CreateKind::Persistent).await.expect("it is new");
        let path = "/brokers/topics/x/partitions/1/state";
        zk.create_recursive(path, state, CreateKind::Persistent).await.expect("it is new");
        zk.close().await;
    });
    cluster.start_broker(Kind::under_test());
    let mut client = cluster.broker.client();
    eventually(PATIENCE, "two partitions are led", || {
        let metadata = client.metadata(&["x"]).map_err(|error| error.to_string())?;
        let leaders: BTreeMap<i32, i32> =
            metadata.topics[0].partitions.iter().map(|p| (p.partition_index, p.leader_id)).collect();
        if leaders == BTreeMap::from([(0, 0), (1, -1), (2, 0)]) { Ok(()) } else { Err(format!("{leaders:?}")) }
    });
    for partition in [0, 2] {
        let record = batch(Codec::None, [format!("in {partition}")]);
        client.produce("x", partition, record).expect("answered").expect("appended");
    }
    let address = cluster.broker.address();
    let arguments = ["--bootstrap-server", &address, "--topic", "x", "--from-beginning", "--max-messages", "2"];
    let read = cluster.script("kafka-console-consumer.sh", &arguments, "").expect("two records are read");
    let mut lines: Vec<&str> = read.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, ["in 0", "in 2"]);

    let hasty = cluster.scratch.path("hasty.properties");
    fs::write(&hasty, "default.api.timeout.ms=5000\nrequest.timeout.ms=5000\n").expect("it can be written");
    let hasty = hasty.display().to_string();
    let arguments = ["--bootstrap-server", &address, "--topic", "x", "--command-config", &hasty];
    let told = cluster.script("kafka-get-offsets.sh", &arguments, "");
    assert_eq!(told.as_deref(), Ok("x:0:1\nx:2:1\n"));
    // Nor is it a failure that there is none of all that were asked for.
    let told = cluster.script("kafka-get-offsets.sh", &[&arguments[..], &["--partitions", "1"]].concat(), "");
    assert_eq!(told.as_deref(), Ok(""));
}

/// As Connect's workers are one; their positions are none in partitions.
#[test]
fn a_group_that_is_none_of_consumers_is_told_from_one() {
    let cluster = Cluster::start("tools-workers", "");
    let mut client = cluster.broker.client();
    client.create_topic("t", 1, &[]);
    client.until_coordinated("workers");
    let protocols = vec![JoinGroupRequestProtocol { name: "default".to_owned(), metadata: Bytes::new() }];
    let request = JoinGroupRequest {
        group_id: "workers".to_owned(),
        session_timeout_ms: 30_000,
        rebalance_timeout_ms: 30_000,
        protocol_type: "connect".to_owned(),
        protocols,
        ..Default::default()
    };
    eventually(PATIENCE, "the worker has joined", || {
        let joined = client.call(&request, 3).map_err(|error| error.to_string())?;
        if joined.error_code == 0 { Ok(()) } else { Err(format!("{joined:?}")) }
    });
    let address = cluster.broker.address();
    let groups = |arguments: &str| {
        let arguments: Vec<&str> = ["--bootstrap-server", &address].into_iter().chain(arguments.split(' ')).collect();
        cluster.script("kafka-consumer-groups.sh", &arguments, "").expect("it ends well")
    };
    let is_none = "java.lang.IllegalArgumentException: GroupId workers is not a consumer group (connect).";
    let failed = "\nError: Executing consumer group command failed due to ";
    for form in ["", " --members", " --state"] {
        assert_eq!(groups(&format!("--describe --group workers{form}")), format!("{failed}{is_none}\n"));
    }
    let reset = groups("--reset-offsets --group workers --topic t --to-earliest --execute");
    assert_eq!(reset, format!("{failed}java.util.concurrent.ExecutionException: {is_none}\n"));
}

/// Kafka's tool waits for the settings of a dead broker until it gives up, and nothing moves.
#[test]
fn replicas_are_moved_away_from_a_dead_broker_under_a_throttle() {
    let mut cluster = Brokers::start("tools-dead", 3, "");
    let mut client = cluster.client(0);
    client.create_replicated_topic("t", 1, 3, &[]);
    cluster.until_partition("t", 0, "everybody is in sync", |found| found.isr_nodes.len() == 3);
    cluster.brokers[2].kill();
    cluster.until_partition("t", 0, "the dead broker is missed", |found| !found.isr_nodes.contains(&2));
    eventually(PATIENCE, "the dead broker is not listed", || {
        let metadata = cluster.client(0).metadata(&[]).map_err(|error| error.to_string())?;
        if metadata.brokers.len() == 2 { Ok(()) } else { Err(format!("{metadata:?}")) }
    });
    let path = cluster.scratch.path("move.json");
    fs::write(&path, r#"{"partitions":[{"topic":"t","partition":0,"replicas":[1,0]}]}"#).expect("it can be written");
    let (file, address) = (path.display().to_string(), cluster.brokers[0].address());
    let script = |script: &str, arguments: &str| {
        let arguments: Vec<&str> = ["--bootstrap-server", &address].into_iter().chain(arguments.split(' ')).collect();
        cluster.script(script, &arguments, "")
    };
    let move_away = format!("--execute --throttle 5000 --reassignment-json-file {file}");
    let told = script("kafka-reassign-partitions.sh", &move_away).expect("it is taken up");
    assert!(told.contains("The inter-broker throttle limit was set to 5000 B/s\n"), "{told}");
    assert!(told.ends_with("Successfully started partition reassignment for t-0\n"), "{told}");
    for live in ["0", "1"] {
        let set = script("kafka-configs.sh", &format!("--describe --broker {live}")).expect("it is told");
        for rate in ["leader", "follower"] {
            assert!(set.contains(&format!(" {rate}.replication.throttled.rate=5000 ")), "{live}: {set}");
        }
    }
}
