//! A rebuild, its claim to the read model, and when it swaps.

mod beginning;
mod claims;
mod near_end;
mod scene;
