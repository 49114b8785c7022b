#!/bin/sh
exec "$(dirname "$0")/odradek" console-producer "$@"
