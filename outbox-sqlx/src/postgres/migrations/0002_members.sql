-- @schema@ is replaced by the quoted name of the log's schema: nothing here depends on search_path.
-- Members own lanes; parking; generations.

-- Which positions are of which generation: the newest row that begins at or before a position is that of it.
CREATE TABLE @schema@.outbox_generation (
    generation integer PRIMARY KEY CHECK (generation BETWEEN 0 AND 65535),
    from_position bigint NOT NULL CHECK (from_position > 0)
);

INSERT INTO @schema@.outbox_generation (generation, from_position) VALUES (0, 1);

-- The highest epoch of the consumers that were dropped: one registered again goes on behind it.
ALTER TABLE @schema@.outbox_log ADD COLUMN dropped_epoch bigint NOT NULL DEFAULT 0;

ALTER TABLE @schema@.outbox_consumer ADD COLUMN paused boolean NOT NULL DEFAULT false;

-- Members were owners of all lanes until now. They are fenced, and every lane stays where it was.
DELETE FROM @schema@.outbox_member;
ALTER TABLE @schema@.outbox_member
    -- Bit n is lane n, of lane 63 the sign.
    ADD COLUMN lanes bigint NOT NULL DEFAULT 0,
    ADD COLUMN claim_all boolean NOT NULL DEFAULT false,
    ADD COLUMN joined_at timestamptz NOT NULL DEFAULT clock_timestamp();

-- The place of a lane that nobody owns; without a row it is the consumer's start_cursor. That of a lane which is owned
-- is in the newest checkpoint of its owner.
DROP TABLE @schema@.outbox_lane;
CREATE TABLE @schema@.outbox_lane (
    consumer text NOT NULL,
    lane smallint NOT NULL CHECK (lane BETWEEN 0 AND 63),
    cursor text NOT NULL,
    PRIMARY KEY (consumer, lane)
);

INSERT INTO @schema@.outbox_lane (consumer, lane, cursor)
    SELECT c.consumer, lane, c.cursor
    FROM (
        SELECT DISTINCT ON (consumer) consumer, cursor
        FROM @schema@.outbox_checkpoint ORDER BY consumer, id DESC
    ) AS c
    CROSS JOIN @schema@.outbox_log AS l
    CROSS JOIN generate_series(0, l.lanes - 1) AS lane;

-- Numbered within each membership, so that the newest and the one 10,000 before it are found without a search. `id` is
-- the order in which they were written.
ALTER TABLE @schema@.outbox_checkpoint
    ADD COLUMN nth bigint,
    -- All lanes that the row is about.
    ADD COLUMN lanes bigint NOT NULL DEFAULT -1,
    -- Those that are elsewhere than at `cursor`: [{"lanes": "<unsigned mask>", "cursor": "<text>"}], or NULL. Where a lane
    -- is in two of them the first one counts.
    ADD COLUMN behind jsonb;
UPDATE @schema@.outbox_checkpoint AS c SET nth = n.nth
    FROM (
        SELECT consumer, id, row_number() OVER (PARTITION BY consumer, epoch ORDER BY id) AS nth
        FROM @schema@.outbox_checkpoint
    ) AS n
    WHERE c.consumer = n.consumer AND c.id = n.id;
ALTER TABLE @schema@.outbox_checkpoint
    ALTER COLUMN nth SET NOT NULL,
    ALTER COLUMN lanes DROP DEFAULT,
    -- NULL: not progress, but where the lanes stood when the member got them.
    ALTER COLUMN written_at DROP NOT NULL,
    DROP CONSTRAINT outbox_checkpoint_pkey,
    ADD PRIMARY KEY (consumer, epoch, nth);

-- Copies of events that were set aside, so that retention need not wait for them. No foreign keys here and below: they
-- would lock the consumer's row, and the member's row, which is locked anyway, has one.
CREATE TABLE @schema@.outbox_parked (
    consumer text NOT NULL,
    position bigint NOT NULL,
    generation integer NOT NULL,
    lane smallint NOT NULL,
    lane_key text NOT NULL,
    id uuid NOT NULL,
    aggregate_type text NOT NULL,
    aggregate_id text NOT NULL,
    ordering_key text,
    event_type text NOT NULL,
    content_type text NOT NULL,
    payload bytea,
    headers bytea NOT NULL,
    created_at timestamptz NOT NULL,
    unordered boolean NOT NULL,
    state text NOT NULL CHECK (state IN ('retrying', 'parked', 'behind')),
    reason text NOT NULL,
    attempts bigint NOT NULL,
    parked_at timestamptz NOT NULL,
    retry_at timestamptz,
    PRIMARY KEY (consumer, position)
);
CREATE INDEX outbox_parked_key ON @schema@.outbox_parked (consumer, lane_key, position);
CREATE INDEX outbox_parked_retry ON @schema@.outbox_parked (consumer, retry_at) WHERE retry_at IS NOT NULL;

-- Exactly the keys that have a parked event. Whoever parks behind, redrives or discards an event of a key writes to its
-- row here first, so that they go one after the other.
CREATE TABLE @schema@.outbox_blocked (
    consumer text NOT NULL,
    lane_key text NOT NULL,
    lane smallint NOT NULL,
    -- Since when its events are to be published again, whatever their own times say.
    requested_at timestamptz,
    -- Whether somebody asked since its events were given out to be published again; NULL: that did not happen since one of
    -- them failed last.
    asked_since boolean,
    PRIMARY KEY (consumer, lane_key)
) WITH (fillfactor = 80);
CREATE INDEX outbox_blocked_requested ON @schema@.outbox_blocked (consumer, requested_at) WHERE requested_at IS NOT NULL;

-- Parked events that somebody gave up.
CREATE TABLE @schema@.outbox_discarded (
    LIKE @schema@.outbox_parked,
    discard_reason text NOT NULL,
    discarded_at timestamptz NOT NULL,
    PRIMARY KEY (consumer, position)
);

-- What follows is called as one statement of its own, never inside an open transaction: a process that is stopped in
-- the middle holds no lock. A function, because in READ COMMITTED each statement in it sees what was committed while the
-- one before it waited; at other levels the second of two at one key fails and may be tried again.

-- Whether a set of lanes, as it stands in `behind`, has a lane.
CREATE FUNCTION @schema@.outbox_has_lane(mask text, lane integer) RETURNS boolean
    LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
    RETURN mod(div(mask::numeric, 2::numeric ^ lane), 2) = 1;

-- Keeps the places of lanes whose owner gave them up or was expelled.
CREATE FUNCTION @schema@.outbox_keep_places(of_consumer text, of_epoch bigint, of_lanes bigint) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    INSERT INTO @schema@.outbox_lane (consumer, lane, cursor)
    SELECT of_consumer, n, coalesce(b.cursor, c.cursor)
    FROM (
        SELECT cursor, lanes, behind FROM @schema@.outbox_checkpoint
        WHERE consumer = of_consumer AND epoch = of_epoch ORDER BY nth DESC LIMIT 1
    ) AS c
    JOIN generate_series(0, 63) AS n ON (of_lanes & c.lanes) >> n & 1 = 1
    LEFT JOIN LATERAL (
        SELECT j.track ->> 'cursor' AS cursor FROM jsonb_array_elements(c.behind) WITH ORDINALITY AS j (track, nth)
        WHERE @schema@.outbox_has_lane(j.track ->> 'lanes', n) ORDER BY j.nth LIMIT 1
    ) AS b ON true
    ON CONFLICT (consumer, lane) DO UPDATE SET cursor = excluded.cursor
    $$;

-- Ends a membership. False: it was over.
CREATE FUNCTION @schema@.outbox_leave(of_consumer text, of_member uuid, of_epoch bigint) RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        freed bigint;
    BEGIN
        DELETE FROM @schema@.outbox_member
            WHERE consumer = of_consumer AND member = of_member AND epoch = of_epoch RETURNING lanes INTO freed;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        PERFORM @schema@.outbox_keep_places(of_consumer, of_epoch, freed);
        RETURN true;
    END
    $$;

-- Sets events aside. NULL: fenced. Else of each event 1: parked; 0: its key is not blocked; -1: the log has no such
-- event, and nothing was done.
CREATE FUNCTION @schema@.outbox_park(
    of_consumer text, of_member uuid, of_epoch bigint, of_lanes bigint,
    positions bigint[], generations integer[], lanes smallint[], states text[], reasons text[], tries bigint[],
    waits double precision[]
) RETURNS smallint[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        moment timestamptz := clock_timestamp();
        keys text[];
        known boolean[];
        aside boolean[];
    BEGIN
        PERFORM 1 FROM @schema@.outbox_member AS m
            WHERE m.consumer = of_consumer AND m.member = of_member AND m.epoch = of_epoch
                AND m.lanes & of_lanes = of_lanes
            FOR SHARE;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;

        SELECT array_agg(key ORDER BY n), array_agg(aside_before ORDER BY n) INTO keys, known
            FROM (
                SELECT a.n, p.position IS NOT NULL OR d.position IS NOT NULL AS aside_before,
                    coalesce(p.lane_key, d.lane_key, CASE WHEN e.unordered THEN e.id::text
                        ELSE coalesce(e.ordering_key, e.aggregate_type || '/' || e.aggregate_id) END) AS key
                FROM unnest(positions, generations, lanes) WITH ORDINALITY AS a (position, generation, lane, n)
                LEFT JOIN @schema@.outbox_parked AS p ON p.consumer = of_consumer AND p.position = a.position
                    AND p.generation = a.generation AND p.lane = a.lane
                LEFT JOIN @schema@.outbox_discarded AS d ON d.consumer = of_consumer AND d.position = a.position
                    AND d.generation = a.generation AND d.lane = a.lane
                LEFT JOIN @schema@.outbox_event AS e ON e.position = a.position AND e.lane = a.lane
                    AND a.generation = (
                        SELECT max(g.generation) FROM @schema@.outbox_generation AS g
                        WHERE g.from_position <= a.position
                    )
            ) AS found;
        IF array_position(keys, NULL) IS NOT NULL THEN
            RETURN (SELECT array_agg(CASE WHEN key IS NULL THEN -1 ELSE 0 END ORDER BY n)
                FROM unnest(keys) WITH ORDINALITY AS k (key, n));
        END IF;

        PERFORM @schema@.outbox_take_turn(of_consumer, keys);
        -- As if they came one after the other: one that fails blocks its key for those behind it in the list. Looked at
        -- anew: who had the turn before may have redriven or discarded what was parked, which fails no more, and there is
        -- nothing left to do for it.
        SELECT coalesce(array_agg(a.known OR a.gone OR coalesce(a.first_failure <= a.n, false) OR EXISTS (
                SELECT FROM @schema@.outbox_blocked AS b WHERE b.consumer = of_consumer AND b.lane_key = a.key
            ) ORDER BY a.n), '{}')
            INTO aside
            FROM (
                SELECT f.n, f.key, f.known, d.position IS NOT NULL AS gone,
                    min(f.n) FILTER (
                        WHERE f.state <> 'behind' AND (p.position IS NOT NULL OR NOT f.known AND d.position IS NULL)
                    ) OVER (PARTITION BY f.key) AS first_failure
                FROM unnest(positions, states, keys, known) WITH ORDINALITY AS f (position, state, key, known, n)
                LEFT JOIN @schema@.outbox_parked AS p ON p.consumer = of_consumer AND p.position = f.position
                LEFT JOIN @schema@.outbox_discarded AS d ON d.consumer = of_consumer AND d.position = f.position
            ) AS a;
        UPDATE @schema@.outbox_parked AS p
            SET state = a.state, reason = a.reason, attempts = a.attempts,
                retry_at = moment + make_interval(secs => a.wait)
            FROM (
                SELECT DISTINCT ON (position) * FROM unnest(positions, states, reasons, tries, waits) WITH ORDINALITY
                    AS a (position, state, reason, attempts, wait, n)
                WHERE state <> 'behind' ORDER BY position, n DESC
            ) AS a
            WHERE p.consumer = of_consumer AND p.position = a.position;
        INSERT INTO @schema@.outbox_parked (consumer, position, generation, lane, lane_key, id, aggregate_type,
                aggregate_id, ordering_key, event_type, content_type, payload, headers, created_at, unordered, state,
                reason, attempts, parked_at, retry_at)
            SELECT of_consumer, a.position, a.generation, e.lane, a.key, e.id, e.aggregate_type,
                e.aggregate_id, e.ordering_key, e.event_type, e.content_type, e.payload, e.headers, e.created_at,
                e.unordered, a.state, a.reason, a.attempts, moment, moment + make_interval(secs => a.wait)
            FROM unnest(positions, generations, states, reasons, tries, waits, keys, aside, known) WITH ORDINALITY
                AS a (position, generation, state, reason, attempts, wait, key, aside, known, n)
            JOIN @schema@.outbox_event AS e ON e.position = a.position
            WHERE a.aside AND NOT a.known AND NOT EXISTS (
                SELECT FROM @schema@.outbox_discarded AS d WHERE d.consumer = of_consumer AND d.position = a.position
            )
            ORDER BY a.state = 'behind', a.n DESC
            ON CONFLICT (consumer, position) DO NOTHING;
        -- Not of all that failed: an operator may have discarded one.
        -- The attempt that failed was asked for, but for what was asked since it began.
        INSERT INTO @schema@.outbox_blocked AS b (consumer, lane_key, lane)
            SELECT DISTINCT of_consumer, p.lane_key, p.lane FROM @schema@.outbox_parked AS p
            WHERE p.consumer = of_consumer AND p.position IN (
                SELECT a.position FROM unnest(positions, states) AS a (position, state) WHERE a.state <> 'behind')
            ORDER BY p.lane_key
            ON CONFLICT (consumer, lane_key) DO UPDATE SET
                requested_at = CASE WHEN b.asked_since IS NOT FALSE THEN b.requested_at END, asked_since = NULL;
        INSERT INTO @schema@.outbox_blocked (consumer, lane_key, lane)
            SELECT DISTINCT of_consumer, p.lane_key, p.lane FROM @schema@.outbox_parked AS p
            WHERE p.consumer = of_consumer AND p.lane_key = ANY (keys) ORDER BY p.lane_key
            ON CONFLICT (consumer, lane_key) DO NOTHING;
        PERFORM @schema@.outbox_unblock(of_consumer, keys);
        RETURN (SELECT coalesce(array_agg(a.aside::integer ORDER BY a.n), '{}')
            FROM unnest(aside) WITH ORDINALITY AS a (aside, n));
    END
    $$;

-- Waits for everybody else who is at one of these keys.
CREATE FUNCTION @schema@.outbox_take_turn(of_consumer text, keys text[]) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    -- In one order, against deadlocks.
    SELECT 1 FROM @schema@.outbox_blocked WHERE consumer = of_consumer AND lane_key = ANY (keys)
        ORDER BY lane_key FOR UPDATE;
    -- Changes nothing, but lets whoever has an older snapshot fail.
    UPDATE @schema@.outbox_blocked SET requested_at = requested_at
        WHERE consumer = of_consumer AND lane_key = ANY (keys)
    $$;

-- Frees the keys of which nothing is parked any more. What is left of the others and never failed itself is due at once.
CREATE FUNCTION @schema@.outbox_unblock(of_consumer text, keys text[]) RETURNS void
    LANGUAGE sql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DELETE FROM @schema@.outbox_blocked AS b
        WHERE b.consumer = of_consumer AND b.lane_key = ANY (keys) AND NOT EXISTS (
            SELECT FROM @schema@.outbox_parked AS p WHERE p.consumer = of_consumer AND p.lane_key = b.lane_key);
    UPDATE @schema@.outbox_blocked AS b SET requested_at = clock_timestamp()
        WHERE b.consumer = of_consumer AND b.lane_key = ANY (keys) AND b.requested_at IS NULL AND (
            SELECT p.state FROM @schema@.outbox_parked AS p
            WHERE p.consumer = of_consumer AND p.lane_key = b.lane_key ORDER BY p.position LIMIT 1) = 'behind'
    $$;

-- Parked events were published. NULL: fenced. Else of each event whether its key is free.
CREATE FUNCTION @schema@.outbox_redriven(
    of_consumer text, of_member uuid, of_epoch bigint, of_lanes bigint,
    positions bigint[], generations integer[], keys text[]
) RETURNS boolean[]
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    BEGIN
        PERFORM 1 FROM @schema@.outbox_member AS m
            WHERE m.consumer = of_consumer AND m.member = of_member AND m.epoch = of_epoch
                AND m.lanes & of_lanes = of_lanes
            FOR SHARE;
        IF NOT FOUND THEN
            RETURN NULL;
        END IF;
        PERFORM @schema@.outbox_take_turn(of_consumer, keys);
        DELETE FROM @schema@.outbox_parked AS p USING unnest(positions, generations, keys) AS a (position, generation, key)
            WHERE p.consumer = of_consumer AND p.position = a.position AND p.generation = a.generation
                AND p.lane_key = a.key AND of_lanes >> p.lane & 1 = 1;
        PERFORM @schema@.outbox_unblock(of_consumer, keys);
        RETURN (
            SELECT coalesce(array_agg(NOT EXISTS (
                    SELECT FROM @schema@.outbox_blocked AS b WHERE b.consumer = of_consumer AND b.lane_key = k.key
                ) ORDER BY n), '{}')
            FROM unnest(keys) WITH ORDINALITY AS k (key, n)
        );
    END
    $$;

-- Gives a parked event up. False: it was not parked.
CREATE FUNCTION @schema@.outbox_discard(of_consumer text, of_position bigint, of_generation integer, why text)
RETURNS boolean
    LANGUAGE plpgsql VOLATILE
    SET search_path = pg_catalog, pg_temp
    AS $$
    DECLARE
        key text;
    BEGIN
        SELECT p.lane_key INTO key FROM @schema@.outbox_parked AS p
            WHERE p.consumer = of_consumer AND p.position = of_position AND p.generation = of_generation;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        PERFORM @schema@.outbox_take_turn(of_consumer, ARRAY[key]);
        WITH gone AS (
            DELETE FROM @schema@.outbox_parked AS p
            WHERE p.consumer = of_consumer AND p.position = of_position AND p.generation = of_generation
            RETURNING p.*
        )
        INSERT INTO @schema@.outbox_discarded AS d
            SELECT gone.*, why, clock_timestamp() FROM gone
            ON CONFLICT (consumer, position) DO UPDATE SET state = excluded.state, reason = excluded.reason,
                attempts = excluded.attempts, parked_at = excluded.parked_at, retry_at = excluded.retry_at,
                discard_reason = excluded.discard_reason, discarded_at = excluded.discarded_at;
        IF NOT FOUND THEN
            RETURN false;
        END IF;
        PERFORM @schema@.outbox_unblock(of_consumer, ARRAY[key]);
        RETURN true;
    END
    $$;

UPDATE @schema@.outbox_log SET schema_version = 2;
