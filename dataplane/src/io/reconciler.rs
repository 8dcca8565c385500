//! The task that owns the dataplane: it hears wishes, compares, applies, repairs and reports.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use rtnetlink::MulticastGroup;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use crate::io::host::{self, Host, Observation};
use crate::io::memory::Memory;
use crate::io::userspace::{PeerStatus, Statuses};
use crate::io::{Choice, StartError, announce, facts, path_mtu};
use crate::plan::{self, Agreed};
use crate::preflight;
use crate::state::{Line, Peers, PublicKey, State, WireguardPeer, Wished};
use crate::view::{CaptureView, PeerViews, RejectedRouteView, Report, RouteView, WireguardPeerView};
use crate::walk::differing;

/// How often counters of peers are read.
pub(crate) const REFRESH: Duration = Duration::from_secs(1);
/// Every how many refreshes everything is compared and repaired.
const REPAIR_EVERY: u32 = 5;
/// How long changes of the host are gathered before they are looked at.
const SETTLE: Duration = Duration::from_millis(200);
/// How often the kernel is asked whether a peer has called with its fresh key, while one is awaited: before the packets
/// that follow the call are there, one round trip after it.
const LOOK: Duration = Duration::from_millis(1);
/// How often path MTUs are measured.
const MEASURE: Duration = Duration::from_secs(60);
/// Passes of plan and apply for one wish; a second one catches what the first one's side effects undid.
const PASSES: usize = 3;

type Wish = Option<(u64, Arc<Wished>)>;

enum Command {
    /// Compare, repair and look at the host now; answer when the report says so.
    Recheck(oneshot::Sender<()>),
    /// Take everything away and stop.
    Remove(oneshot::Sender<()>),
}

/// A handle on the dataplane; clones share one reconciler. When the last one is dropped the reconciler stops and
/// leaves the kernel as it is: interfaces, routes and filters of the kernel carrier go on working.
#[derive(Clone)]
pub struct Dataplane {
    wishes: Arc<watch::Sender<Wish>>,
    commands: mpsc::Sender<Command>,
    report: watch::Receiver<Arc<Report>>,
}

impl Dataplane {
    /// Starts the reconciler on the current runtime, in the network namespace of the calling thread. Nothing is
    /// changed before the first wish; what a previous run left is then compared and repaired, not rebuilt.
    pub async fn start(choice: Choice) -> Result<Dataplane, StartError> {
        Dataplane::start_remembering(choice, None).await
    }

    /// As [`Dataplane::start`]; where roaming peers are is kept in the file `memory` over a restart, so that a hub
    /// calls its leaves at once. The file holds public keys and addresses.
    pub async fn start_remembering(choice: Choice, memory: Option<PathBuf>) -> Result<Dataplane, StartError> {
        let (host, why) = Host::open(choice).await?;
        tracing::info!(dataplane = %host.carrier(), why, "dataplane started");
        let (wishes, wished) = watch::channel(None);
        let (commands, heard) = mpsc::channel(8);
        let first = Report { dataplane: host.carrier(), why, ..Report::default() };
        let (tell, report) = watch::channel(Arc::new(first.clone()));
        let (measured, measurements) = mpsc::channel(8);
        let reconciler = Reconciler {
            host,
            report: first,
            tell,
            measured,
            known: None,
            next_measure: Instant::now(),
            compiled: false,
            memory: Memory::open(memory),
            agreed: Agreed::default(),
            described: Described::default(),
        };
        let disturbed = watch_kernel();
        tokio::spawn(reconciler.run(wished, heard, measurements, disturbed));
        Ok(Dataplane { wishes: Arc::new(wishes), commands, report })
    }

    /// Wishes `wished`; the latest wish wins and is kept in force until the next one.
    pub fn wish(&self, generation: u64, wished: impl Into<Arc<Wished>>) {
        self.wishes.send_replace(Some((generation, wished.into())));
    }

    /// What was last seen and done.
    pub fn report(&self) -> watch::Receiver<Arc<Report>> {
        self.report.clone()
    }

    /// Waits until `generation`, or a later one, is in force or has failed; gives the report of that moment.
    pub async fn applied(&self, generation: u64) -> Arc<Report> {
        let mut report = self.report.clone();
        let reached = report.wait_for(|r| r.generation >= generation).await;
        match reached {
            Ok(found) => found.clone(),
            Err(_) => self.report.borrow().clone(),
        }
    }

    /// Compares, repairs and judges the host now instead of at the next round; returns when the report says so.
    pub async fn recheck(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Recheck(done)).await.is_ok() {
            let _ = wait.await;
        }
    }

    /// Takes everything of ours away and stops; returns when it is gone. Later wishes are not heard.
    pub async fn remove(&self) {
        let (done, wait) = oneshot::channel();
        if self.commands.send(Command::Remove(done)).await.is_ok() {
            let _ = wait.await;
        }
    }
}

/// A notice whenever links, addresses or routes of the host change.
fn watch_kernel() -> Arc<Notify> {
    let notify = Arc::new(Notify::new());
    let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv4Route];
    match rtnetlink::new_multicast_connection(&groups) {
        Ok((connection, _, mut messages)) => {
            tokio::spawn(connection);
            let notify = Arc::downgrade(&notify);
            tokio::spawn(async move {
                while messages.next().await.is_some() {
                    match notify.upgrade() {
                        Some(notify) => notify.notify_one(),
                        None => break,
                    }
                }
            });
        }
        // The periodic repair finds changes too, only later.
        Err(error) => tracing::warn!(%error, "changes of the host are seen every 5 s only"),
    }
    notify
}

struct Reconciler {
    host: Host,
    report: Report,
    tell: watch::Sender<Arc<Report>>,
    measured: mpsc::Sender<BTreeMap<SocketAddr, u16>>,
    known: Wish,
    next_measure: Instant,
    /// Whether the packet path has a table at all.
    compiled: bool,
    memory: Memory,
    agreed: Agreed,
    described: Described,
}

/// What the report's peers were made from.
#[derive(Default)]
struct Described {
    lines: [Peers; Line::BOTH.len()],
    statuses: Statuses,
}

impl Reconciler {
    async fn run(
        mut self,
        mut wishes: watch::Receiver<Wish>,
        mut commands: mpsc::Receiver<Command>,
        mut measurements: mpsc::Receiver<BTreeMap<SocketAddr, u16>>,
        disturbed: Arc<Notify>,
    ) {
        let mut tick = tokio::time::interval(REFRESH);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ticks = 0u32;
        let mut settled = None;
        let mut pause = LOOK;
        loop {
            tokio::select! {
                biased;
                command = commands.recv() => match command {
                    Some(Command::Recheck(done)) => {
                        self.reconcile(true).await;
                        let _ = done.send(());
                    }
                    Some(Command::Remove(done)) => {
                        self.remove().await;
                        let _ = done.send(());
                        return;
                    }
                    None => return,
                },
                changed = wishes.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    let first = self.known.is_none();
                    self.known = wishes.borrow_and_update().clone();
                    if first && let Err(error) = self.host.remove_strays().await {
                        tracing::warn!(%error, "interfaces of an earlier run stay");
                    }
                    self.reconcile(false).await;
                    self.measure();
                    if first {
                        self.judge().await;
                    }
                }
                () = disturbed.notified(), if settled.is_none() => {
                    settled = Some(tokio::time::Instant::now() + SETTLE);
                }
                () = tokio::time::sleep_until(settled.unwrap_or_else(tokio::time::Instant::now)),
                    if settled.is_some() =>
                {
                    settled = None;
                    self.reconcile(false).await;
                }
                () = tokio::time::sleep(pause), if self.host.awaits() => {
                    let began = Instant::now();
                    // Who has many peers does not spend its time on asking for them.
                    pause = match self.host.let_succeed().await {
                        Ok(()) => LOOK.max(began.elapsed() * 3),
                        Err(error) => {
                            tracing::warn!(%error, "peers with fresh keys wait");
                            SETTLE
                        }
                    };
                }
                Some(mtus) = measurements.recv() => {
                    self.report.path_mtu = mtus;
                    self.publish();
                }
                _ = tick.tick() => {
                    ticks = ticks.wrapping_add(1);
                    if ticks.is_multiple_of(REPAIR_EVERY) {
                        self.reconcile(true).await;
                        self.measure();
                    } else {
                        self.refresh().await;
                    }
                }
            }
        }
    }

    /// Compares and applies until nothing is left to do, then reports. If `thorough`, nothing that was seen before
    /// is relied on, and the host facts are judged as well.
    async fn reconcile(&mut self, thorough: bool) {
        let Some((generation, wished)) = self.known.clone() else { return };
        let started = Instant::now();
        let fresh = self.report.generation != generation;
        let (mut error, mut repaired) = (None, false);
        for pass in 0..PASSES {
            let mut seen = match self.host.observe(thorough && pass == 0).await {
                Ok(seen) => seen,
                Err(failure) => {
                    error = Some(failure.to_string());
                    break;
                }
            };
            seen.state.protection.prefixes.extend(host::endpoints(&seen.peers, &wished.routes));
            let changes = self.agreed.plan(&seen.state, &wished);
            if changes.is_empty() {
                if !std::mem::replace(&mut self.compiled, true) {
                    self.host.compile(&seen.state);
                }
                self.describe(&seen, &wished);
                (self.report.converged, error) = (true, None);
                break;
            }
            repaired |= !fresh;
            self.report.converged = false;
            if pass + 1 == PASSES {
                self.describe(&seen, &wished);
                error = error.or_else(|| Some(format!("still to do: {}", summary(&changes))));
                break;
            }
            error = self.carry_out(changes, &mut seen).await;
        }
        self.report.generation = generation;
        self.report.repairs += u64::from(repaired);
        if let Some(error) = &error {
            self.report.converged = false;
            if self.report.last_error.as_ref() != Some(error) {
                tracing::warn!(generation, error, "dataplane is not as wished");
            }
        }
        self.report.last_error = error;
        self.report.apply_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.publish();
        if thorough {
            self.judge().await;
        }
    }

    /// Applies all changes, each on its own: one that fails holds no other up. The first failure is returned.
    async fn carry_out(&mut self, changes: Vec<plan::Change>, seen: &mut Observation) -> Option<String> {
        let mut failure = None;
        let mut captured = Vec::new();
        for mut change in changes {
            if let plan::Change::SetPeer(_, key, peer) = &mut change
                && peer.endpoint.is_none()
                && seen.peers.get(key).is_none_or(|p| p.endpoint.is_none())
            {
                peer.endpoint = self.memory.recall(key);
            }
            match self.host.apply(&change, &mut seen.links).await {
                Ok(()) => {
                    if let plan::Change::AddCapture(capture) = &change {
                        captured.push(capture.clone());
                    }
                    plan::apply(&mut seen.state, change);
                }
                Err(error) => failure = failure.or(Some(error.to_string())),
            }
        }
        self.host.compile(&seen.state);
        self.compiled = true;
        // Only now: packets that an announcement calls in find their way.
        announce::announce(captured);
        failure
    }

    /// Reads what moves by itself: peers and their counters.
    async fn refresh(&mut self) {
        if let Ok(peers) = self.host.peers().await {
            let known = self.report.peers.iter().filter(|view| peers.contains_key(&view.public_key)).count();
            if known != self.report.peers.len() {
                // One has called with a fresh key.
                self.reconcile(false).await;
            }
            for view in self.report.peers.clone().iter() {
                let now = peers.get(&view.public_key).map(|status| refreshed(view, status));
                if let Some(now) = now.filter(|now| now != view) {
                    self.report.peers.set(now);
                }
            }
            self.described.statuses = peers;
            (self.report.relayed, self.report.passed_on) = self.host.relayed();
            self.memory.keep(&self.report.peers).await;
            self.publish();
        }
    }

    /// Judges the host facts.
    async fn judge(&mut self) {
        let Some((_, wished)) = self.known.clone() else { return };
        let facts = facts::read_host(&wished, self.host.carrier()).await;
        self.report.findings = preflight::findings(&facts);
        self.publish();
    }

    /// Starts a measurement of the paths to peers with a fixed endpoint, if it is time.
    fn measure(&mut self) {
        let Some((_, wished)) = &self.known else { return };
        let endpoints: Vec<SocketAddr> = wished.peers().filter_map(|(_, p)| p.endpoint).collect();
        let new = endpoints.iter().any(|e| !self.report.path_mtu.contains_key(e));
        if endpoints.is_empty() || (!new && Instant::now() < self.next_measure) {
            return;
        }
        self.next_measure = Instant::now() + MEASURE;
        let tell = self.measured.clone();
        tokio::spawn(async move {
            let paths = endpoints.into_iter().map(|to| async move { (to, path_mtu(to).await) });
            let measured = futures_util::future::join_all(paths).await;
            let _ = tell.send(measured.into_iter().collect()).await;
        });
    }

    async fn remove(&mut self) {
        self.known = None;
        let removed = self.host.remove().await;
        self.report = Report {
            dataplane: self.report.dataplane,
            why: self.report.why.clone(),
            last_error: removed.err().map(|e| e.to_string()),
            ..Report::default()
        };
        self.described = Described::default();
        self.publish();
    }

    fn publish(&self) {
        self.tell.send_if_modified(|told| {
            let differs = **told != self.report;
            if differs {
                *told = Arc::new(self.report.clone());
            }
            differs
        });
    }

    fn describe(&mut self, seen: &Observation, wished: &Wished) {
        let state = &seen.state;
        let report = &mut self.report;
        report.interfaces = seen.interfaces.clone();
        self.described.follow(seen, &mut report.peers);
        report.routes = route_views(state);
        report.routes_installed = report.routes.len();
        let (_, rejected) = state.protection.admit(wished);
        let view = |(prefix, r): (_, crate::route::Rejection)| RejectedRouteView {
            prefix,
            reason: r.reason,
            protects: r.protects,
        };
        report.routes_rejected = rejected.into_iter().map(view).collect();
        let capture = |c: &crate::state::Capture| CaptureView {
            method: c.method().into(),
            interface: c.interface().into(),
            address: c.address(),
        };
        report.captures = state.captures.iter().map(capture).collect();
        report.clamp = state.filter.as_ref().and_then(|f| f.filter.clamp);
        report.drops = seen.drops.clone();
        report.relayed = seen.relayed;
        report.passed_on = seen.passed_on;
        report.beyond = state.relay.as_ref().map(|relay| relay.beyond.clone()).unwrap_or_default();
    }
}

impl Described {
    /// Brings `views` in line with what is seen now, by what has changed since the last time.
    fn follow(&mut self, seen: &Observation, views: &mut PeerViews) {
        for (line, described) in Line::BOTH.into_iter().zip(&mut self.lines) {
            let peers = seen.state.line(line).map(|wireguard| wireguard.peers.clone()).unwrap_or_default();
            let read = differing(&self.statuses, &seen.peers);
            for key in read.chain(differing(described, &peers)) {
                match peers.get(key) {
                    Some(peer) => views.set(view(line, *key, peer, seen.peers.get(key))),
                    None => views.remove(line, *key),
                }
            }
            *described = peers;
        }
        self.statuses = seen.peers.clone();
    }
}

fn view(line: Line, key: PublicKey, peer: &WireguardPeer, status: Option<&PeerStatus>) -> WireguardPeerView {
    WireguardPeerView {
        line,
        public_key: key,
        endpoint: status.and_then(|s| s.endpoint).or(peer.endpoint),
        last_handshake_secs_ago: status.and_then(PeerStatus::age).map(|age| age.as_secs()),
        rx_bytes: status.map_or(0, |s| s.rx_bytes),
        tx_bytes: status.map_or(0, |s| s.tx_bytes),
        allowed_ips: peer.allowed_ips.clone(),
        keepalive_secs: peer.keepalive_secs,
    }
}

/// A peer's view with what moves by itself as it is now.
fn refreshed(view: &WireguardPeerView, status: &PeerStatus) -> WireguardPeerView {
    WireguardPeerView {
        endpoint: status.endpoint,
        last_handshake_secs_ago: status.age().map(|age| age.as_secs()),
        rx_bytes: status.rx_bytes,
        tx_bytes: status.tx_bytes,
        ..view.clone()
    }
}

fn route_views(state: &State) -> Vec<RouteView> {
    let view = |(prefix, route): (&ipnet::Ipv4Net, &crate::state::Route)| {
        let target = route.target?;
        Some(RouteView {
            prefix: *prefix,
            owner: target.owners().first().copied(),
            owners_also: target.owners().iter().skip(1).copied().collect(),
            device: state.carrier.interface(target).into(),
            mtu: route.mtu,
            advmss: route.advmss,
        })
    };
    state.routes.iter().filter_map(view).collect()
}

/// The kinds of change that are left, for the error text; never their content, which may hold a key.
fn summary(changes: &[plan::Change]) -> String {
    let mut kinds: Vec<&str> = changes.iter().map(plan::Change::kind).collect();
    kinds.dedup();
    kinds.join(", ")
}
