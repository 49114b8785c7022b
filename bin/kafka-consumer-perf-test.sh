#!/bin/sh
exec "$(dirname "$0")/odradek" consumer-perf-test "$@"
