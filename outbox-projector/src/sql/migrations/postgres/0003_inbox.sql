CREATE TABLE {schema}.projector_inbox (
    consumer text NOT NULL,
    event_id uuid NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, event_id)
);
CREATE INDEX projector_inbox_age ON {schema}.projector_inbox (consumer, claimed_at);
COMMENT ON TABLE {schema}.projector_inbox IS
    'Events that had their side effect. A row is written in the transaction of the effect; old ones are removed.';
