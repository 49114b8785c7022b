#!/usr/bin/env bash
# Asks every ZooKeeper server of this machine to stop, and does not wait.
pids=()
while read -r pid rest; do
    [[ $rest == *java* && $rest == *QuorumPeerMain* && $rest != *grep* ]] && pids+=("$pid")
done < <(ps ax)
if [ ${#pids[@]} -eq 0 ]; then
    echo "No zookeeper server to stop"
    exit 1
fi
kill -s "${SIGNAL:-TERM}" "${pids[@]}"
