-- Members own lanes; parking; generations.

-- Which positions are of which generation: a row is that of its first position.
CREATE TABLE outbox_generation (
    generation INTEGER PRIMARY KEY CHECK (generation BETWEEN 0 AND 65535),
    from_position INTEGER NOT NULL CHECK (from_position > 0)
);

INSERT INTO outbox_generation (generation, from_position) VALUES (0, 1);

-- The highest epoch of the consumers that were dropped: one registered again goes on behind it.
ALTER TABLE outbox_log ADD COLUMN dropped_epoch INTEGER NOT NULL DEFAULT 0;

ALTER TABLE outbox_consumer ADD COLUMN paused INTEGER NOT NULL DEFAULT 0 CHECK (paused IN (0, 1));

-- The place of a lane that nobody owns; without a row it is the consumer's start_cursor.
CREATE TABLE outbox_free_lane (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 63),
    cursor TEXT NOT NULL,
    PRIMARY KEY (consumer, lane)
) WITHOUT ROWID;

-- Members were owners of all lanes until now. They are fenced, and every lane stays where it was.
INSERT INTO outbox_free_lane (consumer, lane, cursor)
    WITH RECURSIVE lane (number) AS (
        SELECT 0 UNION ALL SELECT number + 1 FROM lane WHERE number + 1 < (SELECT lanes FROM outbox_log)
    )
    SELECT c.consumer, lane.number, c.cursor
    FROM (SELECT consumer, cursor, max(id) FROM outbox_checkpoint GROUP BY consumer) AS c CROSS JOIN lane;

DROP TABLE outbox_lane;
ALTER TABLE outbox_free_lane RENAME TO outbox_lane;

DROP TABLE outbox_member;

-- One row per running relay or projection, renewed often. Times are milliseconds since 1970.
CREATE TABLE outbox_member (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    member BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    claim_all INTEGER NOT NULL CHECK (claim_all IN (0, 1)),
    -- Bit n is lane n.
    lanes INTEGER NOT NULL DEFAULT 0,
    -- Its newest checkpoint, which has the places of its lanes; none before it owned any.
    checkpoint INTEGER,
    expires INTEGER NOT NULL,
    joined_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, member)
) WITHOUT ROWID;

-- Appended to. The newest row of a member has the places of the lanes that it owns; older ones are history.
CREATE TABLE outbox_checkpoint_of_member (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    -- Counted by consumer.
    id INTEGER NOT NULL,
    member BLOB NOT NULL,
    epoch INTEGER NOT NULL,
    -- All lanes that the row is about; bit n is lane n.
    lanes INTEGER NOT NULL,
    -- Where they are but for those in `behind`.
    cursor TEXT NOT NULL,
    -- Lanes that lag, as [{"lanes": "<mask>", "cursor": "<text>"}]; NULL when none does.
    behind TEXT,
    -- The lowest position that all of these lanes have passed.
    position INTEGER NOT NULL,
    -- In milliseconds since 1970; NULL where lanes only changed hands.
    written_at INTEGER,
    PRIMARY KEY (consumer, id)
) WITHOUT ROWID;

INSERT INTO outbox_checkpoint_of_member (consumer, id, member, epoch, lanes, cursor, position, written_at)
    SELECT consumer, row_number() OVER (PARTITION BY consumer ORDER BY id), member, epoch,
        ~(-1 << (SELECT lanes FROM outbox_log)), cursor, position, unixepoch(written_at) * 1000
    FROM outbox_checkpoint;

DROP TABLE outbox_checkpoint;
ALTER TABLE outbox_checkpoint_of_member RENAME TO outbox_checkpoint;

-- Copies of events that were set aside, so that retention need not wait for them.
CREATE TABLE outbox_parked (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    position INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 63),
    lane_key TEXT NOT NULL,
    id BLOB NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    ordering_key TEXT,
    event_type TEXT NOT NULL,
    content_type TEXT NOT NULL,
    payload BLOB,
    headers BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    unordered INTEGER NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('retrying', 'parked', 'behind')),
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    parked_at INTEGER NOT NULL,
    retry_at INTEGER,
    PRIMARY KEY (consumer, position)
);

-- Says of a key which event is its first and whether that is due, without the rows.
CREATE INDEX outbox_parked_key ON outbox_parked (consumer, lane_key, position, state, retry_at);

-- Exactly the keys that have a parked event.
CREATE TABLE outbox_blocked (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    lane_key TEXT NOT NULL,
    lane INTEGER NOT NULL CHECK (lane BETWEEN 0 AND 63),
    -- When somebody asked for its events to be published again.
    requested_at INTEGER,
    -- Whether somebody asked since its events were given out to be published again; NULL: that did not happen since one of
    -- them failed last.
    asked_since INTEGER CHECK (asked_since IN (0, 1)),
    PRIMARY KEY (consumer, lane_key)
) WITHOUT ROWID;

-- Parked events that somebody gave up.
CREATE TABLE outbox_discarded (
    consumer TEXT NOT NULL REFERENCES outbox_consumer (name),
    position INTEGER NOT NULL,
    generation INTEGER NOT NULL,
    lane INTEGER NOT NULL,
    lane_key TEXT NOT NULL,
    id BLOB NOT NULL,
    aggregate_type TEXT NOT NULL,
    aggregate_id TEXT NOT NULL,
    ordering_key TEXT,
    event_type TEXT NOT NULL,
    content_type TEXT NOT NULL,
    payload BLOB,
    headers BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    unordered INTEGER NOT NULL,
    state TEXT NOT NULL,
    reason TEXT NOT NULL,
    attempts INTEGER NOT NULL,
    parked_at INTEGER NOT NULL,
    retry_at INTEGER,
    discard_reason TEXT NOT NULL,
    discarded_at INTEGER NOT NULL,
    PRIMARY KEY (consumer, position)
);

UPDATE outbox_log SET schema_version = 2;
