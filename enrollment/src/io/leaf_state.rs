//! The leaf's last admission in a file, so that it boots fail static from its last good state.

use super::private_file;
use crate::reason::{ReasonCode, Refusal};
use crate::topology::Admission;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// What a leaf remembers over its own restart. It holds no private key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeafState {
    /// The hub's last answer; its hubs are where the leaf renews, its signing keys are pinned.
    pub admission: Admission,
    /// The leaf's own clock at that answer, seconds since 1970: used for elapsed time only, never for the lease.
    pub answered_at: u64,
    /// The hub said that the lease is revoked; it stays so until a new enrollment.
    #[serde(default)]
    pub revoked: bool,
}

impl LeafState {
    /// The state in the file; `None` if there is none, `state-file-failed` if it cannot be read.
    pub fn load(path: &Path) -> Result<Option<Self>, Refusal> {
        let failed = |why: String| Refusal::new(ReasonCode::StateFileFailed, why);
        let Some(bytes) = private_file::read(path).map_err(|e| failed(e.to_string()))? else {
            return Ok(None);
        };
        let state = serde_json::from_slice(&bytes);
        state.map(Some).map_err(|e| failed(format!("{} cannot be read: {e}", path.display())))
    }

    /// Replaces the file as a whole (mode 0600), durable when this returns.
    pub fn save(&self, path: &Path) -> Result<(), Refusal> {
        let bytes = crate::wire::bytes_of(self);
        private_file::write(path, &bytes)
            .map_err(|e| Refusal::new(ReasonCode::StateFileFailed, e.to_string()))
    }

    /// For how long the hub has been silent by the leaf's clock, in seconds; a clock that went back counts as zero.
    pub fn silent_secs(&self, now: u64) -> u64 {
        now.saturating_sub(self.answered_at)
    }
}
