//! Processes that outlive the command that started them: begun in a namespace, known by pid and start time,
//! ended for sure.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::error::LabError;
use crate::io::run::command;
use crate::state::{Process, Role, Stat, parse_stat};

fn stat(pid: i32) -> Option<Stat> {
    parse_stat(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// Whether the process is there, not merely waiting to be collected, and, where its start time is known, is
/// still the same one.
pub fn alive(pid: i32, started: Option<u64>) -> bool {
    stat(pid).is_some_and(|stat| stat.state != 'Z' && started.is_none_or(|started| started == stat.started))
}

/// Starts a program in the background, its output appended to `log`, in a process group of its own.
pub fn start(argv: &[String], node: &str, role: Role, log: &Path) -> Result<Process, LabError> {
    let what = argv.join(" ");
    let out = std::fs::OpenOptions::new().create(true).append(true).open(log).map_err(LabError::io(&what))?;
    let err = out.try_clone().map_err(LabError::io(&what))?;
    let mut command = command(argv);
    command.stdin(Stdio::null()).stdout(out).stderr(err).process_group(0).env_remove("FABRIC_ROOT");
    let child = command.spawn().map_err(LabError::io(&what))?;
    let pid = child.id().and_then(|id| i32::try_from(id).ok()).unwrap_or(-1);
    match stat(pid) {
        Some(stat) => Ok(Process { node: node.into(), role, pid, started: stat.started }),
        None => Err(LabError::Command { what, detail: "ended at once".into() }),
    }
}

/// Sends a signal to a process that the lab started, if it is still that process; says whether it was.
pub fn signal(process: &Process, signal: Signal) -> bool {
    alive(process.pid, Some(process.started)) && kill(Pid::from_raw(process.pid), signal).is_ok()
}

/// Waits until a process is gone; says whether it went within `limit`.
pub async fn gone(process: &Process, limit: Duration) -> bool {
    let begin = Instant::now();
    while alive(process.pid, Some(process.started)) {
        if begin.elapsed() > limit {
            return false;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    true
}

/// Ends processes: asks them, waits up to `grace`, then kills those that stay. Those that were paused are
/// woken, so that they can hear.
pub async fn end(processes: &[Process], grace: Duration) -> Result<(), LabError> {
    for process in processes {
        signal(process, Signal::SIGTERM);
        signal(process, Signal::SIGCONT);
    }
    let begin = Instant::now();
    for process in processes {
        if !gone(process, grace.saturating_sub(begin.elapsed())).await {
            signal(process, Signal::SIGKILL);
        }
    }
    for process in processes {
        if !gone(process, Duration::from_secs(5)).await {
            let what = format!("process {} ({} on {})", process.pid, process.role.as_str(), process.node);
            return Err(LabError::Command { what, detail: "cannot be ended".into() });
        }
    }
    Ok(())
}

/// The processes whose network namespace is the named one, by device and inode: what a killed server's
/// sessions leave, or a program that somebody runs there. A namespace of the lab holds nobody else's.
pub fn inside(namespace: &str) -> Vec<Process> {
    let Ok(wanted) = std::fs::metadata(format!("/run/netns/{namespace}")) else { return Vec::new() };
    let same = |pid: i32| {
        std::fs::metadata(format!("/proc/{pid}/ns/net"))
            .is_ok_and(|seen| (seen.dev(), seen.ino()) == (wanted.dev(), wanted.ino()))
    };
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok())
        .filter(|pid| same(*pid))
        .filter_map(|pid| {
            stat(pid).map(|stat| Process {
                node: namespace.into(),
                role: Role::Agent,
                pid,
                started: stat.started,
            })
        })
        .collect()
}
