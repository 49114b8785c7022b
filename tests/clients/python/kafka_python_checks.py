"""What kafka-python does with a broker. kafka_python_checks.py before|after BOOTSTRAP PREFIX"""
import time

from kafka import KafkaConsumer, KafkaProducer, OffsetAndMetadata, TopicPartition
from kafka.errors import InvalidProducerEpochError, ProducerFencedError

from checking import FIRST_TIMESTAMP, RECORDS, Member, Transactional, bootstrap, expect, key, prefix, run, value

TIMEOUT = 60


def producer(**settings):
    return KafkaProducer(**{"bootstrap_servers": bootstrap, "client_id": prefix, "acks": "all", "linger_ms": 5, **settings})


def consumer(*topics, **settings):
    return KafkaConsumer(*topics, **{
        "bootstrap_servers": bootstrap, "client_id": prefix, "group_id": prefix, "auto_offset_reset": "earliest",
        "enable_auto_commit": False, "session_timeout_ms": 10000, "heartbeat_interval_ms": 500, **settings,
    })


def send(topic, word, count=RECORDS, acknowledged=True, **settings):
    p = producer(**settings)
    try:
        sent = [p.send(topic, partition=0, key=key(i), value=value(word, i), timestamp_ms=FIRST_TIMESTAMP + i * 1000,
                       headers=[("number", str(i).encode())]) for i in range(count)]
        p.flush(TIMEOUT)
        offsets = [future.get(TIMEOUT).offset for future in sent]
        if acknowledged:
            expect(list(range(count)), offsets, "offsets")
    finally:
        p.close()


def read_from(topic, offset, count, **settings):
    c = consumer(**settings)
    try:
        partition = TopicPartition(topic, 0)
        c.assign([partition])
        c.seek(partition, offset)
        records = []
        deadline = time.monotonic() + TIMEOUT
        while len(records) < count and time.monotonic() < deadline:
            for found in c.poll(timeout_ms=500).values():
                records.extend(found)
        return records[:count]
    finally:
        c.close()


def read_back(topic, word, count=RECORDS):
    records = read_from(topic, 0, count)
    expect(count, len(records), "records read")
    for i, record in enumerate(records):
        expect(i, record.offset, "offset")
        expect(key(i), record.key, f"key at {i}")
        expect(value(word, i), record.value, f"value at {i}")
        expect((0, FIRST_TIMESTAMP + i * 1000), (record.timestamp_type, record.timestamp), f"timestamp at {i}")
        expect([("number", str(i).encode())], list(record.headers), f"headers at {i}")


def codec(name):
    send(f"{prefix}-{name}", name, compression_type=None if name == "none" else name)
    read_back(f"{prefix}-{name}", name)


def acks(setting):
    # This client is idempotent unless told otherwise, and then knows only acks=all.
    send(f"{prefix}-acks-{setting}", f"acks-{setting}", acknowledged=setting != 0, acks=setting, enable_idempotence=False)
    read_back(f"{prefix}-acks-{setting}", f"acks-{setting}")


def idempotent():
    send(f"{prefix}-idempotent", "idempotent", 300, enable_idempotence=True, batch_size=500, linger_ms=0)
    read_back(f"{prefix}-idempotent", "idempotent", 300)


def seek_by_time():
    c = consumer()
    try:
        partition = TopicPartition(f"{prefix}-none", 0)
        for wanted, offset in ((-1, 0), (7000, 7), (7001, 8), ((RECORDS - 1) * 1000 + 1, None)):
            found = c.offsets_for_times({partition: FIRST_TIMESTAMP + wanted})[partition]
            expect(offset, found and found.offset, f"offset for the first timestamp plus {wanted}")
    finally:
        c.close()
    expect(value("none", 8), read_from(f"{prefix}-none", 8, 1)[0].value, "first record behind the time")


class Transactions(Transactional):
    # None of them is closed: that would abort what it has open.
    kept = []

    def producer(self, transactional_id, timeout_ms):
        p = producer(transactional_id=transactional_id, transaction_timeout_ms=timeout_ms)
        p.init_transactions()
        self.kept.append(p)
        return p

    def send(self, p, values):
        for future in [p.send(self.topic, partition=0, value=value) for value in values]:
            future.get(TIMEOUT)

    def offsets(self, p, position):
        p.send_offsets_to_transaction({TopicPartition(self.topic, 0): OffsetAndMetadata(position, "", -1)}, self.topic)

    def committed(self, count):
        return [record.value for record in read_from(self.topic, 0, count, isolation_level="read_committed")]

    def position(self):
        c = consumer(group_id=self.topic)
        try:
            return c.committed(TopicPartition(self.topic, 0))
        finally:
            c.close()

    def fenced(self, error):
        return isinstance(error, (ProducerFencedError, InvalidProducerEpochError))


class GroupMember(Member):
    def joined(self):
        return consumer(f"{prefix}-group")

    def poll(self, c):
        return [(r.partition, r.offset, r.value) for records in c.poll(timeout_ms=500).values() for r in records]

    def store(self, c):
        c.commit()


def send_to_group(first, end):
    p = producer()
    try:
        for future in [p.send(f"{prefix}-group", partition=i % 4, value=f"group-{i}".encode()) for i in range(first, end)]:
            future.get(TIMEOUT)
    finally:
        p.close()


run(codec, read_back, acks, (0, 1, "all"), idempotent, seek_by_time, Transactions(), GroupMember, send_to_group)
