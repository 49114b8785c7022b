"""The example that everyone copies, on a bare broker: produce to a topic that does not exist,
flush, consume in a group. confluent_kafka_example.py BOOTSTRAP TOPIC
"""
import sys

from confluent_kafka import Consumer, Producer

bootstrap, topic = sys.argv[1:3]
delivered = []


def delivery_report(err, msg):
    delivered.append(f"{err}" if err is not None else f"{msg.topic()} [{msg.partition()}]")


p = Producer({"bootstrap.servers": bootstrap})
some_data_source = ["first", "second", "third"]
for data in some_data_source:
    p.poll(0)
    p.produce(topic, data.encode("utf-8"), callback=delivery_report)
p.flush(30)

if delivered == [f"{topic} [0]"] * 3:
    print("ok produce to a topic that does not exist, flush")
else:
    print(f"FAILED produce to a topic that does not exist, flush: delivery reports {delivered}")

c = Consumer({"bootstrap.servers": bootstrap, "group.id": "mygroup-" + topic, "auto.offset.reset": "earliest"})
c.subscribe([topic])
received = []
for _ in range(60):
    msg = c.poll(1.0)
    if msg is None:
        continue
    if msg.error():
        received.append(f"{msg.error()}")
        break
    received.append(msg.value().decode("utf-8"))
    if len(received) == 3:
        break
c.close()

if received == some_data_source:
    print("ok consume in a group")
else:
    print(f"FAILED consume in a group: received {received}")
sys.exit(0 if received == some_data_source and len(delivered) == 3 else 1)
