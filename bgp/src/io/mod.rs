//! Sockets, clock and thread of the speaker. Everything that decides is pure and lives above.

mod driver;
mod handle;

pub use crate::settings::{DynamicPeers, Neighbor, Originated, Restarting, SpeakerConfig};
pub use crate::view::{BestPath, BestPaths, RouteQuery};
pub use handle::{Speaker, StartError};
