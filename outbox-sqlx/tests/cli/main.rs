//! The `outbox` command, run as people run it, against real databases.

mod arguments;
mod consumers;
mod doctor;
mod events;
mod migrating;
mod parked;
mod support;
mod upkeep;
