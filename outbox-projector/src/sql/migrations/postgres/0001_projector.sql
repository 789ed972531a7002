CREATE TABLE {schema}.projector_position (
    projection text NOT NULL,
    partition text NOT NULL,
    position text NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, partition)
);
COMMENT ON TABLE {schema}.projector_position IS
    'How far each projection is in each partition of its source. Moves in the transaction of the effects.';

CREATE TABLE {schema}.projector_watermark (
    projection text NOT NULL,
    log_id uuid NOT NULL,
    aggregate_type text NOT NULL,
    ordering_key text NOT NULL,
    sequence bigint NOT NULL,
    PRIMARY KEY (projection, log_id, aggregate_type, ordering_key)
);
COMMENT ON TABLE {schema}.projector_watermark IS
    'The last sequence of each key that a projection has seen: what is not above it is a duplicate.';

CREATE TABLE {schema}.projector_seen (
    projection text NOT NULL,
    event_id uuid NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, event_id)
);
COMMENT ON TABLE {schema}.projector_seen IS
    'Events without a sequence, from writers that are not this library, by id.';
