CREATE TABLE search_dead_letters (
    number     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    projection text        NOT NULL,
    id         text        NOT NULL,
    place      text        NOT NULL,
    cause      text        NOT NULL,
    reason     text        NOT NULL,
    attempts   bigint      NOT NULL,
    given_up   timestamptz NOT NULL,
    -- the record as it came; a header is [name, text], or [name, [bytes]] where it is no text
    record_key bytea,
    payload    bytea,
    -- not jsonb, which takes no zero bytes
    headers    text        NOT NULL,
    UNIQUE (projection, id)
);
