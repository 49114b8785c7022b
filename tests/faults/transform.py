"""One life of an instance that consumes, transforms and produces: what it wrote and where it is are committed together.

transform.py SETTINGS GROUP INSTANCE LIFE SEED calm|wild OUTPUT PARTITIONS TOPIC...

For each record of the topics it writes one to OUTPUT, to a partition that chance decides: whence the record is (topic and
partition, and offset) and in which life and transaction it was read. SETTINGS are those of any client, as a JSON object. It
says on its output, a word a line, what happens:

ready       it has its transactional id, and whoever had it before is fenced
committed   a transaction is
aborted     a transaction is, as it was meant to be
refused     a transaction was aborted because it had to be
fenced      somebody else has the transactional id, or the coordinator has lost its patience; it ends with status 3
lost count  librdkafka counts other sequences than the broker; it ends with status 4. It does so after a transaction of which
            it aborts a batch that was sent and not answered: it forgets the batch, and numbers the next as if it were not there
left        it has left the group, and ends with status 0
dies        it kills itself with a transaction open
hangs       it stops itself with a transaction open. Whoever lets it go on has started another: it must be fenced

It is wild until TERM comes, and then calm: it commits what it begins. A call of librdkafka that does not come back in time ends
it by SIGALRM: it has lost a request for a coordinator whose broker was left out of the metadata for a moment. Any other end is
a failure.
"""
import ctypes
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

settings, group, instance, life, seed, mood, output, partitions, *topics = sys.argv[1:]
settings, partitions, is_calm = json.loads(settings), int(partitions), mood == "calm"
chance = random.Random(f"{seed} {instance} {life}")

PR_SET_PDEATHSIG = 1
FENCED_STATUS, LOST_COUNT_STATUS = 3, 4
FENCED = (KafkaError._FENCED, KafkaError.PRODUCER_FENCED, KafkaError.INVALID_PRODUCER_EPOCH)
# What becomes of a transaction of a wild instance, and how often.
FATES = {"commit": 83, "abort": 10, "dawdle": 2, "die": 2, "hang": 1, "leave": 2}
# Of one call, which is repeated if it may succeed yet.
SECONDS = 5
SECONDS_UNTIL_LOST = 30
RECORDS_MAX = 200
SECONDS_A_BATCH = 0.3
# Whoever does not poll for so long is no member of the group any more, and whoever dawdles is not.
SECONDS_BETWEEN_POLLS_MAX = 6
SECONDS_OF_DAWDLING = 8
# Longer than most faults, so that most transactions outlive them; those that do not are aborted by their coordinator.
TRANSACTION_TIMEOUT_MS = 15_000


def say(what):
    print(what, flush=True)


def complain(what, error):
    print(f"{time.time():.3f} {instance}.{life}: {what}: {error}", file=sys.stderr, flush=True)


def lives(on=True):
    """It has come back from a call, and has as long for the next; not while it is stopped."""
    signal.alarm(SECONDS_UNTIL_LOST if on else 0)
    faulthandler.dump_traceback_later(SECONDS_UNTIL_LOST - 1) if on else faulthandler.cancel_dump_traceback_later()


def until_settled(call, *arguments):
    while True:
        lives()
        try:
            return call(*arguments, SECONDS)
        except KafkaException as failure:
            if not failure.args[0].retriable():
                raise
            complain(call.__name__, failure)


def next_batch():
    """Records that nobody else can have, each with the partition it is from: callbacks come while it polls."""
    lives()
    batch.clear()
    ends_at = time.monotonic() + SECONDS_A_BATCH
    while len(batch) < RECORDS_MAX and (left := ends_at - time.monotonic()) > 0:
        message = consumer.poll(left)
        if message is None:
            continue
        if message.error():
            complain("poll", message.error())
            continue
        batch.append(((message.topic(), message.partition()), message.offset()))


def forget(_, revoked):
    gone = {(p.topic, p.partition) for p in revoked}
    batch[:] = [(partition, offset) for partition, offset in batch if partition not in gone]


def rewind():
    """Goes back to where the batch began, with what is still ours; says whether that was possible."""
    began = {}
    for partition, offset in batch:
        began.setdefault(partition, offset)
    for p in consumer.assignment():
        if (p.topic, p.partition) in began:
            try:
                consumer.seek(TopicPartition(p.topic, p.partition, began[p.topic, p.partition]))
            except KafkaException as failure:
                complain(f"seek {p}", failure)
                return False
    return True


def transact(serial, fate):
    """Writes what the batch becomes, and ends it as its fate has it."""
    # As whom it has the batch: one that is no member any more would be told that it has no generation, and brokers take the
    # offsets of those that have none.
    member = consumer.consumer_group_metadata()
    producer.begin_transaction()
    for (topic, partition), offset in batch:
        value = f"{topic}-{partition} {offset} {instance}.{life}.{serial} {fate}"
        producer.produce(output, value, partition=chance.randrange(partitions))
    ends = {partition: offset + 1 for partition, offset in batch}
    positions = [TopicPartition(*partition, end) for partition, end in ends.items()]
    if fate == "dawdle":
        time.sleep(SECONDS_OF_DAWDLING)  # So that others have the partitions, and the same batch.
    until_settled(producer.send_offsets_to_transaction, positions, member)
    if fate in ("abort", "die", "hang"):
        producer.flush()  # Its records lie in the log.
    if fate == "abort":
        until_settled(producer.abort_transaction)
        return "aborted"
    if fate == "die":
        say("dies")
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "hang":
        lives(False)
        say("hangs")
        os.kill(os.getpid(), signal.SIGSTOP)
    until_settled(producer.commit_transaction)
    if fate == "hang":
        raise SystemExit("it was stopped, another began, and it has committed")
    return "committed"


def live():
    until_settled(producer.init_transactions)
    say("ready")
    consumer.subscribe(topics, on_revoke=forget, on_lost=forget)
    serial = 0
    while True:
        next_batch()
        if not batch:
            continue
        serial += 1
        fate = "commit" if is_calm else chance.choices(list(FATES), FATES.values())[0]
        try:
            what = transact(serial, fate)
        except KafkaException as failure:
            if failure.args[0].fatal():
                raise
            # A new generation of the group, or a record that could not be sent.
            complain("a transaction", failure)
            until_settled(producer.abort_transaction)
            what = "refused"
        say(what)
        if fate == "leave" or what != "committed" and not rewind():
            return


def be_calm(*_):
    global is_calm
    is_calm = True


ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # So goes one that is stopped, too.
signal.signal(signal.SIGTERM, be_calm)
batch = []
producer = Producer({
    **settings, "client.id": instance, "transactional.id": instance, "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
    "linger.ms": 5, "request.timeout.ms": 5000,
})
consumer = Consumer({
    **settings, "client.id": f"{instance}-{life}", "group.id": group, "isolation.level": "read_committed",
    "enable.auto.commit": False, "auto.offset.reset": "earliest", "fetch.wait.max.ms": 200,
    "session.timeout.ms": 6000, "heartbeat.interval.ms": 1000, "max.poll.interval.ms": SECONDS_BETWEEN_POLLS_MAX * 1000,
    "partition.assignment.strategy": "cooperative-sticky",
})
status = 0
try:
    live()
    # One that has lost its coordinator may not find another while it leaves.
    leaving = threading.Thread(target=consumer.close, daemon=True)
    leaving.start()
    leaving.join(SECONDS)
    say("left")
except KafkaException as failure:
    error = failure.args[0]
    if not error.fatal():
        raise
    complain("it ends", failure)
    if error.code() in FENCED:
        say("fenced")
        status = FENCED_STATUS
    elif error.code() == KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER and "MsgPossiblyPersisted" in error.str():
        say("lost count")
        status = LOST_COUNT_STATUS
    else:
        raise
os._exit(status)  # A client that hangs must not hold the exit.
