//! Claims: which leaf owns which `/32`.

use serde::{Deserialize, Serialize};

/// An owned `/32`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Fences former owners: every new ownership of an address has a higher one than all before.
    pub generation: u64,
    /// Since when, seconds since 1970 on the hub's clock.
    pub since: u64,
}

/// What happened to a claim, for its history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ClaimStep {
    /// A leaf became its owner.
    Added,
    /// The owner gave it back.
    Released,
    /// The owner was revoked.
    Revoked,
}

impl ClaimStep {
    /// The step as it is written everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClaimStep::Added => "added",
            ClaimStep::Released => "released",
            ClaimStep::Revoked => "revoked",
        }
    }
}
