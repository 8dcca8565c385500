//! Where roaming peers were last heard, kept in a file over a restart, so that a hub whose sessions went with its
//! process can call its leaves at once (through their NAT, as long as that remembers) instead of waiting for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::state::PublicKey;
use crate::view::PeerViews;

/// The file and what it holds.
#[derive(Default)]
pub(crate) struct Memory {
    path: Option<PathBuf>,
    /// What the previous run knew; each entry is used once.
    before: BTreeMap<PublicKey, SocketAddr>,
    written: BTreeMap<PublicKey, SocketAddr>,
}

impl Memory {
    /// Reads what a previous run left; an absent or spoiled file is an empty memory.
    pub(crate) fn open(path: Option<PathBuf>) -> Memory {
        let text = path.as_ref().and_then(|path| std::fs::read(path).ok());
        let before: BTreeMap<_, _> =
            text.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        Memory { path, written: before.clone(), before }
    }

    /// Where the previous run heard this peer last.
    pub(crate) fn recall(&mut self, key: &PublicKey) -> Option<SocketAddr> {
        self.before.remove(key)
    }

    /// Writes where peers are now, if that is new. Peers not heard yet keep what is remembered of them.
    pub(crate) async fn keep(&mut self, peers: &PeerViews) {
        let Some(path) = &self.path else { return };
        let known = peers.iter().filter_map(|p| {
            let old = self.written.get(&p.public_key).copied();
            Some((p.public_key, p.endpoint.or(old)?))
        });
        let now: BTreeMap<_, _> = known.collect();
        if now == self.written {
            return;
        }
        let fresh = path.with_extension("new");
        let Ok(text) = serde_json::to_vec(&now) else { return };
        let written = async {
            tokio::fs::write(&fresh, text).await?;
            tokio::fs::rename(&fresh, path).await
        };
        match written.await {
            Ok(()) => self.written = now,
            Err(error) => tracing::warn!(%error, path = %path.display(), "peers' endpoints are not kept"),
        }
    }
}
