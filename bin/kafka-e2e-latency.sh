#!/bin/sh
exec "$(dirname "$0")/odradek" e2e-latency "$@"
