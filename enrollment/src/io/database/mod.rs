//! The registry in PostgreSQL, or what speaks its protocol: one log of signed entries that any number of hubs share.
//!
//! The database holds the order of all decisions; each hub folds them into its memory and its own file, as it does
//! with another hub's entries. A decision is made while the one row of `fabric_registry` is locked, on a state that
//! has every entry before it. Reading order: `address`, `tls`, `session` (the SQL), `owner` (what the registry's
//! owner does with it), `watch` (who keeps it connected and told).

pub mod address;
pub(super) mod owner;
mod session;
mod tls;
pub(super) mod watch;

pub use address::{Address, AddressError, TlsMode};
