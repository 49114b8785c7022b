"""Transactions of librdkafka, one line for each thing that is seen: committed records, the group's position, a zombie."""
import sys

from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, KafkaException, Producer, TopicPartition

bootstrap, topic = sys.argv[1:3]
TIMEOUT = 30


def producer():
    p = Producer({"bootstrap.servers": bootstrap, "transactional.id": "rdkafka", "transaction.timeout.ms": 30_000})
    p.init_transactions(TIMEOUT)
    return p


def consumer(**settings):
    return Consumer({"bootstrap.servers": bootstrap, "group.id": "rdkafka", "enable.auto.commit": False,
                     "enable.partition.eof": True, "isolation.level": "read_committed", **settings})


def send(p, *values):
    p.begin_transaction()
    for value in values:
        p.produce(topic, value=value, partition=0)


def committed():
    c = consumer()
    c.assign([TopicPartition(topic, 0, OFFSET_BEGINNING)])
    values = []
    while True:
        message = c.poll(TIMEOUT)
        if message is None:
            raise TimeoutError(f"no end within {TIMEOUT} s, after {values}")
        if not message.error():
            values.append(message.value().decode())
        elif message.error().code() == KafkaError._PARTITION_EOF:
            c.close()
            return values
        else:
            raise KafkaException(message.error())


first = producer()
send(first, "1", "2", "3")
first.commit_transaction(TIMEOUT)
send(first, "4", "5")
first.flush(TIMEOUT)
first.abort_transaction(TIMEOUT)
reader = consumer()
send(first, "6")
first.send_offsets_to_transaction([TopicPartition(topic, 0, 3)], reader.consumer_group_metadata(), TIMEOUT)
first.commit_transaction(TIMEOUT)
print("position", reader.committed([TopicPartition(topic, 0)], TIMEOUT)[0].offset)
reader.close()

send(first, "7")
first.flush(TIMEOUT)
second = producer()
send(second, "8")
try:
    first.commit_transaction(TIMEOUT)
    print("the zombie commits")
except KafkaException as error:
    print("fenced" if error.args[0].fatal() else f"refused: {error}")
second.commit_transaction(TIMEOUT)
print("committed", ",".join(committed()))
