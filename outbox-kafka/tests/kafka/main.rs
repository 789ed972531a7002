//! The publisher and the source against a real broker, and against librdkafka's mock of one where a broker has to fail on
//! cue.

mod conformance;
mod failing;
mod frozen;
mod group;
mod isolating;
mod lane;
mod limits;
mod publishing;
mod reading;
mod refusals;
mod support;
mod topics;
mod unreachable;
mod upheaval;
