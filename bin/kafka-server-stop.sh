#!/usr/bin/env bash
# Asks every broker of this machine to stop, ours and JVM ones alike, and does not wait.
# kafka-server-stop.sh [--process-role=R] [--node-id=N] : only the brokers whose properties file
# says so; the node wins over the role. SIGNAL chooses another signal than TERM.
role="" node=""
for argument in "$@"; do
    case $argument in
    --process-role=*) role=${argument#*=} ;;
    --node-id=*) node=${argument#*=} ;;
    esac
done
wanted() { # of a broker whose `ps` line is $1: does its properties file ask for it?
    [ -n "$role$node" ] || return 0
    local word key="process.roles" value=$role
    [ -z "$node" ] || { key="(node|broker).id" && value=$node; }
    for word in $1; do
        [[ $word == *.properties && -f $word ]] && grep -Eq "^[[:space:]]*$key[[:space:]]*=[[:space:]]*$value[[:space:]]*\$" "$word" && return 0
    done
    return 1
}
pids=()
while read -r pid rest; do
    [[ " $rest " == *" kafka.Kafka "* && $rest == *java* ]] && wanted "$rest" && pids+=("$pid")
done < <(ps ax)
if [ ${#pids[@]} -eq 0 ]; then
    echo "No kafka server to stop"
    exit 1
fi
kill -s "${SIGNAL:-TERM}" "${pids[@]}"
