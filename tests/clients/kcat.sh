#!/usr/bin/env bash
# What kcat (librdkafka) does with a broker. kcat.sh before|after BOOTSTRAP PREFIX
# It cannot choose timestamps, so it seeks by those that it gave the records itself.
set -u
when=$1 bootstrap=$2 prefix=$3
scratch=$(mktemp -d)
trap 'kill $(jobs -p) 2>/dev/null; rm -rf "$scratch"' EXIT
failures=0

check() { # NAME FUNCTION ARGUMENTS...
    local name=$1 why
    shift
    if why=$("$@" 2>"$scratch/stderr"); then
        echo "ok $name"
    else
        echo "FAILED $name: $why $(tail -1 "$scratch/stderr" | cut -c1-200)"
        failures=$((failures + 1))
    fi
}
expect() { [ "$1" = "$2" ] || { printf '%s: expected %s, saw %s' "$3" "$(head -c 200 <<<"$1" | tr '\n' '|')" "$(head -c 200 <<<"$2" | tr '\n' '|')"; return 1; }; }
padding=$(printf 'padding %.0s' $(seq 20))
lines() { for i in $(seq 0 29); do echo "key-$i:$1-$i-$padding"; done; }
kcat_() { timeout 40 kcat -b "$bootstrap" "$@"; }

produce() { lines "$2" | kcat_ -P -t "$1" -p 0 -K: -H number=7 -H nothing "${@:3}"; }
read_back() { # TOPIC WORD
    local seen
    seen=$(kcat_ -C -q -t "$1" -p 0 -o beginning -e -f '%o %k:%s %h\n') || return 1
    expect "$(lines "$2" | awk '{ print NR - 1 " " $0 " number=7,nothing=NULL" }')" "$seen" "records"
}
codec() { produce "$prefix-$1" "$1" -z "$1" -X acks=all && read_back "$prefix-$1" "$1"; }
acks() { produce "$prefix-acks-$1" "acks$1" -X acks="$1" && read_back "$prefix-acks-$1" "acks$1"; }
idempotent() { produce "$prefix-idempotent" idempotent -X enable.idempotence=true -X batch.num.messages=3 && read_back "$prefix-idempotent" idempotent; }

seek_by_time() {
    local topic=$prefix-time middle first
    for i in 0 1 2; do
        echo "time-$i" | kcat_ -P -t "$topic" -p 0 || return 1
        sleep 0.05
    done
    middle=$(kcat_ -C -q -t "$topic" -p 0 -o beginning -e -f '%T\n' | sed -n 2p)
    first=$(kcat_ -C -q -t "$topic" -p 0 -o "s@$middle" -e -f '%o %s\n' | head -1)
    expect "1 time-1" "$first" "first record at the second's timestamp" || return 1
    expect "$topic [0] offset 2" "$(kcat_ -Q -t "$topic:0:$((middle + 1))")" "offset just after it"
}

member() { exec kcat -b "$bootstrap" -G "$prefix" -X auto.offset.reset=earliest -X session.timeout.ms=10000 -X heartbeat.interval.ms=500 -f '%p %o %s\n' -u "$prefix-group"; }
until_() { # SECONDS WHAT COMMAND...
    local deadline=$((SECONDS + $1)) what=$2
    shift 2
    until "$@"; do
        [ $SECONDS -lt $deadline ] || { printf 'not in time: %s' "$what"; return 1; }
        sleep 0.1
    done
}
# The partitions of the latest assignment that a member reports on its stderr.
assigned() { [ "$(grep 'assigned' "$scratch/$1.err" | tail -1 | grep -o "$prefix-group \[[0-9]\]" | wc -l)" = "$2" ]; }
received() { [ "$(cat "$scratch"/*.out | wc -l)" -ge "$1" ]; }
send_to_group() { # FIRST LAST
    local p
    for p in 0 1 2 3; do
        seq "$1" "$2" | awk -v p="$p" '$1 % 4 == p { print "group-" $1 }' | kcat_ -P -t "$prefix-group" -p "$p" || return 1
    done
}
group() {
    (member >"$scratch/first.out" 2>"$scratch/first.err") &
    local first=$!
    until_ 30 "the only member has all four partitions" assigned first 4 || return 1
    (member >"$scratch/second.out" 2>"$scratch/second.err") &
    local second=$!
    until_ 30 "the first member has two partitions" assigned first 2 || return 1
    until_ 30 "the second member has two partitions" assigned second 2 || return 1
    send_to_group 0 199 || return 1
    until_ 30 "200 records" received 200 || return 1
    sleep 1 # whatever comes twice would come now
    expect 200 "$(cat "$scratch"/*.out | wc -l)" "records" || return 1
    expect 200 "$(cut -d' ' -f3 "$scratch"/*.out | sort -u | wc -l)" "different records" || return 1
    expect 100 "$(wc -l <"$scratch/second.out")" "records of the second member" || return 1
    kill -TERM $second && wait $second
    until_ 30 "the first member has all four partitions again" assigned first 4 || return 1
    kill -TERM $first && wait $first
    send_to_group 200 239
}
resume() {
    (member >"$scratch/third.out" 2>"$scratch/third.err") &
    local third=$! p
    until_ 40 "40 records behind the committed offsets" received 40 || return 1
    sleep 1
    kill -TERM $third && wait $third
    for p in 0 1 2 3; do
        expect "$(seq 50 59 | awk -v p=$p '{ print p " " $1 " group-" $1 * 4 + p }')" "$(grep "^$p " "$scratch/third.out")" "partition $p" || return 1
    done
}

if [ "$when" = before ]; then
    for codec in none gzip snappy lz4 zstd; do check "produce and read back, $codec" codec $codec; done
    for acks in 0 1 all; do check "acks=$acks" acks $acks; done
    check "idempotent producer" idempotent
    check "seek by time" seek_by_time
    check "group of two members, rebalance, commit" group
else
    for codec in none gzip snappy lz4 zstd; do check "read again after the restart, $codec" read_back "$prefix-$codec" $codec; done
    check "resume at the committed offsets" resume
fi
[ $failures = 0 ]
