#!/bin/sh
exec "$(dirname "$0")/odradek" producer-perf-test "$@"
