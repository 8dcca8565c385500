//! Two hubs as they are shipped, each in a namespace of its own: one joins by the other's string, each decides while
//! the other is dead, and a leaf that either revokes is revoked at both.

#![allow(clippy::print_stdout)] // the times seen are part of what this test shows

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// Namespaces on one switch, with the daemons in them; all of it goes with this.
struct Net {
    tag: String,
    dir: PathBuf,
    children: Vec<(&'static str, Child)>,
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Net {
    fn new(dir: &Path) -> Net {
        let tag = format!("th{}", std::process::id());
        let net = Net { tag: tag.clone(), dir: dir.to_owned(), children: Vec::new() };
        ip(&format!("netns add {tag}u"));
        ip(&format!("-n {tag}u link add name sw0 type bridge"));
        ip(&format!("-n {tag}u link set sw0 up"));
        for (n, node) in ["a", "b", "c"].into_iter().enumerate() {
            ip(&format!("netns add {tag}{node}"));
            ip(&format!("-n {tag}u link add name u{node} type veth peer name eth0 netns {tag}{node}"));
            ip(&format!("-n {tag}u link set u{node} master sw0 up"));
            ip(&format!("-n {tag}{node} link set lo up"));
            ip(&format!("-n {tag}{node} address add 192.0.2.{}/24 dev eth0", n + 1));
            ip(&format!("-n {tag}{node} link set eth0 up"));
        }
        net
    }

    fn command(&self, node: &str, program: &str) -> Command {
        let bin = fabric_tests::harness::bin_dir().expect("the programs are built");
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}{node}", self.tag)]);
        command.arg(bin.join(program)).arg("--root").arg(self.dir.join(node)).stdin(Stdio::null());
        command
    }

    fn start(&mut self, node: &'static str, program: &str) {
        let log = self.dir.join(format!("{node}.log"));
        let log = std::fs::OpenOptions::new().create(true).append(true).open(log).unwrap();
        let mut command = self.command(node, program);
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        self.children.push((node, child));
    }

    fn kill(&mut self, node: &str) {
        for (_, child) in self.children.iter_mut().filter(|(n, _)| *n == node) {
            let _ = child.kill();
            let _ = child.wait();
        }
        self.children.retain(|(n, _)| *n != node);
    }

    /// What `routerctl` answers on a node, and whether it said that all is good.
    fn ask(&self, node: &str, words: &[&str]) -> (bool, String) {
        let output = self.command(node, "routerctl").args(words).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).trim().to_string();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), if output.status.success() { text } else { text + &error })
    }

    fn must(&self, node: &str, words: &[&str]) -> String {
        let (good, text) = self.ask(node, words);
        assert!(good, "{node}: routerctl {words:?}: {text}\n{}", self.logs());
        text
    }

    fn json(&self, node: &str, words: &[&str]) -> Value {
        let (_, text) = self.ask(node, &[words, &["-o", "json"]].concat());
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn logs(&self) -> String {
        let log = |node: &str| {
            let text = std::fs::read_to_string(self.dir.join(format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{node}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        ["a", "b"].map(log).concat()
    }

    fn until(&self, what: &str, mut good: impl FnMut() -> bool) -> Duration {
        let begin = Instant::now();
        while !good() {
            assert!(begin.elapsed() < LIMIT, "{what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        begin.elapsed()
    }

    fn in_step(&self, when: &str) {
        let took = self.until(when, || {
            let status = ["a", "b"].map(|node| self.json(node, &["status"])["replication"].clone());
            let step =
                |s: &Value| s["hubs"].as_array().is_some_and(|h| h.len() == 1 && h[0]["state"] == "in-step");
            status.iter().all(step) && status[0]["digest"] == status[1]["digest"]
        });
        println!("{when}: in step after {} ms", took.as_millis());
    }

    /// The session between the hubs: one, non-client on both sides, with BFD; nobody wrote it down.
    fn peers_with_each_other(&self, when: &str) {
        for (node, other) in [("a", "hub-2"), ("b", "hub")] {
            let took = self.until(&format!("{when}: {node}'s session with {other}"), || {
                let peers = self.json(node, &["bgp", "peers"]);
                let peer = peers.as_array().and_then(|all| all.iter().find(|p| p["name"] == other).cloned());
                peer.is_some_and(|p| {
                    p["state"] == "Established" && p["client"] == false && p["bfd"]["state"] == "Up"
                })
            });
            println!("{when}: {node} has a session with {other} after {} ms more", took.as_millis());
        }
        let id = |node: &str| self.json(node, &["get", "BGPRouter"])[0]["status"]["clusterId"].clone();
        assert!(id("a").is_string() && id("a") != id("b"), "cluster ids: {} {}", id("a"), id("b"));
    }

    /// The path of a client's address that one hub has from the other.
    fn passed_on(&self, node: &str, other: &str, client: &str) -> Option<Value> {
        let page = self.json(node, &["bgp", "received", other]);
        let routes = page.as_array()?;
        routes.iter().find(|r| r["prefix"] == format!("{client}/32").as_str()).cloned()
    }

    fn leaf_phase(&self, node: &str, name: &str) -> String {
        let leaves = self.json(node, &["leaves"]);
        let found =
            leaves.as_array().and_then(|leaves| leaves.iter().find(|leaf| leaf["name"] == name).cloned());
        found.and_then(|leaf| leaf["phase"].as_str().map(String::from)).unwrap_or_default()
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in ["a", "b", "c", "u"] {
            let _ = Command::new("ip").args(["netns", "delete", &format!("{}{node}", self.tag)]).status();
        }
    }
}

/// One walk, because each step stands on the one before.
#[test]
fn a_second_hub_joins_and_either_goes_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(dir.path());
    // Not the defaults: the second hub says nothing of them and takes them from the fabric.
    let fabric = ["--overlay-prefix", "10.254.0.0/20", "--asn", "65010"];
    net.must("a", &[&["hub", "init", "--endpoint", "192.0.2.1", "--no-start"], &fabric[..]].concat());
    net.start("a", "fabric-rr");
    net.until("the first hub starts", || net.ask("a", &["status"]).0);
    let before = net.must("a", &["invite", "--site", "aws"]);
    assert!(before.starts_with("fabric1-"));

    let string = net.must("a", &["hub", "invite"]);
    net.must("b", &["hub", "init", "--endpoint", "192.0.2.2", "--join", &string, "--no-start"]);
    net.start("b", "fabric-rr");
    net.in_step("the second hub joined");
    net.peers_with_each_other("the second hub joined");
    let invites = net.json("b", &["invite", "list"]);
    assert_eq!(invites.as_array().map(Vec::len), Some(2), "the first hub's invites are known: {invites}");
    assert!(!dir.path().join("b/var/lib/fabric/join").exists(), "the string is not kept");

    // A leaf joins at the first hub; the second revokes it, and the first has it at once.
    net.start("c", "fabric-leaf");
    let socket = dir.path().join("c/run/fabric/leaf.sock");
    net.until("the leaf's daemon starts", || socket.exists());
    net.must("c", &["enroll", &before, "--client", "10.81.10.20"]);
    net.until("the second hub knows the leaf", || net.leaf_phase("b", "aws") == "Admitted");
    net.in_step("a leaf enrolled");
    net.until("the first hub passes the leaf's route on", || {
        net.passed_on("b", "hub", "10.81.10.20").is_some_and(|route| route["accepted"] == true)
    });
    let route = net.passed_on("b", "hub", "10.81.10.20").unwrap();
    assert_eq!(route["originatorId"], route["nextHop"], "the leaf's own address is both: {route}");
    assert_eq!(route["clusterList"], serde_json::json!(["10.254.0.1"]), "{route}");
    net.must("b", &["leaves", "revoke", "aws"]);
    let took = net.until("revoked at the first hub too", || net.leaf_phase("a", "aws") == "Revoked");
    println!("revoked at the other hub after {} ms, `routerctl` included", took.as_millis());
    assert!(took < Duration::from_secs(2), "{took:?}");

    // Either is killed, the other decides alone, and when it returns they are in step again.
    for (dead, alive) in [("a", "b"), ("b", "a")] {
        net.kill(dead);
        let site = format!("while-{dead}-is-dead");
        net.must(alive, &["invite", "--site", &site]);
        net.start(dead, "fabric-rr");
        net.in_step(&format!("{dead} was dead and returned"));
        net.peers_with_each_other(&format!("{dead} was dead and returned"));
        let invites = net.json(dead, &["invite", "list"]);
        assert!(invites.to_string().contains(&site), "{invites}");
    }
    for node in ["a", "b"] {
        assert!(net.must(node, &["audit", "verify"]).contains("are as their hubs made them"));
    }
}
