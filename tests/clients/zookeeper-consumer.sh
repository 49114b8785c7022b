#!/usr/bin/env bash
# The console consumer of Kafka 0.9.0.1 that finds the brokers in ZooKeeper and keeps its offsets
# there, on this machine's JDK. zookeeper-consumer.sh TOPIC, with BOOTSTRAP, ZOOKEEPER and DEPS set.
set -u
topic=$1
seq 1 20 | sed 's/^/old-/' | kcat -b "$BOOTSTRAP" -P -t "$topic" -z gzip || { echo "FAILED produce: kcat cannot produce to $topic"; exit 1; }
err=$(mktemp)
trap 'rm -f "$err"' EXIT
seen=$(timeout 90 java -Xmx256M -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dlog4j.configuration="file:$(dirname "$0")/../../config/tools-log4j.properties" \
    -cp "$DEPS/kafka-0.9.0.1/*" kafka.tools.ConsoleConsumer --zookeeper "$ZOOKEEPER" --topic "$topic" --from-beginning --max-messages 20 2>"$err")
if [ "$seen" = "$(seq 1 20 | sed 's/^/old-/')" ]; then
    echo "ok console consumer with --zookeeper reads from the beginning"
else
    echo "FAILED console consumer with --zookeeper reads from the beginning: saw $(wc -l <<<"$seen") lines; $(grep -vE '^$|^\s+at ' "$err" | tail -1 | cut -c1-300)"
    exit 1
fi
