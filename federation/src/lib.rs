//! What a node observed, and the claims that follow from it.
//!
//! An [`event::Event`] is a fact that a node states about its own site. Facts are stored before they
//! count, a known one changes nothing, and an expired one is ignored. From the client events of a node
//! follows which clients' addresses it claims: [`claims::ClaimTable`] is that rule, pure, told the time.
//!
//! Reading order: [`event`] is the closed list of types and what an event must be; [`reason`] is why one
//! is refused; [`claims`] is up at once and down slowly; [`io`] is the owner of the store, with its
//! thread, clock and timer. [`view`] is what people and programs are shown.
//!
//! Absent here: delivery to other nodes, subscriptions and plugins. Every stored event is the node's own.

pub mod claims;
pub mod event;
pub mod io;
pub mod reason;
pub mod view;
