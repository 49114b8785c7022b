#!/usr/bin/env bash
# Prints the class path of a real Apache ZooKeeper, getting one if need be, and says on stderr
# which it is. The order: ZOOKEEPER_HOME, one that is installed, Maven, the distribution's package.
base=$(cd "$(dirname "$0")/.." && pwd)
say() { echo "zookeeper: $*" >&2; }
give_up() { say "$*" && exit 1; }

java=${JAVA_HOME:+$JAVA_HOME/bin/}java
command -v "$java" >/dev/null 2>&1 ||
    give_up "there is no Java here ('$java'), and ZooKeeper needs it: install a JRE of version 8 or newer (Debian: apt-get install default-jre-headless) or set JAVA_HOME"

# The jars of the ZooKeeper below one directory, as class path: a release has them in lib/, a
# Maven copy beside each other, Debian among all other jars, where only the ones it needs count.
jars_below() {
    local directory
    for directory in "$1" "$1/lib"; do
        if compgen -G "$directory/zookeeper-[0-9]*.jar" >/dev/null; then
            echo "$1/lib/*:$1/*" && return
        fi
    done
    return 1
}
debian() {
    [ -e /usr/share/java/zookeeper.jar ] || return 1
    local name path=""
    for name in zookeeper zookeeper-jute slf4j-api slf4j-log4j12 slf4j-reload4j log4j-1.2 reload4j logback-classic logback-core \
        netty-handler netty-transport netty-common netty-buffer netty-resolver netty-codec netty-transport-native-epoll netty-transport-native-unix-common netty-all \
        commons-cli commons-io jline metrics-core snappy-java; do
        [ ! -e "/usr/share/java/$name.jar" ] || path+="/usr/share/java/$name.jar:"
    done
    echo "${path%:}"
}

# Runs a command quietly, saying every few seconds that it still does.
patiently() {
    local what=$1 log=$2 started=$SECONDS pid
    shift 2
    "$@" >"$log" 2>&1 &
    pid=$!
    trap 'kill $pid 2>/dev/null; exit 130' INT TERM
    while kill -0 $pid 2>/dev/null; do
        if [ -t 2 ]; then
            printf '\rzookeeper: %s ... %d s ' "$what" $((SECONDS - started)) >&2
        elif [ $(((SECONDS - started) % 10)) = 9 ]; then
            say "$what ... $((SECONDS - started)) s"
        fi
        sleep 1
    done
    trap - INT TERM
    [ ! -t 2 ] || echo >&2
    wait $pid
}

if [ -n "${ZOOKEEPER_HOME:-}" ]; then
    jars_below "$ZOOKEEPER_HOME" || give_up "ZOOKEEPER_HOME is $ZOOKEEPER_HOME, but neither it nor its lib/ holds a zookeeper-*.jar; point it to an unpacked ZooKeeper release, or unset it"
    say "using ZOOKEEPER_HOME, $ZOOKEEPER_HOME"
    exit
fi
for installed in /usr/share/zookeeper /usr/local/zookeeper /opt/zookeeper; do
    if jars_below "$installed"; then
        say "using the one installed in $installed"
        exit
    fi
done
if debian; then
    say "using the distribution's package, /usr/share/java/zookeeper.jar"
    exit
fi
ours=$base/target/zookeeper
if [ -f "$ours/.complete" ] && jars_below "$ours"; then
    say "using the one from Maven in $ours"
    exit
fi

whynot="Maven is not installed"
if command -v mvn >/dev/null 2>&1; then
    say "getting Apache ZooKeeper from Maven into $ours"
    mkdir -p "$ours" || exit 1
    if patiently "getting the jars" "$ours/maven.log" mvn -q -B -f "$base/zookeeper/pom.xml" -DoutputDirectory="$ours" process-resources; then
        touch "$ours/.complete"
        jars_below "$ours" && exit
    fi
    whynot="Maven could not get it ($(grep -m1 -oE 'Could not transfer.*|Could not resolve.*|Unknown host.*' "$ours/maven.log" | cut -c1-160); all it said is in $ours/maven.log)"
fi
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    say "$whynot; trying the distribution's package"
    mkdir -p "$ours"
    if patiently "apt-get install libzookeeper-java" "$ours/apt.log" apt-get install -y --no-install-recommends libzookeeper-java && debian; then
        exit
    fi
    whynot="$whynot, and apt-get could not install libzookeeper-java (all it said is in $ours/apt.log)"
fi
give_up "no Apache ZooKeeper here: $whynot. Check the network, or unpack a release from zookeeper.apache.org and set ZOOKEEPER_HOME to it"
