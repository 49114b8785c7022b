"""librdkafka's producers and consumers in a cluster that has faults, with all that they do written down.

clients.py BOOTSTRAP HISTORY SEED OUTPUT JAVA JAVA_OUTPUT TOPIC...

Two instances of transform.py read the topics and write to OUTPUT in transactions; they are started again whenever they die.
Two more are Transform.java's, which JAVA starts, the words of a command as a JSON list; they write to JAVA_OUTPUT. A reader
reads what is committed in both.

They work until TERM comes. Then the producers wait until all that they sent is settled, the consumers read and commit to
the end, and the program ends with status 0. Each line of HISTORY is a JSON object, in the order in which the clients
learned of things: `at` (seconds), `client`, `did`, and of which `topic` and `partition`:

sent            `sequence`, which counts from 0 for each producer and partition; the value begins with both
acknowledged    `sequence` and `offset`, which is negative if the broker did not say
failed          `sequence` and `error`
assigned        to a member of `group`, which begins at what the group has committed
consumed        `offset` and `value`, as far as it says who sent what
committing      `offset`, of `group`
committed       the same, when it was acknowledged
not committed   the same, and `error`: it may be committed all the same
error           `error`, whatever else a consumer is told

The value of a record of either output begins with the partition and the offset that the transformed record had.
"""
import faulthandler
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

bootstrap, history, seed, output, java, java_output, *topics = sys.argv[1:]
history, writing = open(history, "a", buffering=1), threading.Lock()
# More partitions are found as topics grow.
partitions_of = {topic: 0 for topic in topics}
finishing, transformed_to_the_end, read_to_the_end = threading.Event(), threading.Event(), threading.Event()
# Where the clients are: group (or reader), topic, partition.
reached = {}
failures = []

# Whoever hangs is left soon, and leaders are looked for often: a fault lasts seconds.
COMMON = {
    "bootstrap.servers": bootstrap, "socket.timeout.ms": 6000, "topic.metadata.refresh.interval.ms": 2000,
    "reconnect.backoff.max.ms": 1000, "topic.metadata.propagation.max.ms": 120000,
}
# Nothing is given up.
PRODUCER = {**COMMON, "message.timeout.ms": 0, "request.timeout.ms": 5000, "linger.ms": 20}
CONSUMER = {**COMMON, "enable.auto.commit": False, "fetch.wait.max.ms": 200}
GROUP = {**CONSUMER, "auto.offset.reset": "earliest", "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000}

# A new partition is heard of by one client sooner than by another. And a broker that has just started knows no topic before
# the controller has told it: a client that asks it then gives up, of what it would send, all that it has not sent yet.
UNKNOWN = (KafkaError._UNKNOWN_PARTITION, KafkaError._UNKNOWN_TOPIC)

# For each producer and partition.
IN_FLIGHT_MAX = 100
SECONDS_A_ROUND = 0.1
SECONDS_A_COMMIT = 0.5
# The instances that transform are one group, and have each a transactional id.
TRANSFORMERS, JAVA_TRANSFORMERS = "transformers", "java"
TRANSFORM = os.path.join(os.path.dirname(os.path.abspath(__file__)), "transform.py")
FENCED_STATUS, LOST_COUNT_STATUS = 3, 4
ZOMBIES_LAST_SECONDS = 60
# Of a member's life when everything is to be read. A group's leader that assigns by what a broker says which has not heard of
# a new partition leaves that out for good, since it has seen it elsewhere before: another rebalance brings it.
SECONDS_OF_LAST_LIVES = 15


def record(client, did, topic, partition, **what):
    line = {"at": round(time.time(), 3), "client": client, "did": did, "topic": topic, "partition": partition, **what}
    with writing:
        history.write(json.dumps(line) + "\n")


def all_partitions():
    return [(topic, partition) for topic, count in partitions_of.items() for partition in range(count)]


def dotted(settings):
    return {setting.replace("_", "."): value for setting, value in settings.items()}


def produce(name, **settings):
    producer = Producer({**PRODUCER, **dotted(settings)})
    sent, in_flight = Counter(), Counter()

    def settled(error, message, topic, partition, sequence):
        in_flight[topic, partition] -= 1
        if error is None:
            # It has none when the broker knew the batch already and does not say where.
            offset = -1 if message.offset() is None else message.offset()
            record(name, "acknowledged", topic, partition, sequence=sequence, offset=offset)
        else:
            record(name, "failed", topic, partition, sequence=sequence, error=error.str())

    while not finishing.is_set():
        for topic, partition in all_partitions():
            if in_flight[topic, partition] == IN_FLIGHT_MAX:
                continue
            sequence = sent[topic, partition]
            try:
                producer.produce(
                    topic, f"{name} {sequence} " + "x" * (sequence % 300), partition=partition,
                    on_delivery=lambda error, message, of=(topic, partition, sequence): settled(error, message, *of))
            except KafkaException as error:
                if error.args[0].code() not in UNKNOWN:
                    raise
                continue
            sent[topic, partition] += 1
            in_flight[topic, partition] += 1
            record(name, "sent", topic, partition, sequence=sequence)
        next_round = time.monotonic() + SECONDS_A_ROUND
        while (left := next_round - time.monotonic()) > 0:
            producer.poll(left)
    while producer.flush(1):
        print(f"{name} waits for {sum(in_flight.values())} records", flush=True)


def consumed(client, message):
    """Writes down what was polled; gives the partition and the next position if it says so."""
    if message is None:
        return None
    topic, partition = message.topic(), message.partition()
    if message.error() and message.error().code() == KafkaError._PARTITION_EOF:
        return (topic, partition), message.offset()
    if message.error():
        # Some errors are of no partition.
        record(client, "error", topic or "", partition, error=message.error().str())
        return None
    value = " ".join(message.value().decode().split(" ")[:2])
    record(client, "consumed", topic, partition, offset=message.offset(), value=value)
    return (topic, partition), message.offset() + 1


def read(name, partitions, **settings):
    """Reads these partitions from their beginnings, by assignment."""
    consumer = Consumer({**CONSUMER, "group.id": name, "auto.offset.reset": "error", **dotted(settings)})
    positions = {}
    while not read_to_the_end.is_set():
        # Only the new ones: an assignment that begins with all of them again has once hung for good in librdkafka, and all
        # threads with it, since it is called with Python's lock held.
        if new := [partition for partition in partitions() if partition not in positions]:
            positions.update(dict.fromkeys(new, 0))
            consumer.incremental_assign([TopicPartition(*partition, 0) for partition in new])
        if found := consumed(name, consumer.poll(0.1)):
            partition, positions[partition] = found
            reached[name, *partition] = positions[partition]
    consumer.close()


def join(group, number, strategy, lifetimes):
    """Is one member of the group after the other."""
    lives = 0
    while not read_to_the_end.is_set():
        lives += 1
        be_member(group, f"{group}-{number}-{lives}", strategy, lifetimes.uniform(10, 60))


def be_member(group, name, strategy, seconds):
    positions = {}  # of what is not committed
    is_committing = False

    # Never waited for: a member that waits for a commit does not hear that it has lost its partitions. And one at a time:
    # those that have to be sent again are sent in any order.
    def commit(consumer):
        nonlocal is_committing
        if not positions or is_committing:
            return
        is_committing = True
        wanted = [TopicPartition(*partition, offset) for partition, offset in positions.items()]
        for p in wanted:
            record(name, "committing", p.topic, p.partition, group=group, offset=p.offset)
        try:
            consumer.commit(offsets=wanted)
        except KafkaException as error:
            on_commit(error.args[0], wanted)

    def on_commit(error, partitions):
        nonlocal is_committing
        is_committing = False
        for p in partitions:
            why = error or p.error
            if why:
                record(name, "not committed", p.topic, p.partition, group=group, offset=p.offset, error=why.str())
                continue
            record(name, "committed", p.topic, p.partition, group=group, offset=p.offset)
            reached[group, p.topic, p.partition] = p.offset
            if positions.get((p.topic, p.partition)) == p.offset:
                del positions[p.topic, p.partition]

    def forget(consumer, partitions):
        for p in partitions:
            positions.pop((p.topic, p.partition), None)

    def on_assign(consumer, partitions):
        for p in partitions:
            record(name, "assigned", p.topic, p.partition, group=group)

    def on_revoke(consumer, partitions):
        commit(consumer)
        forget(consumer, partitions)

    consumer = Consumer({
        **GROUP, "group.id": group, "client.id": name, "partition.assignment.strategy": strategy, "on_commit": on_commit,
    })
    consumer.subscribe(list(topics), on_assign=on_assign, on_revoke=on_revoke, on_lost=forget)
    leaves_at = time.monotonic() + seconds
    commits_at = 0
    is_last = False
    while not read_to_the_end.is_set() and time.monotonic() < leaves_at:
        if finishing.is_set() and not is_last:
            is_last, leaves_at = True, time.monotonic() + SECONDS_OF_LAST_LIVES
        if found := consumed(name, consumer.poll(0.1)):
            partition, positions[partition] = found
        if time.monotonic() > commits_at:
            commit(consumer)
            commits_at = time.monotonic() + SECONDS_A_COMMIT
    # Nor is this waited for: one that has lost its coordinator may not find another while it leaves.
    threading.Thread(target=consumer.close, daemon=True).start()


def keep_transforming(instance, became):
    """Is one life of an instance after the other. Who hangs with a transaction open is let go once the next is ready."""
    lives, zombie = 0, None
    while not transformed_to_the_end.is_set():
        lives += 1
        with starting:
            life = instances[instance] = subprocess.Popen(
                [sys.executable, TRANSFORM, json.dumps(COMMON), TRANSFORMERS, instance, str(lives), seed,
                 "calm" if finishing.is_set() else "wild", output, str(output_partitions[output]), *topics],
                stdout=subprocess.PIPE, text=True)
        what = None
        for line in life.stdout:
            what = line.strip()
            became[what] += 1
            if what == "ready" and zombie:
                zombie.send_signal(signal.SIGCONT)
                if (status := zombie.wait(ZOMBIES_LAST_SECONDS)) != FENCED_STATUS:
                    raise RuntimeError(f"a zombie ended with status {status}")
                became["zombie fenced"] += 1
                zombie = None
            if what == "hangs":
                os.waitid(os.P_PID, life.pid, os.WSTOPPED)
                zombie = life
                break
        # TERM may have come before it was heeded.
        expected = (0, FENCED_STATUS, LOST_COUNT_STATUS, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGALRM)
        if life is not zombie and life.wait() not in expected:
            raise RuntimeError(f"life {lives} ended with status {life.returncode} after {what!r}")
        if life.returncode == -signal.SIGALRM:
            became["lost"] += 1


def keep_transforming_in_java(group, became):
    """Is all lives of the instances of Transform.java, in one process that nobody ends but we."""
    with starting:
        process = instances[group] = subprocess.Popen(
            [*json.loads(java), bootstrap, group, seed, java_output, str(output_partitions[java_output]), *topics],
            stdout=subprocess.PIPE, text=True)
    for line in process.stdout:
        became[line.strip()] += 1
    if (status := process.wait()) != -signal.SIGKILL:
        raise RuntimeError(f"it ended with status {status}")


def start(work, *arguments, **settings):
    def run():
        try:
            work(*arguments, **settings)
        except BaseException as failure:
            failures.append(f"{arguments[0]}: {failure!r}")
            raise

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def find_partitions(client):
    try:
        for topic in topics:
            partitions_of[topic] = max(partitions_of[topic], len(client.list_topics(topic, 5).topics[topic].partitions))
        return True
    except KafkaException:
        return False


def end_of(partition):
    while True:
        try:
            return looker.get_watermark_offsets(TopicPartition(*partition), 30)[1]
        except KafkaException as error:
            # Leaders go where they are preferred at any time.
            print(f"the end of {partition}: {error}", flush=True)


def until_read(partitions, readers, look=lambda _: None):
    """Waits until each of them is at the ends of these."""
    ends = {of: end_of(of) for of in partitions}
    while not failures:
        look(partitions)
        missing = {(who, *of): (reached.get((who, *of)), end) for of, end in ends.items() for who in readers
                   if reached.get((who, *of), 0) < end}
        if not missing:
            return
        print(f"not yet at the end: {missing}", flush=True)
        time.sleep(1)  # What is missing is said once a second.


signal.signal(signal.SIGTERM, lambda *_: finishing.set())
# It sees the ends of the logs, open transactions or not.
looker = Consumer({**CONSUMER, "group.id": "looker", "isolation.level": "read_uncommitted"})
while not find_partitions(looker):
    pass
# They do not grow. A broker that has just started may not have heard of them.
output_partitions = {}
while not all(output_partitions.get(name) for name in (output, java_output)):
    output_partitions = {name: len(looker.list_topics(name, 30).topics[name].partitions) for name in (output, java_output)}
all_output_partitions = [(name, partition) for name, count in output_partitions.items() for partition in range(count)]
producers = [
    # It says why it takes a new epoch.
    start(produce, "idempotent", enable_idempotence=True, debug="eos"),
    start(produce, "all", acks="all", compression_type="lz4"),
    start(produce, "one", acks="1"),
]
groups = {"eager": "range", "cooperative": "cooperative-sticky"}
consumers = [
    start(read, "reader", all_partitions),
    start(read, "transformed", lambda: all_output_partitions, isolation_level="read_committed", enable_partition_eof=True),
] + [
    start(join, group, number, strategy, random.Random(f"{seed} {group} {number}"))
    for group, strategy in groups.items() for number in (0, 1)
]
instances, starting = {}, threading.Lock()
became = {group: Counter() for group in (TRANSFORMERS, JAVA_TRANSFORMERS)}
transformers = [start(keep_transforming, f"transformer-{number}", became[TRANSFORMERS]) for number in (0, 1)]
transformers.append(start(keep_transforming_in_java, JAVA_TRANSFORMERS, became[JAVA_TRANSFORMERS]))
while not finishing.wait(1) and not failures:
    # Should all threads wait for each other, the log says where.
    faulthandler.dump_traceback_later(30)
    find_partitions(looker)
faulthandler.cancel_dump_traceback_later()
if not failures:
    with starting:
        for instance in instances.values():
            instance.send_signal(signal.SIGTERM)
    while not find_partitions(looker):
        pass
    for producer in producers:
        producer.join()
    # What an open transaction would commit is not told.
    positions = {group: Consumer({**CONSUMER, "group.id": group, "isolation.level": "read_committed"}) for group in became}

    def note_transformers(partitions):
        for group, position in positions.items():
            try:
                for p in position.committed([TopicPartition(*of) for of in partitions], 10):
                    reached[group, p.topic, p.partition] = p.offset
            except KafkaException as error:
                print(f"{group}: {error}", flush=True)

    until_read(all_partitions(), ("reader", *groups, *positions), note_transformers)
    transformed_to_the_end.set()
    with starting:
        for instance in instances.values():
            instance.kill()
    for transformer in transformers:
        transformer.join()
    for group, counts in became.items():
        print(f"of all transactions of {group}: {dict(counts)}", flush=True)
    until_read(all_output_partitions, ("transformed",))
    for position in positions.values():
        position.close()
    read_to_the_end.set()
    for consumer in consumers:
        consumer.join()
    looker.close()
for failure in failures:
    print(f"failed: {failure}", flush=True)
sys.stdout.flush()
os._exit(1 if failures else 0)  # a client that hangs must not hold the exit
