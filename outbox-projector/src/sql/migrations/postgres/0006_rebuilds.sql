CREATE TABLE {schema}.projector_rebuild (
    read_model text PRIMARY KEY,
    holder text NOT NULL,
    held_until timestamptz NOT NULL
);
COMMENT ON TABLE {schema}.projector_rebuild IS
    'Rebuilds under way: one of a read model at a time; one that died is in nobody''s way after held_until.';
