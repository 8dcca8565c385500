//! What a person's command and a daemon say to each other: where a node keeps its files ([`Paths`]), the
//! requests and answers on the administration socket ([`wire`]), and both ends of that socket
//! ([`client`], [`server`]).
//!
//! The socket is a Unix socket in the node's run directory, for root and at most one group ([`admin`]). It is the only
//! way to administer a node: the leaf-facing API of the hub (crate `enrollment`) has none of these words.
//!
//! Reading order: `paths`, `wire`, `client`, `server`. What both daemons derive alike is here too: `foyer`,
//! `names` and `resolving`,
//! `neighbors`, `speaker`, `explain`, `metrics`.

pub mod admin;
pub mod client;
pub mod daemon;
pub mod explain;
pub mod foyer;
pub mod metrics;
pub mod mine;
pub mod mrt_dump;
pub mod names;
pub mod neighbors;
pub mod paths;
pub mod resolving;
pub mod secret;
pub mod server;
pub mod speaker;
pub mod wire;

pub use client::{Client, ClientError};
pub use paths::{Node, Paths};
