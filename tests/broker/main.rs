//! From PostgreSQL to a Kafka broker that misbehaves: nothing is lost, nothing overtaken, and nobody blamed who is not at
//! fault.

mod acl;
mod cut;
mod forbidden;
mod frozen;
mod injected;
mod killed;
mod queue;
mod reading;
mod running;
mod shared;
mod shop;
mod size;
mod unknown_topic;
