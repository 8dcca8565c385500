//! Everything that touches the outside: SQLite, HTTP, key and state files, the clock.

pub mod backup;
mod batch;
pub mod client;
pub mod database;
pub mod follow;
pub mod http;
pub mod hub_http;
pub mod keys;
pub mod leaf_state;
pub mod listener;
pub mod log_store;
pub mod private_file;
pub mod replica;
pub mod restore;
pub mod restored;
pub mod schema;
pub mod store;
pub mod tls_door;
