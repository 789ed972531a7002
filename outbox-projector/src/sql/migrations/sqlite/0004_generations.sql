
-- Read models that can be rebuilt: which generation is in use, and which projections may not begin again.
CREATE TABLE projector_generation (
    read_model TEXT NOT NULL,
    generation INTEGER NOT NULL,
    projection TEXT NOT NULL UNIQUE,
    stage TEXT NOT NULL CHECK (stage IN ('building', 'live', 'retired', 'dropped')),
    changed_at TEXT NOT NULL DEFAULT CURRENT_TIMESTAMP,
    PRIMARY KEY (read_model, generation)
) STRICT, WITHOUT ROWID;
