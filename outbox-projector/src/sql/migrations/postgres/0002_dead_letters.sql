CREATE TABLE {schema}.projector_dead_letter (
    projection text NOT NULL,
    letter_id uuid NOT NULL,
    number bigint GENERATED ALWAYS AS IDENTITY,
    log_id uuid,
    aggregate_type text,
    ordering_key text,
    sequence bigint,
    partition text NOT NULL,
    place text NOT NULL,
    cause text NOT NULL,
    reason text NOT NULL,
    attempts bigint NOT NULL,
    given_up_at timestamptz NOT NULL,
    form text NOT NULL CHECK (form IN ('record', 'event', 'elsewhere')),
    record_key bytea,
    payload bytea,
    headers bytea,
    PRIMARY KEY (projection, letter_id)
);
CREATE UNIQUE INDEX projector_dead_letter_number ON {schema}.projector_dead_letter (projection, number);
CREATE INDEX projector_dead_letter_key ON {schema}.projector_dead_letter
    (projection, log_id, aggregate_type, ordering_key, sequence, number);
COMMENT ON TABLE {schema}.projector_dead_letter IS
    'Records that a projection gave up, until they are replayed or discarded. Whoever replays one deletes its row in the transaction of the effect.';
COMMENT ON COLUMN {schema}.projector_dead_letter.form IS
    'record: key, payload and headers as they came; event: as RawPayload writes the event; elsewhere: not kept here.';
COMMENT ON COLUMN {schema}.projector_dead_letter.headers IS
    'For each header its name and its value, each behind its length in bytes, 4 bytes big-endian.';
