//! Builds a lab: networks, clients, hub, leaves; enrolls all four leaves at the same moment and measures.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::task::JoinSet;

use crate::error::LabError;
use crate::io::clients::{self, private_dir, write};
use crate::io::lab::{Lab, state_dir};
use crate::io::run::{Running, words};
use crate::io::underlay;
use crate::layout::{Captures, HUB_PORT, Hubs, LabName, Node, SITES, Site, nodes};
use crate::report::{EnrollAnswer, FixRun, SiteReport, UpReport, dataplane_of, fix_of};
use crate::state::{LabState, Phase, Role};

/// Longest time that an enrollment may take before the lab gives up on it.
const ENROLL_LIMIT: Duration = Duration::from_secs(60);
/// How long after the last enrollment the lab waits for first packets.
const FIRST_PACKET_LIMIT: Duration = Duration::from_secs(20);
/// How long after an enrollment the lab waits for the finding whose fix it runs.
const FIX_LIMIT: Duration = Duration::from_secs(5);
/// Longest time for any other `routerctl` command.
const LIMIT: Duration = Duration::from_secs(30);
/// The finding whose fix the lab runs on the leaf whose host image rejects forwarding.
const FORWARD_FINDING: &str = "host-forward-drops";

/// How to build a lab.
#[derive(Debug, Clone, Default)]
pub struct UpOptions {
    /// The lab's name; `fab` by default.
    pub name: LabName,
    /// Where labs keep their state; `/run/fabric-lab` by default.
    pub base: Option<PathBuf>,
    /// Where `routerctl`, `fabric-rr` and `fabric-leaf` are; beside the running program by default.
    pub bin_dir: Option<PathBuf>,
    /// Only networks and clients, no fabric.
    pub underlay_only: bool,
    /// Leaves a lab whose building failed as it is, for looking into.
    pub keep_failed: bool,
    /// How many hubs it has; one by default.
    pub hubs: Hubs,
    /// The database that the hubs share instead of following each other's log (`registry` of `SAMEnrollmentPolicy`).
    pub registry: Option<String>,
    /// Further words for `fabric-rr`.
    pub hub_args: Vec<String>,
    /// Further words for `fabric-leaf`, for example to choose the dataplane.
    pub leaf_args: Vec<String>,
}

impl Lab {
    /// Builds a lab. When a step fails, what was built is taken away again, unless `keep_failed` says
    /// otherwise. A leaf that does not enroll is no failed step: the report says so.
    pub async fn up(options: UpOptions) -> Result<(Lab, UpReport), LabError> {
        let begin = Instant::now();
        let lab = begin_lab(&options)?;
        match build(&lab, &options, begin).await {
            Ok(report) => Ok((lab, report)),
            Err(error) => {
                if !options.keep_failed {
                    // The first error is the one to tell.
                    let _ = Lab::down(&options.name, options.base.as_deref()).await;
                }
                Err(error)
            }
        }
    }
}

/// Checks that nothing is in the way and writes down what is going to be made.
fn begin_lab(options: &UpOptions) -> Result<Lab, LabError> {
    underlay::check_host()?;
    let bin_dir = match &options.bin_dir {
        Some(dir) => std::path::absolute(dir).map_err(LabError::io("the programs' directory"))?,
        None => beside_this_program()?,
    };
    let base = match &options.base {
        Some(base) => Some(std::path::absolute(base).map_err(LabError::io("the state directory"))?),
        None => None,
    };
    let dir = state_dir(&options.name, base.as_deref());
    if dir.as_os_str().len() > 70 {
        // A Unix socket's path holds 107 octets, and the longest below this one has 37.
        let detail = "longer than 70 octets; choose a shorter one".into();
        return Err(LabError::Format { what: format!("state directory {}", dir.display()), detail });
    }
    if dir.join("lab.json").exists() {
        return Err(LabError::AlreadyUp { name: options.name.to_string(), dir });
    }
    if let Some(namespace) = underlay::taken(&options.name) {
        return Err(LabError::NamespaceTaken(namespace));
    }
    private_dir(&dir.join("logs"))?;
    Lab::create(LabState {
        name: options.name.clone(),
        phase: Phase::Building,
        namespaces: nodes(options.hubs).iter().map(|node| options.name.namespace(node)).collect(),
        processes: Vec::new(),
        dir,
        bin_dir,
        hubs: options.hubs,
        hub_args: options.hub_args.clone(),
        leaf_args: options.leaf_args.clone(),
    })
}

fn beside_this_program() -> Result<PathBuf, LabError> {
    let program = std::env::current_exe().map_err(LabError::io("this program's place"))?;
    Ok(program.parent().unwrap_or(Path::new("/")).to_path_buf())
}

async fn build(lab: &Lab, options: &UpOptions, begin: Instant) -> Result<UpReport, LabError> {
    underlay::build(&options.name, options.hubs).await?;
    clients::start(lab).await?;
    lab.set_phase(Phase::Underlay)?;
    let mut report = UpReport {
        name: options.name.clone(),
        dir: lab.dir(),
        ok: true,
        underlay_ms: millis(begin),
        hub_ms: None,
        elapsed_ms: millis(begin),
        sites: Vec::new(),
    };
    if options.underlay_only {
        return Ok(report);
    }
    let hub_begin = Instant::now();
    let registry = options.registry.as_deref();
    start_hub(lab, &Node::Hub, None, registry).await?;
    if options.hubs == Hubs::Two {
        join_hub(lab, registry).await?;
    }
    report.hub_ms = Some(millis(hub_begin));
    report.sites = enroll_all(lab).await?;
    lab.set_phase(Phase::Up)?;
    report.ok = report.sites.iter().all(|site| site.ok && site.first_packets.values().all(Option::is_some));
    report.elapsed_ms = millis(begin);
    Ok(report)
}

async fn start_hub(
    lab: &Lab,
    hub: &Node,
    join: Option<&str>,
    registry: Option<&str>,
) -> Result<(), LabError> {
    private_dir(&lab.node_dir(hub))?;
    let public = hub.hub_public().map(|public| format!("{public}:{HUB_PORT}")).unwrap_or_default();
    // Only the public endpoint: the leaf beside the hub goes through its provider and back, as the others do.
    let mut args = vec!["hub", "init", "--endpoint", &public, "--no-start", "-o", "json"];
    if join.is_some() {
        args.extend(["--join", "-"]);
    }
    let output = lab.routerctl(&hub.name(), &args, join, LIMIT).await?;
    if !output.ok() {
        return Err(LabError::Command { what: "routerctl hub init".into(), detail: output.detail() });
    }
    if let Some(url) = registry {
        let file = lab.node_dir(hub).join("etc/fabric/hub.yaml");
        let text = std::fs::read_to_string(&file).map_err(LabError::io("the hub's configuration"))?;
        write(&file, &with_registry(&text, url)?, 0o644)?;
    }
    lab.start_daemon(&hub.name()).await
}

/// A hub's configuration as `hub init` writes it, with the registry in a database.
fn with_registry(text: &str, url: &str) -> Result<String, LabError> {
    let (policy, named) = ("kind: SAMEnrollmentPolicy", "spec: {");
    let at = text.find(policy).and_then(|at| Some(at + text[at..].find(named)? + named.len()));
    let at = at.ok_or_else(|| LabError::Format {
        what: "routerctl hub init".into(),
        detail: format!("no {policy} with a {named:?} in its file"),
    })?;
    // A JSON string is a YAML string, whatever is in it.
    let url = serde_json::Value::from(url);
    Ok(format!("{}registry: {url}, {}", &text[..at], &text[at..]))
}

/// The second hub joins by the first one's string, as a person would have it, and is waited for until both registries
/// are one and the hubs have a session with each other.
async fn join_hub(lab: &Lab, registry: Option<&str>) -> Result<(), LabError> {
    let output = lab.routerctl("hub", &["hub", "invite", "-o", "json"], None, LIMIT).await?;
    let answer: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let Some(invite) = answer.get("invite").and_then(|invite| invite.as_str()) else {
        // Not shown: it may hold the string.
        let detail = "its answer has no invite".into();
        return Err(LabError::Format { what: "routerctl hub invite".into(), detail });
    };
    write(&lab.dir().join("keys").join("invite-hub-2"), invite, 0o600)?;
    start_hub(lab, &Node::Hub2, Some(&format!("{invite}\n")), registry).await?;
    let end = Instant::now() + LIMIT;
    loop {
        let mut together = true;
        for hub in Hubs::Two.nodes() {
            together &= is_together(&status(lab, &hub.name()).await?);
        }
        if together {
            return Ok(());
        }
        if Instant::now() >= end {
            let detail =
                format!("not in step with the first one: {}", lab.log_tail(&Node::Hub2, Role::Daemon));
            return Err(LabError::Daemon { node: Node::Hub2.name(), detail });
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether a hub's status says that it is in step with another hub, or with the database that they share, and has a
/// session with it.
fn is_together(status: &serde_json::Value) -> bool {
    let follows = &status["replication"];
    let in_step =
        [&follows["hubs"][0]["state"], &follows["database"]["state"]].iter().any(|s| **s == "in-step");
    in_step && status["bgp"]["established"].as_u64().is_some_and(|sessions| sessions > 0)
}

/// Asks the hub for one site's invite, and keeps it (mode 0600) for the secret scan of the evidence.
async fn invite(lab: &Lab, site: &Site) -> Result<String, LabError> {
    let prefix = site.prefix().to_string();
    let args = ["invite", "--site", site.name, "--permit", &prefix, "--max-claims", "8", "-o", "json"];
    let output = lab.routerctl("hub", &args, None, LIMIT).await?;
    if !output.ok() {
        return Err(LabError::Command { what: "routerctl invite".into(), detail: output.detail() });
    }
    let answer: serde_json::Value = serde_json::from_str(&output.stdout).unwrap_or_default();
    let Some(invite) = answer.get("invite").and_then(|invite| invite.as_str()) else {
        // Not shown: it may hold the invite.
        let detail = "its answer has no invite".into();
        return Err(LabError::Format { what: "routerctl invite".into(), detail });
    };
    let dir = lab.dir().join("keys");
    write(&dir.join(format!("invite-{}", site.name)), invite, 0o600)?;
    Ok(invite.into())
}

async fn enroll_all(lab: &Lab) -> Result<Vec<SiteReport>, LabError> {
    for site in &SITES {
        private_dir(&lab.node_dir(&Node::Leaf(site)))?;
    }
    let mut tasks = JoinSet::new();
    for site in &SITES {
        let lab = lab.clone();
        tasks.spawn(async move {
            lab.start_daemon(&Node::Leaf(site).name()).await?;
            invite(&lab, site).await.map(|invite| (site, invite))
        });
    }
    let mut invites = Vec::new();
    while let Some(done) = tasks.join_next().await {
        invites.push(done.map_err(panicked)??);
    }
    let mut tasks = JoinSet::new();
    for (site, invite) in invites {
        let lab = lab.clone();
        tasks.spawn(async move { join_site(&lab, site, &invite).await });
    }
    let mut reports = BTreeMap::new();
    while let Some(done) = tasks.join_next().await {
        let report = done.map_err(panicked)??;
        reports.insert(report.site.clone(), report);
    }
    Ok(SITES.iter().filter_map(|site| reports.remove(site.name)).collect())
}

fn panicked(error: tokio::task::JoinError) -> LabError {
    LabError::Command { what: "a task of the lab".into(), detail: error.to_string() }
}

/// Enrolls one site while its client calls the others and, where the host image rejects forwarding, somebody
/// reads the leaf's status and does what it says.
async fn join_site(lab: &Lab, site: &'static Site, invite: &str) -> Result<SiteReport, LabError> {
    let begin = Instant::now();
    let mut calls = JoinSet::new();
    for other in site.others() {
        let lab = lab.clone();
        calls.spawn(async move { (other.name, first_reply(&lab, site, other, begin).await) });
    }
    let mut fixing = JoinSet::new();
    fixing.spawn({
        let lab = lab.clone();
        async move { fix_forwarding(&lab, site, begin).await }
    });
    let mut report = enroll(lab, site, invite).await?;
    let fixed = tokio::time::timeout(FIX_LIMIT, fixing.join_next()).await;
    report.fixes = fixed.ok().flatten().and_then(Result::ok).unwrap_or_default();
    report.first_packets = site.others().map(|other| (other.name.to_string(), None)).collect();
    if !report.ok {
        return Ok(report);
    }
    let waited = tokio::time::timeout(FIRST_PACKET_LIMIT, async {
        while let Some(done) = calls.join_next().await {
            if let Ok((name, at_ms)) = done {
                report.first_packets.insert(name.into(), at_ms);
            }
        }
    });
    // Calls that hear nothing in time stay without a figure.
    let _ = waited.await;
    report.first_packet_ms = report.first_packets.values().flatten().min().copied();
    if let Ok(status) = status(lab, &Node::Leaf(site).name()).await {
        report.dataplane = dataplane_of(&status).or(report.dataplane);
    }
    Ok(report)
}

/// Calls one client from another until a reply comes; gives the milliseconds since `begin`. A count and no
/// deadline: with a deadline, ping ends at the first ICMP error.
async fn first_reply(lab: &Lab, from: &'static Site, to: &'static Site, begin: Instant) -> Option<u64> {
    let ping = words(["ping", "-n", "-i", "0.05", "-c", "10000", &to.client.to_string()]);
    let mut command = lab.command(&Node::Client(from).name(), &ping).ok()?;
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null());
    let mut running = Running::start(command, "ping").ok()?;
    let mut lines = BufReader::new(running.child.stdout.take()?).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        if line.contains("bytes from") {
            return Some(millis(begin));
        }
    }
    None
}

async fn enroll(lab: &Lab, site: &'static Site, invite: &str) -> Result<SiteReport, LabError> {
    let client = site.client.to_string();
    let mut args = vec!["enroll", "-", "--client", &client];
    if site.captures == Captures::ProxyArp {
        args.extend(["--capture", "proxy-arp", "--capture-interface", "eth0"]);
    }
    args.extend(["-o", "json"]);
    let begin = Instant::now();
    let input = format!("{invite}\n");
    let leaf = Node::Leaf(site).name();
    let mut report = SiteReport { site: site.name.into(), ..SiteReport::default() };
    let output = match lab.routerctl(&leaf, &args, Some(&input), ENROLL_LIMIT).await {
        Ok(output) => output,
        Err(error @ LabError::Timeout { .. }) => {
            report.enroll_ms = millis(begin);
            report.reason = Some(error.to_string());
            return Ok(report);
        }
        Err(error) => return Err(error),
    };
    report.enroll_ms = millis(begin);
    match EnrollAnswer::read(&output.stdout) {
        Some(answer) => {
            report.ok = answer.ok && output.ok();
            report.reason = answer.reason_text();
            report.steps = answer.steps;
            report.dataplane = answer.dataplane;
        }
        None => report.reason = Some(output.detail()),
    }
    Ok(report)
}

/// Watches the leaf's status for the finding, and runs the command it shows, as a person would.
async fn fix_forwarding(lab: &Lab, site: &'static Site, begin: Instant) -> Vec<FixRun> {
    if !site.rejects_forward {
        return Vec::new();
    }
    let leaf = Node::Leaf(site).name();
    while begin.elapsed() < ENROLL_LIMIT {
        let fix = match status(lab, &leaf).await {
            Ok(status) => fix_of(&status, FORWARD_FINDING),
            Err(_) => None,
        };
        if let Some(shown) = fix {
            let output = lab.exec(&leaf, &words(["sh", "-c", &shown]), LIMIT).await;
            let (ok, detail) = match output {
                Ok(output) if output.ok() => (true, String::new()),
                Ok(output) => (false, output.detail()),
                Err(error) => (false, error.to_string()),
            };
            return vec![FixRun {
                code: FORWARD_FINDING.into(),
                command: shown,
                at_ms: millis(begin),
                ok,
                detail,
            }];
        }
        // A person looks no oftener, and where programs start slowly each look takes from the enrollment.
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    Vec::new()
}

/// What `routerctl status` says on a node.
pub(crate) async fn status(lab: &Lab, node: &str) -> Result<serde_json::Value, LabError> {
    let output = lab.routerctl(node, &["status", "-o", "json"], None, LIMIT).await?;
    serde_json::from_str(&output.stdout).map_err(|_| LabError::Format {
        what: format!("routerctl status on {node}"),
        detail: output.detail(),
    })
}

fn millis(begin: Instant) -> u64 {
    u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX)
}
