//! What people and programs are shown.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

pub use crate::event::Event as EventView;

/// A client that a node claims by its events. Times are milliseconds since 1970.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClaimedView {
    /// The client.
    pub address: Ipv4Addr,
    /// When it was observed last.
    pub observed_at: u64,
    /// When that observation ceases to hold.
    pub expires_at: u64,
    /// When the claim ends unless it is observed again.
    pub withdraw_at: u64,
    /// Whether the node captures the address for another site, which keeps it from claiming it.
    pub captured: bool,
}

/// A node's events in numbers, and what it claims by them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusView {
    /// The group.
    pub group: String,
    /// Stored events of all groups.
    pub events: u64,
    /// Events pruned by age since the start.
    pub pruned_by_age: u64,
    /// Events pruned by count since the start.
    pub pruned_by_count: u64,
    /// What the store last failed at, until it succeeds again.
    pub last_error: Option<String>,
    /// Clients that are claimed or would be if they were not captured.
    pub claimed: Vec<ClaimedView>,
}
