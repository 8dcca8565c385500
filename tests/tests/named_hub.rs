//! A hub that is reached by name: the name goes into invites and topology as it was written, leaves and a second hub look
//! it up, a name that does not resolve changes nothing, and a hub that is restored at another address is found again by
//! its name alone.

#![allow(clippy::print_stdout)] // the times seen are part of what this test shows

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fabric_tests::switch::{Switch, ip};

/// The hub's name, and the second one's.
const NAMES: [&str; 2] = ["hub.fabric.test", "hub-2.fabric.test"];
/// The longest time until a leaf has found a hub by its changed name.
const FOUND: Duration = Duration::from_secs(25);

/// What the nodes' resolvers know: `/etc/hosts` of their namespaces, which `ip netns exec` puts in its place.
struct Resolvers(Vec<PathBuf>);

impl Resolvers {
    fn of(net: &Switch, nodes: &[&str]) -> Resolvers {
        let folder = |node: &&str| {
            let folder = Path::new("/etc/netns").join(net.name(node));
            std::fs::create_dir_all(&folder).unwrap();
            // No server is asked: a name is in the file, or it is not.
            std::fs::write(folder.join("nsswitch.conf"), "hosts: files\n").unwrap();
            std::fs::write(folder.join("hosts"), "127.0.0.1 localhost\n").unwrap();
            folder
        };
        Resolvers(nodes.iter().map(folder).collect())
    }

    /// From now on the names lead there, everywhere; none leads nowhere.
    fn know(&self, leads: &[(&str, &str)]) {
        let lines: String = leads.iter().map(|(name, at)| format!("{at} {name}\n")).collect();
        for folder in &self.0 {
            // Into the same file, which is mounted over `/etc/hosts`.
            std::fs::write(folder.join("hosts"), format!("127.0.0.1 localhost\n{lines}")).unwrap();
        }
    }
}

impl Drop for Resolvers {
    fn drop(&mut self) {
        for folder in &self.0 {
            let _ = std::fs::remove_dir_all(folder);
        }
        // Where nobody else has anything in it.
        let _ = std::fs::remove_dir("/etc/netns");
    }
}

fn hub_starts(net: &mut Switch, node: &'static str) {
    net.start(node, "fabric-rr");
    net.until("a hub starts", || net.ask(node, &["status"]).0);
}

fn leaf_starts(net: &mut Switch, node: &'static str) {
    net.start(node, "fabric-leaf");
    let socket = net.path(node).join("run/fabric/leaf.sock");
    net.until("a leaf's daemon starts", || socket.exists() && net.ask(node, &["status"]).1.contains("phase"));
}

/// Where the leaf's status says that its hub is, by address.
fn reached(net: &Switch, leaf: &str, at: &str) -> bool {
    let status = net.json(leaf, &["status"]);
    let hubs = status["hubs"].as_array().cloned().unwrap_or_default();
    status["phase"] == "Ready" && hubs.iter().any(|hub| hub["endpoint"] == format!("{at}:51820"))
}

/// One walk, because each step stands on the one before.
#[test]
fn a_hub_is_found_by_its_name() {
    let dir = tempfile::tempdir().unwrap();
    // The hub, its leaf, and the machine on which the hub is restored; 192.0.2.1 to .3.
    let mut net = Switch::new("nh", dir.path(), &["a", "c", "e"]);
    let resolvers = Resolvers::of(&net, &["a", "c", "e"]);
    let (good, told) = net.ask("a", &["hub", "init", "--endpoint", "hub_1.fabric.test", "--no-start"]);
    assert!(!good && told.contains("neither an address nor a name"), "{told}");
    net.must("a", &["hub", "init", "--endpoint", NAMES[0], "--no-start"]);
    // A hub does not need to look itself up.
    hub_starts(&mut net, "a");
    let invite = net.must("a", &["invite", "--site", "aws"]);
    assert!(invite.starts_with("fabric4-"), "the name is in it");

    leaf_starts(&mut net, "c");
    let (good, told) = net.ask("c", &["enroll", &invite, "--client", "10.81.10.20"]);
    assert!(!good && told.contains("name-unresolved") && told.contains("getent hosts"), "{told}");
    resolvers.know(&[(NAMES[0], "192.0.2.1")]);
    net.must("c", &["enroll", &invite, "--client", "10.81.10.20"]);
    let stored = || std::fs::read_to_string(net.path("c").join("var/lib/fabric/admission.json")).unwrap();
    assert!(stored().contains("hub.fabric.test:51820") && !stored().contains("192.0.2.1"), "{}", stored());
    assert!(reached(&net, "c", "192.0.2.1"));

    // The leaf's resolver fails, and the leaf is restarted: it goes on with the last address, and says so.
    resolvers.know(&[]);
    net.kill("c");
    leaf_starts(&mut net, "c");
    net.until("the leaf is served, and tells that the name does not resolve", || {
        let status = net.json("c", &["status"]);
        let why = status["why"].to_string();
        let told = why.contains("name-unresolved") && why.contains("still used: 192.0.2.1:51820");
        status["bgp"]["established"] == 1 && told
    });
    resolvers.know(&[(NAMES[0], "192.0.2.1")]);
    net.until("the name resolves again, and nothing is left to say", || reached(&net, "c", "192.0.2.1"));

    // The hub's machine is lost. It is restored elsewhere, and knows of no leaf where it is.
    let file = net.path("hub.backup").display().to_string();
    net.must("a", &["backup", &file, "--plain"]);
    net.kill("a");
    ip(&format!("-n {} link set eth0 down", net.name("a")));
    net.must("e", &["restore", &file, "--no-start"]);
    let memory = net.path("e").join("var/lib/fabric/endpoints.json");
    let _ = std::fs::remove_file(&memory);
    hub_starts(&mut net, "e");
    // Longer than the leaf needs to notice the silence, and to look the name up.
    std::thread::sleep(Duration::from_secs(10));
    assert!(!reached(&net, "c", "192.0.2.3"), "nobody told the leaf where the hub is");
    resolvers.know(&[(NAMES[0], "192.0.2.3")]);
    let begin = Instant::now();
    net.until("the leaf is back", || reached(&net, "c", "192.0.2.3"));
    println!("found by its name after {:.1} s", begin.elapsed().as_secs_f64());
    assert!(begin.elapsed() < FOUND, "{:?}", begin.elapsed());

    // While the hub is alive a name that leads elsewhere moves nobody.
    net.kill("c");
    resolvers.know(&[(NAMES[0], "192.0.2.9")]);
    leaf_starts(&mut net, "c");
    net.until("a hostile answer delays at most", || reached(&net, "c", "192.0.2.3"));
}

/// A second hub joins by a string with the first one's name, and each calls the other by name.
#[test]
fn two_hubs_call_each_other_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Switch::new("n2", dir.path(), &["a", "b", "c"]);
    let resolvers = Resolvers::of(&net, &["a", "b", "c"]);
    resolvers.know(&[(NAMES[0], "192.0.2.1"), (NAMES[1], "192.0.2.2")]);
    net.must("a", &["hub", "init", "--endpoint", NAMES[0], "--no-start"]);
    hub_starts(&mut net, "a");
    let string = net.must("a", &["hub", "invite"]);
    net.must("b", &["hub", "init", "--endpoint", NAMES[1], "--join", &string, "--no-start"]);
    hub_starts(&mut net, "b");
    net.until("both hubs are in step", || {
        ["a", "b"].iter().all(|hub| {
            let status = net.json(hub, &["status"]);
            status["replication"]["hubs"][0]["state"] == "in-step" && status["bgp"]["established"] == 1
        })
    });
    // Both are started again while no name resolves: each calls the other where it was.
    resolvers.know(&[]);
    for hub in ["a", "b"] {
        net.kill(hub);
    }
    for hub in ["a", "b"] {
        net.start(hub, "fabric-rr");
    }
    net.until("they find each other, and tell", || {
        ["a", "b"].iter().all(|hub| {
            let status = net.json(hub, &["status"]);
            status["bgp"]["established"] == 1 && status["why"].to_string().contains("name-unresolved")
        })
    });
    resolvers.know(&[(NAMES[0], "192.0.2.1"), (NAMES[1], "192.0.2.2")]);
    leaf_starts(&mut net, "c");
    let invite = net.must("b", &["invite", "--site", "aws"]);
    net.must("c", &["enroll", &invite, "--client", "10.81.10.20"]);
    net.until("the leaf has a session with both", || {
        let hubs = net.json("c", &["status"])["hubs"].as_array().cloned().unwrap_or_default();
        hubs.len() == 2 && hubs.iter().all(|hub| hub["session"] == "Established")
    });
}
