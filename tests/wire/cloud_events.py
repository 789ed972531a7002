"""Reads a topic with the CloudEvents project's own SDK, which checks every attribute.

    python cloud_events.py BOOTSTRAP TOPIC EVENTS

Prints a JSON list: of each message its attributes and its data, bytes as hexadecimal digits.
"""

import json
import sys
import time

from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event, from_structured_event
from kafka import KafkaConsumer

PATIENCE = 120  # seconds; who waits this long has failed


def read(record):
    message = KafkaMessage(headers=dict(record.headers), key=record.key, value=record.value)
    content_type = message.headers.get("content-type", b"").decode("utf-8")
    structured = content_type.startswith("application/cloudevents")
    event = from_structured_event(message) if structured else from_binary_event(message)
    data = event.get_data()
    return {
        "attributes": {name: str(value) for name, value in event.get_attributes().items()},
        "data": {"hex": data.hex()} if isinstance(data, bytes) else data,
        "value_is_null": record.value is None,
    }


def main(bootstrap, topic, count):
    consumer = KafkaConsumer(topic, bootstrap_servers=bootstrap, group_id=None, auto_offset_reset="earliest")
    events = []
    deadline = time.monotonic() + PATIENCE
    while len(events) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{len(events)} of {count} events came in {PATIENCE} s")
        for records in consumer.poll(timeout_ms=500).values():
            events.extend(read(record) for record in records)
    consumer.close()
    json.dump(events, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
