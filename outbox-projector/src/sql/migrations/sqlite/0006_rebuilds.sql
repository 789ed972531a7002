-- Rebuilds under way: one of a read model at a time; one that died is in nobody's way after held_until.
CREATE TABLE projector_rebuild (
    read_model TEXT NOT NULL PRIMARY KEY,
    holder TEXT NOT NULL,
    held_until INTEGER NOT NULL -- milliseconds since 1970
) STRICT, WITHOUT ROWID;
