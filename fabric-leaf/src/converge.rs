//! From membership and best paths to speaker and kernel: one task that wishes, and never waits for what it wished.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bgp::io::{Liveness, Neighbor, Speaker, SpeakerConfig};
use bgp::view::BestPaths;
use control::neighbors::bfd;
use dataplane::io::{Dataplane, path_mtu};
use dataplane::state::{PrivateKey, Wished};
use enrollment::identity::SigningKey;
use enrollment::topology::Admission;
use tokio::sync::watch;

use crate::leaf::{self, Underlay};
use crate::lines::LineKeys;
use crate::membership::{self, Membership};
use crate::preferred::Preferred;
use crate::remembered::{self, Remembered};
use crate::settings::Settings;
use crate::turns::Turns;

/// How often the path to the hub is measured again.
const MEASURE_EVERY: Duration = Duration::from_secs(600);

/// The numbers of wishes: one counter for the whole daemon, so that a report says which wish it answers.
#[derive(Clone)]
pub struct Wishes {
    dataplane: Dataplane,
    last: Arc<AtomicU64>,
}

impl Wishes {
    /// Wishes for this dataplane.
    pub fn new(dataplane: Dataplane) -> Wishes {
        Wishes { dataplane, last: Arc::default() }
    }

    /// Wishes, and returns the wish's number.
    pub fn wish(&self, wished: Wished) -> u64 {
        let generation = self.last.fetch_add(1, Ordering::Relaxed) + 1;
        self.dataplane.wish(generation, wished);
        generation
    }

    /// Waits until the kernel has a wish, or a later one.
    pub async fn done(&self, generation: u64, limit: Duration) -> Result<(), String> {
        let mut report = self.dataplane.report();
        let done = report.wait_for(|r| r.generation >= generation && r.converged);
        match tokio::time::timeout(limit, done).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err("the dataplane ended".into()),
            Err(_) => {
                let error = self.dataplane.report().borrow().last_error.clone();
                Err(error.unwrap_or_else(|| format!("not applied within {limit:?}")))
            }
        }
    }

    /// Compares with the kernel and judges the host now, and reports.
    pub async fn recheck(&self) -> Arc<dataplane::view::Report> {
        self.dataplane.recheck().await;
        self.dataplane.report().borrow().clone()
    }

    /// The dataplane's reports.
    pub fn report(&self) -> watch::Receiver<Arc<dataplane::view::Report>> {
        self.dataplane.report()
    }
}

/// What was wished last for an admission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Current {
    /// The number of the wish.
    pub generation: u64,
    /// The underlay that it was made for.
    pub underlay: Underlay,
    /// The generation of the best paths in it.
    pub best_paths: u64,
    /// The hub that carries the overlay.
    pub preferred: Option<Ipv4Addr>,
}

/// The task's inputs and outputs.
pub struct Converge {
    /// What the hub granted.
    pub membership: watch::Receiver<Membership>,
    /// The leaf's configuration.
    pub settings: watch::Receiver<Arc<Settings>>,
    /// The leaf's keys; there once an admission is.
    pub keys: watch::Receiver<Option<LineKeys>>,
    /// Where wishes go.
    pub wishes: Wishes,
    /// The speaker, started with the first admission.
    pub speaker: watch::Sender<Option<Speaker>>,
    /// What was wished last.
    pub current: watch::Sender<Option<Current>>,
    /// The paths in force: the speaker's, and at first the remembered ones.
    pub in_force: watch::Sender<Arc<BestPaths>>,
    /// The routes of the last session, until a hub's whole table is there.
    pub remembered: Option<Remembered>,
    /// The UDP port of WireGuard.
    pub listen_port: u16,
    /// The speaker as configured.
    pub router: config::BgpRouter,
    /// Neighbours that the configuration names beside the hubs.
    pub peers: Vec<config::Object<config::BgpPeer>>,
    /// The same as the speaker is told, with their keys.
    pub named: Vec<Neighbor>,
    /// BFD with the hubs.
    pub bfd: config::Bfd,
}

impl Converge {
    /// Runs until the daemon stops.
    pub async fn run(mut self) {
        let mut best: Option<watch::Receiver<Arc<BestPaths>>> = None;
        let mut paths_to_hubs: BTreeMap<SocketAddr, Underlay> = BTreeMap::new();
        let mut preferred = Preferred::default();
        let mut look_again = None;
        let mut turns = Turns::default();
        let mut router = None;
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        loop {
            let mut admission =
                self.membership.borrow_and_update().state.as_ref().map(|s| s.admission.clone());
            if let Some(admission) = &mut admission {
                let whole_from =
                    best.as_ref().map(|best| best.borrow().whole_from.clone()).unwrap_or_default();
                let alive = |hub: Ipv4Addr| whole_from.contains(&IpAddr::V4(hub));
                turns.take(&mut admission.topology.hubs, alive, Instant::now());
            }
            let keys = self.keys.borrow_and_update().clone();
            self.settings.mark_unchanged();
            if let (Some(admission), Some(keys)) = (admission, keys) {
                let endpoints = membership::endpoints(&admission);
                paths_to_hubs.retain(|to, _| endpoints.contains(to));
                for endpoint in endpoints {
                    if let Entry::Vacant(unmeasured) = paths_to_hubs.entry(endpoint) {
                        unmeasured.insert(measured(endpoint).await);
                    }
                }
                // An address that changed means another identity, and so another speaker.
                if router != Some((admission.overlay, admission.topology.asn)) {
                    best = self.start_speaker(&admission).await;
                    router = best.as_ref().map(|_| (admission.overlay, admission.topology.asn));
                }
                if let (Some(best), Some(underlay)) = (&mut best, narrowest(&paths_to_hubs)) {
                    let live = best.borrow_and_update().clone();
                    let membership = self.membership.borrow().clone();
                    let paths =
                        remembered::in_force(&mut self.remembered, &membership, admission.overlay, live);
                    self.in_force.send_replace(paths.clone());
                    let alive = |at: Ipv4Addr| paths.whole_from.contains(&IpAddr::V4(at));
                    let hubs = admission.topology.hubs.iter().map(|hub| (hub.overlay, alive(hub.overlay)));
                    let hubs: Vec<_> = hubs.collect();
                    let chosen = preferred.choose(&hubs, Instant::now());
                    look_again = preferred.next_look(&hubs).into_iter().chain(turns.next()).min();
                    self.apply(&admission, &keys, &paths, underlay, chosen).await;
                }
            }
            if self.membership.borrow().state.is_none()
                && let Some(former) = self.speaker.send_replace(None)
            {
                former.shutdown("the leaf leaves").await;
                (best, router, look_again) = (None, None, None);
                paths_to_hubs.clear();
                self.current.send_replace(None);
                self.remembered = None;
                self.in_force.send_replace(Arc::default());
            }
            let paths_changed = async {
                match &mut best {
                    Some(best) => best.changed().await.is_ok(),
                    None => std::future::pending().await,
                }
            };
            let forget = self.remembered.as_ref().map(|_| {
                // Never at once again: without a path to the hub there is nothing to apply them to yet.
                remembered::time_left(&self.membership.borrow()).max(Duration::from_secs(1))
            });
            tokio::select! {
                () = tokio::time::sleep(forget.unwrap_or_default()), if forget.is_some() => {}
                changed = self.membership.changed() => if changed.is_err() { return },
                changed = self.settings.changed() => if changed.is_err() { return },
                changed = self.keys.changed() => if changed.is_err() { return },
                alive = paths_changed => if !alive { best = None; router = None },
                () = tokio::time::sleep_until(look_again.unwrap_or_else(Instant::now).into()),
                    if look_again.is_some() => {}
                _ = measure.tick() => for (to, old) in &mut paths_to_hubs { *old = measured(*to).await },
            }
        }
    }

    async fn start_speaker(&self, admission: &Admission) -> Option<watch::Receiver<Arc<BestPaths>>> {
        let router_id = self.router.router_id.unwrap_or(admission.overlay);
        let mut config = SpeakerConfig::new(admission.topology.asn, router_id);
        config.cluster_id = bgp::types::ClusterId(self.router.cluster_id.unwrap_or(router_id));
        config.publish_best_paths = true;
        config.maximum_paths = self.router.maximum_paths;
        config.hold_time_secs = self.router.hold_time_secs;
        config.graceful_restart_secs = self.router.graceful_restart_secs;
        config.long_lived_stale_secs = self.router.long_lived_stale_secs;
        match Speaker::start(config, self.router.listen.clone()).await {
            Ok(speaker) => {
                for address in &self.router.bmp_stations {
                    let statistics_secs = self.router.bmp_statistics_secs;
                    let name = admission.leaf.to_string();
                    speaker.monitor(bgp::io::Station {
                        statistics_secs,
                        ..bgp::io::Station::new(*address, name)
                    });
                }
                let best = speaker.best_paths();
                let former = self.speaker.send_replace(Some(speaker));
                if let Some(former) = former {
                    former.shutdown("the leaf has a new address").await;
                }
                Some(best)
            }
            Err(error) => {
                tracing::error!("BGP: {error}");
                None
            }
        }
    }

    /// Who has BFD: the hubs as the membership says, the others as each says.
    fn liveness(&self, admission: &Admission) -> Liveness {
        let hubs = admission.topology.hubs.iter();
        // With a second hub to go to, silence must be noticed at once; with one there is nowhere to go.
        let two = admission.topology.hubs.len() > 1;
        let quick = if two && !self.bfd.enabled { config::Bfd::ON } else { self.bfd };
        let hubs = hubs.filter_map(|hub| Some((hub.name.to_string(), bfd(&quick)?)));
        let named = self.peers.iter().filter_map(|p| Some((p.name.to_string(), bfd(&p.spec.bfd)?)));
        Liveness { neighbors: hubs.chain(named).collect(), dynamic_peers: Default::default() }
    }

    async fn apply(
        &self,
        admission: &Admission,
        keys: &LineKeys,
        paths: &BestPaths,
        underlay: Underlay,
        preferred: usize,
    ) {
        let speaker = self.speaker.borrow().clone();
        if let Some(speaker) = speaker {
            let mut all = neighbors(admission, self.router.hold_time_secs);
            speaker.set_liveness(self.liveness(admission)).await;
            all.extend(self.named.iter().cloned());
            speaker.set_neighbors(all).await;
            speaker.originate(leaf::originated(admission)).await;
        }
        let key = |hub: &SigningKey| PrivateKey::from_bytes(*keys.toward(hub).wireguard_private_key());
        let capture = self.settings.borrow().capture.clone();
        let wished = leaf::wished(admission, key, self.listen_port, paths, &capture, underlay, preferred);
        let speaker = self.speaker.borrow().clone();
        if let Some(speaker) = speaker {
            speaker.set_next_hop_costs(leaf::next_hop_costs(&wished)).await;
        }
        let generation = self.wishes.wish(wished);
        let preferred = admission.topology.hubs.get(preferred).map(|hub| hub.overlay);
        let best_paths = paths.generation;
        let now = Current { generation, underlay, best_paths, preferred };
        let before = self.current.send_replace(Some(now));
        if let (Some(hub), Some(before)) = (preferred, before.and_then(|b| b.preferred))
            && hub != before
        {
            tracing::warn!(%hub, %before, "the overlay goes through the other hub now");
        }
    }
}

/// The hubs, dialled from the leaf's own overlay address. Their routes outlive their silence (fail static).
fn neighbors(admission: &Admission, hold_time_secs: u16) -> Vec<Neighbor> {
    let keep = u32::try_from(admission.topology.fail_static_secs).unwrap_or(u32::MAX);
    let dial = |hub: &enrollment::topology::HubNode| Neighbor {
        local_address: Some(IpAddr::V4(admission.overlay)),
        hold_time_secs,
        fail_static_secs: keep,
        ..Neighbor::new(hub.name.to_string(), IpAddr::V4(hub.overlay), admission.topology.asn)
    };
    admission.topology.hubs.iter().map(dial).collect()
}

/// What passes on the way to every hub: which of them carries the overlay must not change the tunnel's MTU.
fn narrowest(paths: &BTreeMap<SocketAddr, Underlay>) -> Option<Underlay> {
    let carries = |u: &&Underlay| dataplane::mtu::mtus(u.path_mtu, u.ipv6).wireguard;
    paths.values().min_by_key(carries).copied()
}

async fn measured(endpoint: SocketAddr) -> Underlay {
    let path_mtu = path_mtu(endpoint).await;
    tracing::info!(%endpoint, path_mtu, "path to the hub measured");
    Underlay { path_mtu, ipv6: endpoint.is_ipv6() }
}
