-- What the log is. One row, written when the log is created.
CREATE TABLE outbox_log (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id BLOB NOT NULL DEFAULT (randomblob(16)),
    lanes INTEGER NOT NULL CHECK (lanes BETWEEN 1 AND 64),
    generation INTEGER NOT NULL DEFAULT 0 CHECK (generation BETWEEN 0 AND 65535),
    schema_version INTEGER NOT NULL DEFAULT 1,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- Appended to by writers, removed from by retention, never updated.
CREATE TABLE outbox_event (
    -- AUTOINCREMENT: a plain rowid begins again when retention has emptied the table, and readers would miss events.
    position INTEGER PRIMARY KEY AUTOINCREMENT,
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 63),
    id BLOB NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    ordering_key TEXT,
    event_type TEXT NOT NULL,
    content_type TEXT NOT NULL,
    payload BLOB,
    headers BLOB NOT NULL DEFAULT x'',
    -- Microseconds since 1970.
    created_at INTEGER NOT NULL
);

CREATE TABLE outbox_consumer (
    name TEXT PRIMARY KEY,
    start_cursor TEXT NOT NULL,
    epoch INTEGER NOT NULL DEFAULT 0,
    created_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);

-- One row per running relay or projection, renewed often.
CREATE TABLE outbox_member (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    member BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- Milliseconds since 1970.
    expires INTEGER NOT NULL,
    PRIMARY KEY (consumer, member)
) WITHOUT ROWID;

-- Who owns which lane; changes on assignment only.
CREATE TABLE outbox_lane (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    lane INTEGER NOT NULL,
    member BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    PRIMARY KEY (consumer, lane)
) WITHOUT ROWID;

-- Appended to; the newest row of a consumer counts.
CREATE TABLE outbox_checkpoint (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    member BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    cursor TEXT NOT NULL,
    position INTEGER NOT NULL,
    written_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP
);

CREATE INDEX outbox_checkpoint_consumer ON outbox_checkpoint (consumer, id);

-- For people.
CREATE VIEW outbox_event_text AS
    SELECT position, lane, lower(hex(id)) AS id, aggregate_type, aggregate_id, ordering_key, event_type, content_type,
        CAST(payload AS TEXT) AS payload, CAST(headers AS TEXT) AS headers,
        strftime('%Y-%m-%d %H:%M:%f', created_at / 1000000.0, 'unixepoch') AS created_at
    FROM outbox_event;
