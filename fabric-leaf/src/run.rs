//! Who owns what on a leaf: `membership` the admission, `federation` the clients, the speaker its routes, the
//! dataplane the kernel. Facts flow one way: observed client → claim → admission → speaker and kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{BestPaths, Speaker};
use control::admin::Administrators;
use control::daemon::{PidFile, stop_signal};
use control::mrt_dump::Dumps;
use control::{Node, Paths};
use dataplane::io::Dataplane;
use enrollment::io::keys::NodeKeys;
use enrollment::io::leaf_state::LeafState;
use federation::io::Federation;
use tokio::sync::{Notify, mpsc, watch};

use crate::converge::{Converge, Current, Wishes};
use crate::enroll::Enroller;
use crate::hubs_word::HubsWord;
use crate::lines::LineKeys;
use crate::membership::{Membership, Owner};
use crate::remembered::{self, Remembered};
use crate::settings::{self, Settings};
use crate::words::Word;
use crate::{http, leaf, measured};

/// A person's words that may wait for one another.
const ASK_QUEUE: usize = 4;

/// A running leaf, as its administration socket sees it.
pub struct Leaf {
    /// Where its configuration comes from.
    pub file: PathBuf,
    /// When it started.
    pub started: Instant,
    /// Its membership.
    pub membership: watch::Receiver<Membership>,
    /// Its speaker, once it is enrolled.
    pub speaker: watch::Receiver<Option<Speaker>>,
    /// The dumps of its table, if they are asked for.
    pub dumps: Option<Dumps>,
    /// Who may administer it.
    pub administrators: Administrators,
    /// What its hubs reject of its routes.
    pub hubs: Arc<HubsWord>,
    /// The names of its hubs.
    pub names: control::resolving::NameViews,
    /// What was wished of the dataplane last.
    pub current: watch::Receiver<Option<Current>>,
    /// Its dataplane.
    pub dataplane: Dataplane,
    /// Its events and claims.
    pub federation: Federation,
    /// Where a person's words go.
    pub words: mpsc::Sender<Word>,
}

/// Why the leaf cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] settings::Unusable),
    /// A file, directory or socket.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Keys, stored admission, events or dataplane.
    #[error("{0}")]
    Start(String),
}

fn start_error(error: impl std::fmt::Display) -> RunError {
    RunError::Start(error.to_string())
}

/// Runs the leaf until it is told to stop.
pub async fn run(paths: Paths, file: PathBuf) -> Result<(), RunError> {
    let io = |what: String| move |error| RunError::Io { what, error };
    let config = settings::load(&file)?;
    paths.create().map_err(io(format!("creating {} and {}", paths.state.display(), paths.run.display())))?;
    let socket = paths.socket(Node::Leaf);
    let group = config.router.spec.admin_group.as_ref().map(config::GroupName::as_str);
    let administrators = Administrators::new(group).map_err(io("finding the administrators".into()))?;
    let admin = administrators.listen(&socket).map_err(io(format!("listening on {}", socket.display())))?;
    let _pid = PidFile::write(&paths.pid_file(Node::Leaf)).map_err(io("writing the pid file".into()))?;

    let leaf = Arc::new(start(&paths, file, &config, administrators.clone()).await?);
    tokio::spawn({
        let routes = http::router(leaf.clone());
        async move { administrators.serve(admin, routes).await }
    });
    if let Some(address) = config.router.spec.metrics_listen {
        let served = control::metrics::serve(address, measured::observe(leaf.clone())).await;
        served.map_err(io(format!("listening on {address} for metrics")))?;
    }
    tracing::info!("running");
    let signal = stop_signal().await.map_err(io("waiting for a signal".into()))?;
    tracing::info!(signal, "stopping");
    let speaker = leaf.speaker.borrow().clone();
    if let Some(speaker) = speaker {
        speaker.shutdown("the leaf is stopping").await;
    }
    leaf.dataplane.remove().await;
    // A socket that is gone already is as good as removed.
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

async fn start(
    paths: &Paths,
    file: PathBuf,
    config: &config::Leaf,
    administrators: Administrators,
) -> Result<Leaf, RunError> {
    enrollment::io::keys::finish_promotion(&paths.state).map_err(start_error)?;
    let keys = NodeKeys::load(&paths.state).map_err(start_error)?.map(Arc::new);
    let state = LeafState::load(&paths.leaf_state()).map_err(start_error)?.map(Arc::new);
    let named = control::neighbors::neighbors(&config.peers).map_err(start_error)?;
    let dataplane = Dataplane::start(settings::dataplane(config)).await.map_err(start_error)?;
    let federation =
        Federation::open(&paths.federation(), group(&config.events)).await.map_err(start_error)?;
    let wishes = Wishes::new(dataplane.clone());
    let port = config.wireguard.spec.listen_port;

    let (settings, settings_seen) = watch::channel(Arc::new(Settings::of(config)));
    let (keys_tell, keys_seen) = watch::channel(keys.clone().map(LineKeys::of));
    let (membership_tell, membership) = watch::channel(Membership { state, ..Membership::default() });
    let (speaker_tell, speaker) = watch::channel(None);
    let (current_tell, current) = watch::channel(None);
    let (in_force_tell, in_force) = watch::channel(Arc::default());
    let (words, heard) = mpsc::channel(ASK_QUEUE);

    let wished = wished_claims(settings_seen.clone(), federation.claims());
    tokio::spawn(captured(membership.clone(), in_force.clone(), federation.clone()));
    tokio::spawn(remembered::keep(paths.remembered_routes(), membership.clone(), in_force));
    let names_file = paths.state.join(crate::named::NAMES_FILE);
    let (resolved, names) =
        crate::named::resolved(membership.clone(), speaker.clone(), dataplane.clone(), names_file);
    let converge = Converge {
        membership: resolved,
        settings: settings_seen,
        keys: keys_seen.clone(),
        wishes: wishes.clone(),
        speaker: speaker_tell,
        current: current_tell,
        in_force: in_force_tell,
        remembered: Remembered::load(&paths.remembered_routes()),
        listen_port: port,
        router: config.router.spec.clone(),
        bfd: config.client.spec.bfd,
        peers: config.peers.clone(),
        named,
    };
    tokio::spawn(converge.run());
    let enroller = Enroller {
        state: paths.state.clone(),
        config_file: file.clone(),
        wishes,
        listen_port: port,
        settings,
        keys: keys_tell,
        speaker: speaker.clone(),
        current: current.clone(),
    };
    let owner = Owner::new(paths.leaf_state(), keys, membership_tell, wished).map_err(start_error)?;
    let hint = Arc::new(Notify::new());
    tokio::spawn(crate::hint::hear(membership.clone(), hint.clone()));
    tokio::spawn(owner.run(heard, enroller, hint));
    let found = speaker.clone();
    Ok(Leaf {
        file,
        started: Instant::now(),
        dumps: Dumps::start(Arc::new(move || found.borrow().clone()), config.router.spec.mrt_dump.clone()),
        administrators,
        hubs: Arc::new(HubsWord::new(membership.clone(), keys_seen)),
        names,
        membership,
        current,
        speaker,
        dataplane,
        federation,
        words,
    })
}

/// The event group as configured.
fn group(events: &config::Object<config::EventGroup>) -> federation::io::Settings {
    let secs = Duration::from_secs;
    federation::io::Settings {
        group: events.name.to_string(),
        observation: secs(events.spec.observation_secs),
        grace: secs(events.spec.grace_secs),
        debounce: secs(events.spec.debounce_secs),
        retention: secs(events.spec.retention_secs),
        retention_events: events.spec.retention_events,
    }
}

/// The clients that this leaf should own: those of the file, and those that events tell of.
fn wished_claims(
    mut settings: watch::Receiver<Arc<Settings>>,
    mut observed: watch::Receiver<Arc<federation::claims::ClaimedClients>>,
) -> watch::Receiver<Arc<BTreeSet<Ipv4Addr>>> {
    let both = |settings: &Settings, observed: &federation::claims::ClaimedClients| {
        Arc::new(settings.clients.iter().copied().chain(observed.addresses()).collect::<BTreeSet<_>>())
    };
    let (tell, wished) = watch::channel(both(&settings.borrow(), &observed.borrow()));
    tokio::spawn(async move {
        loop {
            tokio::select! {
                changed = settings.changed() => if changed.is_err() { return },
                changed = observed.changed() => if changed.is_err() { return },
            }
            let now = both(&settings.borrow_and_update(), &observed.borrow_and_update());
            tell.send_if_modified(|before| {
                let differs = *before != now;
                *before = now.clone();
                differs
            });
        }
    });
    wished
}

/// Tells the federation which addresses this leaf captures: those are never its own clients (no feedback loop).
async fn captured(
    membership: watch::Receiver<Membership>,
    mut in_force: watch::Receiver<Arc<BestPaths>>,
    federation: Federation,
) {
    loop {
        let paths = in_force.borrow_and_update().clone();
        let state = membership.borrow().state.clone();
        if let Some(state) = state {
            let remote = leaf::remote_clients(&state.admission, &paths).into_keys().collect();
            if let Err(refusal) = federation.set_captured(remote).await {
                tracing::error!(code = refusal.code(), "events: {refusal}; {}", refusal.fix());
            }
        }
        if in_force.changed().await.is_err() {
            return;
        }
    }
}
