#!/usr/bin/env bash
# Puts Odradek in the place of the broker that runs on this machine with this file, or a JVM broker in Odradek's: the steps
# of README's "In a JVM broker's place", in order, each shown before it is done. It stops where a step says no.
#   bin/swap-broker.sh server.properties BOOTSTRAP_SERVERS                 Odradek takes over
#   bin/swap-broker.sh server.properties BOOTSTRAP_SERVERS /opt/kafka      the JVM broker of that directory takes over
# The servers are asked how the cluster is while this one is away: name several.
bin=$(cd "$(dirname "$0")" && pwd)
if [ $# -lt 2 ] || [ $# -gt 3 ] || [ ! -r "$1" ]; then
    echo "USAGE: $0 server.properties BOOTSTRAP_SERVERS [KAFKA_HOME]" >&2
    exit 1
fi
config=$1 servers=$2 successor=${3:+$3/bin/kafka-server-start.sh}
successor=${successor:-$bin/kafka-server-start.sh}

say() { echo "swap-broker: $*"; }
stop_here() { say "stopped: $*" >&2; exit 1; }
setting() { sed -nE "s/^[[:space:]]*$1[[:space:]]*[=:[:space:]][[:space:]]*//p" "$2" 2>/dev/null | tail -1 | tr -d ' \r'; }
behind() { "$bin/kafka-topics.sh" --bootstrap-server "$servers" --describe --under-replicated-partitions; }
until_whole() { # WHAT
    local said=$SECONDS left
    until left=$(behind) && [ -z "$left" ]; do
        if [ $((SECONDS - said)) -ge 10 ]; then
            said=$SECONDS
            say "$1: $(grep -c 'Partition: ' <<<"$left") partitions are under-replicated; this waits until none is (interrupt it to look for yourself)"
        fi
        sleep 1
    done
}

# The broker that runs with this file is known by its command line, whatever kind it is.
broker=$(ps ax -o pid= -o args= | awk -v config="$config" '/ kafka\.Kafka / && /java/ && index($0 " ", " " config " ") { print $1 }')
[[ "$broker" =~ ^[0-9]+$ ]] || stop_here "no broker, or more than one, runs with '$config' as its command line says: ${broker:-none}"
id=$(setting broker.id "$config")
dirs=$(setting log.dirs "$config")
dirs=${dirs:-$(setting log.dir "$config")}
dirs=${dirs:-/tmp/kafka-logs}
[ "${id:--1}" != -1 ] || id=$(setting broker.id "${dirs%%,*}/meta.properties")
[ -n "$id" ] || stop_here "neither $config nor ${dirs%%,*}/meta.properties says its broker.id"

if [ -z "${3:-}" ]; then
    say "odradek preflight $config"
    "$bin/odradek" preflight "$config"
    [ $? -lt 2 ] || stop_here "what the lines with NO say must be solved first"
fi
[ -x "$successor" ] || stop_here "there is no $successor"
say "kafka-topics.sh --describe --under-replicated-partitions"
left=$(behind) || stop_here "$servers cannot be asked"
[ -z "$left" ] || stop_here "partitions are under-replicated:"$'\n'"$left"

say "kill $broker, which is broker $id, and wait until it has moved what it leads and closed its logs"
kill "$broker" || stop_here "it cannot be told to stop"
while kill -0 "$broker" 2>/dev/null; do sleep 0.2; done

say "$successor -daemon $config"
"$successor" -daemon "$config" || stop_here "it does not start; go back with the other kind's kafka-server-start.sh and the same file"
say "kafka-broker-api-versions.sh: until broker $id answers"
began=$SECONDS
until "$bin/kafka-broker-api-versions.sh" --bootstrap-server "$servers" 2>/dev/null | grep -q "(id: $id rack"; do
    [ $((SECONDS - began)) -lt 600 ] || stop_here "broker $id does not answer: read its log; go back with the other kind's kafka-server-start.sh and the same file"
    sleep 1
done
until_whole "broker $id catches up"
say "kafka-leader-election.sh --election-type preferred --all-topic-partitions"
"$bin/kafka-leader-election.sh" --bootstrap-server "$servers" --election-type preferred --all-topic-partitions
say "broker $id has been replaced; now compare what clients log, and 'kafka-consumer-groups.sh --describe --all-groups', with before"
