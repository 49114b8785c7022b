#!/usr/bin/env bash
# kafka-server-start.sh [-daemon] server.properties [--override property=value]*
# With -daemon the broker runs in the background and writes to $LOG_DIR/kafkaServer.out.
if [ $# -lt 1 ]; then
    echo "USAGE: $0 [-daemon] server.properties [--override property=value]*"
    exit 1
fi
bin=$(dirname "$0")
export LOG_DIR="${LOG_DIR:-$(cd "$bin/.." && pwd)/logs}"
[ "$1" = -daemon ] || exec "$bin/odradek" server-start "$@"
shift
mkdir -p "$LOG_DIR" || exit 1
nohup "$bin/odradek" server-start "$@" >"$LOG_DIR/kafkaServer.out" 2>&1 </dev/null &
