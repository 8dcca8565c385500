//! A leaf enrolls once and is served by both hubs: it learns of a second hub by itself, keeps a session and a tunnel
//! with each, loses little when either is killed and nothing when it returns, and comes up again with both dead.

#![allow(clippy::print_stdout)] // the gaps seen are part of what this test shows

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::Value;

/// Longest wait for anything.
const LIMIT: Duration = Duration::from_secs(30);
/// How often a client pings.
const PING_SECS: &str = "0.02";
/// Hubs, leaves, and a client behind each of the first two leaves.
const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "cc", "dd"];

/// Namespaces with the daemons in them; all of it goes with this.
struct Net {
    tag: String,
    dir: PathBuf,
    children: Vec<(&'static str, Child)>,
}

fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("iproute2 is installed");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

fn unix_now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs_f64()
}

impl Net {
    fn new(dir: &Path) -> Net {
        let tag = format!("tl{}", std::process::id());
        let net = Net { tag: tag.clone(), dir: dir.to_owned(), children: Vec::new() };
        ip(&format!("netns add {tag}u"));
        ip(&format!("-n {tag}u link add name sw0 type bridge"));
        ip(&format!("-n {tag}u link set sw0 up"));
        for node in NODES {
            ip(&format!("netns add {tag}{node}"));
            ip(&format!("-n {tag}{node} link set lo up"));
        }
        for (n, node) in NODES.into_iter().take(5).enumerate() {
            ip(&format!("-n {tag}u link add name u{node} type veth peer name eth0 netns {tag}{node}"));
            ip(&format!("-n {tag}u link set u{node} master sw0 up"));
            ip(&format!("-n {tag}{node} address add 192.0.2.{}/24 dev eth0", n + 1));
            ip(&format!("-n {tag}{node} link set eth0 up"));
        }
        for (leaf, client, site) in [("c", "cc", 81), ("d", "dd", 82)] {
            ip(&format!("-n {tag}{leaf} link add name lan0 type veth peer name eth0 netns {tag}{client}"));
            ip(&format!("-n {tag}{leaf} address add 10.{site}.10.10/24 dev lan0"));
            ip(&format!("-n {tag}{leaf} link set lan0 up"));
            ip(&format!("-n {tag}{client} address add 10.{site}.10.20/24 dev eth0"));
            ip(&format!("-n {tag}{client} link set eth0 up"));
            ip(&format!("-n {tag}{client} route add default via 10.{site}.10.10"));
            let forward =
                ["netns", "exec", &format!("{tag}{leaf}"), "sysctl", "-qw", "net.ipv4.ip_forward=1"];
            assert!(Command::new("ip").args(forward).status().unwrap().success(), "{leaf} forwards");
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

    /// SIGKILL: nothing is tidied up.
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

    fn status(&self, node: &str) -> Value {
        let (_, text) = self.ask(node, &["status", "-o", "json"]);
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    fn logs(&self) -> String {
        let log = |node: &str| {
            let text = std::fs::read_to_string(self.dir.join(format!("{node}.log"))).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            format!("{node}:\n{}\n", lines[lines.len().saturating_sub(15)..].join("\n"))
        };
        ["a", "b", "c", "d", "e"].map(log).concat()
    }

    fn until(&self, what: &str, mut good: impl FnMut() -> bool) -> Duration {
        let begin = Instant::now();
        while !good() {
            assert!(begin.elapsed() < LIMIT, "{what}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(20));
        }
        println!("{what}: {} ms", begin.elapsed().as_millis());
        begin.elapsed()
    }

    fn leaf_starts(&mut self, node: &'static str) {
        let socket = self.dir.join(node).join("run/fabric/leaf.sock");
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
        let log = std::fs::File::create(self.dir.join("ping")).unwrap();
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &format!("{}cc", self.tag), "ping", "-nDi", PING_SECS, "10.82.10.20"]);
        let child = command.stdin(Stdio::null()).stdout(log).stderr(Stdio::null()).spawn().unwrap();
        self.children.push(("ping", child));
    }

    /// The longest time without an answer since `begin`, seconds.
    fn gap(&self, begin: f64) -> f64 {
        let text = std::fs::read_to_string(self.dir.join("ping")).unwrap_or_default();
        let answers = text.lines().filter(|line| line.contains("bytes from"));
        let times = answers.filter_map(|line| line.strip_prefix('[')?.split(']').next()?.parse::<f64>().ok());
        let (mut last, mut longest) = (begin, 0f64);
        for time in times.filter(|time| *time >= begin).chain([unix_now()]) {
            longest = longest.max(time - last);
            last = time;
        }
        longest
    }

    fn flows(&self) -> bool {
        let begin = unix_now() - 0.3;
        self.gap(begin) < 0.25
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
        for node in NODES.into_iter().chain(["u"]) {
            let _ = Command::new("ip").args(["netns", "delete", &format!("{}{node}", self.tag)]).status();
        }
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
    assert!(took < Duration::from_secs(15), "{took:?}: no minute's wait");
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
    let begin = unix_now();
    net.kill("a");
    net.until("packets pass by the other hub", || net.flows() && net.hub("c", both[1])["preferred"] == true);
    let in_path = net.gap(begin);
    println!("longest gap, the hub in the path killed: {:.0} ms", in_path * 1e3);
    assert!(in_path < 5.0, "{in_path}");

    // Meanwhile everything goes on at the other hub.
    net.must("c", &["claims", "add", "10.81.10.21"]);
    assert!(net.must("b", &["claims"]).contains("10.81.10.21"));
    net.leaf_starts("e");
    net.must("e", &["enroll", &third, "--client", "10.83.10.20"]);
    assert!(net.must("c", &["status"]).contains("10.83.10.20"), "the new leaf's route is there");
    net.must("c", &["claims", "release", "10.81.10.21"]);
    let shown = net.must("b", &["leaves"]);
    assert!(shown.contains("SESSION") && shown.matches("Established").count() == 3, "{shown}");

    net.start("a", "fabric-rr");
    net.until("sessions with the hub that returned", || {
        ["c", "d", "e"].iter().all(|l| net.sessions(l, &both))
    });
    assert_eq!(net.hub("c", both[0])["preferred"], false, "it must have lived for a while first");
    let begin = unix_now();
    net.kill("a");
    net.until("its death is noticed", || net.hub("c", both[0])["session"] != "Established");
    std::thread::sleep(Duration::from_secs(1));
    let beside = net.gap(begin);
    println!("longest gap, the other hub killed: {:.0} ms", beside * 1e3);
    assert!(beside < 1.0, "{beside}");

    // It comes back for good: the overlay goes back to it, and nothing is lost.
    net.start("a", "fabric-rr");
    let begin = unix_now();
    net.until("the overlay is back", || ["c", "d"].iter().all(|l| net.hub(l, both[0])["preferred"] == true));
    std::thread::sleep(Duration::from_secs(1));
    let back = net.gap(begin);
    println!("longest gap, back again: {:.0} ms", back * 1e3);
    assert!(back < 1.0, "{back}");

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
