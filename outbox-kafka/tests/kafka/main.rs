//! The publisher and the source against a real broker, and against librdkafka's mock of one where a broker has to fail on
//! cue.

mod conformance;
mod failing;
mod group;
mod publishing;
mod reading;
mod support;
mod unreachable;
