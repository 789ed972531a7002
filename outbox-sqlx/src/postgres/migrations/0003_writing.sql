-- @schema@ is replaced by the quoted name of the log's schema: nothing here depends on search_path.
-- What writers may use beside the library.

-- Events that nothing orders: no lock, no sequence, told apart by their id.
ALTER TABLE @schema@.outbox_event ADD COLUMN unordered boolean NOT NULL DEFAULT false;

-- The longest message that the functions below accept: the limit of the library's default profile. Whoever uses another
-- limit there sets it here too.
ALTER TABLE @schema@.outbox_log ADD COLUMN message_bytes integer NOT NULL DEFAULT 1048000 CHECK (message_bytes > 0);

CREATE OR REPLACE VIEW @schema@.outbox_event_text AS
    SELECT position, lane, id, aggregate_type, aggregate_id, ordering_key, event_type, content_type,
        @schema@.outbox_text(payload) AS payload, @schema@.outbox_text(headers) AS headers, created_at, xid, unordered
    FROM @schema@.outbox_event;

-- The number of the advisory lock of an ordering key (kind 'k'), or of a lane (kind 'l', its number as one byte): the
-- first eight bytes of a SHA-256 that begins with the log's id, so that logs in one database do not wait for each other.
CREATE FUNCTION @schema@.outbox_lock_number(kind text, key bytea) RETURNS bigint
    LANGUAGE sql STABLE STRICT PARALLEL SAFE
    RETURN (
        SELECT ('x' || encode(substring(sha256(uuid_send(l.id) || convert_to(kind, 'UTF8') || key) FROM 1 FOR 8), 'hex'))
            ::bit(64)::bigint
        FROM @schema@.outbox_log AS l
    );

-- A UUID of version 7: 48 bits of milliseconds, the rest random. PostgreSQL has its own from version 18 on.
CREATE FUNCTION @schema@.outbox_uuid() RETURNS uuid
    LANGUAGE sql VOLATILE PARALLEL SAFE
    RETURN encode(
        -- Version 4 is 0100 in the upper half of byte 6, version 7 is 0111.
        set_bit(set_bit(
            overlay(uuid_send(gen_random_uuid())
                PLACING substring(int8send(floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint) FROM 3)
                FROM 1 FOR 6),
            52, 1), 53, 1),
        'hex')::uuid;

-- Makes this transaction the only writer of the log but for unordered events: for imports that append very often in one
-- transaction, where a lock for each key would fill the server's lock table. Call it before the first append.
CREATE FUNCTION @schema@.outbox_lock_lanes() RETURNS void
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        number bigint;
    BEGIN
        -- In ascending order, as every writer of several lanes.
        FOR number IN
            SELECT @schema@.outbox_lock_number('l', set_byte('\x00', 0, n))
            FROM @schema@.outbox_log AS l CROSS JOIN generate_series(0, l.lanes - 1) AS n
            ORDER BY 1
        LOOP
            PERFORM pg_advisory_xact_lock(number);
        END LOOP;
        -- Ends with the transaction, or with a savepoint that is rolled back, as the locks do.
        PERFORM set_config('outbox.locked', concat_ws(' ', current_setting('outbox.locked', true), l.id), true)
        FROM @schema@.outbox_log AS l;
    END
    $$;

-- Refuses what the library's names refuse.
CREATE FUNCTION @schema@.outbox_check_name(field text, name text) RETURNS void
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        bytes integer := octet_length(convert_to(name, 'UTF8'));
    BEGIN
        IF name IS NULL OR name = '' THEN
            RAISE EXCEPTION '% is empty', field
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give at least one character.';
        ELSIF bytes > 255 THEN
            RAISE EXCEPTION '% is % bytes long; the limit is 255', field, bytes
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Choose a shorter one; long facts belong in the payload.';
        ELSIF name ~ '[\u0001-\u001f\u007f-\u009f]' THEN
            RAISE EXCEPTION '% holds a control character', field
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Names are printable text: remove line breaks and the like.';
        END IF;
    END
    $$;

-- Headers from a JSON object of strings into the form that is stored: of each name and each value the length as four
-- bytes and the text in UTF-8.
CREATE FUNCTION @schema@.outbox_headers(headers jsonb) RETURNS bytea
    LANGUAGE plpgsql STABLE PARALLEL SAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        header record;
        bytes integer := 0;
        part bytea;
        stored bytea := '';
    BEGIN
        IF headers IS NULL OR headers = '{}' THEN
            RETURN stored;
        ELSIF jsonb_typeof(headers) <> 'object' THEN
            RAISE EXCEPTION 'headers is a JSON %', jsonb_typeof(headers)
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give an object, such as {"tenant": "a"}.';
        END IF;
        FOR header IN SELECT h.key AS name, h.value, headers ->> h.key AS text FROM jsonb_each(headers) AS h LOOP
            PERFORM @schema@.outbox_check_name('the name of a header', header.name);
            IF lower(header.name COLLATE "C") LIKE 'outbox-%' OR lower(header.name COLLATE "C") = 'content-type' THEN
                RAISE EXCEPTION 'header name % is reserved', quote_ident(header.name)
                    USING ERRCODE = 'invalid_parameter_value',
                        HINT = 'Choose one that does not begin with "outbox-" and is not "content-type".';
            ELSIF jsonb_typeof(header.value) <> 'string' THEN
                RAISE EXCEPTION 'header % is a JSON %', quote_ident(header.name), jsonb_typeof(header.value)
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'The value of a header is a string.';
            END IF;
            FOREACH part IN ARRAY ARRAY[convert_to(header.name, 'UTF8'), convert_to(header.text, 'UTF8')] LOOP
                bytes := bytes + octet_length(part);
                stored := stored || int4send(octet_length(part)) || part;
            END LOOP;
        END LOOP;
        IF bytes > 65536 THEN
            RAISE EXCEPTION 'headers are % bytes long; the limit is 65536', bytes
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Move what is long into the payload.';
        END IF;
        RETURN stored;
    END
    $$;

-- Appends one event to the caller's transaction and returns its position. Waits for the end of other transactions that
-- appended events of the same key before the position is drawn, as the library's append does.
--
-- payload: bytes, text, json or jsonb; NULL is a tombstone. headers: an object of strings. NULL means the default of each
-- parameter; of id a new UUIDv7, of created_at the clock. Errors of the caller have SQLSTATE 22023.
CREATE FUNCTION @schema@.outbox_append(
    aggregate_type text, aggregate_id text, event_type text, payload bytea, headers jsonb DEFAULT '{}',
    ordering_key text DEFAULT NULL, content_type text DEFAULT 'application/json', id uuid DEFAULT NULL,
    created_at timestamptz DEFAULT NULL, unordered boolean DEFAULT false
) RETURNS bigint
    LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
    SET search_path = pg_catalog, pg_temp
    AS $$
    #variable_conflict use_variable
    DECLARE
        log record;
        key text;
        lane smallint;
        media_type text;
        bytes bigint;
        stored_headers bytea;
        drawn bigint;
    BEGIN
        SELECT l.id, l.message_bytes INTO log FROM @schema@.outbox_log AS l;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'the log was never set up'
                USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Run the migrations of the library to the end.';
        END IF;
        content_type := coalesce(content_type, 'application/json');
        unordered := coalesce(unordered, false);
        id := coalesce(id, @schema@.outbox_uuid());
        created_at := coalesce(created_at, clock_timestamp());

        PERFORM @schema@.outbox_check_name('aggregate_type', aggregate_type);
        PERFORM @schema@.outbox_check_name('aggregate_id', aggregate_id);
        PERFORM @schema@.outbox_check_name('event_type', event_type);
        PERFORM @schema@.outbox_check_name('content_type', content_type);
        IF ordering_key IS NOT NULL THEN
            PERFORM @schema@.outbox_check_name('ordering_key', ordering_key);
            IF unordered THEN
                RAISE EXCEPTION 'ordering_key is set on an event that is declared unordered'
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Leave one of the two out.';
            END IF;
        END IF;
        IF created_at NOT BETWEEN '0001-01-01 00:00:00+00' AND '9999-12-31 23:59:59+00' THEN
            RAISE EXCEPTION 'created_at is %', created_at
                USING ERRCODE = 'invalid_parameter_value', HINT = 'Give a time of the years 1 to 9999.';
        END IF;
        stored_headers := @schema@.outbox_headers(headers);

        -- An upper bound of the message with the library's default encoder.
        bytes := 512 + octet_length(convert_to(coalesce(ordering_key, aggregate_id), 'UTF8'))
            + 7 * octet_length(convert_to(aggregate_type || aggregate_id || event_type, 'UTF8'))
            + octet_length(convert_to(coalesce(ordering_key, ''), 'UTF8'))
            + CASE WHEN content_type = 'application/json' THEN 0 ELSE octet_length(convert_to(content_type, 'UTF8')) END
            + coalesce(octet_length(payload), 4) + octet_length(stored_headers);
        IF bytes > log.message_bytes THEN
            RAISE EXCEPTION 'the message would be up to % bytes long; the limit is %', bytes, log.message_bytes
                USING ERRCODE = 'invalid_parameter_value',
                    HINT = 'Keep what is large elsewhere and refer to it, or raise message_bytes of the log.';
        END IF;

        media_type := lower(btrim(split_part(content_type, ';', 1)) COLLATE "C");
        IF payload IS NOT NULL AND (media_type = 'application/json' OR media_type LIKE '%+json') THEN
            BEGIN
                PERFORM convert_from(payload, 'UTF8')::json;
            EXCEPTION WHEN invalid_text_representation OR character_not_in_repertoire OR untranslatable_character THEN
                RAISE EXCEPTION 'payload is not valid JSON (%)', SQLERRM
                    USING ERRCODE = 'invalid_parameter_value', HINT = 'Mend it, or declare another content_type.';
            END;
        END IF;

        key := CASE WHEN unordered THEN id::text ELSE coalesce(ordering_key, aggregate_type || '/' || aggregate_id) END;
        lane := @schema@.outbox_lane(key);
        IF NOT unordered AND strpos(coalesce(current_setting('outbox.locked', true), ''), log.id::text) = 0 THEN
            PERFORM pg_advisory_xact_lock_shared(@schema@.outbox_lock_number('l', set_byte('\x00', 0, lane)));
            PERFORM pg_advisory_xact_lock(@schema@.outbox_lock_number('k', convert_to(key, 'UTF8')));
        END IF;
        INSERT INTO @schema@.outbox_event AS e (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
            content_type, payload, headers, created_at, unordered)
        VALUES (lane, id, aggregate_type, aggregate_id, ordering_key, event_type,
            content_type, payload, stored_headers, created_at, unordered)
        RETURNING e.position INTO drawn;
        RETURN drawn;
    END
    $$;

CREATE FUNCTION @schema@.outbox_append(
    aggregate_type text, aggregate_id text, event_type text, payload text, headers jsonb DEFAULT '{}',
    ordering_key text DEFAULT NULL, content_type text DEFAULT 'application/json', id uuid DEFAULT NULL,
    created_at timestamptz DEFAULT NULL, unordered boolean DEFAULT false
) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN @schema@.outbox_append(aggregate_type, aggregate_id, event_type, convert_to(payload, 'UTF8'), headers,
        ordering_key, content_type, id, created_at, unordered);

CREATE FUNCTION @schema@.outbox_append(
    aggregate_type text, aggregate_id text, event_type text, payload jsonb, headers jsonb DEFAULT '{}',
    ordering_key text DEFAULT NULL, content_type text DEFAULT 'application/json', id uuid DEFAULT NULL,
    created_at timestamptz DEFAULT NULL, unordered boolean DEFAULT false
) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN @schema@.outbox_append(aggregate_type, aggregate_id, event_type, convert_to(payload::text, 'UTF8'), headers,
        ordering_key, content_type, id, created_at, unordered);

CREATE FUNCTION @schema@.outbox_append(
    aggregate_type text, aggregate_id text, event_type text, payload json, headers jsonb DEFAULT '{}',
    ordering_key text DEFAULT NULL, content_type text DEFAULT 'application/json', id uuid DEFAULT NULL,
    created_at timestamptz DEFAULT NULL, unordered boolean DEFAULT false
) RETURNS bigint
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN @schema@.outbox_append(aggregate_type, aggregate_id, event_type, convert_to(payload::text, 'UTF8'), headers,
        ordering_key, content_type, id, created_at, unordered);

-- The channel on which processes tell each other of commits. A notification is a hint: a name that was cut and is
-- another log's too does no harm.
CREATE FUNCTION @schema@.outbox_channel() RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    RETURN left('outbox/' || btrim('@schema@', '"'), 63);

-- Wakes listeners in other processes when this transaction commits. PostgreSQL lets only one transaction of the whole
-- cluster at a time commit a notification: not for transactions that are many.
CREATE FUNCTION @schema@.outbox_notify() RETURNS void
    LANGUAGE sql VOLATILE PARALLEL UNSAFE
    RETURN pg_notify(@schema@.outbox_channel(), '');

UPDATE @schema@.outbox_log SET schema_version = 3;
