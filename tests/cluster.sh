# Sourced by the client suites: a real ZooKeeper and one broker in a directory of their own, on
# free ports, all of it gone when the script ends. BROKER says which broker: odradek (the default),
# jvm-3.9.1 or jvm-2.8.2; the checks must pass on each, which is how they are known to be right.
#
#   cluster_start             ZooKeeper and the broker, ready; sets BOOTSTRAP, ZOOKEEPER, cluster
#   broker_restart            an orderly stop (TERM) and a start on the same port
#   broker_stop, broker_start, broker_kill
base=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=${ODRADEK_TEST_DEPS:-$base/target/test-deps}
BROKER=${BROKER:-odradek}
cluster=""
zookeeper_pid=""
broker_pid=""

die() { echo "FAILED cluster: $*" >&2; exit 1; }
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

until_port() { # NAME PORT PID LOG
    local waited=0
    until port_answers "$2"; do
        kill -0 "$3" 2>/dev/null || { tail -15 "$4" >&2; die "$1 ended before it listened on port $2"; }
        [ $waited -lt 600 ] || { tail -15 "$4" >&2; die "$1 does not listen on port $2 after 60 s"; }
        sleep 0.1
        waited=$((waited + 1))
    done
}

cluster_stop() {
    local pid
    for pid in $broker_pid $zookeeper_pid; do kill -9 "$pid" 2>/dev/null; done
    wait $broker_pid $zookeeper_pid 2>/dev/null
    [ -z "$cluster" ] || [ -n "${KEEP:-}" ] || rm -rf "$cluster"
}

cluster_start() {
    cluster=$(mktemp -d "${TMPDIR:-/tmp}/odradek-clients.XXXXXX")
    trap cluster_stop EXIT
    trap 'exit 130' INT TERM
    local zookeeper_port broker_port
    zookeeper_port=$(free_port)
    broker_port=$(free_port)
    ZOOKEEPER=127.0.0.1:$zookeeper_port
    BOOTSTRAP=127.0.0.1:$broker_port
    printf 'dataDir=%s/zookeeper\nclientPort=%s\nadmin.enableServer=false\nmaxClientCnxns=0\n' "$cluster" "$zookeeper_port" >"$cluster/zookeeper.properties"
    cat >"$cluster/server.properties" <<PROPERTIES
broker.id=0
listeners=PLAINTEXT://127.0.0.1:$broker_port
log.dirs=$cluster/data
zookeeper.connect=$ZOOKEEPER
num.partitions=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.hours=-1
PROPERTIES
    cat >"$cluster/log4j.properties" <<'PROPERTIES'
log4j.rootLogger=INFO, stdout
log4j.appender.stdout=org.apache.log4j.ConsoleAppender
log4j.appender.stdout.layout=org.apache.log4j.PatternLayout
log4j.appender.stdout.layout.ConversionPattern=[%d] %p %m (%c)%n
PROPERTIES
    ZOOKEEPER_HOME="$deps/zookeeper" KAFKA_HEAP_OPTS="-Xmx128M -XX:+UseSerialGC -XX:TieredStopAtLevel=1" \
        "$base/bin/zookeeper-server-start.sh" "$cluster/zookeeper.properties" >"$cluster/zookeeper.log" 2>&1 </dev/null &
    zookeeper_pid=$!
    until_port ZooKeeper "$zookeeper_port" $zookeeper_pid "$cluster/zookeeper.log"
    broker_start
}

broker_start() {
    case $BROKER in
    odradek) "$base/bin/kafka-server-start.sh" "$cluster/server.properties" >>"$cluster/broker.log" 2>&1 </dev/null & ;;
    jvm-*)
        java -Xmx512M -XX:+UseSerialGC -Dlog4j.configuration="file:$cluster/log4j.properties" -cp "$deps/kafka-${BROKER#jvm-}/*" \
            kafka.Kafka "$cluster/server.properties" >>"$cluster/broker.log" 2>&1 </dev/null &
        ;;
    *) die "BROKER=$BROKER is no broker: odradek, jvm-3.9.1 or jvm-2.8.2" ;;
    esac
    broker_pid=$!
    until_port "$BROKER" "${BOOTSTRAP##*:}" $broker_pid "$cluster/broker.log"
    # A broker, also a JVM one, listens a moment before its controller has told it of the topics.
    local waited=0
    until kcat -b "$BOOTSTRAP" -L 2>/dev/null | grep -q 'broker 0 at .*controller'; do
        [ $waited -lt 300 ] || { tail -15 "$cluster/broker.log" >&2; die "$BROKER does not know itself and its controller after 30 s"; }
        sleep 0.1
        waited=$((waited + 1))
    done
}

broker_stop() {
    local waited=0
    kill "$broker_pid"
    while kill -0 "$broker_pid" 2>/dev/null; do
        [ $waited -lt 300 ] || { tail -15 "$cluster/broker.log" >&2; die "$BROKER does not stop within 30 s of TERM"; }
        sleep 0.1
        waited=$((waited + 1))
    done
    wait "$broker_pid" 2>/dev/null
    broker_pid=""
}

broker_kill() {
    kill -9 "$broker_pid"
    wait "$broker_pid" 2>/dev/null
    broker_pid=""
}

broker_restart() { broker_stop && broker_start; }
