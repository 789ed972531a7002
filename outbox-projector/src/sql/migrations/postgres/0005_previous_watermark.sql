ALTER TABLE {schema}.projector_watermark ADD COLUMN previous bigint;
COMMENT ON COLUMN {schema}.projector_watermark.previous IS
    'What stood there before the last step that met the key: the statement that raises a watermark returns it.';
-- A step may meet all keys of a page: with half of it left free, new versions need no new entries in the index.
ALTER TABLE {schema}.projector_watermark SET (fillfactor = 50);
-- Compared byte by byte: the languages' rules cost time at every look into the index and say nothing about keys.
ALTER TABLE {schema}.projector_watermark
    ALTER COLUMN projection TYPE text COLLATE "C",
    ALTER COLUMN aggregate_type TYPE text COLLATE "C",
    ALTER COLUMN ordering_key TYPE text COLLATE "C";
