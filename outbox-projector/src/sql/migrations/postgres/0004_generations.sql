
CREATE TABLE {schema}.projector_generation (
    read_model text NOT NULL,
    generation integer NOT NULL,
    projection text NOT NULL,
    stage text NOT NULL CHECK (stage IN ('building', 'live', 'retired', 'dropped')),
    changed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (read_model, generation)
);
CREATE UNIQUE INDEX projector_generation_projection ON {schema}.projector_generation (projection);
COMMENT ON TABLE {schema}.projector_generation IS
    'Read models that can be rebuilt: which generation is in use, and which projections may not begin again.';
