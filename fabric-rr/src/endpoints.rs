//! Where leaves were last seen, over a restart of the hub. A hub whose WireGuard runs in the process comes back
//! without sessions; its leaves would find out only after 15 s of silence (WireGuard's own timers). Knowing their
//! endpoints, the hub knocks first.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use dataplane::state::PublicKey;
use dataplane::view::Report;
use tokio::sync::watch;

/// Endpoints by WireGuard key.
pub type Endpoints = BTreeMap<PublicKey, SocketAddr>;

/// The RFC 863 discard port: nothing has to answer there.
const DISCARD: u16 = 9;
/// How often each leaf is knocked at, and how far apart.
const KNOCKS: (u32, Duration) = (5, Duration::from_millis(200));
/// The shortest time between two writes of the file.
const SAVE_EVERY: Duration = Duration::from_secs(1);

/// What the file has; nothing where there is none or it cannot be read (the leaves find the hub all the same).
pub fn load(file: &Path) -> Endpoints {
    match std::fs::read(file) {
        Ok(text) => serde_json::from_slice(&text).unwrap_or_else(|error| {
            tracing::warn!("{}: {error}; starting without it", file.display());
            Endpoints::new()
        }),
        Err(_) => Endpoints::new(),
    }
}

/// Writes the file whenever a leaf moved.
pub async fn remember(file: PathBuf, mut known: Endpoints, mut report: watch::Receiver<Arc<Report>>) {
    while report.changed().await.is_ok() {
        let seen: Endpoints = report
            .borrow_and_update()
            .peers
            .iter()
            .filter_map(|peer| Some((peer.public_key, peer.endpoint?)))
            .collect();
        if seen != known && !seen.is_empty() {
            match save(&file, &seen) {
                Ok(()) => known = seen,
                Err(error) => tracing::warn!("{}: {error}", file.display()),
            }
            tokio::time::sleep(SAVE_EVERY).await;
        }
    }
}

fn save(file: &Path, endpoints: &Endpoints) -> std::io::Result<()> {
    let new = file.with_extension("new");
    std::fs::write(&new, serde_json::to_vec(endpoints)?)?;
    std::fs::rename(&new, file)
}

/// Sends an empty datagram to each leaf's overlay address, so that WireGuard shakes hands with it now.
pub async fn knock(from: Ipv4Addr, leaves: Vec<Ipv4Addr>) {
    let socket = match tokio::net::UdpSocket::bind((from, 0)).await {
        Ok(socket) => socket,
        Err(error) => return tracing::warn!("knocking at the leaves: {error}"),
    };
    for _ in 0..KNOCKS.0 {
        for leaf in &leaves {
            // A leaf that cannot be reached now comes by itself.
            let _ = socket.send_to(&[], (*leaf, DISCARD)).await;
        }
        tokio::time::sleep(KNOCKS.1).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What was saved is loaded; a damaged file is as good as none.
    #[test]
    fn endpoints_survive_and_damage_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("endpoints.json");
        let known = Endpoints::from([(PublicKey([7; 32]), "203.0.113.9:51820".parse().unwrap())]);
        save(&file, &known).unwrap();
        assert_eq!(load(&file), known);
        std::fs::write(&file, "{").unwrap();
        assert_eq!(load(&file), Endpoints::new());
    }
}
