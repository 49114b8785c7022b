# Sourced by the client suites: a real ZooKeeper and brokers in a directory of their own, on
# free ports, all of it gone when the script ends. BROKER says which broker: odradek (the default),
# jvm-3.9.1 or jvm-2.8.2; the checks must pass on each, which is how they are known to be right.
# BROKERS says how many: 1 (the default), or more, of which three have every topic.
#
#   cluster_start             ZooKeeper and the brokers, ready; sets BOOTSTRAP, ZOOKEEPER, cluster
#   broker_restart            an orderly stop (TERM) of broker 0 and a start on the same port
#   broker_stop, broker_start, broker_kill ID
#   leader_of TOPIC           which broker leads its partition 0
#   until_in_sync             no partition lacks a replica
base=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deps=${ODRADEK_TEST_DEPS:-$base/target/test-deps}
BROKER=${BROKER:-odradek}
BROKERS=${BROKERS:-1}
cluster=""
zookeeper_pid=""
broker_ports=()
broker_pids=()

die() { echo "FAILED cluster: $*" >&2; exit 1; }
# Below those that the kernel gives to outgoing connections: one of these could take that of a broker that is dead.
free_port() {
    python3 -c '
import random, socket
while True:
    try:
        port = random.randrange(10000, 32768)
        socket.create_server(("127.0.0.1", port)).close()
        break
    except OSError:
        pass
print(port)'
}
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
    for pid in "${broker_pids[@]}" $zookeeper_pid; do kill -9 "$pid" 2>/dev/null; done
    wait "${broker_pids[@]}" $zookeeper_pid 2>/dev/null
    [ -z "$cluster" ] || [ -n "${KEEP:-}" ] || rm -rf "$cluster"
}

cluster_start() {
    cluster=$(mktemp -d "${TMPDIR:-/tmp}/odradek-clients.XXXXXX")
    trap cluster_stop EXIT
    trap 'exit 130' INT TERM
    local zookeeper_port id copies=$((BROKERS < 3 ? BROKERS : 3))
    zookeeper_port=$(free_port)
    ZOOKEEPER=127.0.0.1:$zookeeper_port
    BOOTSTRAP=""
    printf 'tickTime=1000\ndataDir=%s/zookeeper\nclientPort=%s\nadmin.enableServer=false\nmaxClientCnxns=0\n' "$cluster" "$zookeeper_port" >"$cluster/zookeeper.properties"
    for ((id = 0; id < BROKERS; id++)); do
        broker_ports[id]=$(free_port)
        BOOTSTRAP+=${BOOTSTRAP:+,}127.0.0.1:${broker_ports[id]}
        cat >"$cluster/server-$id.properties" <<PROPERTIES
broker.id=$id
listeners=PLAINTEXT://127.0.0.1:${broker_ports[id]}
log.dirs=$cluster/data-$id
zookeeper.connect=$ZOOKEEPER
zookeeper.session.timeout.ms=$((BROKERS == 1 ? 18000 : 3000))
num.partitions=1
default.replication.factor=$copies
min.insync.replicas=$((copies / 2 + 1))
offsets.topic.replication.factor=$copies
offsets.topic.num.partitions=5
transaction.state.log.replication.factor=$copies
transaction.state.log.min.isr=$((copies / 2 + 1))
transaction.state.log.num.partitions=5
transaction.abort.timed.out.transaction.cleanup.interval.ms=1000
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
log.retention.hours=-1
PROPERTIES
    done
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
    for ((id = 0; id < BROKERS; id++)); do broker_start $id; done
}

broker_start() { # ID
    local id=$1 log=$cluster/broker-$1.log
    case $BROKER in
    odradek) "$base/bin/kafka-server-start.sh" "$cluster/server-$id.properties" >>"$log" 2>&1 </dev/null & ;;
    jvm-*)
        java -Xmx512M -XX:+UseSerialGC -Dlog4j.configuration="file:$cluster/log4j.properties" -cp "$deps/kafka-${BROKER#jvm-}/*" \
            kafka.Kafka "$cluster/server-$id.properties" >>"$log" 2>&1 </dev/null &
        ;;
    *) die "BROKER=$BROKER is no broker: odradek, jvm-3.9.1 or jvm-2.8.2" ;;
    esac
    broker_pids[id]=$!
    until_port "$BROKER" "${broker_ports[id]}" "${broker_pids[id]}" "$log"
    # A broker, also a JVM one, listens a moment before its controller has told it of the topics.
    local waited=0
    until kcat -b "127.0.0.1:${broker_ports[id]}" -L 2>/dev/null | awk -v me="  broker $id at" 'index($0, me) == 1 { here = 1 } / \(controller\)$/ { led = 1 } END { exit !(here && led) }'; do
        [ $waited -lt 300 ] || { tail -15 "$log" >&2; die "$BROKER does not know itself and its controller after 30 s"; }
        sleep 0.1
        waited=$((waited + 1))
    done
}

broker_stop() { # ID
    local waited=0 pid=${broker_pids[$1]}
    kill "$pid"
    while kill -0 "$pid" 2>/dev/null; do
        [ $waited -lt 300 ] || { tail -15 "$cluster/broker-$1.log" >&2; die "$BROKER does not stop within 30 s of TERM"; }
        sleep 0.1
        waited=$((waited + 1))
    done
    wait "$pid" 2>/dev/null
    unset "broker_pids[$1]"
}

broker_kill() { # ID
    kill -9 "${broker_pids[$1]}"
    wait "${broker_pids[$1]}" 2>/dev/null
    unset "broker_pids[$1]"
}

broker_restart() { broker_stop 0 && broker_start 0; }

leader_of() { "$base/bin/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP" --describe --topic "$1" | sed -nE 's/.*Partition: 0[[:blank:]]+Leader: ([0-9]+).*/\1/p'; }

until_in_sync() {
    local waited=0 lacking
    while :; do
        lacking=$("$base/bin/kafka-topics.sh" --bootstrap-server "$BOOTSTRAP" --describe --under-replicated-partitions 2>&1) && [ -z "$lacking" ] && return
        [ $waited -lt 300 ] || die "not in sync after 60 s: $lacking"
        sleep 0.2
        waited=$((waited + 1))
    done
}
