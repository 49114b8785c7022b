#!/usr/bin/env bash
# Are the tests of the cores good? cargo-mutants breaks the code in one place at a time and runs the unit tests, which
# must notice. What they do not notice it prints as MISSED; all it did is in target/mutants/mutants.out/. Each mutant
# costs a rebuild and a run of the tests: hours for all cores, so that this is no part of tests/run.sh.
#
#   tests/mutants.sh                           the cores
#   tests/mutants.sh src/replica/leader.rs     only these files or patterns
set -u
base=$(cd "$(dirname "$0")/.." && pwd)
cd "$base" || exit 1
cores=(src/replica/leader.rs 'src/controller/*.rs' 'src/coordinator/group/*.rs')
# What carries out what a core decided is judged by the integration tests.
shells=(src/coordinator/group/task.rs)
[ $# -gt 0 ] && files=("$@") && shells=() || files=("${cores[@]}")
tools=$base/target/tools
[ -x "$tools/bin/cargo-mutants" ] || cargo install --locked --quiet --root "$tools" cargo-mutants || exit 1
mkdir -p target/mutants
PATH=$tools/bin:$PATH exec cargo mutants --package odradek --output target/mutants --no-shuffle \
    "${files[@]/#/--file=}" "${shells[@]/#/--exclude=}" -- --lib
