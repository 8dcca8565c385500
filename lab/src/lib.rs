//! A whole fabric on one machine: the acceptance scenario in network namespaces, from the very programs that
//! are shipped.
//!
//! The pure half says what is to be and what was seen: [`layout`] (sites, nodes, addresses), [`underlay`] (what
//! `ip`, `sysctl` and `nft` are told), [`state`] (what is remembered, so that another process can take it all
//! away), [`report`] (what the programs' answers say), [`matrix`] (every pair of clients, and how it is shown),
//! [`trace`] (where a packet was last seen), [`points`], [`boundary`], [`secrets`], [`explain`] (the evidence).
//! The other half, `io`, does it: [`Lab::up`] builds, [`Lab::open`] finds a lab that another process built,
//! [`Lab::exec`], [`Lab::kill`], [`Lab::cut`] and their like work on it, [`Lab::matrix`] and [`Lab::evidence`]
//! prove it, [`Lab::down`] takes it away. [`kernel`] runs all of that inside a kernel of its own.
//!
//! Reading order: `layout`, `underlay`, `io::lab`, `io::up`, `matrix`, `io::evidence`, `io::kernel`.
//!
//! The lab never makes an interface, route or table in the machine's own namespace: veth pairs are born with
//! both ends in the lab's namespaces. Labs stand side by side by their names.

pub mod boundary;
pub mod error;
pub mod explain;
mod io;
pub mod layout;
pub mod matrix;
pub mod points;
pub mod report;
pub mod secrets;
pub mod state;
pub mod trace;
pub mod underlay;

pub use error::LabError;
pub use io::agent;
pub use io::down::DownReport;
pub use io::evidence::EvidenceReport;
pub use io::kernel;
pub use io::lab::{Lab, LabStatus, NodeStatus, ProcessStatus, STATE_BASE};
pub use io::matrix::MatrixOptions;
pub use io::run::Output;
pub use io::up::UpOptions;
pub use layout::{Hubs, LabName};
pub use matrix::Matrix;
pub use report::UpReport;
