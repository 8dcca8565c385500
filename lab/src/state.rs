//! What the lab remembers of itself, so that another process can take it all away: `lab.json` in the state
//! directory, written before a thing is made (namespaces) or right after (processes). Pure.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::layout::{Hubs, LabName};

/// A process that the lab started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// The node in whose namespace it runs.
    pub node: String,
    /// What it is there for.
    pub role: Role,
    /// Its process id.
    pub pid: i32,
    /// When it started, in clock ticks since boot (field 22 of `/proc/PID/stat`): with the pid, its identity.
    pub started: u64,
}

/// What a process is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// `fabric-rr` or `fabric-leaf`.
    Daemon,
    /// A client's SSH server.
    Sshd,
    /// A client's TCP exchange server.
    Agent,
}

impl Role {
    /// The word used in file names and tables.
    pub fn as_str(self) -> &'static str {
        match self {
            Role::Daemon => "daemon",
            Role::Sshd => "sshd",
            Role::Agent => "agent",
        }
    }
}

/// How far the lab has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Being built, or its building was cut short.
    Building,
    /// The networks and clients are there, no fabric.
    Underlay,
    /// The fabric was started and its leaves enrolled (whether all of it works: see the report).
    Up,
}

/// The contents of `lab.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LabState {
    /// The lab's name.
    pub name: LabName,
    /// How far it has come.
    pub phase: Phase,
    /// The namespaces that are or were going to be made; none of them existed before.
    pub namespaces: Vec<String>,
    /// The processes that were started.
    pub processes: Vec<Process>,
    /// Everything on disk: the state directory.
    pub dir: PathBuf,
    /// Where the daemons and `routerctl` are taken from.
    pub bin_dir: PathBuf,
    /// How many hubs it has.
    #[serde(default)]
    pub hubs: Hubs,
    /// Further words for `fabric-rr`.
    pub hub_args: Vec<String>,
    /// Further words for `fabric-leaf`.
    pub leaf_args: Vec<String>,
}

impl LabState {
    /// The text of `lab.json`.
    pub fn to_json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    /// Reads `lab.json`.
    pub fn from_json(text: &str) -> Result<LabState, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// The last process of a role on a node.
    pub fn process(&self, node: &str, role: Role) -> Option<&Process> {
        self.processes.iter().rev().find(|process| process.node == node && process.role == role)
    }
}

/// What `/proc/PID/stat` says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `Z` (dead, not yet collected) and so on.
    pub state: char,
    /// How many threads it has; a process whose first thread has ended (`Z`) has others that still hold its sockets.
    pub threads: u32,
    /// Start time in clock ticks since boot.
    pub started: u64,
}

/// Reads a line of `/proc/PID/stat`; the command in parentheses may hold anything.
pub fn parse_stat(line: &str) -> Option<Stat> {
    let after = &line[line.rfind(')')? + 1..];
    let mut words = after.split_ascii_whitespace();
    let state = words.next()?.chars().next()?;
    let threads = words.nth(16)?.parse().ok()?;
    let started = words.nth(1)?.parse().ok()?;
    Some(Stat { state, threads, started })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Proves that a command name with spaces and parentheses does not shift the fields.
    #[test]
    fn stat_line() {
        let line =
            "42 (a) b (c)) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 987654 1 1 18446744073709551615";
        assert_eq!(parse_stat(line), Some(Stat { state: 'S', threads: 1, started: 987654 }));
        assert_eq!(parse_stat("42 (x) S 1"), None);
        assert_eq!(parse_stat(""), None);
    }

    proptest! {
        /// Proves that no line makes the reader panic.
        #[test]
        fn any_line(line in ".{0,200}") {
            let _ = parse_stat(&line);
        }
    }

    /// Proves that the file comes back as it was written.
    #[test]
    fn round_trip() {
        let state = LabState {
            name: LabName::default(),
            phase: Phase::Building,
            namespaces: vec!["fab-inet".into()],
            processes: vec![Process { node: "hub".into(), role: Role::Daemon, pid: 7, started: 9 }],
            dir: "/run/fabric-lab/fab".into(),
            bin_dir: "/usr/bin".into(),
            hubs: Hubs::Two,
            hub_args: vec![],
            leaf_args: vec![],
        };
        assert_eq!(LabState::from_json(&state.to_json()).unwrap(), state);
        assert!(state.process("hub", Role::Daemon).is_some() && state.process("hub", Role::Sshd).is_none());
    }
}
