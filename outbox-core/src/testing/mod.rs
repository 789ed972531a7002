//! Conformance suites, one per trait, and wrappers that fail on cue.
