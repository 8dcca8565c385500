//! Starts a node's daemon where none answers: by systemd where it runs and knows the unit, else by itself.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use control::wire::NodeStatus;
use control::{Client, ClientError, Node};
use serde::Serialize;
use tokio::process::{Child, Command};

use crate::context::Context;
use crate::failure::Failure;

/// How long a daemon may take until its socket answers.
const START_LIMIT: Duration = Duration::from_secs(20);
/// Time between two looks at the socket.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Lines of the log that are shown when a daemon does not start.
const LOG_LINES: usize = 8;

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Started {
    /// It answered already.
    Running,
    /// systemd started it.
    Systemd,
    /// It was started as a process of its own.
    Process,
}

/// Sees to it that the node's daemon answers.
pub async fn ensure(context: &Context, node: Node) -> Result<Started, Failure> {
    let client = Client::new(&context.paths, node);
    if answers(&client).await? {
        return Ok(Started::Running);
    }
    if context.root.is_none() && systemd_has(node).await {
        by_systemd(node).await?;
        wait(&client, node, None, &context.paths.state).await?;
        return Ok(Started::Systemd);
    }
    let program = find(node)?;
    context.paths.create().map_err(|e| Failure::file("make the directory", &context.paths.state, &e))?;
    let log = log_file(context, node);
    let child = spawn(context, &program, &log)?;
    wait(&client, node, Some(child), &log).await?;
    Ok(Started::Process)
}

/// Whether a daemon is there. One that answers nonsense or with a refusal is there.
async fn answers(client: &Client) -> Result<bool, Failure> {
    match client.get::<NodeStatus>("/v1/status").await {
        Err(ClientError::Unreachable { error, .. })
            if error.kind() == std::io::ErrorKind::PermissionDenied =>
        {
            let failure =
                Failure::unreachable(format!("the administration socket may not be opened: {error}"));
            Err(failure.fix("run it as root: the socket is open to its owner alone"))
        }
        Err(ClientError::Unreachable { .. }) => Ok(false),
        _ => Ok(true),
    }
}

fn unit(node: Node) -> String {
    format!("{}.service", node.daemon())
}

async fn systemd_has(node: Node) -> bool {
    if !Path::new("/run/systemd/system").is_dir() {
        return false;
    }
    let mut command = Command::new("systemctl");
    command.args(["cat", &unit(node)]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().await.is_ok_and(|status| status.success())
}

async fn by_systemd(node: Node) -> Result<(), Failure> {
    let unit = unit(node);
    let mut command = Command::new("systemctl");
    command.args(["enable", "--now", &unit]).stdin(Stdio::null());
    let failed = |what: String| {
        Failure::unreachable(format!("systemd did not start {unit}: {what}"))
            .fix(format!("look at `journalctl -eu {unit}`"))
    };
    let output = command.output().await.map_err(|e| failed(e.to_string()))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_string();
    if output.status.success() { Ok(()) } else { Err(failed(said)) }
}

/// The daemon beside this program, or in PATH.
fn find(node: Node) -> Result<PathBuf, Failure> {
    let name = node.daemon();
    let beside = std::env::current_exe().ok().and_then(|exe| Some(exe.parent()?.join(name)));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).map(|dir| dir.join(name));
    beside.into_iter().chain(in_path).find(|file| file.is_file()).ok_or_else(|| {
        Failure::unreachable(format!("the program {name} is neither beside routerctl nor in PATH"))
            .fix(format!("install it, or start {name} yourself and run this again"))
    })
}

fn log_file(context: &Context, node: Node) -> PathBuf {
    context.paths.run.join(format!("{}.log", node.daemon()))
}

/// Starts the daemon in a session of its own: it outlives this command and its terminal.
fn spawn(context: &Context, program: &Path, log: &Path) -> Result<Child, Failure> {
    let open = |path: &Path| std::fs::OpenOptions::new().create(true).append(true).open(path);
    let out = open(log).map_err(|e| Failure::file("write", log, &e))?;
    let err = out.try_clone().map_err(|e| Failure::file("write", log, &e))?;
    let mut command = Command::new("setsid");
    command.arg(program);
    if let Some(root) = &context.root {
        command.arg("--root").arg(root);
    }
    command.stdin(Stdio::null()).stdout(out).stderr(err).kill_on_drop(false).spawn().map_err(|error| {
        Failure::unreachable(format!("cannot run setsid {}: {error}", program.display()))
            .fix("install util-linux (setsid), or start the daemon yourself and run this again")
    })
}

/// Waits until the socket answers, the daemon ends, or time is up.
async fn wait(client: &Client, node: Node, mut child: Option<Child>, log: &Path) -> Result<(), Failure> {
    let begin = Instant::now();
    let name = node.daemon();
    loop {
        if answers(client).await? {
            return Ok(());
        }
        let ended = child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        let what = match ended {
            Some(status) => format!("{name} ended at its start ({status})"),
            None if begin.elapsed() > START_LIMIT => {
                format!("{name} does not answer after {} s", START_LIMIT.as_secs())
            }
            None => {
                tokio::time::sleep(LOOK_EVERY).await;
                continue;
            }
        };
        let (said, fix) = match child {
            Some(_) => (tail(log), format!("mend what the log says ({}) and run this again", log.display())),
            None => (String::new(), format!("look at `journalctl -eu {name}`")),
        };
        return Err(Failure::unreachable(format!("{what}{said}")).fix(fix));
    }
}

fn tail(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
    if last.is_empty() { String::new() } else { format!("; its log ends:\n{}", last.join("\n")) }
}
