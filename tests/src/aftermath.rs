//! What a lab looks like right after a case failed: enough to see why, where nobody can look into the lab any more.

use std::fmt::Write;
use std::time::{Duration, Instant};

use lab::layout::{Node, nodes};
use lab::secrets::suspicious;
use lab::state::Role;
use lab::{Lab, NodeStatus};

use nix::sys::signal::Signal;

use crate::Check;
use crate::ask::now_secs;
use crate::evidence::{self, Secret};

/// Longest time that one daemon gets to say how it is.
const PATIENCE: Duration = Duration::from_secs(3);
/// Longest time for a mended lab to be well again.
const MENDED: Duration = Duration::from_secs(30);
/// Lines of a log, of a node that is well and of one that is not.
const LOG: (usize, usize) = (4, 12);
/// Most lines of a status.
const STATUS: usize = 12;

/// A node's part, and whether the node is well.
struct Part {
    well: bool,
    text: String,
}

/// Every daemon's process, status and the end of its log, those that are not well first; no line shows a secret.
pub async fn of(lab: &Lab) -> String {
    let secrets = match evidence::secrets_of(&lab.dir()) {
        Ok(secrets) => secrets,
        Err(error) => return format!("nothing is told, it might show a secret: {error}"),
    };
    let seen = lab.status();
    let mut parts = Vec::new();
    for node in nodes(lab.hubs()).into_iter().filter(|node| node.daemon().is_some()) {
        let found = seen.nodes.iter().find(|seen| seen.node == node.name());
        parts.push(part(lab, &node, found).await);
    }
    parts.sort_by_key(|part| part.well);
    let day = now_secs() as u64 % 86_400;
    let mut told =
        format!("the lab right after this, at {:02}:{:02}:{:02}Z:", day / 3600, day / 60 % 60, day % 60);
    for line in parts.iter().flat_map(|part| part.text.lines()) {
        let line = if shows_secret(line, &secrets) { "(a line that shows a secret)" } else { line };
        // Writing to a string does not fail.
        let _ = write!(told, "\n  {line}");
    }
    told
}

async fn part(lab: &Lab, node: &Node, seen: Option<&NodeStatus>) -> Part {
    let (name, process) = (node.name(), process(seen));
    let (well, status) = match lab.routerctl(&name, &["status"], None, PATIENCE).await {
        Ok(output) if output.ok() => (is_well(&output.stdout), output.stdout),
        Ok(output) => (false, output.detail()),
        Err(error) => (false, error.to_string()),
    };
    let log = std::fs::read_to_string(lab.log(node, Role::Daemon)).unwrap_or_default();
    let log: Vec<&str> = log.lines().collect();
    let mut text = format!("{name}: {process}, {}\n", if well { "well" } else { "not well" });
    if !well {
        for line in status.lines().filter(|line| !line.trim().is_empty()).take(STATUS) {
            text += &format!("  | {line}\n");
        }
    }
    let kept = if well { LOG.0 } else { LOG.1 };
    for line in &log[log.len().saturating_sub(kept)..] {
        text += &format!("  > {line}\n");
    }
    Part { well, text }
}

/// Brings a lab in which a case failed back to where the next case may begin, as far as that can be done from outside:
/// every daemon is awake and runs, no node is cut off. What then is not well in time is the next case's to say.
///
/// # Errors
/// What could not be done.
pub async fn mend(lab: &Lab) -> Check {
    let mut wrong = Vec::new();
    for node in nodes(lab.hubs()) {
        let name = node.name();
        if node != Node::Inet {
            wrong.extend(lab.heal(&name).await.err().map(|error| error.to_string()));
        }
        if node.daemon().is_some() {
            // One that is gone hears nothing, and is started.
            let _ = lab.kill(&name, Signal::SIGCONT).await;
            wrong.extend(lab.start_daemon(&name).await.err().map(|error| error.to_string()));
        }
    }
    let end = Instant::now() + MENDED;
    while Instant::now() < end {
        let mut well = true;
        for node in nodes(lab.hubs()).into_iter().filter(|node| node.daemon().is_some()) {
            well &= part(lab, &node, None).await.well;
        }
        if well {
            break;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("; ")) }
}

/// The daemon's process and its state in one letter, as `ps` says it: `T` is stopped, `D` waits for a disk.
fn process(seen: Option<&NodeStatus>) -> String {
    let Some(seen) = seen.filter(|seen| seen.present) else { return "its namespace is gone".into() };
    let Some(daemon) = seen.processes.iter().find(|process| process.role == Role::Daemon) else {
        return "no daemon was started".into();
    };
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", daemon.pid)).unwrap_or_default();
    let state = stat.rsplit(") ").next().and_then(|after| after.chars().next()).filter(|_| daemon.alive);
    state.map_or("its daemon is gone".into(), |state| format!("process {} is {state}", daemon.pid))
}

/// Whether a status says that the node is ready, has all its sessions, and that its dataplane is as wished.
fn is_well(status: &str) -> bool {
    let says = |label: &str| {
        let found = status.lines().find_map(|line| line.strip_prefix(label)).unwrap_or_default();
        found.split_whitespace().map(|word| word.trim_end_matches(',')).collect::<Vec<_>>()
    };
    let all_sessions = matches!(says("bgp ")[..], [up, "of", all, "sessions", ..] if up == all && up != "0");
    says("phase ") == ["Ready"] && says("converged ").first() == Some(&"yes") && all_sessions
}

fn shows_secret(line: &str, secrets: &[Secret]) -> bool {
    evidence::shows(line.as_bytes(), secrets).is_some() || !suspicious(line.as_bytes()).is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: &str = "phase        Ready\nbgp          1 of 1 sessions established, 3 routes accepted, 0 rejected\n\
                        dataplane    in-process (the kernel has no wireguard)\nconverged    yes, 4 routes installed\n";

    /// Proves that a node counts as well only when all three lines say so.
    #[test]
    fn what_is_well() {
        assert!(is_well(WELL));
        for (from, to) in [("Ready", "Degraded"), ("1 of 1", "0 of 1"), ("1 of 1", "0 of 0"), ("yes", "no")] {
            assert!(!is_well(&WELL.replace(from, to)), "{to}");
        }
        assert!(!is_well("") && !is_well("phase Ready\n"));
    }
}
