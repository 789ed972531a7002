//! The program as its users meet it: the real binary on a free port, over HTTP. The production shape is tested where
//! both are built in.

#![cfg(feature = "embedded")]

mod errors;
mod events;
mod letters;
mod lifecycle;
mod page;
#[cfg(feature = "production")]
mod production;
mod program;
