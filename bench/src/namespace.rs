//! A network namespace of the generator's own: nothing leaves it, and it goes when the program ends.

use std::fs;
use std::io;
use std::process::Command;

use nix::sched::{CloneFlags, unshare};

use crate::workload::NEXT_HOP_NET;

/// Enters a new namespace with loopback up at MTU 1500, a route that covers the clients' next hops, and plain
/// congestion control (a pacing one distorts loopback's times). To be called before any thread is started: a
/// namespace is a thread's.
///
/// # Errors
/// When the kernel refuses (it needs root) or `ip` fails.
pub fn enter() -> io::Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).map_err(|e| io::Error::other(format!("a network namespace: {e}")))?;
    ip(&["link", "set", "lo", "mtu", "1500", "up"])?;
    ip(&["route", "add", NEXT_HOP_NET, "dev", "lo"])?;
    for name in ["cubic", "reno"] {
        if fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name).is_ok() {
            break;
        }
    }
    Ok(())
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), said.trim())))
    }
}

/// Raises the limit of open files to what the kernel permits.
///
/// # Errors
/// When the limit cannot be read or set.
pub fn many_files() -> io::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?)
}
