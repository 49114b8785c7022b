#!/usr/bin/env bash
# kafka-server-start.sh [-daemon] server.properties [--override property=value]*
# With -daemon the broker runs in the background and writes to $LOG_DIR/kafkaServer.out.
if [ $# -lt 1 ]; then
    echo "USAGE: $0 [-daemon] server.properties [--override property=value]*"
    exit 1
fi
daemon=()
[ "$1" != -daemon ] || { daemon=(-daemon) && shift; }
exec "$(dirname "$0")/kafka-run-class.sh" "${daemon[@]}" -name kafkaServer kafka.Kafka "$@"
