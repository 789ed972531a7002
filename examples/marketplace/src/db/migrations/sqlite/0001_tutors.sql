CREATE TABLE tutors (
    id                INTEGER PRIMARY KEY AUTOINCREMENT,
    slug              TEXT    NOT NULL UNIQUE,
    full_name         TEXT    NOT NULL,
    avatar_url        TEXT    NOT NULL,
    headline          TEXT    NOT NULL,
    bio               TEXT    NOT NULL,
    subjects          TEXT    NOT NULL CHECK (json_valid(subjects)),
    hourly_rate_minor INTEGER NOT NULL CHECK (hourly_rate_minor >= 0),
    rating_hundredths INTEGER NOT NULL CHECK (rating_hundredths BETWEEN 0 AND 500),
    reviews_count     INTEGER NOT NULL CHECK (reviews_count >= 0),
    is_verified       BOOLEAN NOT NULL,
    location          TEXT    NOT NULL,
    formats           TEXT    NOT NULL CHECK (json_valid(formats)),
    -- name, headline and bio in lower case: SQLite folds ASCII only
    folded            TEXT    NOT NULL,
    created_at        TEXT    NOT NULL,
    updated_at        TEXT    NOT NULL
);
CREATE INDEX tutors_by_rating ON tutors (rating_hundredths DESC, id);
