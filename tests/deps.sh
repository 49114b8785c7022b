#!/usr/bin/env bash
# Installs what the tests need into target/test-deps/: real ZooKeeper, JVM Kafka brokers and
# tools, and one client of every kind and age. Quick when everything is there already.
# Anything that cannot be had ends this script by name: no test is ever skipped for want of it.
#
#   tests/deps.sh                 everything
#   tests/deps.sh maven kcat ...  only these (maven, kcat, python, go, node)
set -euo pipefail
base=$(cd "$(dirname "$0")/.." && pwd)
deps=${ODRADEK_TEST_DEPS:-$base/target/test-deps}
mkdir -p "$deps"

say() { echo "tests: $*"; }
fail() { echo "tests: FAILED to install $1: $2" >&2; exit 1; }
need() { command -v "$1" >/dev/null 2>&1 || fail "$2" "$1 is not on the PATH; $3"; }

# What a directory was made from; a stamp that differs means it is made anew.
fresh() { [ -f "$deps/$1/.made-from" ] && [ "$(cat "$deps/$1/.made-from")" = "$2" ]; }
stamp() { printf '%s' "$2" >"$deps/$1/.made-from"; }

# maven NAME COORDINATES... : the jars of these artifacts and all they need at run time.
maven() {
    local name=$1 dependencies="" coordinates group artifact version
    shift
    fresh "$name" "$*" && return
    say "getting $name ($*) from Maven"
    for coordinates in "$@"; do
        IFS=: read -r group artifact version <<<"$coordinates"
        dependencies+="<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done
    rm -rf "${deps:?}/$name"
    mkdir -p "$deps/$name"
    cat >"$deps/$name/pom.xml" <<POM
<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>odradek.tests</groupId><artifactId>$name</artifactId><version>1</version>
  <dependencies>$dependencies</dependencies>
</project>
POM
    mvn -q -B -f "$deps/$name/pom.xml" org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies \
        -DoutputDirectory="$deps/$name" -DincludeScope=runtime >"$deps/$name/maven.log" 2>&1 ||
        { tail -5 "$deps/$name/maven.log" >&2; fail "$name" "Maven said no (all of it in $deps/$name/maven.log)"; }
    stamp "$name" "$*"
}

install_maven() {
    need java "the JVM" "install a JDK 17 or newer (Debian: apt-get install openjdk-17-jdk)"
    need javac "the Java compiler" "install a JDK 17 or newer (Debian: apt-get install openjdk-17-jdk)"
    need mvn "the Java clients" "install Maven (Debian: apt-get install maven)"
    local pom
    pom=$(cat "$base/zookeeper/pom.xml")
    if ! fresh zookeeper "$pom"; then
        say "getting zookeeper from Maven (zookeeper/pom.xml)"
        rm -rf "$deps/zookeeper"
        mkdir -p "$deps/zookeeper"
        mvn -q -B -f "$base/zookeeper/pom.xml" -DoutputDirectory="$deps/zookeeper" process-resources >"$deps/zookeeper/maven.log" 2>&1 ||
            { tail -5 "$deps/zookeeper/maven.log" >&2; fail zookeeper "Maven said no (all of it in $deps/zookeeper/maven.log)"; }
        stamp zookeeper "$pom"
    fi
    # The oldest and the newest ZooKeeper that must work; the newer one's pom calls what it ships beside it provided.
    maven zookeeper-3.4.14 org.apache.zookeeper:zookeeper:3.4.14
    maven zookeeper-3.9.5 org.apache.zookeeper:zookeeper:3.9.5 io.dropwizard.metrics:metrics-core:4.1.12.1 org.xerial.snappy:snappy-java:1.1.10.5
    maven kafka-3.9.1 org.apache.kafka:kafka_2.13:3.9.1 org.apache.kafka:kafka-tools:3.9.1 org.slf4j:slf4j-reload4j:1.7.36
    # The last release that runs with ZooKeeper, and one in between: mixed_cluster.rs has brokers of each.
    maven kafka-3.9.2 org.apache.kafka:kafka_2.13:3.9.2 org.apache.kafka:kafka-tools:3.9.2 org.slf4j:slf4j-reload4j:1.7.36
    maven kafka-3.6.2 org.apache.kafka:kafka_2.13:3.6.2 org.apache.kafka:kafka-tools:3.6.2 org.slf4j:slf4j-reload4j:1.7.36
    maven kafka-2.8.2 org.apache.kafka:kafka_2.13:2.8.2 org.apache.kafka:kafka-tools:2.8.2
    maven kafka-0.9.0.1 org.apache.kafka:kafka_2.11:0.9.0.1 org.slf4j:slf4j-log4j12:1.7.6
    maven clients-0.9.0.1 org.apache.kafka:kafka-clients:0.9.0.1 org.slf4j:slf4j-simple:1.7.36
    maven clients-0.10.2.2 org.apache.kafka:kafka-clients:0.10.2.2 org.slf4j:slf4j-simple:1.7.36
    maven clients-0.11.0.3 org.apache.kafka:kafka-clients:0.11.0.3 org.slf4j:slf4j-simple:1.7.36
    maven clients-1.1.1 org.apache.kafka:kafka-clients:1.1.1 org.slf4j:slf4j-simple:1.7.36
    maven clients-2.8.2 org.apache.kafka:kafka-clients:2.8.2 org.slf4j:slf4j-simple:1.7.36
    maven clients-3.9.1 org.apache.kafka:kafka-clients:3.9.1 org.slf4j:slf4j-simple:1.7.36
    maven streams-3.9.1 org.apache.kafka:kafka-streams:3.9.1 org.slf4j:slf4j-simple:1.7.36
    maven streams-4.1.0 org.apache.kafka:kafka-streams:4.1.0 org.slf4j:slf4j-simple:1.7.36
    maven connect-4.1.0 org.apache.kafka:connect-runtime:4.1.0 org.slf4j:slf4j-simple:1.7.36
    maven clients-4.1.0 org.apache.kafka:kafka-clients:4.1.0 org.slf4j:slf4j-simple:1.7.36
}

install_kcat() {
    command -v kcat >/dev/null 2>&1 && return
    say "installing kcat from the distribution's packages"
    command -v apt-get >/dev/null 2>&1 || fail kcat "it is not on the PATH and there is no apt-get; install kcat 1.7 or newer"
    local sudo=""
    [ "$(id -u)" = 0 ] || sudo="sudo -n"
    { $sudo apt-get install -y --no-install-recommends kcat || { $sudo apt-get update && $sudo apt-get install -y --no-install-recommends kcat; }; } \
        >"$deps/kcat.log" 2>&1 || fail kcat "apt-get could not install it (all it said is in $deps/kcat.log)"
    command -v kcat >/dev/null 2>&1 || fail kcat "apt-get installed no kcat on the PATH"
}

install_python() {
    local wanted
    wanted=$(cat "$base/tests/clients/python/requirements.txt")
    fresh python "$wanted" && return
    need python3 "the Python clients" "install Python 3.9 or newer with venv"
    say "making a Python environment: $(echo $wanted)"
    rm -rf "$deps/python"
    python3 -m venv "$deps/python" || fail python "python3 -m venv does not work (Debian: apt-get install python3-venv)"
    "$deps/python/bin/pip" install -q -r "$base/tests/clients/python/requirements.txt" >"$deps/python/pip.log" 2>&1 ||
        { tail -3 "$deps/python/pip.log" >&2; fail python "pip could not install it (all it said is in $deps/python/pip.log)"; }
    stamp python "$wanted"
}

install_go() {
    local wanted
    wanted=$(cat "$base"/tests/clients/go/{go.mod,go.sum} "$base"/tests/clients/go/*/*.go | cksum)
    fresh go "$wanted" && return
    need go "the Go clients" "install Go 1.24 or newer"
    say "building the Go clients"
    mkdir -p "$deps/go"
    (cd "$base/tests/clients/go" && go build -o "$deps/go/" ./... >"$deps/go/build.log" 2>&1) ||
        { tail -5 "$deps/go/build.log" >&2; fail "the Go clients" "go build failed (all it said is in $deps/go/build.log)"; }
    stamp go "$wanted"
}

install_node() {
    local wanted
    wanted=$(cat "$base/tests/clients/node/package.json")
    fresh node "$wanted" && return
    need node "kafkajs" "install Node 18 or newer"
    need npm "kafkajs" "install npm"
    say "getting kafkajs and its codecs from npm"
    rm -rf "$deps/node"
    mkdir -p "$deps/node"
    cp "$base/tests/clients/node/package.json" "$deps/node/"
    (cd "$deps/node" && npm install --no-audit --no-fund --loglevel=error >npm.log 2>&1) ||
        { tail -5 "$deps/node/npm.log" >&2; fail kafkajs "npm install failed (all it said is in $deps/node/npm.log)"; }
    stamp node "$wanted"
}

[ $# -gt 0 ] || set -- maven kcat python go node
for kind in "$@"; do
    case $kind in
    maven | kcat | python | go | node) "install_$kind" ;;
    *) fail "$kind" "no such thing; say maven, kcat, python, go or node" ;;
    esac
done
