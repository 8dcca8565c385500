//! Who owns what on the hub, and how one change flows: registry → `watch<Admissions>` → dataplane and speaker.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bgp::io::{DynamicPeers, Liveness, Neighbor, Restarting, Speaker, SpeakerConfig, Station};
use bgp::policy::Admission;
use bgp::settings::{AddPathOptions, PeerOptions};
use config::{BgpRouter, Config, Enrollment, Fabric, PeerAdmission};
use control::admin::Administrators;
use control::daemon::{PidFile, stop_signal};
use control::mrt_dump::Dumps;
use control::neighbors::{bfd, neighbors};
use control::secret::guard;
use control::{Node, Paths};
use dataplane::io::{Choice, Dataplane};
use dataplane::state::{PrivateKey, PublicKey};
use enrollment::endpoint::Endpoint;
use enrollment::exchange::JoinAnswer;
use enrollment::io::database::Address;
use enrollment::io::follow::Replication;
use enrollment::io::hub_http::{self, HubService};
use enrollment::io::keys::NodeKeys;
use enrollment::io::restored;
use enrollment::io::store::{Registry, system_clock};
use enrollment::policy::HubSettings;
use enrollment::registry::Admissions;
use tokio::sync::watch;

use crate::memory::Memory;
use crate::tls_listener::TlsListener;
use crate::tunnels::Tunnels;
use crate::{derive, http, hub, join, measured};

/// The path that a hub's WireGuard MTU is made for, octets: the widest one. A hub relays between leaves whose own
/// paths differ and must not be the narrowest; each leaf keeps its own limit by tunnel MTU and clamp.
const WIDEST_PATH: u16 = dataplane::mtu::MAX_PATH;
/// The same with a second hub, octets: what the hubs say to each other ends here, and no leaf's clamp makes it fit.
const PATH_BETWEEN_HUBS: u16 = 1500;
/// How long the first convergence may take.
const START_LIMIT: Duration = Duration::from_secs(10);
/// How long an answer waits for the kernel to have what was decided.
pub(crate) const APPLY_LIMIT: Duration = Duration::from_secs(1);
/// How long a restored hub waits for the other one before it serves leaves.
const HEAR_LIMIT: Duration = Duration::from_secs(60);

/// A running hub.
pub struct Hub {
    /// The router's name.
    pub name: String,
    /// Where its configuration came from.
    pub file: PathBuf,
    /// Its configuration.
    pub config: config::Hub,
    /// The same with every default, for people who look.
    pub effective: Config,
    /// When it started.
    pub started: Instant,
    /// Its BGP speaker.
    pub speaker: Speaker,
    /// The dumps of its table, if they are asked for.
    pub dumps: Option<Dumps>,
    /// Who may administer it.
    pub administrators: Administrators,
    /// Enrollment and dataplane; a plain reflector has neither.
    pub enrolled: Option<Enrolled>,
}

/// What a hub has beside the reflector.
pub struct Enrolled {
    /// Who serves the leaf API, and counts.
    pub service: enrollment::io::http::Service,
    /// Its constants.
    pub settings: HubSettings,
    /// The truth about leaves, claims and invites.
    pub registry: Registry,
    /// How this hub's registry follows the others'; none where a database is what they share.
    pub replication: Option<Replication>,
    /// Interfaces, peers and filters.
    pub dataplane: Dataplane,
    /// The names of the other hub.
    pub names: control::resolving::NameViews,
    applied: watch::Receiver<u64>,
}

impl Enrolled {
    /// Waits, for a second at most, until the kernel and the speaker have everything up to this generation. Later
    /// is no error: both get there by themselves.
    pub async fn applied(&self, generation: u64) {
        let mut applied = self.applied.clone();
        if tokio::time::timeout(APPLY_LIMIT, applied.wait_for(|&g| g >= generation)).await.is_err() {
            tracing::warn!(generation, "the dataplane is late");
        }
    }
}

/// Why the hub cannot run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The configuration has mistakes.
    #[error("{0}")]
    Config(config::Mistakes),
    /// A file, directory or socket.
    #[error("{what}: {error}")]
    Io {
        /// What was being done.
        what: String,
        /// What the system said.
        error: std::io::Error,
    },
    /// Settings, keys, registry, dataplane or speaker.
    #[error("{0}")]
    Start(String),
}

pub(crate) fn start_error(error: impl std::fmt::Display) -> RunError {
    RunError::Start(error.to_string())
}

/// Runs the hub until it is told to stop.
pub async fn run(paths: Paths, file: PathBuf) -> Result<(), RunError> {
    let io = |what: String| move |error| RunError::Io { what, error };
    let config = config::io::load(std::slice::from_ref(&file)).map_err(RunError::Config)?;
    let Some(hub_config) = config.hub().cloned() else {
        return Err(start_error(format!(
            "{}: this is a leaf's configuration; run fabric-leaf",
            file.display()
        )));
    };
    paths.create().map_err(io(format!("creating {} and {}", paths.state.display(), paths.run.display())))?;
    let socket = paths.socket(Node::Hub);
    let group = hub_config.router.spec.admin_group.as_ref().map(config::GroupName::as_str);
    let administrators = Administrators::new(group).map_err(io("finding the administrators".into()))?;
    let admin = administrators.listen(&socket).map_err(io(format!("listening on {}", socket.display())))?;
    let _pid = PidFile::write(&paths.pid_file(Node::Hub)).map_err(io("writing the pid file".into()))?;

    let hub = Arc::new(start(&paths, file, hub_config, config, administrators.clone()).await?);
    tokio::spawn({
        let routes = http::router(hub.clone());
        async move { administrators.serve(admin, routes).await }
    });
    if let Some(address) = hub.config.router.spec.metrics_listen {
        let served = control::metrics::serve(address, measured::observe(hub.clone())).await;
        served.map_err(io(format!("listening on {address} for metrics")))?;
    }
    tracing::info!(name = hub.name, listening = ?hub.speaker.listening(), "running");
    let signal = stop_signal().await.map_err(io("waiting for a signal".into()))?;
    tracing::info!(signal, "stopping: leaves keep their routes (fail static)");
    hub.speaker.shutdown("the hub is stopping").await;
    if let Some(enrolled) = &hub.enrolled {
        enrolled.dataplane.remove().await;
    }
    // A socket that is gone already is as good as removed.
    let _ = std::fs::remove_file(&socket);
    Ok(())
}

async fn start(
    paths: &Paths,
    file: PathBuf,
    mut config: config::Hub,
    mut effective: Config,
    administrators: Administrators,
) -> Result<Hub, RunError> {
    let opened = match config.enrollment {
        Some(_) => Some(open_enrollment(paths, &file, &mut config, &mut effective).await?),
        None => None,
    };
    let router = &config.router.spec;
    if let Some(opened) = &opened {
        // The overlay addresses must be there before anything can listen on them.
        let admissions = opened.registry.snapshot();
        let key = opened.private_key.clone();
        let mtu = wireguard_mtu(&admissions);
        let peers = Tunnels::default().of(&admissions, &Default::default());
        let (nobody, held) = Default::default();
        let wished = hub::wished(&admissions, peers, key, opened.port, mtu, &nobody, &held);
        opened.dataplane.wish(derive::FIRST_WISH, wished);
        converged(&opened.dataplane, derive::FIRST_WISH, START_LIMIT).await?;
    }
    let options = range_options(&config)?;
    let memory = Memory::at(paths.remembered_peers());
    let mut settings = speaker_config(router, opened.as_ref())?;
    settings.restarting = restarting(router, opened.as_ref(), memory.recall());
    let speaker = Speaker::start(settings, router.listen.clone()).await.map_err(start_error)?;
    tokio::spawn(memory.keep(speaker.clone()));
    for address in &router.bmp_stations {
        let statistics_secs = router.bmp_statistics_secs;
        let name = config.router.name.to_string();
        speaker.monitor(Station { statistics_secs, ..Station::new(*address, name) });
    }
    let named = neighbors(&config.peers).map_err(start_error)?;
    let found = speaker.clone();
    let dumps = Dumps::start(Arc::new(move || Some(found.clone())), router.mrt_dump.clone());
    speaker.set_liveness(liveness(&config, false)).await;
    speaker.set_neighbors(named.clone()).await;
    let enrolled = match opened {
        Some(opened) => Some(serve_enrollment(opened, &config, (named, options), speaker.clone()).await?),
        None => {
            speaker.set_dynamic_peers(dynamic_peers(&config, &options, None)).await;
            None
        }
    };
    let name = config.router.name.to_string();
    Ok(Hub {
        name,
        file,
        config,
        effective,
        started: Instant::now(),
        speaker,
        dumps,
        administrators,
        enrolled,
    })
}

fn speaker_config(router: &BgpRouter, opened: Option<&Opened>) -> Result<SpeakerConfig, RunError> {
    let router_id = router
        .router_id
        .or(opened.map(|o| o.settings.overlay))
        .ok_or_else(|| start_error("BGPRouter routerID: must be given without a SAMEnrollmentPolicy"))?;
    let mut speaker = SpeakerConfig::new(router.asn, router_id);
    speaker.cluster_id = bgp::types::ClusterId(router.cluster_id.unwrap_or(router_id));
    speaker.hold_time_secs = router.hold_time_secs;
    speaker.graceful_restart_secs = router.graceful_restart_secs;
    speaker.long_lived_stale_secs = router.long_lived_stale_secs;
    Ok(speaker)
}

/// Starts what turns admissions into state, then opens the leaf API.
async fn serve_enrollment(
    opened: Opened,
    config: &config::Hub,
    (named, options): (Vec<Neighbor>, Vec<PeerOptions>),
    speaker: Speaker,
) -> Result<Enrolled, RunError> {
    let (tell, applied) = watch::channel(0);
    let asked = speaker.clone();
    let derive = derive::Derive {
        config: config.clone(),
        named,
        options,
        key: opened.private_key,
        port: opened.port,
        dataplane: opened.dataplane.clone(),
        speaker: speaker.clone(),
        applied: tell,
    };
    let file = opened.state.join(crate::named::NAMES_FILE);
    let (resolved, names) =
        crate::named::resolved(opened.registry.watch(), speaker.clone(), opened.dataplane.clone(), file);
    tokio::spawn(derive.run(resolved));
    tokio::spawn(crate::hint::tell(opened.registry.watch(), opened.restored));
    tokio::spawn(crate::moves::follow(opened.registry.clone(), speaker));
    let service = enrollment::io::http::Service::with_underlay(
        opened.registry.clone(),
        opened.keys.clone(),
        enrollment::io::http::Limits::default(),
        applied_hook(applied.clone()),
        underlay_hook(opened.dataplane.clone()),
    );
    service.tell_rejected(rejected_hook(asked));
    let counts = service.clone();
    let hubs = HubService::new(opened.registry.clone(), opened.keys.clone(), applied_hook(applied.clone()));
    // What hubs share in a database they do not fetch from each other.
    let replication = (opened.registry.database().is_none())
        .then(|| Replication::start(opened.registry.clone(), opened.keys.clone()));
    if let Some(state) = &opened.hears_first {
        if let Some(replication) = &replication {
            hear(replication).await;
        }
        opened.registry.introduce().await.map_err(start_error)?;
        restored::forget(state).map_err(start_error)?;
    }
    if let Some(door) = opened.tls {
        door.serve(service.clone()).await?;
    }
    let router = enrollment::io::http::router(service).merge(hub_http::router(hubs));
    for address in [opened.settings.overlay, opened.settings.foyer_hub] {
        let at = SocketAddr::from((address, opened.settings.api_port));
        let listener = tokio::net::TcpListener::bind(at)
            .await
            .map_err(|error| RunError::Io { what: format!("listening on {at} for leaves"), error })?;
        tokio::spawn(enrollment::io::listener::serve_router(listener, router.clone()));
    }
    Ok(Enrolled {
        service: counts,
        settings: opened.settings,
        replication,
        registry: opened.registry,
        dataplane: opened.dataplane,
        names,
        applied,
    })
}

/// A restored hub takes back what it decided after its backup before it decides anything: else its log would go on
/// from an old place, and the other hub would have to call it forked.
async fn hear(replication: &Replication) {
    let heard = async {
        while !replication.views().iter().all(|view| view.state == "in-step")
            || replication.views().is_empty()
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(HEAR_LIMIT, heard).await.is_err() {
        tracing::warn!(
            "restored, and the other hub does not say what was decided since: serving all the same"
        );
    }
}

pub(crate) fn wireguard_mtu(admissions: &Admissions) -> u16 {
    let path = if admissions.hubs.is_empty() { WIDEST_PATH } else { PATH_BETWEEN_HUBS };
    dataplane::mtu::mtus(path, false).wireguard
}

/// What the leaf API awaits before it answers: the kernel and the speaker have the new admissions.
fn applied_hook(applied: watch::Receiver<u64>) -> enrollment::io::http::Applied {
    Arc::new(move |generation| {
        let mut applied = applied.clone();
        Box::pin(async move {
            // An error means that the deriving task ended, and the whole hub with it.
            let _ = applied.wait_for(|&g| g >= generation).await;
        })
    })
}

/// What the leaf API tells a leaf of its own routes.
fn rejected_hook(speaker: Speaker) -> enrollment::io::http::Rejected {
    Arc::new(move |leaf| {
        let speaker = speaker.clone();
        Box::pin(async move { control::mine::answer(&speaker.rejected_from(leaf.into()).await) })
    })
}

/// How the leaf API learns where on the underlay a foyer peer is: from WireGuard, which has heard it just now.
fn underlay_hook(dataplane: Dataplane) -> enrollment::io::http::Underlay {
    Arc::new(move |key| {
        let dataplane = dataplane.clone();
        Box::pin(async move {
            dataplane.recheck().await;
            let report = dataplane.report().borrow().clone();
            let peer = report.peers.get(&PublicKey(key.0))?;
            Some(peer.endpoint?.ip().to_canonical())
        })
    })
}

struct Opened {
    /// The state directory.
    state: PathBuf,
    /// This hub was restored, perhaps at another address: its leaves are called.
    restored: bool,
    /// This hub was restored, and the other one knows what it decided after the backup.
    hears_first: Option<PathBuf>,
    settings: HubSettings,
    keys: Arc<NodeKeys>,
    registry: Registry,
    dataplane: Dataplane,
    private_key: PrivateKey,
    port: u16,
    tls: Option<TlsListener>,
}

/// Keys, settings, registry and dataplane of a hub with enrollment. One that joined another fills its configuration in
/// with what the fabric says.
async fn open_enrollment(
    paths: &Paths,
    file: &Path,
    config: &mut config::Hub,
    effective: &mut Config,
) -> Result<Opened, RunError> {
    let Enrollment { policy, wireguard } = there(config)?;
    let port = wireguard.spec.listen_port;
    let keys = Arc::new(NodeKeys::load_or_create(&paths.state).map_err(start_error)?);
    // Names stay as they are written: whoever calls looks them up.
    let endpoints = policy.spec.endpoints.iter().map(|at| at.to_string().parse().map_err(start_error));
    let endpoints: Vec<Endpoint> = endpoints.collect::<Result<_, _>>()?;
    // Leaves are behind NAT: a hub that was restarted calls them where they were.
    let memory = paths.state.join("endpoints.json");
    let dataplane = Dataplane::start_remembering(Choice::Auto, Some(memory)).await.map_err(start_error)?;
    let joined = join::joined(paths, &keys, &endpoints, &dataplane, port).await?;
    if let Some(answer) = &joined {
        let fabric = fabric(answer, &keys)?;
        *effective =
            config::io::load_joined(&[file.to_path_buf()], Some(fabric)).map_err(RunError::Config)?;
        *config = effective.hub().cloned().ok_or_else(|| start_error("the configuration is no hub's"))?;
    }
    let (policy, asn) = (&there(config)?.policy.spec, config.router.spec.asn);
    let name = "hub".parse().map_err(start_error)?;
    let mut settings =
        HubSettings::derive(name, policy.overlay_prefix, endpoints, keys.wireguard_key(), keys.signing_key())
            .map_err(start_error)?;
    settings.asn = asn;
    settings.lease_secs = policy.lease_secs;
    settings.fail_static_secs = policy.fail_static_secs;
    let tls =
        policy.http_listen.map(|at| TlsListener::at(at, &paths.state, &settings.endpoints)).transpose()?;
    settings.tls = tls.as_ref().map(|door| door.told.clone());
    settings.forget_leaves_secs = (policy.forget_leaves_secs > 0).then_some(policy.forget_leaves_secs);
    if let Some(answer) = joined {
        settings = joined_settings(settings, answer)?;
    }
    settings.hears_first = restored::hears_first(&paths.state).map_err(start_error)?;
    let database = database(policy)?;
    let file = paths.registry();
    let opening = Registry::open_shared(&file, database, settings.clone(), keys.clone(), system_clock());
    let registry = opening.await.map_err(start_error)?;
    let settled = restored::settle(&registry, &paths.state).await.map_err(start_error)?;
    let restored = settled.is_some();
    let hears_first = settled.filter(|s| s.ask_the_other_hub).map(|_| paths.state.clone());
    let private_key = PrivateKey::from_bytes(*keys.wireguard_private_key());
    let state = paths.state.clone();
    Ok(Opened { state, restored, hears_first, settings, keys, registry, dataplane, private_key, port, tls })
}

fn there(config: &config::Hub) -> Result<&Enrollment, RunError> {
    config.enrollment.as_ref().ok_or_else(|| start_error("the SAMEnrollmentPolicy is gone"))
}

/// What the fabric says to a hub that joined it.
fn fabric(answer: &JoinAnswer, keys: &NodeKeys) -> Result<Fabric, RunError> {
    let own = answer.record(&keys.signing_key());
    let own = own.ok_or_else(|| start_error("joined.json is another hub's: its key is not this one's"))?;
    Ok(Fabric { overlay_prefix: answer.overlay_prefix, asn: answer.asn, own: own.node.overlay })
}

/// The database that all hubs share, if the registry is in one.
fn database(policy: &config::SamEnrollmentPolicy) -> Result<Option<Address>, RunError> {
    let Some(url) = policy.registry.url() else { return Ok(None) };
    let mut address: Address =
        url.parse().map_err(|error| start_error(format!("SAMEnrollmentPolicy registry: {error}")))?;
    address.password_file = policy.registry_password_file.as_ref().map(|file| file.as_path().to_owned());
    Ok(Some(address))
}

/// The settings of a hub that joined: its name and address are those that it was given.
fn joined_settings(settings: HubSettings, answer: JoinAnswer) -> Result<HubSettings, RunError> {
    let own = answer.record(&settings.signing_key);
    let own = own.ok_or_else(|| start_error("joined.json is another hub's: its key is not this one's"))?;
    if settings.overlay_prefix != answer.overlay_prefix || settings.asn != answer.asn {
        let (prefix, asn) = (answer.overlay_prefix, answer.asn);
        let what = format!("the fabric has overlayPrefix {prefix} and asn {asn}: hub.yaml must say the same");
        return Err(start_error(what));
    }
    let node = own.node.clone();
    Ok(HubSettings { name: node.name, overlay: node.overlay, known_hubs: answer.hubs, ..settings })
}

/// Neighbours that were here before this start, the admitted leaves among them: their routes are waited for before
/// the table counts as complete.
fn restarting(
    router: &BgpRouter,
    opened: Option<&Opened>,
    remembered: BTreeSet<IpAddr>,
) -> Option<Restarting> {
    let mut expected = remembered;
    if let Some(opened) = opened {
        expected.extend(opened.registry.snapshot().leaves.values().map(|l| IpAddr::V4(l.overlay)));
    }
    let deferral_secs = router.selection_deferral_secs;
    (!expected.is_empty() && router.graceful_restart_secs > 0)
        .then_some(Restarting { expected, deferral_secs })
}

/// What holds for the sessions of the configured dynamic peers, in their order; keys are read once, at the start.
fn range_options(config: &config::Hub) -> Result<Vec<PeerOptions>, RunError> {
    let ranges = config.dynamic_peers.iter();
    ranges
        .map(|object| {
            let key = object.spec.tcp_md5_key_file.as_ref().map(config::FilePath::as_path);
            let what = format!("BGPDynamicPeer/{}", object.name);
            let guard = guard(&what, key, object.spec.max_hops).map_err(start_error)?;
            let (receive, send) = (object.spec.add_path_receive, object.spec.add_path_send.count());
            Ok(PeerOptions {
                guard,
                add_path: AddPathOptions { receive, send },
                max_prefixes: object.spec.max_prefixes,
                prefix_warning_percent: object.spec.prefix_warning_percent,
                multipath: false,
            })
        })
        .collect()
}

/// Who has BFD. Leaves that have another hub to go to have it in any case.
pub(crate) fn liveness(config: &config::Hub, leaves_have_two: bool) -> Liveness {
    let wished = |peer: &config::BgpDynamicPeer| match leaves_have_two && !peer.bfd.enabled {
        true if peer.admission == PeerAdmission::Enrolled => bfd(&config::Bfd::ON),
        _ => bfd(&peer.bfd),
    };
    let named = config.peers.iter().filter_map(|p| Some((p.name.to_string(), bfd(&p.spec.bfd)?)));
    let dynamic = config.dynamic_peers.iter().filter_map(|p| Some((p.name.to_string(), wished(&p.spec)?)));
    Liveness { neighbors: named.collect(), dynamic_peers: dynamic.collect() }
}

/// The configured dynamic peers, those that are for enrolled leaves with the present admissions.
pub(crate) fn dynamic_peers(
    config: &config::Hub,
    options: &[PeerOptions],
    enrolled: Option<&Admission>,
) -> Vec<DynamicPeers> {
    let named = config.dynamic_peers.iter().map(|object| (object.name.to_string(), &object.spec));
    named
        .zip(options)
        .map(|((name, peer), options)| DynamicPeers {
            options: options.clone(),
            name,
            source_prefixes: peer.source_prefixes.clone(),
            remote_asn: peer.remote_asn,
            route_reflector_client: peer.route_reflector_client,
            limit: usize::try_from(peer.limit).unwrap_or(usize::MAX),
            admission: match (peer.admission, enrolled) {
                (PeerAdmission::Open, _) => Admission::Open,
                (PeerAdmission::Enrolled, Some(enrolled)) => enrolled.clone(),
                (PeerAdmission::Enrolled, None) => Admission::Enrolled(Default::default()),
            },
        })
        .collect()
}

/// Waits until the dataplane has applied a generation.
pub(crate) async fn converged(
    dataplane: &Dataplane,
    generation: u64,
    limit: Duration,
) -> Result<(), RunError> {
    let mut report = dataplane.report();
    let done = report.wait_for(|r| r.generation >= generation && r.converged);
    let outcome = tokio::time::timeout(limit, done).await.map(|ended| ended.map(|_| ()));
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(start_error("the dataplane ended")),
        Err(_) => {
            let report = dataplane.report().borrow().clone();
            let error = report.last_error.clone().unwrap_or_else(|| "no error reported".into());
            Err(RunError::Start(format!("the dataplane did not converge within {limit:?}: {error}")))
        }
    }
}
