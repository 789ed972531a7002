-- Removing what every consumer has passed.

-- How far retention came. One row.
CREATE TABLE outbox_retention (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    -- Events up to this position were removed.
    low INTEGER NOT NULL DEFAULT 0,
    -- When it last ran, in milliseconds since 1970.
    pruned_at INTEGER
);

INSERT INTO outbox_retention (one) VALUES (1);

UPDATE outbox_log SET schema_version = 4;
