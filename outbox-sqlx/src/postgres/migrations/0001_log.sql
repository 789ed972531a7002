-- @schema@ is replaced by the quoted name of the log's schema: nothing here depends on search_path.

-- What the log is. One row, written when the log is created.
CREATE TABLE @schema@.outbox_log (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    lanes smallint NOT NULL CHECK (lanes BETWEEN 1 AND 64),
    generation integer NOT NULL DEFAULT 0 CHECK (generation BETWEEN 0 AND 65535),
    schema_version integer NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- The lane of an ordering key, or of 'aggregate_type/aggregate_id' in its absence.
CREATE FUNCTION @schema@.outbox_lane(key text) RETURNS smallint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT ((get_byte(hash, 0) * 256 + get_byte(hash, 1)) % lanes)::smallint
        FROM @schema@.outbox_log, sha256(convert_to(key, 'UTF8')) AS hash
    );

-- Appended to by writers, removed from by retention, never updated.
CREATE TABLE @schema@.outbox_event (
    -- First, so that a transaction has its id before it draws a position: readers rely on it.
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    -- Without a cache: a position drawn later is larger, whichever session draws it.
    position bigint GENERATED ALWAYS AS IDENTITY
        (SEQUENCE NAME @schema@.outbox_event_position_seq MAXVALUE 140737488355327 CACHE 1)
        CONSTRAINT outbox_event_pkey PRIMARY KEY,
    lane smallint NOT NULL CHECK (lane BETWEEN 0 AND 63),
    id uuid NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    ordering_key text,
    event_type text NOT NULL,
    content_type text NOT NULL,
    payload bytea,
    headers bytea NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL
);

-- These two indexes only: each further one costs every writer 80 to 100 bytes of WAL a row.
CREATE INDEX outbox_event_xid_position ON @schema@.outbox_event (xid, position);

CREATE TABLE @schema@.outbox_consumer (
    name text PRIMARY KEY,
    start_cursor text NOT NULL,
    epoch bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now()
);

-- One row per running relay or projection, renewed often.
CREATE TABLE @schema@.outbox_member (
    consumer text NOT NULL REFERENCES @schema@.outbox_consumer,
    member uuid NOT NULL,
    epoch bigint NOT NULL,
    expires timestamptz NOT NULL,
    PRIMARY KEY (consumer, member)
) WITH (fillfactor = 50);

-- Who owns which lane; changes on assignment only.
CREATE TABLE @schema@.outbox_lane (
    consumer text NOT NULL REFERENCES @schema@.outbox_consumer,
    lane smallint NOT NULL,
    member uuid NOT NULL,
    epoch bigint NOT NULL,
    PRIMARY KEY (consumer, lane)
);

-- Appended to; the newest row of a consumer counts. No foreign key: it would lock the consumer's row at each checkpoint,
-- and the member's row, which is locked anyway, has one.
CREATE TABLE @schema@.outbox_checkpoint (
    consumer text NOT NULL,
    id bigint GENERATED ALWAYS AS IDENTITY,
    member uuid NOT NULL,
    epoch bigint NOT NULL,
    cursor text NOT NULL,
    position bigint NOT NULL,
    written_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (consumer, id)
);

-- Bytes as text where they are text, escaped where they are not.
CREATE FUNCTION @schema@.outbox_text(bytes bytea) RETURNS text
    LANGUAGE plpgsql STABLE STRICT PARALLEL RESTRICTED
    SET search_path = pg_catalog
    AS $$
    BEGIN
        RETURN convert_from(bytes, 'UTF8');
    EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
        RETURN encode(bytes, 'escape');
    END
    $$;

-- For people.
CREATE VIEW @schema@.outbox_event_text AS
    SELECT position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type,
        @schema@.outbox_text(payload) AS payload, @schema@.outbox_text(headers) AS headers, created_at, xid
    FROM @schema@.outbox_event;
