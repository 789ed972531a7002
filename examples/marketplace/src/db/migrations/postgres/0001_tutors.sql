CREATE TABLE tutors (
    id                bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    slug              text        NOT NULL UNIQUE,
    full_name         text        NOT NULL,
    avatar_url        text        NOT NULL,
    headline          text        NOT NULL,
    bio               text        NOT NULL,
    subjects          jsonb       NOT NULL CHECK (jsonb_typeof(subjects) = 'array'),
    hourly_rate_minor bigint      NOT NULL CHECK (hourly_rate_minor >= 0),
    rating_hundredths bigint      NOT NULL CHECK (rating_hundredths BETWEEN 0 AND 500),
    reviews_count     bigint      NOT NULL CHECK (reviews_count >= 0),
    is_verified       boolean     NOT NULL,
    location          text        NOT NULL,
    formats           jsonb       NOT NULL CHECK (jsonb_typeof(formats) = 'array'),
    -- name, headline and bio in lower case, folded as on the other database
    folded            text        NOT NULL,
    created_at        timestamptz NOT NULL,
    updated_at        timestamptz NOT NULL
);
CREATE INDEX tutors_by_rating ON tutors (rating_hundredths DESC, id);
