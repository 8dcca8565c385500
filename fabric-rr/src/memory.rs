//! Which neighbours the reflector had, kept over a crash: a restarted reflector waits for them before it says that
//! its table is complete (RFC 4724 section 4.1). A dynamic peer stands in no configuration, so nothing else knows.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use bgp::io::Speaker;
use enrollment::io::private_file;
use serde::{Deserialize, Serialize};

/// How many neighbours are remembered at most: as many as the speaker can hold routes of.
const MOST: usize = 65_536;
/// The shortest time between two writes; what changes meanwhile is written together.
const PAUSE: Duration = Duration::from_millis(200);

#[derive(Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    peers: BTreeSet<IpAddr>,
}

/// The file that remembers.
pub struct Memory {
    path: PathBuf,
}

impl Memory {
    /// A memory in this file.
    pub fn at(path: PathBuf) -> Memory {
        Memory { path }
    }

    /// Whom the previous run had. An absent file is a first start; a spoiled one is said and counts as absent: the
    /// worst that follows is an End-of-RIB too early.
    pub fn recall(&self) -> BTreeSet<IpAddr> {
        let spoiled = |error: String| {
            tracing::warn!(path = %self.path.display(), error, "the former neighbours are not known");
            Content::default()
        };
        let content = match private_file::read(&self.path) {
            Ok(None) => Content::default(),
            Ok(Some(octets)) => serde_json::from_slice(&octets).unwrap_or_else(|e| spoiled(e.to_string())),
            Err(error) => spoiled(error.to_string()),
        };
        content.peers.into_iter().take(MOST).collect()
    }

    /// Writes the neighbours whenever they change, until the speaker ends. The file is replaced as a whole.
    pub async fn keep(self, speaker: Speaker) {
        let mut changes = speaker.remembered_changes();
        let mut written = None;
        loop {
            changes.borrow_and_update();
            let Some(peers) = speaker.remembered().await else { return };
            let content = Content { peers: peers.into_iter().take(MOST).collect() };
            if written.as_ref() != Some(&content) {
                self.write(&content).await;
                written = Some(content);
                tokio::time::sleep(PAUSE).await;
            }
            if changes.changed().await.is_err() {
                return;
            }
        }
    }

    async fn write(&self, content: &Content) {
        let Ok(octets) = serde_json::to_vec(content) else { return };
        let path = self.path.clone();
        let outcome = tokio::task::spawn_blocking(move || private_file::write(&path, &octets)).await;
        let error = match outcome {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        tracing::warn!(error, "the neighbours are not remembered: a restart now would not wait for them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first start knows nobody; what was written is recalled; a torn file is as good as none.
    #[tokio::test]
    async fn what_is_written_is_recalled() {
        let dir = tempfile::tempdir().unwrap();
        let memory = Memory::at(dir.path().join("bgp-peers.json"));
        assert!(memory.recall().is_empty());
        let peers: BTreeSet<IpAddr> = ["10.0.0.7".parse().unwrap(), "2001:db8::7".parse().unwrap()].into();
        memory.write(&Content { peers: peers.clone() }).await;
        assert_eq!(memory.recall(), peers);
        private_file::write(&memory.path, b"{\"peers\":[\"10.0.").unwrap();
        assert!(memory.recall().is_empty());
    }
}
