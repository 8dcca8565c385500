//! What touches files and processes.

pub mod files;
pub mod starter;
