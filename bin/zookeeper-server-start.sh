#!/usr/bin/env bash
# zookeeper-server-start.sh [-daemon] zookeeper.properties : runs a real Apache ZooKeeper server.
# With -daemon it runs in the background and writes to $LOG_DIR/zookeeper.out.
if [ $# -lt 1 ]; then
    echo "USAGE: $0 [-daemon] zookeeper.properties"
    exit 1
fi
bin=$(dirname "$0")
base=$(cd "$bin/.." && pwd)
LOG_DIR=${LOG_DIR:-$base/logs}
daemon=""
[ "$1" != -daemon ] || { daemon=yes && shift; }
classpath=$("$bin/zookeeper-classpath.sh") || exit 1
run=("${JAVA_HOME:+$JAVA_HOME/bin/}java" ${KAFKA_HEAP_OPTS:--Xmx512M -Xms64M} -server -Djava.awt.headless=true
    -Dlogback.configurationFile="$base/config/zookeeper-logback.xml" -Dlog4j.configuration="file:$base/config/zookeeper-log4j.properties"
    ${KAFKA_OPTS:-} -cp "$classpath" org.apache.zookeeper.server.quorum.QuorumPeerMain "$@")
[ -n "$daemon" ] || exec "${run[@]}"
mkdir -p "$LOG_DIR" || exit 1
nohup "${run[@]}" >"$LOG_DIR/zookeeper.out" 2>&1 </dev/null &
