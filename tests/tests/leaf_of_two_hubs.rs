//! A leaf enrolls once and is served by both hubs: it learns of a second hub by itself, keeps a session and a tunnel
//! with each, loses little when either is killed and nothing when it returns, and comes up again with both dead.

#![allow(clippy::print_stdout)] // the gaps seen are part of what this test shows

use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fabric_tests::ask::now_secs;
use fabric_tests::stall::Stalls;
use fabric_tests::switch::{Switch, ip};
use serde_json::Value;

/// How often a client pings.
const PING_SECS: &str = "0.02";

/// Two hubs, three leaves, and a client behind each of the first two leaves.
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
    fn new(dir: &Path) -> Net {
        let mut net = Switch::new("tl", dir, &["a", "b", "c", "d", "e"]);
        for (leaf, client, site) in [("c", "cc", 81), ("d", "dd", 82)] {
            let (near, far) = (net.name(leaf), net.space(client));
            ip(&format!("-n {near} link add name lan0 type veth peer name eth0 netns {far}"));
            ip(&format!("-n {near} address add 10.{site}.10.10/24 dev lan0"));
            ip(&format!("-n {near} link set lan0 up"));
            ip(&format!("-n {far} address add 10.{site}.10.20/24 dev eth0"));
            ip(&format!("-n {far} link set eth0 up"));
            ip(&format!("-n {far} route add default via 10.{site}.10.10"));
            let forward = net.run(leaf, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]).status();
            assert!(forward.unwrap().success(), "{leaf} forwards");
        }
        Net(net)
    }

    fn status(&self, node: &str) -> Value {
        self.json(node, &["status"])
    }

    /// Waits until it is so, and says how long that took.
    fn until(&self, what: &str, good: impl FnMut() -> bool) -> Duration {
        let took = self.0.until(what, good);
        println!("{what}: {} ms", took.as_millis());
        took
    }

    fn leaf_starts(&mut self, node: &'static str) {
        let socket = self.path(node).join("run/fabric/leaf.sock");
        self.start(node, "fabric-leaf");
        let what = format!("the daemon of leaf {node} starts");
        self.until(&what, || socket.exists() && self.ask(node, &["status"]).1.contains("phase"));
    }

    /// One hub's line in a leaf's status, by the hub's overlay address.
    fn hub(&self, leaf: &str, overlay: &str) -> Value {
        let status = self.status(leaf);
        let hubs = status["hubs"].as_array().cloned().unwrap_or_default();
        hubs.into_iter().find(|hub| hub["overlay"] == overlay).unwrap_or(Value::Null)
    }

    fn sessions(&self, leaf: &str, hubs: &[&str]) -> bool {
        hubs.iter().all(|hub| self.hub(leaf, hub)["session"] == "Established")
    }

    /// The client behind c pings the one behind d from now on.
    fn ping(&mut self) {
        let log = std::fs::File::create(self.path("ping")).unwrap();
        let mut command = self.run("cc", &["ping", "-nDi", PING_SECS, "10.82.10.20"]);
        let child = command.stdout(log).stderr(Stdio::null()).spawn().unwrap();
        self.keep("ping", child);
    }

    /// The longest time without an answer since `begin`, seconds.
    fn gap(&self, begin: f64) -> f64 {
        let text = std::fs::read_to_string(self.path("ping")).unwrap_or_default();
        let answers = text.lines().filter(|line| line.contains("bytes from"));
        let times = answers.filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok());
        let (mut last, mut longest) = (begin, 0f64);
        for time in times.filter(|time| *time >= begin).chain([now_secs()]) {
            longest = longest.max(time - last);
            last = time;
        }
        longest
    }

    fn flows(&self) -> bool {
        let begin = now_secs() - 0.3;
        self.gap(begin) < 0.25
    }
}

/// One walk, because each step stands on the one before.
#[test]
fn a_leaf_is_served_by_both_hubs() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(dir.path());
    net.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--no-start"]);
    net.start("a", "fabric-rr");
    net.until("the first hub starts", || net.ask("a", &["status"]).0);
    let first = net.must("a", &["invite", "--site", "aws"]);
    net.leaf_starts("c");
    net.must("c", &["enroll", &first, "--client", "10.81.10.20"]);

    // The second hub joins; the leaf that is enrolled learns it by itself.
    let string = net.must("a", &["hub", "invite"]);
    net.must("b", &["hub", "init", "--endpoint", "192.0.2.2", "--join", &string, "--no-start"]);
    net.start("b", "fabric-rr");
    let overlay = |net: &Net, hub: &str| net.status(hub)["overlay"].as_str().unwrap_or_default().to_string();
    net.until("the second hub starts", || !overlay(&net, "b").is_empty());
    let hubs = ["a", "b"].map(|hub| overlay(&net, hub));
    let both: Vec<&str> = hubs.iter().map(String::as_str).collect();
    let took = net.until("an enrolled leaf has a session with the second hub", || net.sessions("c", &both));
    assert!(took < Duration::from_secs(30), "{took:?}: no minute's wait");
    // A leaf that enrolls now has both from the start.
    let of_two = net.must("a", &["invite", "--site", "oci"]);
    assert!(of_two.starts_with("fabric2-") && of_two.len() < 400, "{} characters", of_two.len());
    net.leaf_starts("d");
    net.must("d", &["enroll", &of_two, "--client", "10.82.10.20"]);
    net.until("a new leaf has sessions with both", || net.sessions("d", &both));
    assert_eq!(net.hub("c", both[0])["preferred"], true);
    net.ping();
    net.until("packets pass", || net.flows());

    // The hub in the path is killed, and then again when it has just returned and is not in the path any more.
    let third = net.must("a", &["invite", "--site", "pve"]);
    std::thread::sleep(Duration::from_secs(2));
    let (stalls, begin) = (Stalls::watch(), now_secs());
    net.kill("a");
    net.until("packets pass by the other hub", || net.flows() && net.hub("c", both[1])["preferred"] == true);
    let in_path = net.gap(begin);
    println!("longest gap, the hub in the path killed: {:.0} ms", in_path * 1e3);
    assert!(in_path < stalls.allow(5.0), "{in_path}");

    // Meanwhile everything goes on at the other hub.
    net.must("c", &["claims", "add", "10.81.10.21"]);
    assert!(net.must("b", &["claims"]).contains("10.81.10.21"));
    net.leaf_starts("e");
    net.must("e", &["enroll", &third, "--client", "10.83.10.20"]);
    let (good, shown) = net.ask("c", &["status"]);
    assert!(shown.contains("10.83.10.20"), "the new leaf's route is there: {shown}");
    assert!(!good && shown.contains("hub-silent"), "a leaf with one of two hubs says so: {shown}");
    net.must("c", &["claims", "release", "10.81.10.21"]);
    let shown = net.must("b", &["leaves"]);
    assert!(shown.contains("SESSION") && shown.matches("Established").count() == 3, "{shown}");

    net.start("a", "fabric-rr");
    net.until("sessions with the hub that returned", || {
        ["c", "d", "e"].iter().all(|l| net.sessions(l, &both))
    });
    assert_eq!(net.hub("c", both[0])["preferred"], false, "it must have lived for a while first");
    let (stalls, begin) = (Stalls::watch(), now_secs());
    net.kill("a");
    net.until("its death is noticed", || net.hub("c", both[0])["session"] != "Established");
    std::thread::sleep(Duration::from_secs(1));
    let beside = net.gap(begin);
    println!("longest gap, the other hub killed: {:.0} ms", beside * 1e3);
    assert!(beside < stalls.allow(1.0), "{beside}");

    // It comes back for good: the overlay goes back to it, and nothing is lost.
    net.start("a", "fabric-rr");
    let (stalls, begin) = (Stalls::watch(), now_secs());
    net.until("the overlay is back", || ["c", "d"].iter().all(|l| net.hub(l, both[0])["preferred"] == true));
    std::thread::sleep(Duration::from_secs(1));
    let back = net.gap(begin);
    println!("longest gap, back again: {:.0} ms", back * 1e3);
    assert!(back < stalls.allow(1.0), "{back}");

    // Both dead, and the leaf reboots: it is as it was, with both hubs.
    net.kill("a");
    net.kill("b");
    net.kill("c");
    net.leaf_starts("c");
    net.until("the leaf is as it was", || {
        let dataplane = net.status("c")["dataplane"].clone();
        let routes = dataplane["routes"].to_string();
        routes.contains("10.82.10.20")
            && routes.contains("10.83.10.20")
            && dataplane["peers"].as_array().map_or(0, Vec::len) == 2
    });
    for hub in ["a", "b"] {
        net.start(hub, "fabric-rr");
    }
    net.until("sessions with both again", || net.sessions("c", &both));
    net.until("packets pass again", || net.flows());
}
