//! The registry in PostgreSQL: the tests of the API, the attacks and a leaf's life once more on it, and what several
//! hubs on one database come to.

#![allow(clippy::duplicate_mod)] // each included file brings the common part along
#![allow(clippy::print_stdout)] // the times seen are part of what this shows

#[path = "api.rs"]
mod api;
#[path = "attacks.rs"]
mod attacks;
#[path = "life.rs"]
mod life;
#[path = "postgres/shared.rs"]
mod shared;
#[path = "postgres/tls.rs"]
mod tls;
