//! BGP-4 for route reflection: messages, sessions, RIBs, reflection.

pub mod io;
pub mod policy;
pub mod settings;
pub mod types;
pub mod view;
