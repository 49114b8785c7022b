"""Reads topics from the beginning with kafka-python under small limits: BOOTSTRAP COUNT TOPIC PARTITION_BYTES FETCH_BYTES.

Prints what stands before the first space of each value, one a line, and ends when there are COUNT of them.
"""
import sys

from kafka import KafkaConsumer

bootstrap, count, topic, partition_bytes, fetch_bytes = sys.argv[1:]
consumer = KafkaConsumer(
    topic,
    bootstrap_servers=bootstrap,
    auto_offset_reset="earliest",
    enable_auto_commit=False,
    group_id=None,
    max_partition_fetch_bytes=int(partition_bytes),
    fetch_max_bytes=int(fetch_bytes),
    consumer_timeout_ms=30_000,
)
seen = 0
for record in consumer:
    print(record.value.split(b" ", 1)[0].decode())
    seen += 1
    if seen == int(count):
        break
