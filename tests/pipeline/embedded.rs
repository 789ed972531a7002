//! No broker: a projection straight from the log, in the same SQLite file.
