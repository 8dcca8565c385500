//! The lab on a real kernel. Needs root and the programs that the lab runs.

mod matrix;
mod support;
mod underlay;
