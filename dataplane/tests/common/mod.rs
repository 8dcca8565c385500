//! Namespaces, nodes and traffic for the dataplane's tests. Needs root, `ip`, `nft` and `ping`; says so if one is
//! missing. Every namespace begins with `dp-` and is removed when the test ends, also when it fails.

#![allow(dead_code, missing_docs)]

use std::collections::BTreeMap;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use dataplane::io::{Choice, Dataplane};
use dataplane::state::*;
use dataplane::view::Report;
use ipnet::Ipv4Net;

/// Longest wait for what has no time of its own; what is waited for takes milliseconds on a machine with nothing else to do.
pub const LIMIT: Duration = Duration::from_secs(30);

static COUNTER: AtomicU32 = AtomicU32::new(0);

pub fn net(text: &str) -> Ipv4Net {
    text.parse().unwrap()
}

pub fn addr(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

pub fn key(n: u8) -> PrivateKey {
    PrivateKey::from_bytes([n; 32])
}

/// Runs a program to its end; fails the test with its output if it fails.
pub fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap_or_else(|e| {
        panic!("{program} cannot be started ({e}); these tests need root, iproute2, nftables, ping")
    });
    let text =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program} {}: {text}", arguments.join(" "));
    text
}

/// A set of namespaces that disappears with this value.
pub struct Lab {
    prefix: String,
    names: Vec<String>,
}

impl Lab {
    pub fn new(names: &[&str]) -> Lab {
        assert!(
            nix::unistd::Uid::effective().is_root(),
            "these tests need root: they make network namespaces"
        );
        let prefix = format!("dp-{}-{}", std::process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
        let mut lab = Lab { prefix, names: Vec::new() };
        names.iter().for_each(|name| lab.add(name));
        lab
    }

    pub fn add(&mut self, name: &str) {
        let full = self.ns(name);
        run("ip", &["netns", "add", &full]);
        self.names.push(full);
        self.sh(name, "ip link set lo up; sysctl -qw net.ipv4.ip_forward=1");
    }

    pub fn ns(&self, name: &str) -> String {
        format!("{}-{name}", self.prefix)
    }

    /// Runs a shell command in a namespace and gives its output; fails the test if it fails.
    pub fn sh(&self, name: &str, script: &str) -> String {
        run("ip", &["netns", "exec", &self.ns(name), "sh", "-ec", script])
    }

    /// Whether a shell command succeeds in a namespace.
    pub fn ok(&self, name: &str, script: &str) -> bool {
        let ns = self.ns(name);
        let output = Command::new("ip").args(["netns", "exec", &ns, "sh", "-ec", script]).output().unwrap();
        output.status.success()
    }

    /// A cable between two namespaces, with an address at each end and an MTU.
    pub fn cable(&self, a: (&str, &str, &str), b: (&str, &str, &str), mtu: u32) {
        let (na, nb) = (self.ns(a.0), self.ns(b.0));
        run("ip", &["link", "add", a.1, "netns", &na, "type", "veth", "peer", "name", b.1, "netns", &nb]);
        for (name, device, address) in [a, b] {
            self.sh(name, &format!("ip addr add {address} dev {device}; ip link set {device} mtu {mtu} up"));
        }
    }

    /// Runs `work` on a thread that lives in the namespace.
    pub fn within<T: Send + 'static>(&self, name: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let ns = self.ns(name);
        std::thread::spawn(move || {
            enter(&ns);
            work()
        })
        .join()
        .unwrap()
    }

    pub fn node(&self, name: &str, choice: Choice) -> Node {
        Node::start(self.ns(name), choice)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).status();
        }
    }
}

fn enter(ns: &str) {
    let file = std::fs::File::open(format!("/run/netns/{ns}")).unwrap();
    nix::sched::setns(file, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
}

/// A dataplane on a runtime of its own, all of whose threads live in one namespace.
pub struct Node {
    pub dataplane: Dataplane,
    runtime: Option<tokio::runtime::Runtime>,
    generation: u64,
}

impl Node {
    pub fn start(ns: String, choice: Choice) -> Node {
        Node::start_remembering(ns, choice, None)
    }

    pub fn start_remembering(ns: String, choice: Choice, memory: Option<PathBuf>) -> Node {
        std::thread::spawn(move || {
            enter(&ns);
            // Worker threads inherit the namespace of the thread that makes them.
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
            let dataplane = runtime.block_on(Dataplane::start_remembering(choice, memory)).unwrap();
            Node { dataplane, runtime: Some(runtime), generation: 0 }
        })
        .join()
        .unwrap()
    }

    pub fn runtime(&self) -> &tokio::runtime::Runtime {
        self.runtime.as_ref().unwrap()
    }

    /// Wishes, and waits until the wish is in force; fails the test if it is not.
    pub fn wish(&mut self, wished: &Wished) -> Arc<Report> {
        let report = self.try_wish(wished);
        assert!(report.converged, "not converged: {:?}", report.last_error);
        report
    }

    pub fn try_wish(&mut self, wished: &Wished) -> Arc<Report> {
        self.generation += 1;
        self.dataplane.wish(self.generation, wished.clone());
        self.runtime().block_on(self.dataplane.applied(self.generation))
    }

    /// The report after a fresh look.
    pub fn report(&self) -> Arc<Report> {
        self.runtime().block_on(self.dataplane.recheck());
        self.dataplane.report().borrow().clone()
    }

    pub fn remove(mut self) {
        self.runtime().block_on(self.dataplane.remove());
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }

    /// Ends the process as far as a test can: tasks die, the kernel keeps what it has.
    pub fn kill(mut self) {
        self.runtime.take().unwrap().shutdown_timeout(Duration::from_secs(5));
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Polls until `condition` holds; fails the test after `limit`.
pub fn eventually(what: &str, limit: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Three sites' worth of underlay: an Internet that routes between a hub and two leaves, a client behind each leaf.
///
/// `narrow` is the MTU of the second leaf's access.
pub fn sites(narrow: u32) -> Lab {
    let lab = Lab::new(&["net", "hub", "a", "b", "ca", "cb"]);
    for (n, (name, mtu)) in [("hub", 1500), ("a", 1500), ("b", narrow)].into_iter().enumerate() {
        let gateway = format!("198.51.{}.1/24", 100 + n);
        let address = format!("198.51.{}.2/24", 100 + n);
        lab.cable(("net", &format!("to-{name}"), &gateway), (name, "wan", &address), mtu);
        lab.sh(name, &format!("ip route add default via 198.51.{}.1", 100 + n));
    }
    for (leaf, client, second) in [("a", "ca", 81), ("b", "cb", 82)] {
        let gateway = format!("10.{second}.10.10/24");
        lab.cable((leaf, "lan", &gateway), (client, "eth0", &format!("10.{second}.10.20/24")), 1500);
        lab.sh(client, &format!("ip route add default via 10.{second}.10.10"));
    }
    lab
}

pub const HUB: &str = "198.51.100.2:51820";

/// The hub as the daemons wish it: leaf keys 2 and 3 at .0.2 and .0.3, one foyer peer with key 9.
pub fn hub_wish(leaves: &[u8]) -> Wished {
    let peer = |address: &str| WireguardPeer { allowed_ips: [net(address)].into(), ..Default::default() };
    let mut peers: Peers =
        leaves.iter().map(|n| (key(*n).public(), peer(&format!("10.255.0.{n}/32")))).collect();
    peers.insert(key(9).public(), peer("10.255.15.2/32"));
    Wished {
        wireguard: Some(Wireguard {
            private_key: key(1),
            listen_port: 51820,
            addresses: [net("10.255.0.1/32"), net("10.255.15.1/32")].into(),
            mtu: dataplane::mtu::mtus(1500, false).wireguard,
            peers,
            former_keys: Default::default(),
        }),
        routes: [(net("10.255.0.0/20"), Target::Wireguard)].into(),
        filter: Filter {
            clamp: None,
            foyer: Some(Foyer { prefix: net("10.255.15.0/24"), hub: addr("10.255.15.1"), api_port: 8443 }),
        },
        ..Default::default()
    }
}

/// Leaf `n` at 10.255.0.n, with routes to other leaves' clients.
pub fn leaf_wish(n: u8, path_mtu: u16, remote: &[(&str, u8)]) -> Wished {
    let mtus = dataplane::mtu::mtus(path_mtu, false);
    let own = Ipv4Addr::new(10, 255, 0, n);
    let hub = WireguardPeer {
        endpoint: Some(HUB.parse().unwrap()),
        allowed_ips: [net("10.255.0.0/20")].into(),
        keepalive_secs: 25,
    };
    let mut routes: BTreeMap<Ipv4Net, Target> =
        remote.iter().map(|(p, o)| (net(p), Target::Owner(Ipv4Addr::new(10, 255, 0, *o)))).collect();
    routes.insert(net("10.255.0.0/20"), Target::Wireguard);
    Wished {
        wireguard: Some(Wireguard {
            private_key: key(n),
            listen_port: 0,
            addresses: [own.into()].into(),
            mtu: mtus.wireguard,
            peers: Peers::unit(key(1).public(), hub),
            former_keys: Default::default(),
        }),
        second: None,
        tunnel: Some(Tunnel { local: own, mtu: mtus.tunnel }),
        routes,
        filter: Filter { clamp: Some(mtus.mss), foyer: None },
        ..Default::default()
    }
}

/// The same leaf with the hub behind its second WireGuard, which carries the overlay, and one that is dead behind the
/// first.
pub fn by_second(leaf: &Wished) -> Wished {
    let mut leaf = leaf.clone();
    let first = leaf.wireguard.as_mut().expect("a leaf has WireGuard");
    let dead = WireguardPeer {
        endpoint: Some("198.51.100.99:51820".parse().unwrap()),
        allowed_ips: [net("10.255.0.0/20")].into(),
        keepalive_secs: 25,
    };
    let peers = std::mem::replace(&mut first.peers, Peers::unit(key(8).public(), dead));
    leaf.second = Some(Wireguard { peers, addresses: Default::default(), listen_port: 0, ..first.clone() });
    leaf.routes.insert(net("10.255.0.0/20"), Target::SecondWireguard);
    leaf
}

/// One ping; whether it was answered within a second. For what must not be answered, and for asking again.
pub fn ping(lab: &Lab, from: &str, to: &str) -> bool {
    lab.ok(from, &format!("ping -c1 -W1 {to}"))
}

/// One ping that must be answered, however long a busy machine takes: nothing sends it again.
pub fn answered(lab: &Lab, from: &str, to: &str) -> bool {
    lab.ok(from, &format!("ping -c1 -W10 {to}"))
}

/// Sends `octets` from one namespace to another over TCP and back; gives the sender's address as the receiver saw it.
pub fn exchange(lab: &Lab, from: &str, to: &str, address: &str, octets: usize) -> Ipv4Addr {
    let target: SocketAddr = format!("{address}:7001").parse().unwrap();
    let listener = lab.within(to, move || TcpListener::bind(target).unwrap());
    let server = std::thread::spawn(move || {
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let mut data = vec![0; octets];
        stream.read_exact(&mut data).unwrap();
        stream.write_all(&data).unwrap();
        peer
    });
    lab.within(from, move || {
        let mut stream = TcpStream::connect_timeout(&target, Duration::from_secs(5)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let data: Vec<u8> = (0..octets).map(|n| (n % 251) as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let copy = data.clone();
        let writer = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut back = vec![0; octets];
        stream.read_exact(&mut back).unwrap();
        writer.join().unwrap();
        assert!(back == data, "the octets came back changed");
    });
    match server.join().unwrap() {
        SocketAddr::V4(peer) => *peer.ip(),
        SocketAddr::V6(peer) => panic!("IPv6 peer {peer}"),
    }
}

/// What of ours is in a namespace: interfaces, routes, rules, proxy neighbours, nft table.
pub fn traces(lab: &Lab, name: &str) -> String {
    lab.sh(
        name,
        "ip -o link | grep fab- || true; ip -4 route show table all proto 84; ip rule | grep fab- || true; \
         ip neigh show proxy; nft list ruleset",
    )
}

/// Each of two leaves reaches another hub, and each hub the other: the clients reach each other with their own
/// addresses, large TCP passes uncut, the hub's own packets take no such way, and what goes round is impossible: with
/// both hubs sent to each other for a leaf, a packet for it ends at the second.
pub fn hubs_relay_for_each_other(choices: [Choice; 2]) {
    let mut lab = sites(1500);
    lab.add("hub2");
    lab.cable(("net", "to-hub2", "198.51.103.1/24"), ("hub2", "wan", "198.51.103.2/24"), 1500);
    lab.sh("hub2", "ip route add default via 198.51.103.1");
    let places = [HUB.parse().unwrap(), "198.51.103.2:51820".parse::<SocketAddr>().unwrap()];
    let at = |n: u8| Ipv4Addr::new(10, 255, 0, n);
    let (first, second) = (at(1), at(5));
    let of_hub = |own: u8, other: u8, beyond: &[(Ipv4Addr, Ipv4Addr)]| {
        let mut wished = hub_wish(&[2, 3]);
        let wireguard = wished.wireguard.as_mut().unwrap();
        wireguard.private_key = key(own);
        wireguard.addresses = [at(own).into()].into();
        let endpoint = Some(places[usize::from(other == 5)]);
        let peer = WireguardPeer { endpoint, allowed_ips: [at(other).into()].into(), keepalive_secs: 25 };
        wireguard.peers.insert(key(other).public(), peer);
        let (mtu, overlay) = (wireguard.mtu - 20, net("10.255.0.0/20"));
        let (hubs, beyond) = ([at(other)].into(), beyond.iter().copied().collect());
        wished.relay = Some(Relay { local: at(own), overlay, mtu, hubs, beyond });
        wished
    };
    let of_leaf = |n: u8, hub: u8, remote: &str, owner: u8| {
        let mut wished = leaf_wish(n, 1500, &[(remote, owner)]);
        let mtus = dataplane::mtu::mtus(1500, false).with_room_to_relay();
        wished.tunnel = Some(Tunnel { local: at(n), mtu: mtus.tunnel });
        wished.filter.clamp = Some(mtus.mss);
        let wireguard = wished.wireguard.as_mut().unwrap();
        let mut peer = std::mem::take(&mut wireguard.peers).into_iter().next().unwrap().1;
        peer.endpoint = Some(places[usize::from(hub == 5)]);
        wireguard.peers.insert(key(hub).public(), peer);
        wished
    };
    let mut hub = lab.node("hub", choices[0]);
    let mut hub2 = lab.node("hub2", choices[1]);
    hub.wish(&of_hub(1, 5, &[(at(3), second)]));
    let report = hub2.wish(&of_hub(5, 1, &[(at(2), first)]));
    assert_eq!(report.beyond, [(at(2), first)].into());
    let (mut a, mut b) = (lab.node("a", choices[0]), lab.node("b", choices[1]));
    a.wish(&of_leaf(2, 1, "10.82.10.20/32", 3));
    b.wish(&of_leaf(3, 5, "10.81.10.20/32", 2));
    eventually("first ping", LIMIT, || ping(&lab, "ca", "10.82.10.20"));
    assert_eq!(exchange(&lab, "ca", "cb", "10.82.10.20", 1 << 20), addr("10.81.10.20"));
    assert_eq!(exchange(&lab, "cb", "ca", "10.81.10.20", 1 << 20), addr("10.82.10.20"));
    assert!(lab.ok("ca", "ping -c1 -W10 -M do -s 1372 10.82.10.20"), "1,400 octets pass uncut");
    assert!(!ping(&lab, "hub", "10.255.0.3"), "the hub's own packets are not passed on");
    assert!(answered(&lab, "hub", "10.255.0.5") && answered(&lab, "hub", "10.255.0.2"));
    // A slow kernel says something over IPv6 into a new device before that is turned off, which is malformed.
    let lost = |report: &Report| -> u64 {
        report
            .drops
            .iter()
            .filter(|(why, _)| **why != dataplane::view::DropReason::Malformed)
            .map(|(_, n)| n)
            .sum()
    };
    for (report, choice) in [(hub.report(), choices[0]), (hub2.report(), choices[1])] {
        assert!(report.converged && report.repairs == 0 && lost(&report) == 0, "{report:?}");
        assert!(choice != Choice::InProcess || report.passed_on > 100, "{report:?}");
    }

    // Either hub takes the other to have the leaf.
    hub2.wish(&of_hub(5, 1, &[(at(2), first), (at(3), first)]));
    assert!(answered(&lab, "ca", "10.82.10.20"), "what was passed on is given to the leaf, never back");
    // And back: the leaf comes to the first hub too, in whose hands everything is then.
    hub.wish(&of_hub(1, 5, &[]));
    b.wish(&of_leaf(3, 1, "10.81.10.20/32", 2));
    eventually("direct again", LIMIT, || ping(&lab, "ca", "10.82.10.20"));
    assert_eq!(hub.report().beyond, BTreeMap::new());
    for (name, node) in [("hub", hub), ("hub2", hub2), ("a", a), ("b", b)] {
        node.remove();
        assert_eq!(traces(&lab, name), "", "{name} leaves nothing");
    }
}

/// An address that two leaves serve.
const ANYCAST: &str = "10.88.0.1";

/// Two leaves own one address: the flows of 32 clients are shared between them; when one goes, all go to the other,
/// and when it is back, they are shared again.
pub fn flows_are_shared(choice: Choice) {
    let mut lab = sites(1500);
    lab.add("c");
    lab.cable(("net", "to-c", "198.51.103.1/24"), ("c", "wan", "198.51.103.2/24"), 1500);
    lab.sh("c", "ip route add default via 198.51.103.1");
    lab.sh("ca", "for n in $(seq 100 131); do ip addr add 10.81.10.$n/32 dev eth0; done");
    let mut hub = lab.node("hub", choice);
    hub.wish(&hub_wish(&[2, 3, 4]));
    let mut owners = Vec::new();
    for (name, n) in [("b", 3), ("c", 4)] {
        let mut node = lab.node(name, choice);
        node.wish(&leaf_wish(n, 1500, &[("10.81.10.0/24", 2)]));
        owners.push(node);
        lab.sh(name, &format!("ip addr add {ANYCAST}/32 dev lo"));
        lab.within(name, move || {
            let socket = std::net::UdpSocket::bind((ANYCAST, 7002)).unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 16];
                while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[n], from);
                }
            });
        });
    }
    let mut a = lab.node("a", choice);
    let to = |all: &[u8]| {
        let mut wished = leaf_wish(2, 1500, &[]);
        let all: Vec<_> = all.iter().map(|n| Ipv4Addr::new(10, 255, 0, *n)).collect();
        wished.routes.insert(net("10.88.0.1/32"), Target::owned_by(all[0], all[1..].to_vec()));
        wished
    };
    for (wished, others) in [(&[3, 4][..], 1), (&[3], 0), (&[4, 3], 1)] {
        let report = a.wish(&to(wished));
        let route = report.routes.iter().find(|r| r.prefix == net("10.88.0.1/32")).unwrap();
        assert_eq!((route.owner, route.owners_also.len()), (Some(Ipv4Addr::new(10, 255, 0, 3)), others));
        assert_eq!(a.report().repairs, 0, "what is seen is what was wished");
        // Handshakes come first.
        let mut count = BTreeMap::new();
        eventually("an answer for each", LIMIT, || {
            count = answers(&lab, 100..132);
            count.values().sum::<u32>() == 32
        });
        let by_each: Vec<u32> = [3, 4].iter().map(|n| count.get(n).copied().unwrap_or(0)).collect();
        assert_eq!(by_each.iter().sum::<u32>(), 32, "{count:?}");
        match wished.len() {
            1 => assert_eq!(by_each, [32, 0]),
            _ => assert!(by_each.iter().all(|n| *n >= 4), "{count:?}"),
        }
    }
}

/// Who answers each of the clients 10.81.10.N, and how many have an answer from each.
fn answers(lab: &Lab, clients: std::ops::Range<u8>) -> BTreeMap<u8, u32> {
    lab.within("ca", move || {
        let mut count = BTreeMap::new();
        for n in clients {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::new(10, 81, 10, n), 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
            socket.send_to(b"who", (ANYCAST, 7002)).unwrap();
            let mut answer = [0; 1];
            if socket.recv_from(&mut answer).is_ok() {
                *count.entry(answer[0]).or_insert(0) += 1;
            }
        }
        count
    })
}

/// A leaf takes fresh keys, six times, while its client and another leaf's ping each other every 2 ms: `a` and `hub` of
/// [`sites`]. Not one packet may be lost. A machine that stands still for a moment loses some by itself, at any queue, so
/// there are three tries; a change that costs something does so in each.
pub fn fresh_keys_lose_nothing(lab: &Lab, hub: &mut Node, a: &mut Node) {
    let (mut former, mut lost) = (2, Vec::new());
    for first in [100, 110, 120] {
        lost.push(fresh_keys(lab, hub, a, &mut former, first..first + 6));
        if lost.last() == Some(&[0, 0]) {
            return;
        }
    }
    panic!("lost of the pings each way, in three tries: {lost:?}");
}

/// The hub, where leaf 2 has a fresh key.
pub fn awaiting(fresh: u8, former: u8) -> Wished {
    let mut wished = hub_wish(&[3]);
    let wireguard = wished.wireguard.as_mut().expect("a hub has WireGuard");
    let peer = WireguardPeer { allowed_ips: [net("10.255.0.2/32")].into(), ..Default::default() };
    wireguard.peers.insert(key(fresh).public(), peer);
    wireguard.former_keys.insert(key(fresh).public(), vec![key(77).public(), key(former).public()]);
    wished
}

/// The number of packets lost in each direction.
fn fresh_keys(
    lab: &Lab,
    hub: &mut Node,
    a: &mut Node,
    former: &mut u8,
    changes: std::ops::Range<u8>,
) -> [u32; 2] {
    let pings = [("ca", "10.82.10.20"), ("cb", "10.81.10.20")].map(|(from, to)| {
        let script = format!("ping -q -i 0.002 -W 1 -c 1500 {to} || true");
        let ns = lab.ns(from);
        std::thread::spawn(move || run("ip", &["netns", "exec", &ns, "sh", "-ec", &script]))
    });
    for fresh in changes {
        std::thread::sleep(Duration::from_millis(250));
        hub.wish(&awaiting(fresh, *former));
        let there = |hub: &Node, n| hub.report().peers.iter().any(|peer| peer.public_key == key(n).public());
        assert!(there(hub, *former) && !there(hub, fresh), "it has not called yet");
        let mut leaf = leaf_wish(2, 1500, &[("10.82.10.20/32", 3)]);
        leaf.wireguard.as_mut().expect("a leaf has WireGuard").private_key = key(fresh);
        a.wish(&leaf);
        eventually("the fresh key is in force", LIMIT, || there(hub, fresh) && !there(hub, *former));
        *former = fresh;
    }
    pings.map(|ping| {
        let said = ping.join().unwrap();
        let counts = said.lines().find(|line| line.contains("packets transmitted")).expect("ping counts");
        let numbers: Vec<u32> = counts.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers[0] - numbers[1]
    })
}
