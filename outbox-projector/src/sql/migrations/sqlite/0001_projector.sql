-- How far each projection is in each partition of its source. Moves in the transaction of the effects.
CREATE TABLE projector_position (
    projection TEXT NOT NULL,
    partition TEXT NOT NULL,
    position TEXT NOT NULL,
    updated_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (projection, partition)
) STRICT, WITHOUT ROWID;

-- The last sequence of each key that a projection has seen: what is not above it is a duplicate.
CREATE TABLE projector_watermark (
    projection TEXT NOT NULL,
    log_id TEXT NOT NULL,
    aggregate_type TEXT NOT NULL,
    ordering_key TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    PRIMARY KEY (projection, log_id, aggregate_type, ordering_key)
) STRICT, WITHOUT ROWID;

-- Events without a sequence, from writers that are not this library, by id.
CREATE TABLE projector_seen (
    projection TEXT NOT NULL,
    event_id TEXT NOT NULL,
    seen_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (projection, event_id)
) STRICT, WITHOUT ROWID;
