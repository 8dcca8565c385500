//! A hub is lost with its machine and restored from its backup on a machine at another address: its leaves come back by
//! themselves, nothing enrolls again; alone, and beside a second hub that gives it back what was decided since.

#![allow(clippy::print_stdout)] // the times seen are part of what this test shows

use std::path::Path;
use std::time::{Duration, Instant};

use fabric_tests::switch::{Switch, ip};

/// The longest time until every leaf has a session with the restored hub.
const BACK: Duration = Duration::from_secs(20);
/// Where the hub is before, and after.
const HOME: &str = "192.0.2.1:51820";
const AWAY: &str = "192.0.2.5:51820";
const LEAVES: [(&str, &str, &str); 2] = [("c", "aws", "10.81.10.20"), ("d", "oci", "10.82.10.20")];

/// Hubs a and b, leaves c and d, and a new machine e.
fn net(tag: &str, dir: &Path) -> Switch {
    let mut net = Switch::new(tag, dir, &["a", "b", "c", "d", "e"]);
    net.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--no-start"]);
    net.start("a", "fabric-rr");
    net.until("the first hub starts", || net.ask("a", &["status"]).0);
    net
}

fn leaves_enroll(net: &mut Switch) {
    for (leaf, site, client) in LEAVES {
        let invite = net.must("a", &["invite", "--site", site]);
        net.start(leaf, "fabric-leaf");
        let socket = net.path(leaf).join("run/fabric/leaf.sock");
        net.until("a leaf's daemon starts", || socket.exists());
        net.must(leaf, &["enroll", &invite, "--client", client]);
    }
    for (leaf, ..) in LEAVES {
        net.until("a leaf is ready", || net.ask(leaf, &["status"]).0);
    }
}

/// Backs a up; the file.
fn backed_up(net: &Switch) -> String {
    let file = net.path("hub.backup").display().to_string();
    net.must("a", &["backup", &file, "--plain"]);
    file
}

/// The machine of the hub a is gone, with its address.
fn lost(net: &mut Switch) {
    net.kill("a");
    ip(&format!("-n {} link set eth0 down", net.name("a")));
}

fn restored(net: &mut Switch, file: &str) -> Instant {
    net.must("e", &["restore", file, "--endpoint", "192.0.2.5", "--no-start"]);
    net.start("e", "fabric-rr");
    Instant::now()
}

/// What does not change when nobody enrolls again: names, addresses, keys and the time of the enrollment.
fn enrolled(net: &Switch, hub: &str) -> Vec<String> {
    let leaves = net.json(hub, &["leaves"]);
    let leaf = |leaf: &serde_json::Value| {
        format!("{} {} {} {}", leaf["name"], leaf["overlay"], leaf["enrolledAt"], leaf["signingKey"])
    };
    leaves.as_array().into_iter().flatten().map(leaf).collect()
}

/// Every leaf is good again, by the restored hub's new endpoint.
fn back(net: &Switch, begin: Instant, what: &str) {
    for (leaf, ..) in LEAVES {
        net.until(&format!("{what}: {leaf} is back"), || {
            let (good, status) = net.ask(leaf, &["status", "-o", "json"]);
            good && status.contains(AWAY) && !status.contains(HOME)
        });
    }
    let took = begin.elapsed();
    println!("{what}: every leaf is back after {:.1} s", took.as_secs_f64());
    assert!(took < BACK, "{took:?}");
    let [from, to] = ["c", "d"].map(|leaf| net.json(leaf, &["status"])["overlay"].clone());
    let ping = net.run("c", &["ping", "-c1", "-W2", to.as_str().unwrap()]).output().unwrap();
    assert!(ping.status.success(), "{from} reaches {to}");
}

/// The leaf keeps the new endpoint: it has it after a restart as well.
fn kept(net: &mut Switch, leaf: &'static str) {
    let stored = || {
        let file = net.path(leaf).join("var/lib/fabric/admission.json");
        std::fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display()))
    };
    net.until("the new endpoint is stored", || stored().contains(AWAY) && !stored().contains(HOME));
    net.kill(leaf);
    net.start(leaf, "fabric-leaf");
    net.until("a restarted leaf is good", || net.ask(leaf, &["status"]).0);
}

/// The only hub. It calls its leaves where it had heard them last; each stays with it where it is now.
#[test]
fn the_only_hub_comes_back_at_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = net("r1", dir.path());
    leaves_enroll(&mut net);
    // Where the leaves are is written once a second.
    std::thread::sleep(Duration::from_secs(2));
    let before = enrolled(&net, "a");
    let file = backed_up(&net);
    lost(&mut net);
    let begin = restored(&mut net, &file);
    back(&net, begin, "the only hub");
    kept(&mut net, "c");
    assert_eq!((enrolled(&net, "e"), before.len()), (before, 2), "nobody enrolled again");
    // A leaf does not go back to where the hub was, though it compares with what it knows every few seconds.
    std::thread::sleep(Duration::from_secs(6));
    assert!(net.ask("d", &["status"]).0, "{}", net.ask("d", &["status"]).1);
}

/// One of two hubs. What was decided without it comes back from the other one, and leaves have both again.
#[test]
fn one_of_two_hubs_comes_back_at_another_address() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = net("r2", dir.path());
    let string = net.must("a", &["hub", "invite"]);
    net.must("b", &["hub", "init", "--endpoint", "192.0.2.2", "--join", &string, "--no-start"]);
    net.start("b", "fabric-rr");
    net.until("the second hub starts", || net.ask("b", &["status"]).0);
    leaves_enroll(&mut net);
    let before = enrolled(&net, "a");
    let file = backed_up(&net);
    net.must("c", &["claims", "add", "10.81.10.21"]);
    net.until("the second hub knows the claim", || net.must("b", &["claims"]).contains("10.81.10.21"));
    lost(&mut net);
    net.must("b", &["invite", "--site", "while-a-was-lost"]);
    let begin = restored(&mut net, &file);
    let in_step = |net: &Switch| {
        let status = ["e", "b"].map(|hub| net.json(hub, &["status"])["replication"].clone());
        status.iter().all(|s| s["hubs"][0]["state"] == "in-step")
            && status[0]["digest"] == status[1]["digest"]
    };
    net.until("the restored hub has caught up", || in_step(&net));
    println!("in step after {:.1} s", begin.elapsed().as_secs_f64());
    back(&net, begin, "one of two hubs");
    assert!(net.must("e", &["claims"]).contains("10.81.10.21"), "a claim that was made after the backup");
    assert!(net.must("e", &["invite", "list"]).contains("while-a-was-lost"));
    kept(&mut net, "c");
    assert_eq!((enrolled(&net, "e"), before.len()), (before, 2), "nobody enrolled again");
    for hub in ["e", "b"] {
        assert!(net.must(hub, &["audit", "verify"]).contains("are as their hubs made them"));
    }
}
