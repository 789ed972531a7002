//! Figures and pictures, shared by the benches. Each of them uses a part.

pub(crate) mod chart;
pub(crate) mod cpu;
pub(crate) mod machine;
pub(crate) mod report;
pub(crate) mod table;
