-- @schema@ is replaced by the quoted name of the log's schema: nothing here depends on search_path.
-- Removing what every consumer has passed.

-- How far retention came. One row, locked by the one who works; writers never touch it.
CREATE TABLE @schema@.outbox_retention (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Up to this position everything was removed that could be seen then.
    pruned bigint NOT NULL DEFAULT 0,
    -- Up to this position nothing is left, and nothing can appear any more.
    swept bigint NOT NULL DEFAULT 0,
    -- Positions up to the first are final once every consumer has passed all transactions before the second.
    awaited_position bigint NOT NULL DEFAULT 0,
    awaited_xid bigint NOT NULL DEFAULT 0,
    -- The events are in a ring of leaves instead of a plain table.
    ring boolean NOT NULL DEFAULT false,
    -- When retention last ran, whether there was something to remove or not.
    pruned_at timestamptz
) WITH (fillfactor = 10);

INSERT INTO @schema@.outbox_retention DEFAULT VALUES;

-- So that registering a consumer locks that row, FOR KEY SHARE: it waits for the step under way, and the next step finds
-- the consumer. Without it a step could remove what a consumer that was registered meanwhile would begin with.
ALTER TABLE @schema@.outbox_consumer
    ADD COLUMN held_by_retention boolean NOT NULL DEFAULT true REFERENCES @schema@.outbox_retention;

-- The server's timeline when the log was created or last re-anchored: what the names of WAL files begin with. Another one
-- now means that a standby was promoted or a backup restored since.
ALTER TABLE @schema@.outbox_generation ADD COLUMN timeline integer
    DEFAULT ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer;

UPDATE @schema@.outbox_log SET schema_version = 4;
