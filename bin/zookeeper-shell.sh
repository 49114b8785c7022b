#!/usr/bin/env bash
# zookeeper-shell.sh host:port[/chroot] [-zk-tls-config-file file] [command] : ZooKeeper's own shell.
if [ $# -lt 1 ]; then
    echo "USAGE: $0 zookeeper_host:port[/path] [-zk-tls-config-file file] [args...]"
    exit 1
fi
bin=$(dirname "$0")
base=$(cd "$bin/.." && pwd)
classpath=$("$bin/zookeeper-classpath.sh" 2>/dev/null) || exec "$bin/zookeeper-classpath.sh"
server=$1
shift
tls=()
[ "${1:-}" != -zk-tls-config-file ] || { tls=(-client-configuration "$2") && shift 2; }
exec "${JAVA_HOME:+$JAVA_HOME/bin/}java" ${KAFKA_HEAP_OPTS:--Xmx256M} ${KAFKA_OPTS:-} -Dlogback.configurationFile="$base/config/tools-logback.xml" \
    -Dlog4j.configuration="file:$base/config/tools-log4j.properties" -cp "$classpath" org.apache.zookeeper.ZooKeeperMain -server "$server" ${tls[@]+"${tls[@]}"} "$@"
