//! A lab as seen by the process that built it or any later one: its state file, its nodes, and what can be
//! done to them.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use crate::error::LabError;
use crate::io::clients::{text, write};
use crate::io::process;
use crate::io::run::{Output, checked, run_command, tail, words};
use crate::io::underlay::{exists, inside, nft};
use crate::layout::{Hubs, LabName, Node, SITES, node, nodes};
use crate::state::{LabState, Phase, Process, Role};

/// Where labs keep their state when nothing else is said.
pub const STATE_BASE: &str = "/run/fabric-lab";

/// Longest time that a step of the lab's own may take.
const LIMIT: Duration = Duration::from_secs(20);

/// A lab that is there. Clones are the same lab.
#[derive(Debug, Clone)]
pub struct Lab {
    state: Arc<Mutex<LabState>>,
}

/// What [`Lab::status`] says.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LabStatus {
    /// The lab's name.
    pub name: LabName,
    /// Its state directory.
    pub dir: PathBuf,
    /// How far it has come.
    pub phase: Phase,
    /// Its nodes.
    pub nodes: Vec<NodeStatus>,
}

/// One node of [`LabStatus`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct NodeStatus {
    /// For example `aws-leaf`.
    pub node: String,
    /// Its main address.
    pub address: std::net::Ipv4Addr,
    /// Its namespace.
    pub namespace: String,
    /// Whether the namespace is there.
    pub present: bool,
    /// Its processes.
    pub processes: Vec<ProcessStatus>,
}

/// One process of a node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ProcessStatus {
    /// What it is there for.
    pub role: Role,
    /// Its process id.
    pub pid: i32,
    /// Whether it is running.
    pub alive: bool,
}

impl Lab {
    pub(crate) fn create(state: LabState) -> Result<Lab, LabError> {
        let lab = Lab { state: Arc::new(Mutex::new(state)) };
        lab.save(&lab.lock())?;
        Ok(lab)
    }

    /// Opens a lab that some process built. `base` is where labs keep their state, [`STATE_BASE`] by default.
    pub fn open(name: &LabName, base: Option<&Path>) -> Result<Lab, LabError> {
        let dir = state_dir(name, base);
        let file = dir.join("lab.json");
        let Ok(content) = std::fs::read_to_string(&file) else {
            return Err(LabError::NotUp { name: name.to_string(), dir });
        };
        let state = LabState::from_json(&content).map_err(|error| LabError::Format {
            what: file.display().to_string(),
            detail: error.to_string(),
        })?;
        Ok(Lab { state: Arc::new(Mutex::new(state)) })
    }

    /// The names of the labs that keep their state below `base`.
    pub fn list(base: Option<&Path>) -> Vec<LabName> {
        let base = base.unwrap_or(Path::new(STATE_BASE));
        let Ok(entries) = std::fs::read_dir(base) else { return Vec::new() };
        let mut names: Vec<LabName> = entries
            .flatten()
            .filter(|entry| entry.path().join("lab.json").exists())
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect();
        names.sort();
        names
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, LabState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn save(&self, state: &LabState) -> Result<(), LabError> {
        let file = state.dir.join("lab.json");
        let fresh = state.dir.join("lab.json.new");
        write(&fresh, &state.to_json(), 0o600)?;
        std::fs::rename(&fresh, &file).map_err(LabError::io(format!("write {}", file.display())))
    }

    pub(crate) fn set_phase(&self, phase: Phase) -> Result<(), LabError> {
        let mut state = self.lock();
        state.phase = phase;
        self.save(&state)
    }

    /// The lab's name.
    pub fn name(&self) -> LabName {
        self.lock().name.clone()
    }

    /// The lab's state directory.
    pub fn dir(&self) -> PathBuf {
        self.lock().dir.clone()
    }

    /// How many hubs it has.
    pub fn hubs(&self) -> Hubs {
        self.lock().hubs
    }

    /// A program of the fabric.
    pub fn bin(&self, program: &str) -> PathBuf {
        self.lock().bin_dir.join(program)
    }

    /// The directory that holds a node's files; for hub and leaves it is the daemons' `--root`.
    pub fn node_dir(&self, node: &Node) -> PathBuf {
        self.dir().join(node.name())
    }

    /// The namespace of a node.
    pub fn namespace(&self, node: &Node) -> String {
        self.lock().name.namespace(node)
    }

    /// The log of a node's process.
    pub fn log(&self, node: &Node, role: Role) -> PathBuf {
        self.dir().join("logs").join(format!("{}-{}.log", node.name(), role.as_str()))
    }

    /// The last lines of the log of a node's process.
    pub fn log_tail(&self, node: &Node, role: Role) -> String {
        std::fs::read_to_string(self.log(node, role)).map(|log| tail(&log, 8)).unwrap_or_default()
    }

    /// The words that run a command on a node, with `FABRIC_ROOT` set where the node has a daemon: for a
    /// caller that wants the command on its own terminal.
    pub fn argv(&self, node_name: &str, argv: &[String]) -> Result<Vec<String>, LabError> {
        let node = self.present(node_name)?;
        let mut all = words(["env"]);
        match node.daemon() {
            Some(_) => all.push(format!("FABRIC_ROOT={}", text(&self.node_dir(&node)))),
            None => all.extend(words(["-u", "FABRIC_ROOT"])),
        }
        all.extend_from_slice(argv);
        Ok(inside(&self.namespace(&node), &all))
    }

    /// The node of that name, if its namespace is there.
    fn present(&self, node_name: &str) -> Result<Node, LabError> {
        let node = node(node_name)?;
        match exists(&self.namespace(&node)) {
            true => Ok(node),
            false => {
                let detail = "its namespace is gone".into();
                Err(LabError::Command { what: format!("run on {node_name}"), detail })
            }
        }
    }

    /// [`Lab::argv`] for a caller that runs it itself: the environment is the command's and costs no `env`.
    pub(crate) fn command(&self, node_name: &str, argv: &[String]) -> Result<Command, LabError> {
        let node = self.present(node_name)?;
        let mut command = crate::io::run::command(&inside(&self.namespace(&node), argv));
        match node.daemon() {
            Some(_) => command.env("FABRIC_ROOT", self.node_dir(&node)),
            None => command.env_remove("FABRIC_ROOT"),
        };
        Ok(command)
    }

    /// Runs a command on a node to its end, or kills it when `limit` has passed.
    pub async fn exec(&self, node_name: &str, argv: &[String], limit: Duration) -> Result<Output, LabError> {
        self.exec_with(node_name, argv, None, limit).await
    }

    /// [`Lab::exec`] with text on standard input.
    pub async fn exec_with(
        &self,
        node_name: &str,
        argv: &[String],
        input: Option<&str>,
        limit: Duration,
    ) -> Result<Output, LabError> {
        let what = format!("{} on {node_name}", argv.join(" "));
        run_command(self.command(node_name, argv)?, &what, input, limit).await
    }

    /// Runs `routerctl` on the hub or a leaf.
    pub async fn routerctl(
        &self,
        node_name: &str,
        args: &[&str],
        input: Option<&str>,
        limit: Duration,
    ) -> Result<Output, LabError> {
        let root = text(&self.node_dir(&node(node_name)?));
        let mut argv = vec![text(&self.bin("routerctl")), "--root".into(), root];
        argv.extend(args.iter().map(|arg| (*arg).to_string()));
        self.exec_with(node_name, &argv, input, limit).await
    }

    pub(crate) fn start_process(&self, node: &Node, role: Role, argv: &[String]) -> Result<(), LabError> {
        let argv = inside(&self.namespace(node), argv);
        // Held over the start: no two writers, and a process is in the file as soon as it is there.
        let mut state = self.lock();
        let log = state.dir.join("logs").join(format!("{}-{}.log", node.name(), role.as_str()));
        let process = process::start(&argv, &node.name(), role, &log)?;
        state.processes.retain(|old| (old.node.as_str(), old.role) != (&node.name(), role));
        state.processes.push(process);
        self.save(&state)
    }

    /// Whether a node's process is running.
    pub fn running(&self, node: &Node, role: Role) -> bool {
        let state = self.lock();
        state.process(&node.name(), role).is_some_and(|p| process::alive(p.pid, Some(p.started)))
    }

    fn daemon_process(&self, node_name: &str) -> Result<Process, LabError> {
        let node = node(node_name)?;
        let none = || LabError::NoDaemon(node_name.into());
        node.daemon().ok_or_else(none)?;
        let process = self.lock().process(node_name, Role::Daemon).cloned().ok_or_else(none)?;
        match process::alive(process.pid, Some(process.started)) {
            true => Ok(process),
            false => Err(none()),
        }
    }

    /// Sends a signal to a node's daemon; one that ends a daemon is waited for, until nothing of it holds a socket any
    /// more. `SIGSTOP` pauses it, `SIGCONT` lets it go on.
    pub async fn kill(&self, node_name: &str, signal: Signal) -> Result<(), LabError> {
        let process = self.daemon_process(node_name)?;
        process::signal(&process, signal);
        let ends = [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT].contains(&signal);
        if ends && !process::gone(&process, LIMIT).await {
            let detail = format!("still there {} s after {signal}", LIMIT.as_secs());
            return Err(LabError::Daemon { node: node_name.into(), detail });
        }
        Ok(())
    }

    /// Starts a node's daemon and waits until it answers on its socket. One that runs already is left alone.
    pub async fn start_daemon(&self, node_name: &str) -> Result<(), LabError> {
        let node = node(node_name)?;
        let daemon = node.daemon().ok_or_else(|| LabError::NoDaemon(node_name.into()))?;
        if !self.running(&node, Role::Daemon) {
            let mut argv = vec![text(&self.bin(daemon)), "--root".into(), text(&self.node_dir(&node))];
            let state = self.lock().clone();
            argv.extend(if node.hub_public().is_some() { state.hub_args } else { state.leaf_args });
            self.start_process(&node, Role::Daemon, &argv)?;
        }
        self.answers(&node).await
    }

    async fn answers(&self, node: &Node) -> Result<(), LabError> {
        let socket = if node.hub_public().is_some() { "hub.sock" } else { "leaf.sock" };
        let socket = self.node_dir(node).join("run/fabric").join(socket);
        let begin = Instant::now();
        while !self.answered_by(node, &socket).await {
            let over = begin.elapsed() > LIMIT;
            if over || !self.running(node, Role::Daemon) {
                let how = if over { "no answer on its socket" } else { "it ended" };
                let detail = format!("{how}: {}", self.log_tail(node, Role::Daemon));
                return Err(LabError::Daemon { node: node.name(), detail });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Whether the node's daemon, and nobody else in its place, listens on this socket.
    async fn answered_by(&self, node: &Node, socket: &Path) -> bool {
        let Ok(stream) = tokio::net::UnixStream::connect(socket).await else { return false };
        let listener = stream.peer_cred().ok().and_then(|listener| listener.pid());
        let state = self.lock();
        listener.is_some() && listener == state.process(&node.name(), Role::Daemon).map(|daemon| daemon.pid)
    }

    /// Silently cuts a node off: its link stays up, no packet passes. A gateway loses the Internet, any other
    /// node its site's network.
    pub async fn cut(&self, node_name: &str) -> Result<(), LabError> {
        match node(node_name)? {
            Node::Inet => Err(LabError::UnknownNode(node_name.into())),
            Node::Gateway(site) => {
                let (table, link) = (format!("inet lab_cut_{}", site.name), site.name);
                let hook = |hook: &str| format!("type filter hook {hook} priority -500");
                let text = format!(
                    "table {table} {{\n chain passing {{ {}; iifname {link} drop; oifname {link} drop; }}\n \
                     chain reaching {{ {}; iifname {link} drop; }}\n}}\n",
                    hook("forward"),
                    hook("input")
                );
                nft(&self.namespace(&Node::Inet), &text).await
            }
            node => self.port(&node, "nomaster").await,
        }
    }

    /// Undoes [`Lab::cut`]; a link that is whole stays so.
    pub async fn heal(&self, node_name: &str) -> Result<(), LabError> {
        match node(node_name)? {
            Node::Inet => Err(LabError::UnknownNode(node_name.into())),
            Node::Gateway(site) => {
                let table = format!("inet lab_cut_{}", site.name);
                let text = format!("table {table} {{ }}\ndelete table {table}\n");
                nft(&self.namespace(&Node::Inet), &text).await
            }
            node => self.port(&node, "master br0").await,
        }
    }

    async fn port(&self, node: &Node, change: &str) -> Result<(), LabError> {
        let Some(site) = node.site() else { return Err(LabError::UnknownNode(node.name())) };
        let Some((port, _)) =
            crate::underlay::ports(site, self.hubs()).into_iter().find(|(_, at)| at == node)
        else {
            return Err(LabError::UnknownNode(node.name()));
        };
        let gateway = self.namespace(&site.gateway_node());
        let line = format!("link set {port} {change}\n");
        checked(&words(["ip", "-n", &gateway, "-batch", "-"]), Some(&line), LIMIT).await.map(drop)
    }

    /// Sets the MTU of a site's public link at both ends, in bytes.
    pub async fn set_public_mtu(&self, site_name: &str, mtu: u16) -> Result<(), LabError> {
        let site = crate::layout::site(site_name).ok_or_else(|| LabError::UnknownNode(site_name.into()))?;
        for (node, link) in [(Node::Inet, site.name), (site.gateway_node(), "pub0")] {
            let mtu = mtu.to_string();
            let argv = words(["ip", "-n", &self.namespace(&node), "link", "set", link, "mtu", &mtu]);
            checked(&argv, None, LIMIT).await?;
        }
        Ok(())
    }

    /// What is there of the lab: namespaces and processes.
    pub fn status(&self) -> LabStatus {
        let state = self.lock();
        let nodes = nodes(state.hubs)
            .iter()
            .map(|node| {
                let namespace = state.name.namespace(node);
                let of_node = state.processes.iter().filter(|process| process.node == node.name());
                NodeStatus {
                    node: node.name(),
                    address: node.address(),
                    present: exists(&namespace),
                    namespace,
                    processes: of_node
                        .map(|p| ProcessStatus {
                            role: p.role,
                            pid: p.pid,
                            alive: process::alive(p.pid, Some(p.started)),
                        })
                        .collect(),
                }
            })
            .collect();
        LabStatus { name: state.name.clone(), dir: state.dir.clone(), phase: state.phase, nodes }
    }

    /// The names of the leaves' nodes.
    pub fn leaves(&self) -> Vec<String> {
        SITES.iter().map(|site| Node::Leaf(site).name()).collect()
    }
}

/// The state directory of a lab below `base`.
pub fn state_dir(name: &LabName, base: Option<&Path>) -> PathBuf {
    base.unwrap_or(Path::new(STATE_BASE)).join(name.as_str())
}
