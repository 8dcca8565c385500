//! The one task on the hub that turns admissions, and who has a session, into peers, policies and kernel state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{Neighbor, Speaker};
use bgp::settings::PeerOptions;
use dataplane::io::Dataplane;
use dataplane::state::{PrivateKey, PublicKey};
use enrollment::registry::Admissions;
use tokio::sync::watch;

use crate::held::Held;
use crate::run::{APPLY_LIMIT, converged, dynamic_peers, liveness, wireguard_mtu};
use crate::tunnels::Tunnels;
use crate::{hub, peering};

/// The number of the wish that is in force before this task begins.
pub(crate) const FIRST_WISH: u64 = 1;
/// The shortest time between two looks at the sessions.
const PAUSE: Duration = Duration::from_millis(50);

/// The task that turns each new set of admissions into peers, policies and kernel state.
pub(crate) struct Derive {
    pub(crate) config: config::Hub,
    /// The neighbours that the configuration names.
    pub(crate) named: Vec<Neighbor>,
    /// Those of the configuration's dynamic peers, in their order.
    pub(crate) options: Vec<PeerOptions>,
    pub(crate) key: PrivateKey,
    pub(crate) port: u16,
    pub(crate) dataplane: Dataplane,
    pub(crate) speaker: Speaker,
    pub(crate) applied: watch::Sender<u64>,
}

impl Derive {
    /// Where the leaves are that have not called with their fresh keys in time, by these: the hub calls them.
    async fn endpoints(&self, late: BTreeMap<PublicKey, Vec<PublicKey>>) -> BTreeMap<PublicKey, SocketAddr> {
        self.dataplane.recheck().await;
        let report = self.dataplane.report().borrow().clone();
        let place = |old: &PublicKey| report.peers.get(old)?.endpoint;
        late.into_iter().filter_map(|(new, old)| Some((new, old.iter().find_map(place)?))).collect()
    }

    /// Leaves and the other hub, as the registry has them.
    async fn tell_speaker(&self, now: &Arc<Admissions>, policies: &mut hub::Policies) {
        let peering = peering::peering(now, self.config.router.spec.hold_time_secs);
        self.speaker
            .set_liveness(peering::watched(liveness(&self.config, !now.hubs.is_empty()), &peering))
            .await;
        let mut peers = dynamic_peers(&self.config, &self.options, Some(&policies.of(now)));
        peers.extend(peering.dialling);
        self.speaker.set_dynamic_peers(peers).await;
        self.speaker
            .set_neighbors(peering.dialled.into_iter().chain(self.named.iter().cloned()).collect())
            .await;
    }

    /// The neighbours with a session, as far as they matter: alone, a hub reaches nobody through another.
    async fn established(&self, now: &Admissions) -> BTreeSet<IpAddr> {
        match now.hubs.is_empty() {
            true => BTreeSet::new(),
            false => self.speaker.established().await.unwrap_or_default(),
        }
    }

    pub(crate) async fn run(self, mut admissions: watch::Receiver<Arc<Admissions>>) {
        let mut sessions = self.speaker.remembered_changes();
        let mut before = admissions.borrow().clone();
        let (mut policies, mut tunnels) = (hub::Policies::default(), Tunnels::default());
        let (mut wish, mut last, mut calls) = (FIRST_WISH, None, BTreeMap::new());
        let mut held = Held::default();
        loop {
            let now = admissions.borrow_and_update().clone();
            sessions.mark_unchanged();
            let established = self.established(&now).await;
            let news = last.is_none() || !Arc::ptr_eq(&before, &now);
            if news {
                held.hear(&before, &now, Instant::now());
                before = now.clone();
            }
            let late = held.let_go(&now, Instant::now());
            if news || !late.is_empty() {
                calls = if late.is_empty() { BTreeMap::new() } else { self.endpoints(late).await };
            }
            let (key, mtu) = (self.key.clone(), wireguard_mtu(&now));
            let peers = tunnels.of(&now, &calls);
            let wished = Arc::new(hub::wished(&now, peers, key, self.port, mtu, &established, &held.keys()));
            if last.as_ref() != Some(&wished) {
                wish += 1;
                last = Some(wished.clone());
                self.dataplane.wish(wish, wished);
            }
            if news {
                self.tell_speaker(&now, &mut policies).await;
            }
            if let Err(error) = converged(&self.dataplane, wish, APPLY_LIMIT).await {
                tracing::warn!("{error}");
            }
            self.applied.send_replace(now.generation);
            // Sessions of many leaves that come and go together are looked at together.
            let paused = tokio::time::sleep(if news { Duration::ZERO } else { PAUSE });
            let due = held.next();
            tokio::select! {
                changed = admissions.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now).into()), if due.is_some() => {}
                changed = async { paused.await; sessions.changed().await }, if !now.hubs.is_empty() => {
                    if changed.is_err() { return }
                }
            }
        }
    }
}
