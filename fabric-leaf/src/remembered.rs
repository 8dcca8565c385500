//! The routes of the last session over a restart of the daemon or the machine: in force until a hub has sent its
//! whole table, and for no longer than fail static permits.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bgp::types::Prefix;
use bgp::view::{BestPath, BestPaths};
use enrollment::io::private_file;
use enrollment::topology::Admission;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::leaf;
use crate::membership::Membership;

/// The file is written at most this often.
const WRITE_EVERY: Duration = Duration::from_secs(1);

/// What is in the file: remote clients and their owners, and which leaf knew them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    /// The leaf's overlay address then; with another one it is another leaf, and these are not its routes.
    overlay: Ipv4Addr,
    /// Owner's overlay address by client.
    clients: BTreeMap<Ipv4Addr, Ipv4Addr>,
}

impl Remembered {
    /// What this admission routes to by these paths.
    fn of(admission: &Admission, paths: &BestPaths) -> Remembered {
        Remembered { overlay: admission.overlay, clients: leaf::remote_clients(admission, paths) }
    }

    /// Reads the file. One that cannot be read is as good as none: the hub's table comes anyway.
    pub fn load(path: &Path) -> Option<Remembered> {
        let bytes = match private_file::read(path) {
            Ok(bytes) => bytes?,
            Err(error) => {
                tracing::warn!("routes of the last session are not used: {error}");
                return None;
            }
        };
        let read = serde_json::from_slice(&bytes);
        read.inspect_err(|error| tracing::warn!("{}: not used: {error}", path.display())).ok()
    }

    /// `live`, completed by what is remembered for this leaf. What was learned since wins.
    fn complete(&self, overlay: Ipv4Addr, live: &BestPaths) -> BestPaths {
        let mut paths = live.clone();
        if self.overlay == overlay {
            for (&client, &owner) in &self.clients {
                let prefix = Prefix::host(IpAddr::V4(client));
                if paths.routes.get(&prefix).is_some() {
                    continue;
                }
                let path = BestPath {
                    next_hop: IpAddr::V4(owner),
                    others: Arc::new([]),
                    originator: owner,
                    communities: Arc::new([]),
                    local_pref: 0,
                    local: false,
                    stale: true,
                    from: None,
                };
                paths.routes.set(prefix, Some(path));
            }
            paths.stale = true;
        }
        paths
    }
}

/// For how long the routes of the last session may still be used, by what is known of the hub's silence.
pub fn time_left(membership: &Membership) -> Duration {
    let Some(state) = membership.state.as_ref().filter(|s| !s.revoked) else { return Duration::ZERO };
    let silent = membership.silent_secs().unwrap_or(u64::MAX);
    Duration::from_secs(state.admission.topology.fail_static_secs.saturating_sub(silent))
}

/// The paths in force: the speaker's own, completed by the remembered ones until a hub's whole table is there or
/// their time is over; then those are forgotten.
pub fn in_force(
    remembered: &mut Option<Remembered>,
    membership: &Membership,
    overlay: Ipv4Addr,
    live: Arc<BestPaths>,
) -> Arc<BestPaths> {
    if live.whole || time_left(membership).is_zero() {
        *remembered = None;
    }
    match remembered {
        Some(remembered) => Arc::new(remembered.complete(overlay, &live)),
        None => live,
    }
}

/// Keeps the file as the hub's table is; never while that table is not whole, and not beyond the membership. Runs
/// until the daemon stops.
pub async fn keep(
    file: PathBuf,
    membership: watch::Receiver<Membership>,
    mut paths: watch::Receiver<Arc<BestPaths>>,
) {
    let mut written = None;
    loop {
        let now = paths.borrow_and_update().clone();
        let admission = membership.borrow().state.as_ref().map(|s| s.admission.clone());
        if admission.is_none() {
            written = None;
            remove(&file);
        }
        if let Some(admission) = admission.filter(|_| now.whole && !now.stale) {
            let known = Remembered::of(&admission, &now);
            if written.as_ref() != Some(&known) {
                write(&file, &known).await;
                written = Some(known);
                tokio::time::sleep(WRITE_EVERY).await;
            }
        }
        if paths.changed().await.is_err() {
            return;
        }
    }
}

/// A leaf that has left, or never joined, remembers nothing.
fn remove(file: &Path) {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            tracing::warn!("{}: {error}", file.display());
        }
        _ => {}
    }
}

async fn write(file: &Path, known: &Remembered) {
    let path = file.to_owned();
    let done = match serde_json::to_vec(known) {
        Ok(bytes) => tokio::task::spawn_blocking(move || private_file::write(&path, &bytes)).await,
        Err(error) => return tracing::warn!("routes are not remembered: {error}"),
    };
    match done {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("routes are not remembered: {error}"),
        Err(error) => tracing::warn!("routes are not remembered: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaf::tests::admission;
    use enrollment::io::leaf_state::LeafState;
    use std::time::Instant;

    const OVERLAY: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 2);
    const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 82, 10, 20);
    const OWNER: Ipv4Addr = Ipv4Addr::new(10, 255, 0, 3);

    fn remembered() -> Option<Remembered> {
        Some(Remembered { overlay: OVERLAY, clients: [(CLIENT, OWNER)].into() })
    }

    /// A leaf whose hub has been silent for so long.
    fn silent(secs: u64, revoked: bool) -> Membership {
        let answered_at = crate::membership::unix_now() - secs;
        let state = LeafState { admission: admission(&[]), answered_at, revoked };
        Membership { state: Some(Arc::new(state)), ..Membership::default() }
    }

    fn clients(paths: &BestPaths) -> BTreeMap<Ipv4Addr, Ipv4Addr> {
        leaf::remote_clients(&admission(&[]), paths)
    }

    /// Used from the start, overruled by what is learned, gone with the whole table, for ever.
    #[test]
    fn used_until_the_whole_table_is_there() {
        let (mut kept, membership) = (remembered(), silent(60, false));
        let nothing = Arc::new(BestPaths::default());
        let first = in_force(&mut kept, &membership, OVERLAY, nothing.clone());
        assert_eq!(clients(&first), [(CLIENT, OWNER)].into());
        assert!(first.stale && first.routes.values().all(|path| path.stale));

        let moved = Ipv4Addr::new(10, 255, 0, 9);
        let other = Remembered { overlay: OVERLAY, clients: [(CLIENT, moved)].into() };
        let learned = Arc::new(other.complete(OVERLAY, &nothing));
        let second = in_force(&mut kept, &membership, OVERLAY, learned);
        assert_eq!(clients(&second), [(CLIENT, moved)].into());

        let whole = Arc::new(BestPaths { whole: true, ..BestPaths::default() });
        assert!(clients(&in_force(&mut kept, &membership, OVERLAY, whole)).is_empty());
        assert!(clients(&in_force(&mut kept, &membership, OVERLAY, nothing)).is_empty());
    }

    /// Not after fail static has run out, not when revoked, not as another leaf.
    #[test]
    fn not_used_by_whom_they_do_not_belong_to() {
        let nothing = Arc::new(BestPaths::default());
        let other = Ipv4Addr::new(10, 255, 0, 7);
        for (membership, overlay) in [
            (silent(43_201, false), OVERLAY),
            (silent(1, true), OVERLAY),
            (silent(1, false), other),
            (Membership { answered: Some(Instant::now()), ..Membership::default() }, OVERLAY),
        ] {
            assert!(clients(&in_force(&mut remembered(), &membership, overlay, nothing.clone())).is_empty());
        }
    }

    /// What was written is read; what is no such file is not used.
    #[tokio::test]
    async fn the_file_is_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("routes.json");
        assert_eq!(Remembered::load(&file), None);
        write(&file, &remembered().unwrap()).await;
        assert_eq!(Remembered::load(&file), remembered());
        private_file::write(&file, b"{").unwrap();
        assert_eq!(Remembered::load(&file), None);
    }
}
