//! BGP-4 for route reflection: messages, sessions, RIBs, reflection.

pub mod attributes;
pub mod best_path;
pub mod egress;
pub mod io;
pub mod message;
pub mod peer;
pub mod policy;
pub mod reflect;
pub mod rib;
pub mod session;
pub mod settings;
pub mod speaker;
pub mod store;
pub mod types;
pub mod view;
