//! Two hubs as they are shipped, each in a namespace of its own: one joins by the other's string, each decides while
//! the other is dead, and a leaf that either revokes is revoked at both.

#![allow(clippy::print_stdout)] // the times seen are part of what this test shows

use std::ops::{Deref, DerefMut};

use fabric_tests::stall::Stalls;
use fabric_tests::switch::Switch;
use serde_json::Value;

/// Two hubs and a leaf.
struct Net(Switch);

impl Deref for Net {
    type Target = Switch;
    fn deref(&self) -> &Switch {
        &self.0
    }
}

impl DerefMut for Net {
    fn deref_mut(&mut self) -> &mut Switch {
        &mut self.0
    }
}

impl Net {
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

/// One walk, because each step stands on the one before.
#[test]
fn a_second_hub_joins_and_either_goes_on_alone() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net(Switch::new("th", dir.path(), &["a", "b", "c"]));
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
    let stalls = Stalls::watch();
    net.must("b", &["leaves", "revoke", "aws"]);
    let took = net.until("revoked at the first hub too", || net.leaf_phase("a", "aws") == "Revoked");
    println!("revoked at the other hub after {} ms, `routerctl` included", took.as_millis());
    assert!(took.as_secs_f64() < stalls.allow(2.0), "{took:?}");

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
