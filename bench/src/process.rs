//! Processes as `/proc` shows them: CPU time, resident memory, who listens; and the CPUs kept awake.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::process::{Child, Command, Stdio};

/// CPU time and memory of some processes.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Usage {
    /// User and system time, in seconds; the kernel counts ticks of 10 ms.
    pub cpu_s: f64,
    /// Resident memory now, in KiB.
    pub rss_kib: u64,
    /// The most that was resident since the last [`reset_peak`], in KiB.
    pub peak_kib: u64,
}

/// A process and all its descendants.
pub fn tree(root: u32) -> BTreeSet<u32> {
    let mut found = BTreeSet::from([root]);
    let parents: Vec<(u32, u32)> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter_map(|pid| Some((pid, stat(pid)?.0)))
        .collect();
    loop {
        let before = found.len();
        found.extend(
            parents.iter().filter(|(_, parent)| found.contains(parent)).map(|(p, _)| *p).collect::<Vec<_>>(),
        );
        if found.len() == before {
            return found;
        }
    }
}

/// Parent and CPU ticks of a process; `None`: it has gone.
fn stat(pid: u32) -> Option<(u32, u64)> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name, in brackets, may hold anything.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |i: usize| fields.get(i)?.parse::<u64>().ok();
    Some((fields.get(1)?.parse().ok()?, ticks(11)? + ticks(12)?))
}

/// What processes have used; those that have gone are left out.
pub fn usage(pids: &BTreeSet<u32>) -> Usage {
    let tick = rustix::param::clock_ticks_per_second() as f64;
    pids.iter().fold(Usage::default(), |sum, pid| Usage {
        cpu_s: sum.cpu_s + stat(*pid).map_or(0.0, |(_, ticks)| ticks as f64 / tick),
        rss_kib: sum.rss_kib + memory(*pid, "VmRSS:"),
        peak_kib: sum.peak_kib + memory(*pid, "VmHWM:"),
    })
}

fn memory(pid: u32, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix(key)).unwrap_or_default();
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).unwrap_or_default()
}

/// Lets the peaks of processes begin anew (proc(5), clear_refs).
pub fn reset_peak(pids: &BTreeSet<u32>) {
    for pid in pids {
        // A process that has just gone has no peak.
        let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
    }
}

/// Whether somebody in this network namespace listens on a TCP port.
pub fn listening(port: u16) -> bool {
    let end = format!(":{port:04X}");
    ["/proc/self/net/tcp", "/proc/self/net/tcp6"].iter().any(|file| {
        fs::read_to_string(file).unwrap_or_default().lines().skip(1).any(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            fields.get(1).is_some_and(|a| a.ends_with(&end)) && fields.get(3) == Some(&"0A")
        })
    })
}

/// Seconds of CPU that all of the machine has used for work above idle priority is not told by `/proc`; this is
/// everything but idle and waiting, idle-priority loops included.
pub fn machine_busy_s() -> f64 {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields: Vec<u64> = text
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .skip(1)
        .filter_map(|f| f.parse().ok())
        .collect();
    // user, nice, system, idle, iowait, irq, softirq, steal
    let busy: u64 =
        fields.iter().take(8).enumerate().filter(|(i, _)| ![3, 4].contains(i)).map(|(_, v)| v).sum();
    busy as f64 / rustix::param::clock_ticks_per_second() as f64
}

/// Processes of idle priority, one a CPU, that keep the CPUs from sleeping: an idle virtual CPU takes some
/// hundred microseconds to wake, which would be counted as the reflector's. They yield to everything else.
#[derive(Debug)]
pub struct Awake(Vec<Child>);

impl Awake {
    /// Starts them: this program with the word `keep-awake`, under `chrt --idle 0`.
    ///
    /// # Errors
    /// When this program or `chrt` (util-linux) cannot be started.
    pub fn start() -> io::Result<Awake> {
        let own = std::env::current_exe()?;
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let mut awake = Awake(Vec::new());
        for _ in 0..cpus {
            let mut command = Command::new("chrt");
            command.args(["--idle", "0"]).arg(&own).arg("keep-awake");
            awake.0.push(command.stdin(Stdio::piped()).stdout(Stdio::null()).spawn()?);
        }
        Ok(awake)
    }

    /// CPU time that they have used, in seconds.
    pub fn cpu_s(&self) -> f64 {
        usage(&self.0.iter().map(Child::id).collect()).cpu_s
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // One that has gone by itself needs no end.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The loop of `keep-awake`: spins until its standard input closes, which its parent's end does too.
pub fn keep_awake() {
    std::thread::spawn(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A process sees itself, its child and its own memory; a port is seen while somebody listens.
    #[test]
    fn proc_is_read_rightly() {
        let mut child = Command::new("sleep").arg("30").spawn().expect("sleep");
        let pids = tree(std::process::id());
        assert!(pids.contains(&child.id()) && pids.contains(&std::process::id()));
        let own = usage(&BTreeSet::from([std::process::id()]));
        assert!(own.rss_kib > 500 && own.peak_kib >= own.rss_kib, "{own:?}");
        child.kill().expect("ours");
        child.wait().expect("ours");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("bound").port();
        assert!(listening(port));
        drop(listener);
        assert!(!listening(port));
        assert!(machine_busy_s() > 0.0);
    }
}
