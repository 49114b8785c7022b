#!/usr/bin/env bash
# Ordinary clients of every kind and age against one broker, before and after a restart of it, or against three.
#
#   tests/clients/run.sh                        all of them
#   tests/clients/run.sh java-3.9.1 sarama ...  only these
#   BROKERS=3 tests/clients/run.sh              three brokers instead, all of which have every topic (min.insync.replicas=2):
#                                               under each client the one that leads is killed and started again; version 2 of
#                                               the transaction protocol is finalized
#   BROKER=jvm-3.9.1 tests/clients/run.sh       the same checks against JVM brokers (tests/cluster.sh)
#   KEEP=1 ...                                  leaves the data, logs and client output in /tmp
#
# Each client prints one line a check, "ok NAME" or "FAILED NAME: why"; a client that ends without
# its last line, or takes longer than its time, has failed too. tests/deps.sh installs them.
set -u
. "$(dirname "$0")/../cluster.sh"
here=$base/tests/clients
all=(java-0.9.0.1 java-0.10.2.2 java-0.11.0.3 java-1.1.1 java-2.8.2 java-3.9.1 java-4.1.0 kcat confluent-kafka kafka-python franz-go sarama kafkajs java-0.9.0.1-zookeeper-consumer confluent-kafka-example)
# Some of each kind, all of which can produce idempotently: what others send while a leader dies may come twice.
[ "${BROKERS:-1}" = 1 ] || all=(java-2.8.2 java-4.1.0 kcat confluent-kafka franz-go sarama)
[ $# -gt 0 ] && clients=("$@") || clients=("${all[@]}")
passed=0
failed=0

# The Java checks compiled against one version of the client; kept until the source changes.
java_checks() { # VERSION CLASS
    local classes=$deps/java-checks/$1 sum
    sum=$(cksum <"$here/java/$2.java")
    if [ "$(cat "$classes/$2.cksum" 2>/dev/null)" != "$sum" ]; then
        mkdir -p "$classes"
        javac -nowarn -Xlint:-options -cp "$deps/clients-$1/*" -d "$classes" "$here/java/$2.java" >"$classes/javac.log" 2>&1 || { cat "$classes/javac.log"; return 1; }
        echo "$sum" >"$classes/$2.cksum"
    fi
}

client() { # CLIENT before|after : its checks, on stdout
    local name=$1 when=$2 topics=t-${1//./-}
    case $name in
    java-0.9.0.1-zookeeper-consumer) [ "$when" = after ] || BOOTSTRAP=$BOOTSTRAP ZOOKEEPER=$ZOOKEEPER DEPS=$deps exec "$here/zookeeper-consumer.sh" "$topics" ;;
    java-*)
        local version=${name#java-}
        java_checks "$version" Checks || return 1
        exec java -Xmx256M -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
            -cp "$deps/java-checks/$version:$deps/clients-$version/*" Checks "$when" "$BOOTSTRAP" "$topics"
        ;;
    kcat) exec "$here/kcat.sh" "$when" "$BOOTSTRAP" "$topics" ;;
    confluent-kafka) exec "$deps/python/bin/python" "$here/python/confluent_kafka_checks.py" "$when" "$BOOTSTRAP" "$topics" ;;
    confluent-kafka-example) [ "$when" = after ] || exec "$deps/python/bin/python" "$here/python/confluent_kafka_example.py" "$BOOTSTRAP" "$topics" ;;
    kafka-python) exec "$deps/python/bin/python" "$here/python/kafka_python_checks.py" "$when" "$BOOTSTRAP" "$topics" ;;
    franz-go) exec "$deps/go/franz" "$when" "$BOOTSTRAP" "$topics" ;;
    sarama) exec "$deps/go/sarama" "$when" "$BOOTSTRAP" "$topics" ;;
    kafkajs) NODE_PATH=$deps/node/node_modules KAFKAJS_NO_PARTITIONER_WARNING=1 exec node "$here/node/kafkajs_checks.js" "$when" "$BOOTSTRAP" "$topics" ;;
    *) echo "FAILED $name: there is no such client; there are: ${all[*]}" && return 1 ;;
    esac
}

# Whether the first transaction that is committed to a topic brings another epoch of its producer, as version 2 has it.
follows_version_2() { # TOPIC
    "$base/bin/kafka-dump-log.sh" --files "$cluster/data-0/$1-0/00000000000000000000.log" | awk '
        match($0, /producerEpoch: [0-9]+/) {
            epoch = substr($0, RSTART + 15, RLENGTH - 15)
            if (/isControl: true/) exit !(before + 1 == epoch)
            before = epoch
        }'
}

run_client() {
    local name=$1 when=$2 out=$cluster/$1.$2.out status oks fails began=$SECONDS leader="" killed=""
    if [ "$BROKERS" != 1 ] && [ "$when" = before ]; then
        leader=$(leader_of "t-${name//./-}-idempotent")
        [ -n "$leader" ] || die "nobody leads what $name is to produce to"
    fi
    : >"$out"
    # In a session of its own, so that a client that hangs goes with all it started.
    (client "$name" "$when") >"$out" 2>"$out.err" &
    local pid=$!
    while kill -0 $pid 2>/dev/null; do
        [ $((SECONDS - began)) -lt 180 ] || { kill -9 $pid 2>/dev/null; echo "FAILED $name did not end within 180 s" >>"$out"; }
        # Whatever was read back by then is on all brokers, and what comes next survives the death of a leader.
        if [ -n "$leader" ] && [[ $(<"$out") == *"acks=all"* ]]; then
            broker_kill "$leader"
            echo "# broker $leader, which leads what $name produces to next, has been killed"
            killed=$leader leader=""
        elif [ -n "$killed" ] && [[ $(<"$out") == *" idempotent producer"* ]]; then
            broker_start "$killed"
            echo "# broker $killed is back"
            killed=""
        fi
        sleep 0.01
    done
    wait $pid
    status=$?
    [ -z "$leader$killed" ] || echo "FAILED the leader was to be killed and to come back under the client" >>"$out"
    [ -z "$killed" ] || broker_start "$killed"
    [ "$BROKERS" = 1 ] || until_in_sync
    if [ "$version_2$name$when" = yesjava-4.1.0before ]; then
        if follows_version_2 "t-${name//./-}-transactions"; then echo "ok transactions follow version 2"; else echo "FAILED transactions follow version 2: they do not"; fi >>"$out"
    fi
    oks=$(grep -c '^ok ' "$out")
    fails=$(grep -c '^FAILED ' "$out")
    if [ $status -ne 0 ] && [ "$fails" = 0 ]; then
        echo "FAILED $name $when $turn: it ended with status $status: $(tail -1 "$out.err")" >>"$out"
        fails=1
    fi
    sed -nE "s/^(ok|FAILED) /\1 $name: /p" "$out"
    echo "# $name $when $turn: $oks ok, $fails failed, $((SECONDS - began)) s"
    passed=$((passed + oks))
    failed=$((failed + fails))
}

began=$SECONDS
cluster_start
# No JVM broker on ZooKeeper knows it.
version_2=no
if [ "$BROKERS" != 1 ] && [ "$BROKER" = odradek ]; then
    "$base/bin/kafka-features.sh" --bootstrap-server "$BOOTSTRAP" upgrade --feature transaction.version=2 || die "version 2 of the transaction protocol is refused"
    version_2=yes
fi
java_checks 3.9.1 Prepare || die "Prepare.java does not compile"
topics=()
for name in "${clients[@]}"; do topics+=("t-${name//./-}-group:4" "t-${name//./-}-transactions:1"); done
turn="the restart"
if [ "$BROKERS" != 1 ]; then
    turn="all have seen a leader die"
    # What is used while a broker is dead cannot be made by use: there would be no place for a third replica.
    for name in "${clients[@]}"; do topics+=("t-${name//./-}-idempotent:1" "t-${name//./-}-time:1"); done
fi
java -Xmx128M -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -Dorg.slf4j.simpleLogger.defaultLogLevel=error \
    -cp "$deps/java-checks/3.9.1:$deps/clients-3.9.1/*" Prepare "$BOOTSTRAP" "${topics[@]}" || die "the clients' topics could not be created (the broker's log: $(tail -1 "$cluster/broker-0.log"))"
for name in "${clients[@]}"; do run_client "$name" before; done
[ "$BROKERS" != 1 ] || { broker_restart && echo "# the broker has been restarted"; }
for name in "${clients[@]}"; do run_client "$name" after; done
[ -z "${KEEP:-}" ] || echo "# everything is left in $cluster"
echo "# clients against $BROKERS $BROKER, $((SECONDS - began)) s"
echo "$passed passed, $failed failed"
[ $failed = 0 ]
