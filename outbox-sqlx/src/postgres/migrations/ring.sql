-- @schema@ is replaced by the quoted name of the log's schema: nothing here depends on search_path.
-- Run once, behind the migrations, when a log is created as a ring: 16 leaves instead of the plain table, each with a
-- million positions next to each other and then the 16th million behind them.
DO $ring$
DECLARE
    for_people text := pg_get_viewdef('@schema@.outbox_event_text'::regclass);
BEGIN
    DROP VIEW @schema@.outbox_event_text;
    ALTER TABLE @schema@.outbox_event RENAME TO outbox_event_plain;
    CREATE TABLE @schema@.outbox_event
        (LIKE @schema@.outbox_event_plain
            INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE INCLUDING COMPRESSION INCLUDING COMMENTS)
        PARTITION BY LIST (((position >> 20) & 15));
    DROP TABLE @schema@.outbox_event_plain;
    ALTER TABLE @schema@.outbox_event ALTER COLUMN position ADD GENERATED ALWAYS AS IDENTITY
        (SEQUENCE NAME @schema@.outbox_event_position_seq MAXVALUE 140737488355327 CACHE 1);
    FOR leaf IN 0..15 LOOP
        -- A key of the leaf and not of the whole, which would have to contain the expression; equal positions are in
        -- one leaf all the same.
        EXECUTE format(
            'CREATE TABLE @schema@.outbox_event_leaf_%s PARTITION OF @schema@.outbox_event (PRIMARY KEY (position))
                FOR VALUES IN (%s)', leaf, leaf);
    END LOOP;
    CREATE INDEX outbox_event_xid_position ON @schema@.outbox_event (xid, position);
    EXECUTE 'CREATE VIEW @schema@.outbox_event_text AS ' || for_people;
    UPDATE @schema@.outbox_retention SET ring = true;
END
$ring$;
