//! Two leaves that reach no hub in common: each loses the path to another one of the two hubs. Pings and a TCP stream
//! between their clients go on through both hubs, with true source addresses, and by one hub again when the paths are
//! back. The gaps are printed.

#![allow(clippy::print_stdout)] // the gaps seen are part of what this test shows

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use fabric_tests::ask::now_secs;
use fabric_tests::stall::Stalls;
use fabric_tests::switch::{Switch, ip};
use serde_json::Value;

/// The longest gap of a ping when the paths are cut, seconds.
const CUT: f64 = 2.0;
/// The longest gap when they come back, seconds.
const BACK: f64 = 1.0;
/// The clients' addresses: behind leaf c, behind leaf d.
const CLIENTS: [&str; 2] = ["10.81.10.20", "10.82.10.20"];

/// Hubs a and b, leaves c and d, their clients cc and dd.
struct Net(Switch);

impl Net {
    fn new(dir: &Path) -> Net {
        let mut net = Switch::new("rb", dir, &["a", "b", "c", "d"]);
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
        self.0.json(node, &["status"])
    }

    fn overlay(&self, node: &str) -> String {
        self.status(node)["overlay"].as_str().unwrap_or_default().into()
    }

    /// Waits until it is so, and says how long that took.
    fn until(&self, what: &str, good: impl FnMut() -> bool) {
        println!("{what}: {} ms", self.0.until(what, good).as_millis());
    }

    /// Whether a leaf has sessions with these hubs, by their overlay addresses, and with no other.
    fn sessions(&self, leaf: &str, hubs: &[&String]) -> bool {
        let status = self.status(leaf);
        let up = |h: &&Value| h["session"] == "Established";
        let up: Vec<_> = status["hubs"].as_array().into_iter().flatten().filter(up).collect();
        up.len() == hubs.len() && up.iter().all(|h| hubs.iter().any(|hub| h["overlay"] == hub.as_str()))
    }

    /// A leaf's daemon, enrolled by this string.
    fn enrolled(&mut self, leaf: &'static str, invite: &str, client: &str) {
        self.0.start(leaf, "fabric-leaf");
        let socket = self.0.path(leaf).join("run/fabric/leaf.sock");
        self.until(&format!("leaf {leaf} starts"), || {
            socket.exists() && self.0.ask(leaf, &["status"]).1.contains("phase")
        });
        self.0.must(leaf, &["enroll", invite, "--client", client]);
    }

    /// A leaf's underlay to a hub is cut, both ways; the hub is the n-th node of the switch.
    fn cut(&self, leaf: &str, hub: usize) {
        let script = format!(
            "add table ip cut; add chain ip cut in {{ type filter hook prerouting priority raw; }}; \
             add chain ip cut out {{ type filter hook output priority raw; }}; \
             add rule ip cut in ip saddr 192.0.2.{hub} drop; add rule ip cut out ip daddr 192.0.2.{hub} drop"
        );
        assert!(self.0.run(leaf, &["nft", &script]).status().unwrap().success(), "{leaf}: cut");
    }

    fn mend(&self, leaf: &str) {
        let mended = self.0.run(leaf, &["nft", "delete table ip cut"]).status();
        assert!(mended.unwrap().success(), "{leaf}: mended");
    }

    /// The client behind c pings the one behind d from now on, and sends it a line over TCP every 20 ms.
    fn flow(&mut self) {
        let log = |net: &Net, name: &str| std::fs::File::create(net.0.path(name)).unwrap();
        let mut pings = self.0.run("cc", &["ping", "-nDi", "0.02", CLIENTS[1]]);
        let child = pings.stdout(log(self, "ping")).stderr(Stdio::null()).spawn().unwrap();
        self.0.keep("ping", child);
        let server = "$| = 1; $l = IO::Socket::INET->new(LocalPort => 7008, Listen => 1, ReuseAddr => 1) or die $!; \
                      $c = $l->accept; print $c->peerhost, \"\\n\"; while (<$c>) { printf \"%.3f\\n\", time }";
        let perl = ["perl", "-MIO::Socket::INET", "-MTime::HiRes=time", "-e"];
        let mut far = self.0.run("dd", &[&perl[..], &[server]].concat());
        let child = far.stdout(log(self, "stream")).stderr(Stdio::inherit()).spawn().unwrap();
        self.0.keep("server", child);
        let client = format!(
            "for (1..50) {{ last if $s = IO::Socket::INET->new(PeerAddr => '{}:7008'); select undef, undef, undef, 0.1 }} \
             $s or die $!; $s->autoflush(1); while (1) {{ print $s 'x' x 1000, \"\\n\" or die $!; select undef, undef, undef, 0.02 }}",
            CLIENTS[1]
        );
        let near = self.0.run("cc", &[&perl[..], &[&client]].concat()).stderr(Stdio::inherit()).spawn();
        self.0.keep("client", near.unwrap());
    }

    /// When something of a flow arrived, seconds since 1970: `ping` or `stream`.
    fn times(&self, flow: &str) -> Vec<f64> {
        let text = std::fs::read_to_string(self.0.path(flow)).unwrap_or_default();
        let time = |line: &str| match line.strip_prefix('[') {
            Some(ping) if line.contains("bytes from") => ping.split(']').next()?.parse().ok(),
            Some(_) => None,
            None => line.parse().ok(),
        };
        text.lines().filter_map(time).collect()
    }

    /// The longest time without anything of a flow since `begin`, seconds.
    fn gap(&self, flow: &str, begin: f64) -> f64 {
        let times = self.times(flow).into_iter().filter(|time| *time >= begin);
        let (mut last, mut longest) = (begin, 0f64);
        for time in times.chain([now_secs()]) {
            longest = longest.max(time - last);
            last = time;
        }
        longest
    }

    fn flows(&self) -> bool {
        ["ping", "stream"].iter().all(|flow| self.gap(flow, now_secs() - 0.3) < 0.25)
    }

    /// Packets that a hub has passed on to the other so far.
    fn passed_on(&self, hub: &str) -> u64 {
        self.status(hub)["dataplane"]["passed_on"].as_u64().unwrap_or_default()
    }

    /// The gaps of both flows since `begin`, printed.
    fn gaps(&self, when: &str, begin: f64) -> [f64; 2] {
        let gaps = ["ping", "stream"].map(|flow| self.gap(flow, begin));
        println!(
            "{when}: longest gap of the ping {:.0} ms, of the stream {:.0} ms",
            gaps[0] * 1e3,
            gaps[1] * 1e3
        );
        gaps
    }
}

/// One walk, because each step stands on the one before.
#[test]
fn leaves_without_a_hub_in_common_reach_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let mut net = Net::new(dir.path());
    net.0.must("a", &["hub", "init", "--endpoint", "192.0.2.1", "--no-start"]);
    net.0.start("a", "fabric-rr");
    net.until("the first hub starts", || net.0.ask("a", &["status"]).0);
    let string = net.0.must("a", &["hub", "invite"]);
    net.0.must("b", &["hub", "init", "--endpoint", "192.0.2.2", "--join", &string, "--no-start"]);
    net.0.start("b", "fabric-rr");
    net.until("the second hub starts", || !net.overlay("b").is_empty());
    let [first, second] = ["a", "b"].map(|hub| net.overlay(hub));
    for (leaf, site, client) in [("c", "aws", CLIENTS[0]), ("d", "oci", CLIENTS[1])] {
        let invite = net.0.must("a", &["invite", "--site", site]);
        net.enrolled(leaf, &invite, client);
    }
    net.until("every leaf has both hubs", || ["c", "d"].iter().all(|l| net.sessions(l, &[&first, &second])));
    net.flow();
    net.until("packets pass", || net.flows());
    assert_eq!(net.passed_on("a") + net.passed_on("b"), 0, "nothing needs two hubs yet");

    let (stalls, begin) = (Stalls::watch(), now_secs());
    net.cut("c", 2);
    net.cut("d", 1);
    net.until("c has the first hub only, d the second only", || {
        net.sessions("c", &[&first]) && net.sessions("d", &[&second])
    });
    net.until("packets pass through both hubs", || {
        net.flows() && net.passed_on("a") > 0 && net.passed_on("b") > 0
    });
    let [ping, stream] = net.gaps("the paths are cut", begin);
    let allowed = stalls.allow(CUT);
    assert!(ping < allowed, "{ping}");
    // TCP doubles its patience while nothing passes.
    assert!(stream < 2.0 * allowed, "{stream}");
    let source = std::fs::read_to_string(net.0.path("stream")).unwrap();
    assert_eq!(source.lines().next(), Some(CLIENTS[0]), "the true source address");
    let beyond = |hub: &str, leaf: &str| net.status(hub)["dataplane"]["beyond"][net.overlay(leaf)].clone();
    assert_eq!((beyond("a", "d"), beyond("b", "c")), (second.as_str().into(), first.as_str().into()));
    assert!(beyond("a", "c").is_null() && beyond("b", "d").is_null());

    // A new stream, larger than any MTU, while each leaf has another hub.
    let again =
        net.0.run("cc", &["ping", "-c3", "-i0.2", "-W1", "-M", "do", "-s", "1372", CLIENTS[1]]).output();
    let again = String::from_utf8_lossy(&again.unwrap().stdout).into_owned();
    assert!(again.contains(" 0% packet loss"), "1,400 octets: {again}");

    let (stalls, begin) = (Stalls::watch(), now_secs());
    for leaf in ["c", "d"] {
        net.mend(leaf);
    }
    net.until("every leaf has both again", || ["c", "d"].iter().all(|l| net.sessions(l, &[&first, &second])));
    // By one hub, once the overlay has gone back where it was.
    let mut still = Instant::now();
    let mut count = 0;
    net.until("nothing needs two hubs any more", || {
        let now = net.passed_on("a") + net.passed_on("b");
        if now != count {
            (count, still) = (now, Instant::now());
        }
        // The counter is read once a second.
        still.elapsed() > Duration::from_millis(2500)
    });
    let [ping, stream] = net.gaps("the paths are back", begin);
    let allowed = stalls.allow(BACK);
    assert!(ping < allowed && stream < 2.0 * allowed, "{ping} {stream}");
    net.until("packets pass to the end", || net.flows());
}
