#!/bin/sh
exec "$(dirname "$0")/odradek" replica-verification "$@"
