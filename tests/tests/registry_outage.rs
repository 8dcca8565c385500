//! Two hubs on one PostgreSQL that goes away and comes back: leaves notice nothing, the hubs say so and decide
//! nothing, and then they catch up. For 6 s, or as many as FABRIC_OUTAGE_SECS says.

#![allow(clippy::print_stdout)] // the times seen are part of what this test shows

use std::collections::BTreeSet;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use fabric_tests::switch::{Switch, ip};
use scratch_postgres::Cluster;
use serde_json::Value;

/// How often the client behind the first leaf pings the one behind the second.
const PING_SECS: &str = "0.05";

/// Names the database in a hub's configuration.
fn keep_registry_in(net: &Switch, node: &str, url: &str) {
    let file = net.path(node).join("etc/fabric/hub.yaml");
    let text = std::fs::read_to_string(&file).unwrap();
    let policy = "kind: SAMEnrollmentPolicy, metadata: {name: fabric}, spec: {";
    assert!(text.contains(policy), "{text}");
    std::fs::write(&file, text.replace(policy, &format!("{policy}registry: \"{url}\", "))).unwrap();
}

/// A client in a namespace of its own behind a leaf.
fn client_behind(net: &mut Switch, leaf: &'static str, client: &'static str, site: u8) {
    let (inside, outside) = (net.space(client), net.name(leaf));
    ip(&format!("-n {outside} link add name lan0 type veth peer name eth0 netns {inside}"));
    ip(&format!("-n {outside} address add 10.{site}.10.10/24 dev lan0"));
    ip(&format!("-n {outside} link set lan0 up"));
    ip(&format!("-n {inside} address add 10.{site}.10.20/24 dev eth0"));
    ip(&format!("-n {inside} link set eth0 up"));
    ip(&format!("-n {inside} route add default via 10.{site}.10.10"));
    assert!(net.run(leaf, &["sysctl", "-qw", "net.ipv4.ip_forward=1"]).status().unwrap().success());
}

/// What two hubs on one database say of it.
fn databases(net: &Switch) -> [Value; 2] {
    ["a", "b"].map(|node| net.json(node, &["status"])["replication"].clone())
}

fn in_step(net: &Switch, what: &str) -> Duration {
    net.until(what, || {
        let [a, b] = databases(net);
        let state = |hub: &Value| hub["database"]["state"] == "in-step";
        a["digest"].is_string() && a["digest"] == b["digest"] && state(&a) && state(&b)
    })
}

/// Both say that they serve from memory.
fn lost(net: &Switch) -> bool {
    ["a", "b"].iter().all(|node| {
        let status = net.json(node, &["status"]);
        let told = status["why"].to_string().contains("served from memory") && status["phase"] == "Degraded";
        told && status["replication"]["database"]["state"] == "lost"
    })
}

/// How often each of a leaf's sessions came up, and what it holds: unlike before where something was lost.
fn sessions(net: &Switch, leaf: &str) -> Vec<(String, u64, u64, String)> {
    let peers = net.json(leaf, &["bgp", "peers"]);
    let peer = |p: &Value| {
        let word = |key: &str| p[key].as_str().unwrap_or_default().to_string();
        let count = |key: &str| p[key].as_u64().unwrap_or_default();
        (word("name"), count("establishedCount"), count("prefixesAccepted"), word("state"))
    };
    let mut all: Vec<_> = peers.as_array().into_iter().flatten().map(peer).collect();
    all.sort();
    all
}

fn claimed(net: &Switch, hub: &str, address: &str) -> bool {
    net.json(hub, &["claims"]).to_string().contains(&format!("\"{address}\""))
}

/// Two hubs on the database and three leaves with sessions to both.
fn fabric(net: &mut Switch, url: &str) {
    net.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--no-start"]);
    keep_registry_in(net, "a", url);
    net.start("a", "fabric-rr");
    net.until("the first hub starts", || net.ask("a", &["status"]).0);
    let string = net.must("a", &["hub", "invite"]);
    net.must("b", &["hub", "init", "--endpoint", "192.0.2.2", "--join", &string, "--no-start"]);
    keep_registry_in(net, "b", url);
    net.start("b", "fabric-rr");
    in_step(net, "both follow the database");
    for (leaf, site, client) in
        [("c", "aws", "10.81.10.20"), ("d", "azure", "10.82.10.20"), ("e", "oci", "10.83.10.20")]
    {
        let invite = net.must("b", &["invite", "--site", site]);
        in_step(net, "the invite is known to both");
        net.start(leaf, "fabric-leaf");
        starts(net, leaf);
        net.must(leaf, &["enroll", &invite, "--client", client]);
    }
    let whole = |leaf: &&str| {
        let all = sessions(net, leaf);
        all.len() == 2 && all.iter().all(|(_, _, accepted, state)| state == "Established" && *accepted == 2)
    };
    net.until("all leaves have all routes of both hubs", || ["c", "d", "e"].iter().all(whole));
    in_step(net, "three leaves enrolled");
}

fn starts(net: &Switch, leaf: &str) {
    let socket = net.path(leaf).join("run/fabric/leaf.sock");
    net.until("the leaf's daemon starts", || {
        socket.exists() && net.ask(leaf, &["status"]).1.contains("phase")
    });
}

/// What a program in a node's namespace prints goes to a file.
fn recorded(net: &Switch, node: &str, file: &str, argv: &[&str]) -> Child {
    let log = std::fs::File::create(net.path(file)).unwrap();
    net.run(node, argv).stdout(log).stderr(Stdio::null()).spawn().unwrap()
}

/// Waits until a leaf has heard the reason; while its sessions are up its log alone says it.
fn told(net: &Switch, leaf: &str, what: &str) {
    let log = net.path(&format!("{leaf}.log"));
    net.until(what, || std::fs::read_to_string(&log).is_ok_and(|text| text.contains("registry-lost")));
}

/// What cannot be decided is refused with its reason, at once, by hubs and leaves.
fn refused_meanwhile(net: &Switch) {
    for (node, words) in [
        ("b", &["invite", "--site", "late"][..]),
        ("a", &["leaves", "revoke", "azure"]),
        ("c", &["claims", "add", "10.81.10.21"]),
        ("d", &["rotate"]),
    ] {
        let begin = Instant::now();
        let (good, told) = net.ask(node, words);
        assert!(!good && told.contains("registry-lost"), "{node}: routerctl {words:?}: {told}");
        assert!(begin.elapsed() < Duration::from_secs(3), "{words:?} took {:?}", begin.elapsed());
    }
    // A client that appears now: its leaf asks for it by itself until the hubs can decide.
    let seen =
        ["federation", "event", "emit", "--type", "routerd.client.ipv4.observed", "--subject", "10.81.10.22"];
    net.must("c", &seen);
    told(net, "c", "the leaf is told why its new client has no claim");
}

/// A leaf whose daemon dies meanwhile comes up as it was, though nobody renews its lease.
fn restarts_meanwhile(net: &mut Switch) {
    net.kill("e");
    net.start("e", "fabric-leaf");
    starts(net, "e");
    let up = |(_, _, accepted, state): &(String, u64, u64, String)| *accepted == 2 && state == "Established";
    net.until("a leaf that was restarted has its sessions", || {
        sessions(net, "e").iter().filter(|session| up(session)).count() == 2
    });
    told(net, "e", "its question was answered as it must be");
}

/// The numbers of the packets without an answer, up to the last that got one: what was sent in the moment that ping was
/// interrupted had no time for its answer.
fn unanswered(ping: &str) -> Vec<u32> {
    let number = |line: &str| line.split("icmp_seq=").nth(1)?.split(' ').next()?.parse().ok();
    let answered: BTreeSet<u32> =
        ping.lines().filter(|line| line.contains("bytes from")).filter_map(number).collect();
    let last = answered.last().copied().unwrap_or_default();
    assert!(last > 100, "{last} packets");
    (1..=last).filter(|number| !answered.contains(number)).collect()
}

/// One walk, because each step stands on the one before.
#[test]
fn leaves_do_not_notice_that_the_database_is_away() {
    let secs: u64 =
        std::env::var("FABRIC_OUTAGE_SECS").map_or(6, |secs| secs.parse().expect("a number of seconds"));
    let cluster = Cluster::start();
    let dir = tempfile::tempdir().unwrap();
    let mut net = Switch::new("ro", dir.path(), &["a", "b", "c", "d", "e"]);
    client_behind(&mut net, "c", "cc", 81);
    client_behind(&mut net, "d", "dd", 82);
    fabric(&mut net, &cluster.schema_url("fabric"));
    let before = ["c", "d"].map(|leaf| sessions(&net, leaf));

    let mut ping = recorded(&net, "cc", "ping", &["ping", "-n", "-i", PING_SECS, "10.82.10.20"]);
    let routes = recorded(&net, "c", "routes", &["ip", "monitor", "route"]);
    net.keep("routes", routes);
    let folder = net.path("");
    let read = move |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    net.until("packets pass", || read("ping").lines().count() > 10);

    let begin = Instant::now();
    cluster.stop();
    let took = net.until("both hubs say that the database is lost", || lost(&net));
    println!("both hubs said so after {} ms, `routerctl` included", took.as_millis());
    refused_meanwhile(&net);
    restarts_meanwhile(&mut net);
    std::thread::sleep(Duration::from_secs(secs).saturating_sub(begin.elapsed()));
    assert!(lost(&net), "the outage is over only now");
    for node in ["c", "d"] {
        assert_eq!(net.json(node, &["status"])["phase"], "Ready", "{node} is as ready as before");
    }
    let away = begin.elapsed();
    cluster.go();
    let took = in_step(&net, "the database is back");
    println!(
        "{:.1} s without the database; both hubs in step again after {} ms",
        away.as_secs_f64(),
        took.as_millis()
    );

    // What was refused goes well now, and what waited comes by itself.
    net.must("b", &["invite", "--site", "late"]);
    net.must("c", &["claims", "add", "10.81.10.21"]);
    let took = net.until("the client that appeared meanwhile is claimed at both hubs", || {
        ["a", "b"].iter().all(|hub| claimed(&net, hub, "10.81.10.21") && claimed(&net, hub, "10.81.10.22"))
    });
    println!("the claim that waited was there after {} ms more", took.as_millis());
    in_step(&net, "both decide again");
    for node in ["a", "b"] {
        assert_eq!(net.json(node, &["status"])["phase"], "Ready");
        assert!(net.must(node, &["audit", "verify"]).contains("are as their hubs made them"));
    }

    // Long enough after the last step that its traces would be seen.
    let replies = || read("ping").lines().count();
    let end = replies() + 40;
    net.until("packets pass to the end", || replies() > end);
    let interrupt = std::process::Command::new("kill").args(["-INT", &ping.id().to_string()]).status();
    assert!(interrupt.unwrap().success() && ping.wait().is_ok());
    let told = read("ping");
    let summary = told.lines().find(|line| line.contains("packets transmitted"));
    println!("{}", summary.expect("ping counts"));
    assert_eq!(unanswered(&told), [0u32; 0], "no packet is lost: {}", summary.unwrap_or_default());
    let withdrawn: Vec<String> = read("routes")
        .lines()
        .filter(|l| l.contains("Deleted") && l.contains("10.82.10.20"))
        .map(String::from)
        .collect();
    assert!(withdrawn.is_empty(), "{withdrawn:?}");
    let after = ["c", "d"].map(|leaf| sessions(&net, leaf));
    let counts = |all: &[Vec<(String, u64, u64, String)>; 2]| {
        all.clone().map(|leaf| {
            leaf.into_iter().map(|(name, count, _, state)| (name, count, state)).collect::<Vec<_>>()
        })
    };
    assert_eq!(counts(&after), counts(&before), "no session ended");
}
