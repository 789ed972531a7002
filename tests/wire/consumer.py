"""A consumer of the original marketplace: knows the topic, the JSON message and nothing of the library that wrote it.

    python consumer.py BOOTSTRAP TOPIC EVENTS

Reads the topic from its beginning until it has seen so many different events, follows them as the search service does
(created or updated: upsert by id; deleted: delete, a missing document is fine; others: skipped), and prints one JSON
object: the messages in the order they came, and the documents that are left.
"""

import json
import sys
import time
import uuid
from datetime import datetime

from kafka import KafkaConsumer

FIELDS = {"event_id", "event_type", "aggregate_type", "aggregate_id", "payload", "created_at"}
PATIENCE = 120  # seconds; who waits this long has failed


def parse(record):
    event = json.loads(record.value.decode("utf-8"))
    missing = FIELDS - event.keys()
    if missing:
        raise ValueError(f"fields are missing: {sorted(missing)}")
    for field in FIELDS - {"payload"}:
        if not isinstance(event[field], str):
            raise ValueError(f"{field} is no string: {event[field]!r}")
    uuid.UUID(event["event_id"])
    if datetime.fromisoformat(event["created_at"]).tzinfo is None:
        raise ValueError(f"created_at has no time zone: {event['created_at']}")
    if record.topic != f"{event['aggregate_type'].lower()}-events":
        raise ValueError(f"an event of {event['aggregate_type']} in {record.topic}")
    if record.key.decode("utf-8") != event["aggregate_id"]:
        raise ValueError(f"key {record.key!r} of aggregate {event['aggregate_id']!r}")
    return event


def handle(documents, event):
    kind = event["event_type"]
    if kind in ("TutorCreated", "TutorUpdated"):
        documents[event["payload"]["id"]] = event["payload"]
    elif kind == "TutorDeleted":
        documents.pop(event["payload"]["id"], None)
    else:
        print(f"skipped an unknown event type: {kind}", file=sys.stderr)


def main(bootstrap, topic, count):
    consumer = KafkaConsumer(
        topic,
        bootstrap_servers=bootstrap,
        group_id=f"search-service-{uuid.uuid4()}",
        auto_offset_reset="earliest",
        enable_auto_commit=False,
    )
    messages, documents, seen = [], {}, set()
    deadline = time.monotonic() + PATIENCE
    while len(seen) < count:
        if time.monotonic() > deadline:
            sys.exit(f"{len(seen)} of {count} events came in {PATIENCE} s")
        for records in consumer.poll(timeout_ms=500).values():
            for record in records:
                event = parse(record)
                handle(documents, event)
                seen.add(event["event_id"])
                messages.append(event)
    consumer.close()
    json.dump({"messages": messages, "documents": sorted(documents.values(), key=lambda d: d["id"])}, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
