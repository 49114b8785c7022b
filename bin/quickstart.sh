#!/usr/bin/env bash
# bin/quickstart.sh : builds Odradek, starts a real ZooKeeper and a broker, sends three messages
# and reads them back. bin/quickstart.sh --brokers 3 : the same with a cluster of brokers on free
# ports; the leader of the messages is killed, and nothing is lost. bin/quickstart.sh stop : stops
# all again; the messages stay.
# QUICKSTART_CONFIG is a directory with other zookeeper.properties and server.properties.
base=$(cd "$(dirname "$0")/.." && pwd)
cd "$base" || exit 1
config=${QUICKSTART_CONFIG:-config}
run=${QUICKSTART_RUN:-$base/target/quickstart}
topic=quickstart

say() { echo "quickstart: $*"; }

# The value of a key in a properties file, or what else to take.
setting() { local value; value=$(sed -n "s/^[[:space:]]*$2[[:space:]]*=[[:space:]]*//p" "$1" | tail -1); echo "${value:-$3}"; }
# A process that an earlier quickstart started: its id stands in NAME.pid, its mark in its command line.
running() {
    local pid mark=$2
    pid=$(cat "$run/$1.pid" 2>/dev/null) || return 1
    [ -n "$pid" ] && tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -qF -- "$mark" ||
        { [ -n "$pid" ] && [ ! -d /proc/self ] && ps -p "$pid" -o command= 2>/dev/null | grep -qF -- "$mark"; }
}
port_answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
# A ZooKeeper that has just bound its port may never answer who connects then: it is asked until it does.
zookeeper_serves() { (exec 3<>"/dev/tcp/127.0.0.1/$1" && printf srvr >&3 && timeout 1 grep -q Mode: <&3) 2>/dev/null; }

stop() { # NAME MARK: true when it ran and has ended
    running "$1" "$2" || { rm -f "$run/$1.pid"; return 1; }
    local pid waited=0
    pid=$(cat "$run/$1.pid")
    kill "$pid" 2>/dev/null
    while kill -0 "$pid" 2>/dev/null; do
        [ $waited -lt 300 ] || { say "the $1 (process $pid) takes longer than 30 s to stop; killing it"; kill -9 "$pid"; }
        sleep 0.1
        waited=$((waited + 1))
    done
    rm -f "$run/$1.pid"
}
# The scripts that become the broker say kafka.Kafka too; this only the broker itself.
broker_mark="odradek java kafka.Kafka"
zookeeper_mark=QuorumPeerMain

# Stops brokers at once, so that none waits for what another hands over.
stop_brokers() { # NAME...
    local name waiters=()
    for name in "$@"; do
        (stop "$name" "$broker_mark" && say "the ${name/-/ } has stopped") &
        waiters+=($!)
    done
    for name in ${waiters[@]+"${waiters[@]}"}; do wait "$name"; done
}
brokers=""
if [ "${1:-}" = stop ]; then
    names=$(cd "$run" 2>/dev/null && ls -- broker*.pid 2>/dev/null | sed 's/\.pid$//')
    # shellcheck disable=SC2086 # names without spaces
    any=$(stop_brokers $names; stop zookeeper $zookeeper_mark && say "ZooKeeper has stopped")
    echo "${any:-quickstart: nothing was running}"
    exit 0
elif [ "${1:-}" = --brokers ] && [[ "${2:-}" =~ ^[1-9][0-9]?$ ]] && [ $# = 2 ]; then
    brokers=$2
elif [ $# -gt 0 ]; then
    echo "USAGE: $0 [--brokers NUMBER | stop]"
    exit 1
fi

# Whatever goes wrong from here on: one sentence, and nothing left that this run started.
started=()
started_zookeeper=""
give_up() {
    trap - EXIT INT TERM
    echo "quickstart: $*" >&2
    stop_brokers "${started[@]}" >/dev/null
    [ -z "$started_zookeeper" ] || stop zookeeper $zookeeper_mark
    exit 1
}
trap 'give_up "interrupted; everything is stopped again"' INT TERM

# Waits for what was just started to bear its name: until its last exec it does not. True also when it has ended.
named() { # NAME MARK
    until running "$1" "$2" || ! kill -0 "$(cat "$run/$1.pid")" 2>/dev/null; do sleep 0.1; done
}

# Says every few seconds that it still waits; on a terminal, in one line that counts.
wait_for() { # WHAT SECONDS NAME MARK PROBE...
    local what=$1 limit=$2 name=$3 mark=$4 began=$SECONDS said=$SECONDS
    shift 4
    until "$@"; do
        if ! running "$name" "$mark"; then
            [ ! -t 1 ] || echo
            give_up "$what ended before it was ready: $(last_words "$run/$name.out"); all it said is in $run/$name.out"
        fi
        [ $((SECONDS - began)) -lt "$limit" ] || give_up "$what is not ready after $limit s; what it says is in $run/$name.out"
        if [ -t 1 ]; then
            printf '\rquickstart: waiting for %s ... %d s ' "$what" $((SECONDS - began))
        elif [ $((SECONDS - said)) -ge 5 ]; then
            said=$SECONDS
            say "waiting for $what ... $((SECONDS - began)) s"
        fi
        sleep 0.2
    done
    [ ! -t 1 ] || printf '\r\033[K'
    say "$what is ready"
}
last_words() { grep -E 'FATAL|ERROR|Exception|rror:' "$1" | tail -1 | cut -c1-300 | grep . || tail -1 "$1" | cut -c1-300; }

for file in "$config/zookeeper.properties" "$config/server.properties"; do
    [ -r "$file" ] || give_up "there is no $file; run this from the source tree, or set QUICKSTART_CONFIG to a directory that has it"
done
zookeeper_port=$(setting "$config/zookeeper.properties" clientPort 2181)
listeners=$(setting "$config/server.properties" listeners PLAINTEXT://:9092)
broker_port=$(sed 's/,.*//; s/.*://' <<<"$listeners")
broker_id=$(setting "$config/server.properties" broker.id 0)
bootstrap=localhost:$broker_port
mkdir -p "$run" || give_up "cannot write to $run"

# 1. What must be there, before anything is started.
java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" >/dev/null 2>&1 ||
    give_up "there is no Java here ('$java'), and ZooKeeper needs it: install a JRE of version 8 or newer (Debian: apt-get install default-jre-headless) or set JAVA_HOME"
running zookeeper $zookeeper_mark || ! port_answers "$zookeeper_port" ||
    give_up "port $zookeeper_port is in use, and not by this quickstart's ZooKeeper: stop what listens there (ss -ltnp 'sport = :$zookeeper_port' shows it), or change clientPort in $config/zookeeper.properties and zookeeper.connect in $config/server.properties"
[ -n "$brokers" ] || running broker "$broker_mark" || ! port_answers "$broker_port" ||
    give_up "port $broker_port is in use, and not by this quickstart's broker: stop what listens there (ss -ltnp 'sport = :$broker_port' shows it), or set listeners in $config/server.properties to another port"

# 2. The binary.
if [ -n "${ODRADEK_BINARY:-}" ]; then
    say "using $ODRADEK_BINARY"
elif command -v cargo >/dev/null 2>&1; then
    say "building the release binary (the first time takes a few minutes)"
    cargo build --release --bin odradek >"$run/cargo.out" 2>&1 &
    build=$!
    trap 'kill $build 2>/dev/null; give_up "interrupted; nothing is left running"' INT TERM
    began=$SECONDS said=$SECONDS
    while kill -0 $build 2>/dev/null; do
        if [ -t 1 ]; then
            printf '\r\033[Kquickstart: building ... %d s, %s' $((SECONDS - began)) "$(tail -1 "$run/cargo.out" | cut -c1-60)"
        elif [ $((SECONDS - said)) -ge 10 ]; then
            said=$SECONDS
            say "building ... $((SECONDS - began)) s, $(tail -1 "$run/cargo.out" | sed 's/^ *//' | cut -c1-60)"
        fi
        sleep 0.2
    done
    [ ! -t 1 ] || printf '\r\033[K'
    trap 'give_up "interrupted; everything is stopped again"' INT TERM
    if ! wait $build; then
        if grep -qiE 'failed to (download|fetch|get)|could not resolve|network' "$run/cargo.out"; then
            give_up "cargo could not get the crates that Odradek needs; check the network and run this again (all cargo said is in $run/cargo.out)"
        fi
        give_up "the build failed: $(grep -m1 '^error' "$run/cargo.out"); all cargo said is in $run/cargo.out"
    fi
    say "the binary is target/release/odradek"
elif [ -x target/release/odradek ]; then
    say "there is no Rust here; using target/release/odradek as it is"
else
    give_up "there is no Rust here (no cargo on the PATH) and no built target/release/odradek: install Rust from https://rustup.rs and run this again"
fi

# 3. ZooKeeper.
if running zookeeper $zookeeper_mark; then
    say "ZooKeeper already runs (process $(cat "$run/zookeeper.pid"))"
else
    bin/zookeeper-classpath.sh >/dev/null || give_up "without a ZooKeeper there is nothing to start"
    say "starting ZooKeeper on port $zookeeper_port"
    # setsid: an interrupt at the keyboard stops this script, which then stops what it started, in order.
    setsid bin/zookeeper-server-start.sh "$config/zookeeper.properties" >"$run/zookeeper.out" 2>&1 </dev/null &
    echo $! >"$run/zookeeper.pid"
    started_zookeeper=yes
    named zookeeper $zookeeper_mark
    wait_for ZooKeeper 60 zookeeper $zookeeper_mark zookeeper_serves "$zookeeper_port"
fi

# 4. The brokers.
start_broker() { # NAME CONFIG
    setsid bin/kafka-server-start.sh "$2" >>"$run/$1.out" 2>&1 </dev/null &
    echo $! >"$run/$1.pid"
    started=("$1" ${started[@]+"${started[@]}"})
    named "$1" "$broker_mark"
}
shown() { echo "\$ $*"; "$@"; }
describe() { bin/kafka-topics.sh --bootstrap-server "$bootstrap" --describe --topic $topic 2>/dev/null; }
send() { # MESSAGES
    echo "\$ bin/kafka-console-producer.sh --bootstrap-server $bootstrap --topic $topic"
    printf '%s\n' "$@" | tee /dev/stderr | bin/kafka-console-producer.sh --bootstrap-server "$bootstrap" --topic $topic >/dev/null ||
        give_up "the messages could not be sent; the brokers' logs are $run/broker*.out"
}
read_back() { # NUMBER
    shown bin/kafka-console-consumer.sh --bootstrap-server "$bootstrap" --topic $topic --from-beginning --max-messages "$1" --timeout-ms 20000 ||
        give_up "the messages could not be read back; the brokers' logs are $run/broker*.out"
}
count_messages() { bin/kafka-get-offsets.sh --bootstrap-server "$bootstrap" --topic $topic 2>>"$run/tools.err" | sed -n "s/^$topic:0://p"; }

if [ -n "$brokers" ]; then
    # What every tutorial does by hand: server.properties copied, broker.id, listeners and log.dirs changed. A path of its
    # own in ZooKeeper keeps the cluster apart from the single broker of this script.
    topic=quickstart-cluster
    bootstrap=""
    for id in $(seq "$brokers"); do
        own=$run/broker-$id
        mkdir -p "$own" || give_up "cannot write to $own"
        port=$(setting "$own/server.properties" listeners "" 2>/dev/null | sed 's/.*://')
        if ! running "broker-$id" "$broker_mark" && { [ -z "$port" ] || port_answers "$port"; }; then
            port=$((9092 + id))
            # Another broker of this run may not listen yet.
            while port_answers "$port" || [[ "$bootstrap," == *:"$port",* ]]; do port=$((port + 1)); done
        fi
        grep -vE '^[[:space:]]*(broker\.id|listeners|advertised\.listeners|log\.dirs?|zookeeper\.connect|(offsets|transaction).*\.(replication\.factor|min\.isr))[[:space:]]*=' \
            "$config/server.properties" >"$own/server.properties.new"
        cat >>"$own/server.properties.new" <<PROPERTIES
broker.id=$id
listeners=PLAINTEXT://localhost:$port
log.dirs=$own/logs
zookeeper.connect=localhost:$zookeeper_port/quickstart-cluster
offsets.topic.replication.factor=$((brokers < 3 ? brokers : 3))
PROPERTIES
        mv "$own/server.properties.new" "$own/server.properties"
        bootstrap=${bootstrap:+$bootstrap,}localhost:$port
        if running "broker-$id" "$broker_mark"; then
            say "broker $id already runs (process $(cat "$run/broker-$id.pid"))"
        else
            say "starting broker $id on port $port"
            start_broker "broker-$id" "$own/server.properties"
        fi
    done
    for id in $(seq "$brokers"); do
        wait_for "broker $id" 60 "broker-$id" "$broker_mark" port_answers "$(setting "$run/broker-$id/server.properties" listeners "" | sed 's/.*://')"
    done
    replicas=$((brokers < 3 ? brokers : 3))
    leader() { describe | sed -nE 's/.*Leader: ([0-9]+).*/\1/p'; }
    led() { [ -n "$(leader)" ]; }
    in_sync() { [ "$(describe | sed -nE 's/.*Isr: ([0-9,]+).*/\1/p' | tr ',' '\n' | grep -c .)" = "$replicas" ]; }
    everyone=$(seq "$brokers" | sed 's/^/broker-/')
    any=$(head -1 <<<"$everyone")
    echo
    shown bin/kafka-topics.sh --bootstrap-server "$bootstrap" --create --if-not-exists --topic $topic --partitions 1 --replication-factor "$replicas" ||
        give_up "the topic could not be created; the brokers' logs are $run/broker*.out"
    wait_for "the topic" 60 "$any" "$broker_mark" in_sync
    before=$(count_messages)
    [ -n "$before" ] || give_up "the end of the topic cannot be read ($(tail -1 "$run/tools.err")); the brokers' logs are $run/broker*.out"
    [ "$before" = 0 ] || say "(earlier runs left $before messages there; they are read too)"
    send 'To be or not to be' 'that is no question' 'with three brokers'
    read_back $((before + 3))
    if [ "$replicas" -gt 1 ]; then
        describe
        first=$(leader)
        say "killing broker $first, which leads"
        kill -9 "$(cat "$run/broker-$first.pid")"
        another=$(grep -vx "broker-$first" <<<"$everyone" | head -1)
        led_by_another() { local now; now=$(leader); [ -n "$now" ] && [ "$now" != "$first" ]; }
        wait_for "another leader" 60 "$another" "$broker_mark" led_by_another
        describe
        say "broker $(leader) leads now, and has all that was acknowledged"
        read_back $((before + 3))
        send 'and one of them gone'
        say "starting broker $first again"
        start_broker "broker-$first" "$run/broker-$first/server.properties"
        wait_for "the whole ISR" 60 "broker-$first" "$broker_mark" in_sync
        describe
        sent=4
        read_back $((before + sent))
    else
        sent=3
    fi
    [ "$(count_messages)" = $((before + sent)) ] ||
        give_up "the topic does not hold the $((before + sent)) messages; the brokers' logs are $run/broker*.out"
    trap - INT TERM
    cat <<NEXT

A cluster of $brokers runs: $bootstrap, ZooKeeper at localhost:$zookeeper_port/quickstart-cluster.
Each broker's settings are $run/broker-N/server.properties, its log is $run/broker-N.out. What to try next:
  bin/kafka-topics.sh --bootstrap-server $bootstrap --describe --topic $topic
  bin/kafka-console-producer.sh --bootstrap-server $bootstrap --topic $topic
  bin/kafka-console-consumer.sh --bootstrap-server $bootstrap --topic $topic --from-beginning
  kill -9 \$(cat $run/broker-1.pid); bin/kafka-server-start.sh -daemon $run/broker-1/server.properties
To stop all (the messages stay): bin/quickstart.sh stop
NEXT
    exit 0
fi
if running broker "$broker_mark"; then
    say "the broker already runs (process $(cat "$run/broker.pid"))"
else
    say "starting broker $broker_id on port $broker_port"
    start_broker broker "$config/server.properties"
    wait_for "the broker" 60 broker "$broker_mark" port_answers "$broker_port"
fi

# 5. A topic, three messages there and back, the broker in ZooKeeper. Each command is shown.
echo
shown bin/kafka-topics.sh --bootstrap-server "$bootstrap" --create --if-not-exists --topic $topic --partitions 1 --replication-factor 1 ||
    give_up "the topic could not be created; the broker's log is $run/broker.out"
# Ready means led: a broker that has just started knows of the topic a moment before it leads it, and not even that at first.
led() { describe | grep -q 'Leader: [0-9]'; }
wait_for "the topic" 60 broker "$broker_mark" led
before=$(count_messages)
[ -n "$before" ] || give_up "the end of the topic cannot be read ($(tail -1 "$run/tools.err")); the broker's log is $run/broker.out"
send 'To be or not to be' 'that is no question' 'with two brokers'
[ "$before" = 0 ] || say "(an earlier run left $before messages there; they are read too)"
read_back $((before + 3))
[ "$(count_messages)" = $((before + 3)) ] ||
    give_up "the topic does not hold the three messages; the broker's log is $run/broker.out"
echo "\$ bin/zookeeper-shell.sh localhost:$zookeeper_port get /brokers/ids/$broker_id"
bin/zookeeper-shell.sh "localhost:$zookeeper_port" get "/brokers/ids/$broker_id" 2>/dev/null | grep '^{' ||
    give_up "the broker's znode /brokers/ids/$broker_id cannot be read from ZooKeeper on port $zookeeper_port"

trap - INT TERM
cat <<NEXT

Odradek runs: broker $broker_id at $bootstrap, ZooKeeper at localhost:$zookeeper_port.
Their logs are $run/broker.out and $run/zookeeper.out. What to try next:
  bin/kafka-topics.sh --bootstrap-server $bootstrap --describe --topic $topic
  bin/kafka-console-producer.sh --bootstrap-server $bootstrap --topic $topic
  bin/kafka-console-consumer.sh --bootstrap-server $bootstrap --topic $topic --from-beginning
  bin/kafka-producer-perf-test.sh --topic $topic --num-records 1000000 --record-size 100 --throughput -1 --producer-props bootstrap.servers=$bootstrap
  or any Kafka client you have, at $bootstrap
To stop both (the messages stay): bin/quickstart.sh stop
NEXT
