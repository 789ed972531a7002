-- Events that had their side effect. A row is written in the transaction of the effect; old ones are removed.
CREATE TABLE projector_inbox (
    consumer TEXT NOT NULL,
    event_id TEXT NOT NULL,
    claimed_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')),
    PRIMARY KEY (consumer, event_id)
) STRICT, WITHOUT ROWID;
CREATE INDEX projector_inbox_age ON projector_inbox (consumer, claimed_at);
