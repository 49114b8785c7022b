#!/usr/bin/env bash
# kafka-run-class.sh [-daemon] [-name NAME] [-loggc] CLASS [argument]*
# The broker and the tools by the names of their classes, as units and scripts of JVM brokers call them. With -daemon it runs in
# the background and writes to $LOG_DIR/NAME.out.
bin=$(dirname "$0")
daemon=""
name=""
while [ $# -gt 0 ]; do
    case $1 in
    -daemon) daemon=yes ;;
    -name) shift && name=$1 ;;
    -loggc) ;;
    *) break ;;
    esac
    shift
done
if [ $# -lt 1 ]; then
    echo "USAGE: $0 [-daemon] [-name servicename] [-loggc] classname [opts]"
    exit 1
fi
class=$1
shift
case ${class##*.} in
Kafka) run=("$bin/odradek" server-start) ;;
BrokerApiVersionsCommand) run=("$bin/kafka-broker-api-versions.sh") ;;
ClusterTool) run=("$bin/kafka-cluster.sh") ;;
ConfigCommand) run=("$bin/kafka-configs.sh") ;;
ConsoleConsumer) run=("$bin/kafka-console-consumer.sh") ;;
ConsoleProducer) run=("$bin/kafka-console-producer.sh") ;;
ConsumerGroupCommand) run=("$bin/kafka-consumer-groups.sh") ;;
ConsumerPerformance) run=("$bin/kafka-consumer-perf-test.sh") ;;
DeleteRecordsCommand) run=("$bin/kafka-delete-records.sh") ;;
DumpLogSegments) run=("$bin/kafka-dump-log.sh") ;;
EndToEndLatency) run=("$bin/kafka-e2e-latency.sh") ;;
FeatureCommand) run=("$bin/kafka-features.sh") ;;
GetOffsetShell) run=("$bin/kafka-get-offsets.sh") ;;
LeaderElectionCommand) run=("$bin/kafka-leader-election.sh") ;;
LogDirsCommand) run=("$bin/kafka-log-dirs.sh") ;;
ProducerPerformance) run=("$bin/kafka-producer-perf-test.sh") ;;
ReassignPartitionsCommand) run=("$bin/kafka-reassign-partitions.sh") ;;
ReplicaVerificationTool) run=("$bin/kafka-replica-verification.sh") ;;
TopicCommand) run=("$bin/kafka-topics.sh") ;;
TransactionsCommand) run=("$bin/kafka-transactions.sh") ;;
VerifiableConsumer) run=("$bin/kafka-verifiable-consumer.sh") ;;
VerifiableProducer) run=("$bin/kafka-verifiable-producer.sh") ;;
QuorumPeerMain) run=("$bin/zookeeper-server-start.sh") ;;
ZooKeeperMainWithTlsSupportForKafka) run=("$bin/zookeeper-shell.sh") ;;
*) echo "There is no $class here: what Odradek has is in $bin" >&2 && exit 1 ;;
esac
[ -n "$daemon" ] || exec "${run[@]}" "$@"
logs="${LOG_DIR:-$(cd "$bin/.." && pwd)/logs}"
mkdir -p "$logs" || exit 1
nohup "${run[@]}" "$@" >"$logs/${name:-kafkaServer}.out" 2>&1 </dev/null &
