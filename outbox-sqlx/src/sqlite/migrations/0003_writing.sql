-- What writers may use beside the library.

-- Events that nothing orders: no sequence, told apart by their id.
ALTER TABLE outbox_event ADD COLUMN unordered INTEGER NOT NULL DEFAULT 0 CHECK (unordered IN (0, 1));

DROP VIEW outbox_event_text;

-- For people.
CREATE VIEW outbox_event_text AS
    SELECT position, lane, lower(hex(id)) AS id, aggregate_type, aggregate_id, ordering_key, event_type, content_type,
        CAST(payload AS TEXT) AS payload, CAST(headers AS TEXT) AS headers,
        strftime('%Y-%m-%d %H:%M:%f', created_at / 1000000.0, 'unixepoch') AS created_at, unordered
    FROM outbox_event;

UPDATE outbox_log SET schema_version = 3;
