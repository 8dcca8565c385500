//! Sockets, clock and thread of the speaker. Everything that decides is pure and lives above.

mod driver;
mod farewell;
mod guard;
mod handle;
mod liveness;
mod station;
mod watch;

pub use crate::settings::{DynamicPeers, Liveness, Neighbor, Originated, Restarting, SpeakerConfig};
pub use crate::view::{BestPath, BestPaths, RouteQuery};
pub use handle::{Speaker, StartError};
pub use station::Station;
pub use watch::TableDump;
