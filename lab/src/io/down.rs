//! Takes a lab away, from any process and at any stage of its building.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::LabError;
use crate::io::lab::{Lab, state_dir};
use crate::io::{process, underlay};
use crate::layout::LabName;

/// What [`Lab::down`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct DownReport {
    /// Namespaces that were removed.
    pub namespaces: usize,
    /// Processes that were ended.
    pub processes: usize,
    /// Milliseconds that it took.
    pub elapsed_ms: u64,
}

impl Lab {
    /// Ends the lab's processes, then whatever else runs in its namespaces (sessions of an ended SSH server,
    /// a forgotten shell), removes the namespaces and the state directory. Whoever calls it again finds
    /// nothing to do.
    pub async fn down(name: &LabName, base: Option<&Path>) -> Result<DownReport, LabError> {
        let begin = std::time::Instant::now();
        let lab = Lab::open(name, base)?;
        let state = lab.lock().clone();
        let alive: Vec<_> =
            state.processes.iter().filter(|p| process::alive(p.pid, Some(p.started))).cloned().collect();
        process::end(&alive, Duration::from_secs(5)).await?;
        let present = state.namespaces.iter().filter(|name| underlay::exists(name)).count();
        let mut ended = alive.len();
        for namespace in &state.namespaces {
            let left = process::inside(namespace);
            ended += left.len();
            process::end(&left, Duration::from_millis(300)).await?;
        }
        underlay::remove(&state.namespaces).await?;
        let dir = state_dir(name, base);
        std::fs::remove_dir_all(&dir).map_err(LabError::io(format!("remove {}", dir.display())))?;
        // The base goes with the last lab in it; an error means that others are still there.
        if let Some(base) = dir.parent() {
            let _ = std::fs::remove_dir(base);
        }
        let elapsed_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(DownReport { namespaces: present, processes: ended, elapsed_ms })
    }
}
