#!/usr/bin/env bash
# Everything that is tested: format, clippy, unit, property, golden and integration tests,
# ordinary clients of every kind and age, and a cluster under faults. Installs what it needs into target/ first (tests/deps.sh);
# what cannot be had is a failure by name. The last line is "N passed, N failed".
#
#   tests/run.sh                          everything
#   tests/run.sh format clippy cargo clients faults   only these parts
#   tests/run.sh mixed                    JVM brokers of every version and ours in one cluster, in every role
#   tests/run.sh faults [SECONDS] [SEED]  each fault in a cluster once, as that seed has them (a new one), and more for so long;
#                                         some of them in a cluster with a JVM broker
#   tests/run.sh soak [SECONDS] [SEED]    the same for as long (600), then each fault once in clusters with JVM brokers too,
#                                         Streams and Connect with exactly-once, and the swap and rolls,
#                                         ten million keys are compacted, a million transactional ids loaded, and the simulation
#   tests/run.sh simulation [SECONDS] [SEED]  clusters in one process, optimised, for so long (600), from that seed on (a new one)
#   tests/run.sh rolls [SECONDS] [SEED]   brokers of ours, 2.8.2 and 3.9.2 give way to each other under load for so long (600)
set -u
base=$(cd "$(dirname "$0")/.." && pwd)
cd "$base" || exit 1
passed=0
failed=0
failures=()
count() { passed=$((passed + $1)) && failed=$((failed + $2)); }
# What the failed cargo tests said, cut short: the end of a long log is all that some see of it.
last_words() {
    [ -f "$base/target/tests.out" ] || return 0
    awk '/^---- .+ stdout ----$/ { on = 1; lines = 0 } /^(failures|test result):/ { on = 0 }
        on && ++lines <= 15 { print substr($0, 1, 600) }' "$base/target/tests.out"
}
finish() {
    [ $failed = 0 ] || last_words
    for failure in ${failures[@]+"${failures[@]}"}; do echo "failed: $failure"; done
    echo "$passed passed, $failed failed"
    [ $failed = 0 ] && [ $passed != 0 ]
    exit
}
part() { echo && echo "=== $* ($SECONDS s)"; }

one() { # NAME COMMAND... : a part that either passes or fails
    local name=$1
    shift
    part "$name"
    if "$@"; then count 1 0 && echo "ok $name"; else count 0 1 && failures+=("$name") && echo "FAILED $name"; fi
}

cargo_tests() {
    local out=$base/target/tests.out status
    part "cargo test"
    cargo test --workspace --no-fail-fast 2>&1 | tee "$out"
    status=${PIPESTATUS[0]}
    read -r oks fails < <(awk '/^test result: / { oks += $4; fails += $6 } END { print oks + 0, fails + 0 }' "$out")
    while read -r name; do failures+=("$name"); done < <(sed -nE 's/^test (.*) \.\.\. FAILED$/\1/p' "$out")
    # A test binary that does not compile, or is killed, prints no result line.
    [ "$status" = 0 ] || [ "$fails" != 0 ] || { fails=1 && failures+=("cargo test ended with status $status"); }
    count "$oks" "$fails"
}

client_tests() { # BROKERS
    local out=$base/target/clients-$1.out
    part "clients, brokers: $1"
    BROKERS=$1 ODRADEK_BINARY=$base/target/debug/odradek tests/clients/run.sh 2>&1 | tee "$out"
    if tail -1 "$out" | grep -qE '^[0-9]+ passed, [0-9]+ failed$'; then
        read -r oks fails < <(tail -1 "$out" | awk '{ print $1, $3 }')
        while read -r line; do failures+=("$line"); done < <(sed -n 's/^FAILED //p' "$out")
        count "$oks" "$fails"
    else
        count 0 1
        failures+=("the clients: $(grep -m1 '^FAILED' "$out" || tail -1 "$out")")
    fi
}

faults() { # SECONDS
    one "faults for $1 seconds, seed $seed${ODRADEK_TEST_BROKER:+, brokers: $ODRADEK_TEST_BROKER}" \
        env ODRADEK_FAULTS_SECONDS="$1" ODRADEK_FAULTS_SEED="$seed" \
        cargo test --quiet --test faults whatever_fails -- --ignored --nocapture
}

rolls() { # SECONDS
    one "rolls for $1 seconds, seed $seed" env ODRADEK_FAULTS_SECONDS="$1" ODRADEK_FAULTS_SEED="$seed" \
        cargo test --quiet --test faults brokers_of_three_kinds -- --ignored --nocapture
}

simulation() { # SECONDS
    one "simulation for $1 seconds, from seed $seed on" \
        env ODRADEK_TEST_SCHEDULES_SECONDS="$1" ODRADEK_TEST_FIRST_SEED="$seed" \
        cargo test --quiet --release --lib simulation::no_schedule -- --nocapture
}

[ $# -gt 0 ] || set -- format clippy cargo clients faults
seconds=0
seed=$(od -An -N4 -tu4 /dev/urandom | tr -d ' ')
case $1 in
soak | faults | rolls | simulation)
    seconds=${2:-$([ "$1" = faults ] && echo 0 || echo 600)}
    seed=${3:-$seed}
    set -- "$1"
    ;;
esac
command -v cargo >/dev/null 2>&1 || { echo "FAILED: there is no cargo on the PATH; install Rust from https://rustup.rs" && exit 1; }
case " $* " in
*" cargo "* | *" clients "* | *" mixed "*) one "what the tests need is there" tests/deps.sh ;;
*" faults "* | *" soak "* | *" rolls "*) one "what the faults need is there" tests/deps.sh maven python ;;
esac
rm -f "$base/target/tests.out"
for name in "$@"; do
    case $name in
    format) one "cargo fmt --check" cargo fmt --all --check ;;
    clippy) one "cargo clippy" cargo clippy --workspace --all-targets --quiet -- -D warnings ;;
    cargo) cargo_tests ;;
    clients)
        one "the broker is built" cargo build --quiet
        client_tests 1
        client_tests 3
        ;;
    faults)
        faults "$seconds"
        [ -n "${ODRADEK_TEST_BROKER:-}" ] || ODRADEK_TEST_BROKER=odradek,odradek,jvm-3.9.1 ODRADEK_FAULTS_COUNT=5 faults 0
        ;;
    mixed) one "JVM brokers and ours in one cluster" cargo test --quiet --test mixed_cluster -- --include-ignored --nocapture ;;
    soak)
        faults "$seconds"
        for brokers in odradek,odradek,jvm-3.9.1 odradek,jvm-3.9.1,jvm-3.9.1; do
            ODRADEK_TEST_BROKER=$brokers faults 0
        done
        one "Streams and Connect for $seconds seconds each" env ODRADEK_EXACTLY_ONCE_SECONDS="$seconds" \
            cargo test --quiet --test exactly_once -- --nocapture --test-threads=1
        one "a JVM cluster becomes ours and goes back" \
            cargo test --quiet --test faults a_jvm_cluster -- --ignored --nocapture
        rolls "$seconds"
        one "ten million keys are compacted" \
            cargo test --release --quiet --test cleaner_keys -- --include-ignored --nocapture
        one "a million transactional ids are loaded" \
            cargo test --release --quiet --test coordinator_load -- --include-ignored --nocapture
        simulation "$seconds"
        ;;
    simulation) simulation "$seconds" ;;
    rolls) rolls "$seconds" ;;
    *) echo "FAILED: there is no part '$name'; there are format, clippy, cargo, clients, mixed, faults, soak, simulation, rolls" && exit 1 ;;
    esac
done
echo
finish
