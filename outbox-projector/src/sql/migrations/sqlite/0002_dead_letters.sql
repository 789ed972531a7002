-- Records that a projection gave up, until they are replayed or discarded. Whoever replays one deletes its row in the
-- transaction of the effect.
CREATE TABLE projector_dead_letter (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    projection TEXT NOT NULL,
    letter_id TEXT NOT NULL,
    log_id TEXT,
    aggregate_type TEXT,
    ordering_key TEXT,
    sequence INTEGER,
    partition TEXT NOT NULL,
    place TEXT NOT NULL,
    cause TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    given_up_at TEXT NOT NULL,
    -- record: key, payload and headers as they came; event: as RawPayload writes the event; elsewhere: not kept here.
    form TEXT NOT NULL CHECK (form IN ('record', 'event', 'elsewhere')),
    record_key BLOB,
    payload BLOB,
    -- For each header its name and its value, each behind its length in bytes, 4 bytes big-endian.
    headers BLOB,
    UNIQUE (projection, letter_id)
) STRICT;
CREATE INDEX projector_dead_letter_key ON projector_dead_letter
    (projection, log_id, aggregate_type, ordering_key, sequence, number);
