//! The load generator for BGP route reflectors.
//!
//! It drives many iBGP clients from one process against any reflector, checks every route that every client
//! receives, and measures. It shares no code with the reflector of this workspace, so that it judges it as it
//! judges any other.
//!
//! Reading order: [`wire`] (messages), [`workload`] (what is announced), [`judge`] (what must arrive), [`driver`]
//! (sessions), [`scenarios`] (what is measured), [`reflector`] (the program under test), then the commands.

pub mod compare;
pub mod driver;
pub mod egress;
pub mod flood;
pub mod judge;
pub mod measure;
pub mod namespace;
pub mod output;
pub mod paired;
pub mod process;
pub mod reflector;
pub mod restart;
pub mod scenarios;
pub mod soak;
pub mod storm;
pub mod table;
pub mod tail;
pub mod wire;
pub mod workload;
