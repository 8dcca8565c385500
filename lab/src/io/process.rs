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
/// still the same one. A killed process is there until its last thread is gone: it holds its sockets until then.
pub fn alive(pid: i32, started: Option<u64>) -> bool {
    let ended = |stat: &Stat| stat.state == 'Z' && stat.threads <= 1;
    stat(pid).is_some_and(|stat| !ended(&stat) && started.is_none_or(|started| started == stat.started))
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Proves that a process whose first thread has ended counts as there while another one runs, and not after.
    #[tokio::test]
    async fn a_process_is_there_until_its_last_thread_is_gone() {
        // The first thread leaves by the bare system call (60 on x86-64, 93 on arm64), as a killed one may before the others.
        let script = "import ctypes, platform, threading, time\n\
                      threading.Thread(target=time.sleep, args=(1.5,)).start()\n\
                      ctypes.CDLL(None).syscall(60 if platform.machine() == 'x86_64' else 93, 0)\n";
        let dir = tempfile::tempdir().unwrap();
        let argv = ["python3", "-c", script].map(String::from);
        let process = start(&argv, "a", Role::Daemon, &dir.path().join("log")).unwrap();
        let begin = Instant::now();
        while stat(process.pid).is_some_and(|stat| stat.state != 'Z') {
            assert!(begin.elapsed() < Duration::from_secs(10), "its first thread does not end");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let said = std::fs::read_to_string(dir.path().join("log")).unwrap();
        assert!(alive(process.pid, Some(process.started)), "its second thread is overlooked: {said}");
        assert!(!gone(&process, Duration::from_millis(50)).await);
        assert!(gone(&process, Duration::from_secs(10)).await, "it stays after its last thread");
    }
}
