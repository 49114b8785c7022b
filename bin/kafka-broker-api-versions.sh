#!/bin/sh
exec "$(dirname "$0")/odradek" broker-api-versions "$@"
