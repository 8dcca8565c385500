//! The part of the lab that touches the machine: programs, processes, namespaces, files and the clock.

pub mod agent;
pub mod clients;
pub mod down;
pub mod evidence;
pub mod kernel;
pub mod lab;
pub mod matrix;
pub mod process;
pub mod run;
pub mod trace;
pub mod underlay;
pub mod up;
