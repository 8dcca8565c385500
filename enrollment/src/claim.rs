//! Claims: which leaf owns which `/32`.

use crate::identity::LeafName;
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
    /// It was moved to another leaf.
    Moved,
    /// The owner left the fabric.
    Left,
    /// The owner had been gone for so long that it was forgotten.
    Forgotten,
    /// Another hub had given the address to another leaf before; the claim waits behind that one.
    Lost,
}

/// A move under way: until the new owner's route is there, the former owner's stays (make before break).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// Who owned it.
    pub from: LeafName,
    /// The claim that ended with the move.
    pub former: Claim,
    /// Who owns it.
    pub to: LeafName,
    /// When it ends at the latest, seconds since 1970 on the hub's clock.
    pub until: u64,
}

impl ClaimStep {
    /// Every step.
    pub const ALL: [ClaimStep; 7] = [
        ClaimStep::Added,
        ClaimStep::Released,
        ClaimStep::Revoked,
        ClaimStep::Moved,
        ClaimStep::Left,
        ClaimStep::Forgotten,
        ClaimStep::Lost,
    ];

    /// The step as it is written everywhere.
    pub const fn as_str(self) -> &'static str {
        match self {
            ClaimStep::Added => "added",
            ClaimStep::Released => "released",
            ClaimStep::Revoked => "revoked",
            ClaimStep::Moved => "moved",
            ClaimStep::Left => "left",
            ClaimStep::Forgotten => "forgotten",
            ClaimStep::Lost => "lost",
        }
    }
}
