CREATE TABLE search_dead_letters (
    number     INTEGER PRIMARY KEY AUTOINCREMENT,
    projection TEXT    NOT NULL,
    id         TEXT    NOT NULL,
    place      TEXT    NOT NULL,
    cause      TEXT    NOT NULL,
    reason     TEXT    NOT NULL,
    attempts   INTEGER NOT NULL,
    given_up   TEXT    NOT NULL,
    -- the record as it came; a header is [name, text], or [name, [bytes]] where it is no text
    record_key BLOB,
    payload    BLOB,
    headers    TEXT    NOT NULL CHECK (json_valid(headers)),
    UNIQUE (projection, id)
);
