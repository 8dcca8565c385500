//! The handle on a running speaker: cheap to clone, safe to share, every call a message to the one owner.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot, watch};

use crate::settings::{DynamicPeers, Liveness, Neighbor, Originated, SpeakerConfig};
use crate::view::{BestPaths, PeerView, RejectedView, SpeakerView, StationView};

/// What the handle asks of the driver.
pub(super) enum Command {
    SetDynamicPeers(Vec<DynamicPeers>, oneshot::Sender<()>),
    SetNeighbors(Vec<Neighbor>, oneshot::Sender<()>),
    SetLiveness(Liveness, oneshot::Sender<()>),
    Originate(Vec<Originated>, oneshot::Sender<()>),
    Peers(oneshot::Sender<Vec<PeerView>>),
    Rejected(oneshot::Sender<Vec<RejectedView>>),
    Summary(oneshot::Sender<SpeakerView>),
    /// Asks anything that the speaker can answer at once.
    Look(Look),
    Remembered(oneshot::Sender<BTreeSet<IpAddr>>),
    Shutdown(String, oneshot::Sender<()>),
}

/// A question to the speaker; it must be answered within a fraction of a millisecond, for routes wait meanwhile.
pub(super) type Look = Box<dyn FnOnce(&mut crate::speaker::Speaker, crate::session::Millis) + Send>;

/// What the driver tells by itself.
pub(super) struct Publish {
    pub best_paths: watch::Sender<Arc<BestPaths>>,
    /// The version of the remembered peers.
    pub remember: watch::Sender<u64>,
}

/// Commands that may wait for the driver at once.
const COMMAND_QUEUE: usize = 64;

/// Why the speaker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A listening socket could not be had.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address asked for.
        address: SocketAddr,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The speaker's thread or its event loop could not be had.
    #[error("cannot start the BGP thread: {0}")]
    Thread(std::io::Error),
    /// The configuration breaks a rule of the protocol.
    #[error("{0}")]
    Config(&'static str),
}

/// A running BGP speaker. The last handle's drop ends its sessions and its thread.
#[derive(Clone)]
pub struct Speaker {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) stations: Arc<Mutex<Vec<watch::Receiver<StationView>>>>,
    best_paths: watch::Receiver<Arc<BestPaths>>,
    remembered: watch::Receiver<u64>,
    listening: Arc<[SocketAddr]>,
}

impl Speaker {
    /// Starts a speaker that listens on `listen` (none: it only dials). It runs on a thread of its own, so that
    /// nothing else in the process delays it.
    pub async fn start(config: SpeakerConfig, listen: Vec<SocketAddr>) -> Result<Speaker, StartError> {
        check(&config)?;
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (publish, best_paths) = watch::channel(Arc::new(BestPaths::default()));
        let (remember, remembered) = watch::channel(0);
        let publish = Publish { best_paths: publish, remember };
        let listening = super::driver::start(config, listen, inbox, publish).await?;
        Ok(Speaker {
            commands,
            stations: Arc::default(),
            best_paths,
            remembered,
            listening: listening.into(),
        })
    }

    /// Where it listens, with the ports that the system chose for port 0.
    pub fn listening(&self) -> &[SocketAddr] {
        &self.listening
    }

    /// Replaces the dynamic peers. A neighbour whose import policy changed is refreshed alone, one that is no
    /// longer admitted gets Cease/3 (peer de-configured), all others notice nothing.
    pub async fn set_dynamic_peers(&self, peers: Vec<DynamicPeers>) {
        self.ask(|done| Command::SetDynamicPeers(peers, done)).await;
    }

    /// Replaces the neighbours that are dialled; unchanged ones notice nothing.
    pub async fn set_neighbors(&self, neighbors: Vec<Neighbor>) {
        self.ask(|done| Command::SetNeighbors(neighbors, done)).await;
    }

    /// Replaces what says who has BFD; sessions notice nothing.
    pub async fn set_liveness(&self, liveness: Liveness) {
        self.ask(|done| Command::SetLiveness(liveness, done)).await;
    }

    /// Tells how far next hops are, by the most specific prefix that holds them; lower is nearer.
    pub async fn set_next_hop_costs(&self, costs: Vec<(ipnet::IpNet, u32)>) {
        let _ = self.look(move |speaker, _| speaker.set_next_hop_costs(costs)).await;
    }

    /// Sets the whole wished set of own routes.
    pub async fn originate(&self, routes: Vec<Originated>) {
        self.ask(|done| Command::Originate(routes, done)).await;
    }

    /// The best paths, learned and own; stays empty unless `publish_best_paths` is set.
    pub fn best_paths(&self) -> watch::Receiver<Arc<BestPaths>> {
        self.best_paths.clone()
    }

    /// Every neighbour, by name.
    pub async fn peers(&self) -> Vec<PeerView> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// The neighbours that keep our routes over a restart of this process: what [`crate::settings::Restarting`]
    /// should expect next time. `None` once the speaker has been shut down.
    pub async fn remembered(&self) -> Option<BTreeSet<IpAddr>> {
        self.ask(Command::Remembered).await
    }

    /// Changes whenever [`Speaker::remembered`] or [`Speaker::established`] may answer otherwise.
    pub fn remembered_changes(&self) -> watch::Receiver<u64> {
        self.remembered.clone()
    }

    /// The rejected routes that are kept, at most 10,000.
    pub async fn rejected(&self) -> Vec<RejectedView> {
        self.ask(Command::Rejected).await.unwrap_or_default()
    }

    /// The speaker as a whole; `None` once it has been shut down.
    pub async fn summary(&self) -> Option<SpeakerView> {
        self.ask(Command::Summary).await
    }

    /// Ends every session with Cease/2 (administrative shutdown) and `reason` (RFC 9003, cut at 255 octets),
    /// and the speaker with them.
    pub async fn shutdown(&self, reason: &str) {
        self.ask(|done| Command::Shutdown(reason.to_string(), done)).await;
        self.commands.closed().await;
    }

    pub(super) async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (done, answer) = oneshot::channel();
        self.commands.send(command(done)).await.ok()?;
        answer.await.ok()
    }
}

fn check(config: &SpeakerConfig) -> Result<(), StartError> {
    if config.asn == 0 {
        Err(StartError::Config("asn: 0 is no AS number (RFC 7607)"))
    } else if config.router_id.bits() == 0 {
        Err(StartError::Config("routerID: 0.0.0.0 is no BGP Identifier (RFC 6286)"))
    } else if matches!(config.hold_time_secs, 1 | 2) {
        Err(StartError::Config("holdTimeSecs: 0 or at least 3 (RFC 4271 section 4.2)"))
    } else if config.graceful_restart_secs > 4095 {
        Err(StartError::Config("gracefulRestartSecs: at most 4095 (RFC 4724 section 3)"))
    } else {
        Ok(())
    }
}
