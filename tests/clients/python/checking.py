"""What the Python checks share: the command line, one line a check, what is in a record, and the life of a group."""
import os
import sys
import threading
import time
import traceback

when, bootstrap, prefix = sys.argv[1:4]
FIRST_TIMESTAMP = 1_600_000_000_000
RECORDS = 30
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
failures = 0


def key(i):
    """Every seventh record has no key: that is legal (kafka-python wants a key or a value)."""
    return None if i % 7 == 3 and i % 11 != 5 else f"key-{i}".encode()


def value(word, i):
    """Every eleventh record has no value: that is legal too."""
    return None if i % 11 == 5 else f"{word}-{i}-{'padding ' * 20}".encode()


def check(name, function, *arguments):
    global failures
    try:
        function(*arguments)
        print(f"ok {name}", flush=True)
    except Exception as error:
        failures += 1
        line = traceback.extract_tb(error.__traceback__)[-1]
        why = f"{type(error).__name__}: {error} at {line.name}:{line.lineno}".replace("\n", " ")
        print(f"FAILED {name}: {why}", flush=True)


def expect(expected, seen, what):
    if expected != seen:
        raise AssertionError(f"{what}: expected {str(expected)[:300]}, saw {str(seen)[:300]}")


def eventually(what, probe, seen, seconds=30):
    deadline = time.monotonic() + seconds
    while not probe():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}; last seen: {seen()}")
        time.sleep(0.02)


class Member(threading.Thread):
    """A member of the group: polls, remembers (partition, offset, value) of what it got, commits when asked.

    Each client says how it joins, polls and stores its offsets."""

    def __init__(self):
        super().__init__(daemon=True)
        self.assigned, self.received, self.failure = set(), [], None
        self.stop, self.commit = False, False

    def run(self):
        try:
            c = self.joined()
            while not self.stop:
                self.received.extend(self.poll(c))
                self.assigned = {p.partition for p in c.assignment()}
                if self.commit:
                    self.store(c)
                    self.commit = False
            c.close()
        except Exception as error:
            self.failure = error


def group(member, send_to_group):
    first, second = member(), member()
    try:
        first.start()
        eventually("the only member has all four partitions", lambda: len(first.assigned) == 4, lambda: (first.assigned, first.failure))
        second.start()
        eventually("both members have two partitions each", lambda: len(first.assigned) == 2 and len(second.assigned) == 2,
                   lambda: (first.assigned, second.assigned, first.failure, second.failure))
        send_to_group(0, 200)
        eventually("200 records", lambda: len(first.received) + len(second.received) >= 200, lambda: (len(first.received), len(second.received)))
        expect(200, len({value for _, _, value in first.received + second.received}), "different records")
        expect((100, 100), (len(first.received), len(second.received)), "records of each member")
        first.commit = second.commit = True
        eventually("both have committed", lambda: not first.commit and not second.commit, lambda: (first.failure, second.failure))
        second.stop = True
        second.join(20)
        eventually("the first member has all four partitions again", lambda: len(first.assigned) == 4, lambda: (first.assigned, first.failure))
    finally:
        first.stop = second.stop = True
        first.join(20)
    expect((None, None), (first.failure, second.failure), "failures of the members")
    send_to_group(200, 240)


def resume(member):
    member = member()
    try:
        member.start()
        eventually("the 40 records behind the committed offsets", lambda: len(member.received) >= 40, lambda: (len(member.received), member.failure))
    finally:
        member.stop = True
        member.join(20)
    for partition in range(4):
        expect([(50 + i, f"group-{(50 + i) * 4 + partition}".encode()) for i in range(10)],
               [(offset, value) for of, offset, value in member.received if of == partition], f"records of partition {partition}")


class Transactional:
    """Transactions in the only partition of a topic. Each client says how:

    producer(transactional_id, timeout_ms) has the id, whoever had it before; send(producer, values) waits until they are in
    the log; offsets(producer, position) adds a position to the transaction; committed(count) reads so many committed values;
    position() is what the group has committed; fenced(error) says whether that tells a producer that its id was taken over."""

    topic = f"{prefix}-transactions"

    def begin(self, p, word, first, end):
        p.begin_transaction()
        self.send(p, [f"{word}-{i}".encode() for i in range(first, end)])

    def read_committed(self, count):
        # None of those that are not committed is before them or between them.
        expect([f"committed-{i}".encode() for i in range(count)], self.committed(count), "committed values")

    def commit_and_abort(self):
        p = self.producer(self.topic, 60_000)
        self.begin(p, "committed", 0, 10)
        self.offsets(p, 5)
        p.commit_transaction()
        self.begin(p, "aborted", 0, 5)
        self.offsets(p, 9)
        p.abort_transaction()
        self.begin(p, "committed", 10, 20)
        p.commit_transaction()
        eventually("the group is at 5", lambda: self.position() == 5, self.position)
        self.read_committed(20)

    def fence(self):
        first = self.producer(self.topic, 60_000)
        self.begin(first, "open", 0, 3)
        second = self.producer(self.topic, 60_000)
        self.begin(second, "committed", 20, 25)
        try:
            first.commit_transaction()
        except Exception as error:
            if not self.fenced(error):
                raise
        else:
            raise AssertionError("a zombie commits")
        second.commit_transaction()
        self.read_committed(25)

    def fall_silent(self):
        silent = self.producer(f"{self.topic}-silent", 2_000)
        self.begin(silent, "silent", 0, 3)
        other = self.producer(self.topic, 60_000)
        self.begin(other, "committed", 25, 30)
        other.commit_transaction()
        self.read_committed(30)


def run(codec, read_back, acks, acks_settings, idempotent, seek_by_time, transactional, member, send_to_group):
    """All checks of a client, before or after the broker's restart."""
    if when == "before":
        for name in CODECS:
            check(f"produce and read back, {name}", codec, name)
        for setting in acks_settings:
            check(f"acks={setting}", acks, setting)
        check("idempotent producer", idempotent)
        check("seek by time", seek_by_time)
        check("transactions, committed and aborted, with offsets", transactional.commit_and_abort)
        check("a zombie is fenced out of its transaction", transactional.fence)
        check("a transaction that is left open is aborted", transactional.fall_silent)
        check("group of two members, rebalance, commit", group, member, send_to_group)
    else:
        for name in CODECS:
            check(f"read again after the restart, {name}", read_back, f"{prefix}-{name}", name)
        check("read committed records again", transactional.read_committed, 30)
        check("resume at the committed offsets", resume, member)
    finish()


def finish():
    sys.stdout.flush()
    os._exit(1 if failures else 0)  # a client thread that hangs must not hold the exit
