"""What confluent-kafka (librdkafka) does with a broker.

confluent_kafka_checks.py before|after BOOTSTRAP PREFIX
"""
import time

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from checking import FIRST_TIMESTAMP, RECORDS, Member, Transactional, bootstrap, expect, key, prefix, run, value

TIMEOUT = 30


def producer(**settings):
    settings = {name.replace("_", "."): setting for name, setting in settings.items()}
    return Producer({"bootstrap.servers": bootstrap, "client.id": prefix, "acks": "all", "linger.ms": 5, **settings})


def consumer(**settings):
    settings = {name.replace("_", "."): setting for name, setting in settings.items()}
    return Consumer({
        "bootstrap.servers": bootstrap, "client.id": prefix, "group.id": prefix, "auto.offset.reset": "earliest",
        "enable.auto.commit": False, "session.timeout.ms": 10000, "heartbeat.interval.ms": 500, **settings,
    })


def send(topic, word, count=RECORDS, acknowledged=True, **settings):
    reports = []
    p = producer(**settings)
    for i in range(count):
        p.produce(topic, partition=0, key=key(i), value=value(word, i), timestamp=FIRST_TIMESTAMP + i * 1000,
                  headers=[("number", str(i).encode()), ("nothing", None)],
                  on_delivery=lambda error, message: reports.append((error, message.offset())))
    expect(0, p.flush(TIMEOUT), "messages left after the flush")
    if acknowledged:
        expect([(None, i) for i in range(count)], reports, "delivery reports")
    else:
        expect([None] * count, [error for error, _ in reports], "delivery reports")


def read_from(topic, offset, count, **settings):
    c = consumer(**settings)
    try:
        c.assign([TopicPartition(topic, 0, offset)])
        messages = []
        deadline = time.monotonic() + TIMEOUT
        while len(messages) < count and time.monotonic() < deadline:
            for message in c.consume(count - len(messages), 0.5):
                if message.error():
                    raise KafkaException(message.error())
                messages.append(message)
        return messages
    finally:
        c.close()


def read_back(topic, word, count=RECORDS):
    messages = read_from(topic, 0, count)
    expect(count, len(messages), "records read")
    for i, message in enumerate(messages):
        expect(i, message.offset(), "offset")
        expect(key(i), message.key(), f"key at {i}")
        expect(value(word, i), message.value(), f"value at {i}")
        expect((1, FIRST_TIMESTAMP + i * 1000), message.timestamp(), f"timestamp at {i}")
        expect([("number", str(i).encode()), ("nothing", None)], message.headers(), f"headers at {i}")


def codec(name):
    send(f"{prefix}-{name}", name, compression_type=name)
    read_back(f"{prefix}-{name}", name)


def acks(setting):
    send(f"{prefix}-acks-{setting}", f"acks-{setting}", acknowledged=setting != "0", acks=setting)
    read_back(f"{prefix}-acks-{setting}", f"acks-{setting}")


def idempotent():
    send(f"{prefix}-idempotent", "idempotent", 300, enable_idempotence=True, batch_num_messages=3, linger_ms=0)
    read_back(f"{prefix}-idempotent", "idempotent", 300)


def seek_by_time():
    c = consumer()
    try:
        for wanted, offset in ((-1, 0), (7000, 7), (7001, 8), ((RECORDS - 1) * 1000 + 1, -1)):
            found, = c.offsets_for_times([TopicPartition(f"{prefix}-none", 0, FIRST_TIMESTAMP + wanted)], TIMEOUT)
            expect(None, found.error, "error")
            expect(offset, found.offset, f"offset for the first timestamp plus {wanted}")
    finally:
        c.close()
    expect(value("none", 8), read_from(f"{prefix}-none", 8, 1)[0].value(), "first record behind the time")


class Transactions(Transactional):
    def producer(self, transactional_id, timeout_ms):
        p = producer(transactional_id=transactional_id, transaction_timeout_ms=timeout_ms)
        p.init_transactions(TIMEOUT)
        self.kept.append(p)
        return p

    # One that is forgotten would be destroyed, and with it what it has open.
    kept = []

    def send(self, p, values):
        for value in values:
            p.produce(self.topic, partition=0, value=value)
        expect(0, p.flush(TIMEOUT), "messages left after the flush")

    def offsets(self, p, position):
        c = consumer(group_id=self.topic)
        try:
            p.send_offsets_to_transaction([TopicPartition(self.topic, 0, position)], c.consumer_group_metadata(), TIMEOUT)
        finally:
            c.close()

    def committed(self, count):
        return [message.value() for message in read_from(self.topic, 0, count, isolation_level="read_committed")]

    def position(self):
        c = consumer(group_id=self.topic)
        try:
            return c.committed([TopicPartition(self.topic, 0)], TIMEOUT)[0].offset
        finally:
            c.close()

    def fenced(self, error):
        return isinstance(error, KafkaException) and error.args[0].fatal() and error.args[0].code() == KafkaError._FENCED


class GroupMember(Member):
    def joined(self):
        c = consumer()
        c.subscribe([f"{prefix}-group"])
        return c

    def poll(self, c):
        messages = c.consume(100, 0.1)
        for message in messages:
            if message.error():
                raise KafkaException(message.error())
        return [(message.partition(), message.offset(), message.value()) for message in messages]

    def store(self, c):
        c.commit(asynchronous=False)


def send_to_group(first, end):
    p = producer()
    errors = []
    for i in range(first, end):
        p.produce(f"{prefix}-group", partition=i % 4, value=f"group-{i}", on_delivery=lambda error, _: errors.append(error))
    expect(0, p.flush(TIMEOUT), "messages left after the flush")
    expect([None] * (end - first), errors, "delivery reports")


run(codec, read_back, acks, ("0", "1", "all"), idempotent, seek_by_time, Transactions(), GroupMember, send_to_group)
